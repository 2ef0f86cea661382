"""Checksums of each member's arrays, computed over their bytes in memory and on disk.

XXH3 with 64 bits (https://xxhash.com) keeps up with the page cache, 10 GB/s per core, and can be updated in pieces.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt32, UInt64
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from jaxscape.lazy import jax, multihost_utils

_SEAL = "xxh3_64"


def rows_checksums(array: Shaped[np.ndarray, "members ..."]) -> UInt64[np.ndarray, " members"]:
    """Return the checksum of each row of an array."""
    rows = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    return np.array([xxh3_64_intdigest(row) for row in rows], np.uint64)


def rows_checksums_among_processes(arrays: list[Any]) -> list[UInt64[np.ndarray, " _"] | None]:
    """Return the checksums of rows that several processes hold; all processes must call this together.

    Args:
        arrays: NumPy arrays, replicated on all processes, or JAX arrays [member, ...] sharded over the devices of all.

    Returns:
        The checksums of each array; None if some member's row is not whole on any process.
    """
    local = [_local_checksums(array) for array in arrays]
    # Each 64-bit checksum travels as two 32-bit numbers, since JAX truncates 64-bit integers unless x64 is enabled.
    packed = np.concatenate(
        [np.stack([values.view(np.uint32).reshape(-1, 2), known]) for values, known in local], axis=1
    )
    all_processes = np.asarray(multihost_utils.process_allgather(packed)).reshape(-1, *packed.shape)
    values, known = all_processes[:, 0], all_processes[:, 1, :, 0] > 0
    holder = known.argmax(axis=0)  # the first process that holds the row
    merged = np.ascontiguousarray(values[holder, np.arange(values.shape[1])]).view(np.uint64)[:, 0]
    stops = np.cumsum([len(values) for values, _ in local])[:-1]
    parts = zip(np.split(merged, stops), np.split(known.any(axis=0), stops), strict=True)
    return [part if complete.all() else None for part, complete in parts]


def _local_checksums(array: Any) -> tuple[UInt64[np.ndarray, " members"], UInt32[np.ndarray, "members 2"]]:
    """Return the checksums of the rows that this process holds whole, and a mask of those rows, twice."""
    values, known = np.zeros(len(array), np.uint64), np.zeros((len(array), 2), np.uint32)
    if not isinstance(array, jax.Array):
        return rows_checksums(array), known + 1
    for shard in array.addressable_shards:
        rows = shard.index[0]
        if shard.data.shape[1:] == array.shape[1:] and not known[rows].all():
            values[rows], known[rows] = rows_checksums(np.asarray(shard.data)), 1
    return values, known


def encode(checksums: UInt64[np.ndarray, " rows"]) -> str:
    """Encode checksums as text for JSON."""
    return base64.b64encode(checksums.astype("<u8").tobytes()).decode()


def decode(text: str) -> UInt64[np.ndarray, " rows"]:
    """Decode the text of `encode`.

    Raises:
        ValueError: for any other text.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), "<u8")


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON record with a checksum of its contents added."""
    return {**record, _SEAL: xxh3_64_hexdigest(json.dumps(dict(record), sort_keys=True).encode())}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record without the checksum that `sealed` added.

    Raises:
        ValueError: if the checksum is missing or does not match.
    """
    plain = {name: value for name, value in record.items() if name != _SEAL}
    if record.get(_SEAL) != sealed(plain)[_SEAL]:
        raise ValueError("it does not match its checksum")
    return plain
