"""Checksums of rows: of what they are taken, and how those of several processes are put together."""

import jax.numpy as jnp
import numpy as np
import pytest
import xxhash

from jaxscape.trajectories import checksums


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4, 5)])
def test_a_checksum_is_xxh3_of_a_rows_bytes(dtype, shape):
    array = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    expected = [xxhash.xxh3_64_intdigest(row.tobytes()) for row in array]
    assert checksums.rows_checksums(array).tolist() == expected
    assert checksums.rows_checksums(np.asarray(array, order="F")).tolist() == expected


def test_checksums_can_be_decoded_from_text():
    values = np.array([0, 2**64 - 1, 7], np.uint64)
    np.testing.assert_array_equal(checksums.decode(checksums.encode(values)), values)


@pytest.mark.parametrize("change", [{"epoch": 1}, {"more": 0}, {"xxh3_64": None}])
def test_a_record_that_was_changed_is_noticed(change):
    record = {"epoch": 0, "checksums": {"kernel": "AA=="}}
    assert checksums.unsealed(checksums.sealed(record)) == record
    with pytest.raises(ValueError, match="does not match its checksum"):
        checksums.unsealed(checksums.sealed(record) | change)


def test_processes_merge_the_checksums_of_their_rows(monkeypatch):
    """Each process holds two rows of the first array; no process holds one row of the second."""
    generator = np.random.default_rng(0)
    arrays = [
        generator.standard_normal((4, 5)).astype(np.float32),
        generator.standard_normal((3, 2)).astype(np.float32),
    ]
    sums = [checksums.rows_checksums(array) for array in arrays]
    first = np.array([1, 0, 0, 1, 1, 0, 0], bool)
    second = np.array([0, 1, 1, 0, 0, 1, 0], bool)

    def gathered(own):
        return np.stack([np.where(held[:, None], own, 0) for held in (first, second)])

    monkeypatch.setattr(checksums.multihost_utils, "process_allgather", gathered)
    whole, incomplete = checksums.rows_checksums_among_processes(arrays)
    np.testing.assert_array_equal(whole, sums[0])
    assert incomplete is None


def test_arrays_on_devices_are_those_of_their_values():
    array = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    [found] = checksums.rows_checksums_among_processes([jnp.asarray(array)])
    np.testing.assert_array_equal(found, checksums.rows_checksums(array))
