"""Block-wise reading of the matrix of all snapshots, with every byte read once.

A leaf of a large network is stored as one chunk per member, which is larger than the part that a block needs.
tensorstore would read the whole chunk for every block that overlaps it, so byte ranges are requested directly. They
arrive in order, each once, so the checksum of a chunk can be updated as they come.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Integer, Shaped
from xxhash import xxh3_64

from jaxscape.lazy import jnp
from jaxscape.trajectories.index import Leaf
from jaxscape.trajectories.snapshots import StoredArray, naming_damage

# The codec of a chunk that holds the array's bytes unchanged, in memory order.
PLAIN_BYTES = [{"name": "bytes", "configuration": {"endian": "little"}}]


class Piece(NamedTuple):
    """A range of columns, from start to stop, of one flattened leaf."""

    leaf: Leaf
    start: int
    stop: int


def _plan_blocks(leaves: list[Leaf], width: int) -> Iterator[list[Piece]]:
    """Split the columns of all leaves into blocks of `width`; the last one may be narrower."""
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
    open_array: Callable[[int, Leaf], StoredArray],
    leaves: list[Leaf],
    width: int,
    counts: list[int],
    members: Integer[np.ndarray, " members"],
) -> Iterator[Float32[np.ndarray, "rows columns"]]:
    """Read the matrix of all epochs and some members, `width` columns at a time.

    Args:
        open_array: starts to open the array of a leaf in a snapshot or pack, given its index in `counts`.
        leaves: the leaves whose columns are read, in this order, each in C order.
        width: columns per block; the last block may be narrower.
        counts: number of epochs in each snapshot (1) or pack; rows go epoch by epoch, members within.
        members: numbers of the members.

    Returns:
        Iterator of float32 (epochs x members, columns). If checksums were stored, a leaf is verified when the block
        with its last column is returned.

    Raises:
        ValueError: if a snapshot is damaged.
    """
    opened: dict[Leaf, list[_Source]] = {}
    ends = np.cumsum(counts) * len(members)
    for pieces in _plan_blocks(leaves, width):
        opened = {  # a leaf that spans several blocks stays open
            leaf: opened.get(leaf) or _open_all([open_array(place, leaf) for place in range(len(counts))], members)
            for leaf, _, _ in pieces
        }
        stops = np.cumsum([stop - start for _, start, stop in pieces])
        block = np.empty((ends[-1], stops[-1]), np.float32)
        for place, rows in enumerate(np.split(block, ends[:-1])):
            # The reads of one snapshot or pack run in parallel; more would need more memory than the block.
            parts = zip(pieces, np.split(rows, stops[:-1], axis=1), strict=True)
            fills = [opened[leaf][place].start_reading(start, stop, part) for (leaf, start, stop), part in parts]
            for fill in fills:
                fill()
        yield block


@runtime_checkable
class _Source(Protocol):
    """The values of one leaf and some members of a snapshot or pack on disk."""

    def start_reading(self, start: int, stop: int, part: Float32[np.ndarray, "rows columns"]) -> Callable[[], None]:
        """Start to read some columns; return a function that waits and writes them into `part`, (rows, columns)."""
        ...


def _open_all(arrays: list[StoredArray], members: Integer[np.ndarray, " members"]) -> list[_Source]:
    return [_Bytes(array, members) if _has_chunk_by_row(array) else _Whole(array, members) for array in arrays]


class _Whole:
    """A small leaf that shares a chunk, or any other layout on disk: read whole, whatever the columns."""

    def __init__(self, array: StoredArray, members: Integer[np.ndarray, " members"]):
        self._array = array
        self._members = members

    def start_reading(self, start: int, stop: int, part: Float32[np.ndarray, "rows columns"]) -> Callable[[], None]:
        wait = self._array.start_reading(np.array(self._array.snapshot.epochs), self._members)

        def fill() -> None:
            part[:] = wait().reshape(len(part), -1)[:, start:stop]

        return fill


class _Bytes:
    """A leaf with one uncompressed chunk per row: byte ranges are read in the order of the columns."""

    def __init__(self, array: StoredArray, members: Integer[np.ndarray, " members"]):
        self._array = array
        self._dtype = jnp.dtype(array.leaf.dtype)
        epochs = np.array(array.snapshot.epochs)
        self._rows = array.rows(epochs, members)
        prefixes = [f"{place}/" for place in range(len(epochs))] if array.snapshot.packed else [""]
        end = "/0" * len(array.leaf.shape)
        self._keys = [f"c/{prefix}{member}{end}" for prefix in prefixes for member in members]
        self._sums = [] if array.checksums is None else [xxh3_64() for _ in self._keys]  # checksums of the bytes so far

    def start_reading(self, start: int, stop: int, part: Float32[np.ndarray, "rows columns"]) -> Callable[[], None]:
        columns = slice(start * self._dtype.itemsize, stop * self._dtype.itemsize)
        chunks = self._array.result().kvstore
        reads = [chunks.read(key, byte_range=columns) for key in self._keys]

        def fill() -> None:
            for row, (part_row, read) in enumerate(zip(part, reads, strict=True)):
                part_row[:] = self._wait(row, read, len(part_row))
            if self._sums and stop == self._array.leaf.size:
                self._array.verify(self._rows, np.array([sums.intdigest() for sums in self._sums], np.uint64))

        return fill

    def _wait(self, row: int, read: Any, count: int) -> Shaped[np.ndarray, " columns"]:
        with naming_damage(self._array.snapshot):
            content = read.result().value
        if len(content) != count * self._dtype.itemsize:
            raise self._array.snapshot.damaged(f"{self._array.describe(self._rows[row])} is missing or cut")
        if self._sums:
            self._sums[row].update(content)
        return np.frombuffer(content, self._dtype)


def _has_chunk_by_row(stored: StoredArray) -> bool:
    """Return whether each row is an uncompressed chunk of its own; a small leaf is one chunk for all rows."""
    chunk = [*([1] if stored.snapshot.packed else []), 1, *stored.leaf.shape]
    metadata = stored.result().spec().to_json()["metadata"]
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
