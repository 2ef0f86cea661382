"""Inner products of increments, summed over blocks of columns: the pass behind `gram`.

A block is read while others are worked on, by threads of the host (NumPy's BLAS) or by accelerators, each with sums of
its own. The sums of some hundred tiles of columns are carried in pairs of float64 (see `pairs`), and columns are
rotated beforehand:

The square of a float32 ends in a pattern of bits (odd^2 = 1 mod 8) that a float64 sum rounds down again and again.
Squared norms came out 1e-15 too small while products of different rows did not, and two points 1e-5 of their norm
apart lost 1e-5 of their distance. Pairs of columns are therefore mixed by a rotation, which leaves inner products as
they are; rounding is random then and averages out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from jaxscape.lazy import jax, jnp
from jaxscape.trajectories.pairs import Pair, add_pairs, two_sum

ANGLE = 1.0  # of the rotation, in radians; any that is no simple fraction of a turn
COLUMNS = 128  # of a tile are made at a time, and
ROWS = 64  # of a sum are added at a time, so that they stay in the cache
MAX_SUMS = 2**28  # bytes that the sums of all threads of the host may take


Blocks = Iterator[tuple[np.ndarray, np.ndarray]]


class Points(NamedTuple):
    """Points (n, P), read in blocks of columns, and what their increments are."""

    blocks: Callable[[int], Iterator[np.ndarray]]  # float32 or float64 (n, columns), given the bytes of a block
    reference: np.ndarray | None  # float64 (P,): row 0, where there is one
    parents: np.ndarray  # int64 (k,), k = n or n + 1; parents[i] < i, -1 is the origin
    dimension: int  # P


class Sums(NamedTuple):
    """What a thread of the host works in; overwritten as it goes."""

    total: np.ndarray  # float64 (k - first, k)
    remainder: np.ndarray  # likewise
    product: np.ndarray  # likewise, of one tile
    tile: np.ndarray  # float64 (k, width), increments
    scratch: np.ndarray  # float64 (2, k, COLUMNS)


def sum_products(points: Points, first: int, devices: Sequence[jax.Device] | None, max_bytes: int) -> Pair:
    """Inner products (k - first, k) of the increments from `first` on with all increments.

    Args:
        points: read once.
        first: row number.
        devices: they take blocks in turns; [] is threads of the host. By default GPUs, the host without any.
        max_bytes: of all blocks that are held at a time.
    """
    if devices is None:
        devices = jax.local_devices() if jax.default_backend() == "gpu" else []
    workers = len(devices) or _count_threads(len(points.parents))
    blocks = with_reference(points, max_bytes // (workers + 1))
    # Rounding averages out over some hundred sums; wider tiles have fewer sums and faster products.
    width = int(np.clip(points.dimension // 300, 128, 4096)) // 8 * 8
    if devices:
        parts = _sum_on_devices(blocks, points.parents, first, width, devices)
    else:
        parts = _sum_in_threads(blocks, points.parents, first, width, workers)
    high, low = parts[0]
    with np.errstate(invalid="ignore", over="ignore"):  # as in `_add_block`
        for part in parts[1:]:
            high, low = add_pairs((high, low), part)
        high, low = two_sum(high, low)
    for part in (high, low):  # a device rounds (i, j) and (j, i) each in its own way
        square = part[:, first:]
        square[:] = np.tril(square) + np.tril(square, -1).T
    return high, low


def _count_threads(num_rows: int) -> int:
    """How many threads share the blocks of so many increments; as many as BLAS has, where memory allows.

    Threads with blocks of their own keep all cores busy, where those that share a product wait for one another and
    for the next block. But each has sums of its own.
    """
    cores = max((library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"), default=1)
    return int(np.clip(MAX_SUMS // (3 * 8 * num_rows**2), 1, cores))


def with_reference(points: Points, block_bytes: int) -> Blocks:
    """Each block with its columns of the reference: (1, columns), or (0, columns) where there is none."""
    reference = np.empty((0, points.dimension)) if points.reference is None else points.reference[None]
    column = 0
    for block in points.blocks(block_bytes):
        yield block, reference[:, column : column + block.shape[1]]
        column += block.shape[1]


def _sum_in_threads(blocks: Blocks, parents: np.ndarray, first: int, width: int, workers: int) -> list[Pair]:
    k = len(parents)
    size = (k - first, k)
    sums = [
        Sums(np.zeros(size), np.zeros(size), np.empty(size), np.empty((k, width)), np.empty((2, k, COLUMNS)))
        for _ in range(workers)
    ]
    pending: list[Future[None]] = []
    one_each = 1 if workers > 1 else None
    with threadpool_limits(one_each, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        # By number and not by who is free: the same blocks always meet in the same sum.
        for number, (block, reference) in enumerate(blocks):
            if number >= workers:
                pending[number - workers].result()  # that sum is free again
            pending.append(pool.submit(_add_block, sums[number % workers], block, reference, parents, first))
        for task in pending:
            task.result()
    return [(each.total, each.remainder) for each in sums]


def _add_block(sums: Sums, block: np.ndarray, reference: np.ndarray, parents: np.ndarray, first: int) -> None:
    width = block.shape[1]
    step = math.ceil(width / math.ceil(width / sums.tile.shape[1]))  # equal tiles, no narrow last one
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity show in the sums
        for start in range(0, width, step):
            tile = sums.tile[:, : min(step, width - start)]
            for column in range(0, tile.shape[1], COLUMNS):
                out = tile[:, column : column + COLUMNS]
                columns = slice(start + column, start + column + out.shape[1])
                _write_increments(out, block[:, columns], reference[:, columns], parents, sums.scratch)
            new = tile[first:]
            np.matmul(new, tile[:first].T, out=sums.product[:, :first])
            np.matmul(new, new.T, out=sums.product[:, first:])  # one matrix, as NumPy sees: half the work
            for row in range(0, len(new), ROWS):
                rows = slice(row, row + ROWS)
                sums.total[rows], error = two_sum(sums.total[rows], sums.product[rows])
                sums.remainder[rows] += error


def _write_increments(
    out: np.ndarray, block: np.ndarray, reference: np.ndarray, parents: np.ndarray, scratch: np.ndarray
) -> None:
    """The increments of some columns, rotated, into float64 (k, columns)."""
    rows, before = scratch[:, :, : out.shape[1]]
    rows[: len(reference)] = reference
    rows[len(reference) :] = block
    np.take(rows, np.maximum(parents, 0), axis=0, out=before, mode="clip")
    before[parents < 0] = 0
    np.subtract(rows, before, out=out)
    even = out.shape[1] // 2 * 2
    neighbours = out[:, :even].view(np.complex128)
    neighbours *= np.exp(1j * ANGLE)


def _sum_on_devices(
    blocks: Blocks, parents: np.ndarray, first: int, width: int, devices: Sequence[jax.Device]
) -> list[Pair]:
    k = len(parents)
    room, add_block = 0, _compiled_add_block()
    with jax.enable_x64(True):
        parents_on = [jax.device_put(parents, device) for device in devices]
        sums = [jax.device_put((np.zeros((k - first, k)),) * 2, device) for device in devices]
        for number, (block, reference) in enumerate(blocks):
            room = max(room, math.ceil(block.shape[1] / width) * width)
            missing = room - block.shape[1]  # the last block is filled up, so that one program does for all
            padded = [np.pad(rows, ((0, 0), (0, missing))) for rows in (block, reference)]
            turn = number % len(devices)
            jax.block_until_ready(sums[turn])  # a device holds one block at a time
            rows = jax.device_put(padded, devices[turn])
            sums[turn] = add_block(sums[turn], *rows, parents_on[turn], first=first, width=width)
        return [(np.array(total), np.array(remainder)) for total, remainder in sums]


@cache
def _compiled_add_block() -> Callable[..., tuple[jax.Array, jax.Array]]:
    return jax.jit(_add_block_on_device, static_argnames=("first", "width"), donate_argnums=0)


def _add_block_on_device(
    sums: tuple[jax.Array, jax.Array],
    block: jax.Array,
    reference: jax.Array,
    parents: jax.Array,
    *,
    first: int,
    width: int,
) -> tuple[jax.Array, jax.Array]:
    rows = jnp.concatenate([reference, block.astype(np.float64)])
    increments = rows - jnp.where(parents[:, None] >= 0, rows[parents], 0)
    left, right = increments.reshape(len(rows), -1, 2, width // 2).transpose(2, 1, 0, 3)
    cosine, sine = math.cos(ANGLE), math.sin(ANGLE)
    tiles = jnp.concatenate([cosine * left - sine * right, sine * left + cosine * right], axis=2)

    def add(pair: tuple[jax.Array, jax.Array], tile: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        total, error = two_sum(pair[0], tile[first:] @ tile.T)
        return (total, pair[1] + error), None

    return jax.lax.scan(add, sums, tiles)[0]
