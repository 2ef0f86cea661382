"""Inner products of increments, summed over blocks of columns: the pass behind `gram`.

A block is read while others are processed, by threads of the host (NumPy's BLAS) or by accelerators, each with its own
sums. The sums of some hundred tiles of columns use double-double addition (see `pairs`), and columns are rotated first:

The square of a float32 ends in a bit pattern (odd^2 = 1 mod 8) that a float64 sum systematically rounds down. Squared
norms came out 1e-15 too small while products of different rows did not, and two points 1e-5 of their norm apart lost
1e-5 of their distance. Pairs of columns are therefore mixed by a rotation, which preserves inner products; rounding
errors are then random and average out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Real
from threadpoolctl import threadpool_info, threadpool_limits

from jaxscape.lazy import jax, jnp
from jaxscape.trajectories.pairs import Pair, add_pairs, two_sum

ANGLE = 1.0  # of the rotation, in radians; any angle that is not a simple fraction of a full turn
COLUMNS = 128  # columns of a tile that are computed at a time, so that they stay in the cache
ROWS = 64  # rows of a sum that are added at a time, for the same reason
MAX_SUMS = 2**28  # limit in bytes for the sums of all host threads


# Columns of all points, and of the reference: one row, or none.
Blocks = Iterator[tuple[Real[np.ndarray, "points columns"], Float64[np.ndarray, "_ columns"]]]
if TYPE_CHECKING:  # it names jax, which is imported when it is used
    SumsOnDevice = tuple[Float64[jax.Array, "new rows"], Float64[jax.Array, "new rows"]]


class Points(NamedTuple):
    """Points (n, P), read in blocks of columns, with the parents that define their increments."""

    blocks: Callable[[int], Iterator[np.ndarray]]  # float32 or float64 (n, columns), given the bytes of a block
    reference: Float64[np.ndarray, " parameters"] | None  # row 0, where there is one
    parents: Int[np.ndarray, " rows"]  # with the reference; parents[i] < i, -1 is the origin
    dimension: int  # P


class Sums(NamedTuple):
    """The work arrays of a host thread, which are overwritten."""

    total: Float64[np.ndarray, "new rows"]
    remainder: Float64[np.ndarray, "new rows"]
    product: Float64[np.ndarray, "new rows"]  # of one tile
    tile: Float64[np.ndarray, "rows width"]  # increments
    scratch: Float64[np.ndarray, "2 rows columns"]


def sum_products(
    points: Points, first: int, devices: Sequence[jax.Device] | None, max_bytes: int
) -> tuple[Float64[np.ndarray, "new rows"], Float64[np.ndarray, "new rows"]]:
    """Return the inner products (k - first, k) of the increments from `first` on with all increments.

    Args:
        points: the points, which are read once.
        first: row number of the first increment to compute.
        devices: devices that take blocks in turn; [] for threads of the host. By default GPUs, or the host without any.
        max_bytes: limit for all blocks that are held at a time.
    """
    if devices is None:
        devices = jax.local_devices() if jax.default_backend() == "gpu" else []
    workers = len(devices) or _count_threads(len(points.parents))
    blocks = with_reference(points, max_bytes // (workers + 1))
    # Rounding errors average out over some hundred sums; wider tiles mean fewer sums and faster products.
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
    for part in (high, low):  # make it exactly symmetric: a device may round (i, j) and (j, i) differently
        square = part[:, first:]
        square[:] = np.tril(square) + np.tril(square, -1).T
    return high, low


def _count_threads(num_rows: int) -> int:
    """Return the number of threads that process blocks: as many as BLAS uses, if memory allows.

    Threads with their own blocks keep all cores busy, while threads that share a product wait for one another and for
    the next block. But each thread needs its own sums.
    """
    cores = max((library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"), default=1)
    return int(np.clip(MAX_SUMS // (3 * 8 * num_rows**2), 1, cores))


def with_reference(points: Points, block_bytes: int) -> Blocks:
    """Yield each block with its columns of the reference: (1, columns), or (0, columns) without a reference."""
    reference = np.empty((0, points.dimension)) if points.reference is None else points.reference[None]
    column = 0
    for block in points.blocks(block_bytes):
        yield block, reference[:, column : column + block.shape[1]]
        column += block.shape[1]


def _sum_in_threads(
    blocks: Blocks, parents: Int[np.ndarray, " rows"], first: int, width: int, workers: int
) -> list[Pair]:
    k = len(parents)
    size = (k - first, k)
    sums = [
        Sums(np.zeros(size), np.zeros(size), np.empty(size), np.empty((k, width)), np.empty((2, k, COLUMNS)))
        for _ in range(workers)
    ]
    pending: list[Future[None]] = []
    one_each = 1 if workers > 1 else None
    with threadpool_limits(one_each, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        # Blocks are assigned to sums by number and not by which thread is free, so that the result is deterministic.
        for number, (block, reference) in enumerate(blocks):
            if number >= workers:
                pending[number - workers].result()  # the previous block of this sum is done
            pending.append(pool.submit(_add_block, sums[number % workers], block, reference, parents, first))
        for task in pending:
            task.result()
    return [(each.total, each.remainder) for each in sums]


def _add_block(
    sums: Sums,
    block: Real[np.ndarray, "points columns"],
    reference: Float64[np.ndarray, "_ columns"],
    parents: Int[np.ndarray, " rows"],
    first: int,
) -> None:
    width = block.shape[1]
    step = math.ceil(width / math.ceil(width / sums.tile.shape[1]))  # equal tiles, no narrow last one
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are detected in the sums
        for start in range(0, width, step):
            tile = sums.tile[:, : min(step, width - start)]
            for column in range(0, tile.shape[1], COLUMNS):
                out = tile[:, column : column + COLUMNS]
                columns = slice(start + column, start + column + out.shape[1])
                _write_increments(out, block[:, columns], reference[:, columns], parents, sums.scratch)
            new = tile[first:]
            np.matmul(new, tile[:first].T, out=sums.product[:, :first])
            np.matmul(new, new.T, out=sums.product[:, first:])  # NumPy recognises the transpose (syrk): half the work
            for row in range(0, len(new), ROWS):
                rows = slice(row, row + ROWS)
                sums.total[rows], error = two_sum(sums.total[rows], sums.product[rows])
                sums.remainder[rows] += error


def _write_increments(
    out: Float64[np.ndarray, "rows columns"],
    block: Real[np.ndarray, "points columns"],
    reference: Float64[np.ndarray, "_ columns"],
    parents: Int[np.ndarray, " rows"],
    scratch: Float64[np.ndarray, "2 rows _"],
) -> None:
    """Write the rotated increments of some columns into `out`, float64 (k, columns)."""
    rows, before = scratch[:, :, : out.shape[1]]
    rows[: len(reference)] = reference
    rows[len(reference) :] = block
    np.take(rows, np.maximum(parents, 0), axis=0, out=before, mode="clip")
    before[parents < 0] = 0
    np.subtract(rows, before, out=out)
    # Rotate pairs of neighbouring columns (x, y) in place: seen as x + iy, a rotation is a product with exp(i angle).
    even = out.shape[1] // 2 * 2
    pairs = out[:, :even].view(np.complex128)
    pairs *= np.exp(1j * ANGLE)


def _sum_on_devices(
    blocks: Blocks, parents: Int[np.ndarray, " rows"], first: int, width: int, devices: Sequence[jax.Device]
) -> list[Pair]:
    k = len(parents)
    padded_width, add_block = 0, _compiled_add_block()
    with jax.enable_x64(True):
        parents_on = [jax.device_put(parents, device) for device in devices]
        sums = [jax.device_put((np.zeros((k - first, k)),) * 2, device) for device in devices]
        for number, (block, reference) in enumerate(blocks):
            padded_width = max(padded_width, math.ceil(block.shape[1] / width) * width)
            missing = padded_width - block.shape[1]  # the last block is padded, so that one compiled program serves all
            padded = [np.pad(rows, ((0, 0), (0, missing))) for rows in (block, reference)]
            turn = number % len(devices)
            jax.block_until_ready(sums[turn])  # a device holds one block at a time
            rows = jax.device_put(padded, devices[turn])
            sums[turn] = add_block(sums[turn], *rows, parents_on[turn], first=first, width=width)
        return [(np.array(total), np.array(remainder)) for total, remainder in sums]


@cache
def _compiled_add_block() -> Callable[..., SumsOnDevice]:
    return jax.jit(_add_block_on_device, static_argnames=("first", "width"), donate_argnums=0)


def _add_block_on_device(
    sums: SumsOnDevice,
    block: Real[jax.Array, "points columns"],
    reference: Float64[jax.Array, "_ columns"],
    parents: Int[jax.Array, " rows"],
    *,
    first: int,
    width: int,
) -> SumsOnDevice:
    rows = jnp.concatenate([reference, block.astype(np.float64)])
    increments = rows - jnp.where(parents[:, None] >= 0, rows[parents], 0)
    left, right = increments.reshape(len(rows), -1, 2, width // 2).transpose(2, 1, 0, 3)
    cosine, sine = math.cos(ANGLE), math.sin(ANGLE)
    tiles = jnp.concatenate([cosine * left - sine * right, sine * left + cosine * right], axis=2)

    def add(pair: SumsOnDevice, tile: Float64[jax.Array, "rows width"]) -> tuple[SumsOnDevice, None]:
        total, error = two_sum(pair[0], tile[first:] @ tile.T)
        return (total, pair[1] + error), None

    return jax.lax.scan(add, sums, tiles)[0]
