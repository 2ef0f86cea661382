"""The matrix of all snapshots, some columns at a time, with every byte read once.

A leaf of a large network is one chunk a member on disk, larger than what a block takes of it. tensorstore would read
the whole chunk for each block that it reaches into, so the bytes of a block's columns are asked for by themselves.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

# A chunk is the array as it lies in memory, alone in its file entry, the entry's index behind it.
PLAIN_BYTES = [{"name": "bytes", "configuration": {"endian": "little"}}]


class Leaf(NamedTuple):
    """One array of the parameters of one member."""

    keys: tuple[str, ...]  # where it stands in the nested dictionaries
    shape: tuple[int, ...]  # without the member axis
    dtype: str

    @property
    def name(self) -> str:
        """The key path, such as "group1/conv/kernel"."""
        return "/".join(self.keys)

    @property
    def size(self) -> int:
        """Parameters in one member's array."""
        return math.prod(self.shape)


class Piece(NamedTuple):
    """The columns from start to stop of one flattened leaf."""

    leaf: Leaf
    start: int
    stop: int


def _plan_blocks(leaves: list[Leaf], width: int) -> Iterator[list[Piece]]:
    """Cut the columns of all leaves into blocks of `width`, the last one narrower."""
    pieces: list[Piece] = []
    room = width
    for leaf in leaves:
        start = 0
        while start < leaf.size:
            stop = min(leaf.size, start + room)
            pieces.append(Piece(leaf, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield pieces
                pieces, room = [], width
    if pieces:
        yield pieces


def read_blocks(
    open_array: Callable[[int, Leaf], Any], leaves: list[Leaf], width: int, num_epochs: int, members: np.ndarray
) -> Iterator[np.ndarray]:
    """Read the matrix of epochs 0 to `num_epochs` and some members, `width` columns at a time.

    Args:
        open_array: gives, for an epoch and a leaf, a future of the tensorstore array [member, ...].
        leaves: their columns in this order, each leaf in C order.
        width: columns of a block; the last one may be narrower.
        num_epochs: rows go epoch by epoch, members within.
        members: the numbers of the members.

    Returns:
        Iterator of float32 (num_epochs x members, columns).
    """
    opened: dict[Leaf, list[_Source]] = {}
    for pieces in _plan_blocks(leaves, width):
        opened = {  # a leaf that reaches into several blocks stays open
            leaf: opened.get(leaf) or [_open(open_array(epoch, leaf), leaf) for epoch in range(num_epochs)]
            for leaf, _, _ in pieces
        }
        stops = np.cumsum([stop - start for _, start, stop in pieces])
        block = np.empty((num_epochs, len(members), stops[-1]), np.float32)
        for epoch, rows in enumerate(block):
            # The reads of an epoch run together; more would hold more than the block in memory.
            parts = zip(pieces, np.split(rows, stops[:-1], axis=1), strict=True)
            fills = [_start_reading(opened[piece.leaf][epoch], piece, members, part) for piece, part in parts]
            for fill in fills:
                fill()
        yield block.reshape(-1, stops[-1])


class _Source(NamedTuple):
    """The values of one leaf at one epoch, on disk."""

    array: Any  # tensorstore's, [member, ...]
    chunk_by_member: bool


def _open(array: Any, leaf: Leaf) -> _Source:
    opened = array.result()
    return _Source(opened, _has_chunk_by_member(opened, leaf))


def _start_reading(source: _Source, piece: Piece, members: np.ndarray, part: np.ndarray) -> Callable[[], None]:
    """Start to read a piece of an epoch; what comes back waits and writes it into `part`, (members, columns)."""
    leaf, start, stop = piece
    if not source.chunk_by_member:
        whole = source.array[members].read()

        def fill_from_whole() -> None:
            part[:] = whole.result().reshape(len(members), -1)[:, start:stop]

        return fill_from_whole

    dtype = jnp.dtype(leaf.dtype)
    columns = slice(start * dtype.itemsize, stop * dtype.itemsize)
    keys = [f"c/{member}" + "/0" * len(leaf.shape) for member in members]
    reads = [source.array.kvstore.read(key, byte_range=columns) for key in keys]

    def fill_from_bytes() -> None:
        for row, read in zip(part, reads, strict=True):
            row[:] = np.frombuffer(read.result().value, dtype)

    return fill_from_bytes


def _has_chunk_by_member(array: Any, leaf: Leaf) -> bool:
    """Whether each member is a chunk of its own, as it lies in memory; small leaves are one chunk altogether."""
    chunk = [1, *leaf.shape]
    metadata = array.spec().to_json()["metadata"]
    codecs = metadata["codecs"]
    if codecs[0]["name"] == "sharding_indexed":
        shard = codecs[0]["configuration"]
        if shard["chunk_shape"] != chunk or shard["index_location"] != "end":
            return False
        codecs = shard["codecs"]
    return (
        codecs == PLAIN_BYTES
        and metadata["chunk_grid"]["configuration"]["chunk_shape"] == chunk
        and metadata["chunk_key_encoding"] == {"name": "default"}
    )
