"""A checksum for each array of each member, over its bytes as they lie in memory and on disk.

XXH3 with 64 bits (https://xxhash.com) keeps up with the page cache, 10 GB/s a core, and takes an array in pieces.
"""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest

from jaxscape.lazy import jax, multihost_utils

_SEAL = "xxh3_64"


def rows_checksums(array: np.ndarray) -> np.ndarray:
    """Return the checksum of each row of an array [member, ...], uint64 (member,)."""
    rows = np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)
    return np.array([xxh3_64_intdigest(row) for row in rows], np.uint64)


def rows_checksums_among_processes(arrays: list[Any]) -> list[np.ndarray | None]:
    """Return the checksums of rows that several processes hold; all of them call this together.

    Args:
        arrays: NumPy arrays, which are the same everywhere, or JAX arrays [member, ...] on the devices of all.

    Returns:
        For each array its checksums; None where no process holds whole rows of all members.
    """
    found = [_own_checksums(array) for array in arrays]
    # As 32 bits, for JAX has none of 64 unless it is told to. A row that a process does not hold counts as None.
    own = np.concatenate([np.stack([values.view(np.uint32).reshape(-1, 2), known]) for values, known in found], axis=1)
    all_processes = np.asarray(multihost_utils.process_allgather(own)).reshape(-1, *own.shape)
    values, known = all_processes[:, 0], all_processes[:, 1, :, 0] > 0
    holder = known.argmax(axis=0)
    merged = np.ascontiguousarray(values[holder, np.arange(values.shape[1])]).view(np.uint64)[:, 0]
    stops = np.cumsum([len(values) for values, _ in found])[:-1]
    parts = zip(np.split(merged, stops), np.split(known.any(axis=0), stops), strict=True)
    return [part if complete.all() else None for part, complete in parts]


def _own_checksums(array: Any) -> tuple[np.ndarray, np.ndarray]:
    """The checksums of the rows that this process holds whole, and which they are, uint32 (member, 2)."""
    values, known = np.zeros(len(array), np.uint64), np.zeros((len(array), 2), np.uint32)
    if not isinstance(array, jax.Array):
        return rows_checksums(array), known + 1
    for shard in array.addressable_shards:
        rows = shard.index[0]
        if shard.data.shape[1:] == array.shape[1:] and not known[rows].all():
            values[rows], known[rows] = rows_checksums(np.asarray(shard.data)), 1
    return values, known


def encode(checksums: np.ndarray) -> str:
    """Return checksums as text for JSON."""
    return base64.b64encode(checksums.astype("<u8").tobytes()).decode()


def decode(text: str) -> np.ndarray:
    """Return what `encode` was given.

    Raises:
        ValueError: for another text.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), "<u8")


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON record with a checksum of its own."""
    return {**record, _SEAL: xxh3_64_hexdigest(json.dumps(dict(record), sort_keys=True).encode())}


def unsealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `sealed` was given.

    Raises:
        ValueError: where the checksum is missing or does not match.
    """
    plain = {name: value for name, value in record.items() if name != _SEAL}
    if record.get(_SEAL) != sealed(plain)[_SEAL]:
        raise ValueError("it does not match its checksum")
    return plain
