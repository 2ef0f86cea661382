"""Blocks of columns from disk: the same numbers however a leaf lies there, and no byte read twice."""

import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from jaxscape.trajectories import snapshots
from jaxscape.trajectories.store import TrajectoryStore

MEMBERS, EPOCHS = 3, 2
SHAPES = {"bias": (7,), "kernel": (3, 3, 16, 20), "matrix": (40, 50), "scalar": ()}  # two of them chunks by member


def written(path, dtype=np.float32):
    """A store, and the matrix of what is in it."""
    generator = np.random.default_rng(0)
    epochs = [
        {name: jnp.asarray(generator.standard_normal((MEMBERS, *shape)), dtype) for name, shape in SHAPES.items()}
        for _ in range(EPOCHS)
    ]
    with TrajectoryStore.create(path, [{"seed": member} for member in range(MEMBERS)]) as store:
        for epoch, params in enumerate(epochs):
            store.append(epoch, params)
    rows = [
        np.concatenate([np.asarray(params[name], np.float32).reshape(MEMBERS, -1) for name in sorted(params)], axis=1)
        for params in epochs
    ]
    return TrajectoryStore.open(path), np.concatenate(rows)


def bytes_read():
    counts = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
    return sum(value["value"] for metric in counts for value in metric["values"])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("width", [77, 333, 2000, 10**4])
def test_large_leaves_are_split_at_the_end_of_a_block(tmp_path, dtype, width):
    store, expected = written(tmp_path / "store", dtype)
    blocks = list(store.blocks(4 * len(expected) * width))
    assert [block.shape[1] for block in blocks[:-1]] == [width] * (len(blocks) - 1)
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected)


def test_members_are_read_in_the_requested_order(tmp_path):
    store, expected = written(tmp_path / "store")
    chosen = expected.reshape(EPOCHS, MEMBERS, -1)[:, [2, 0]].reshape(EPOCHS * 2, -1)
    np.testing.assert_array_equal(np.concatenate(list(store.blocks(10**4, members=[2, 0])), axis=1), chosen)
    np.testing.assert_array_equal(next(store.blocks(10**7, members=1)), expected[1::MEMBERS])


@pytest.mark.parametrize("members", [[3], [-1], [], [0.5]])
def test_members_that_are_not_there_are_refused(tmp_path, members):
    store, _ = written(tmp_path / "store")
    with pytest.raises(ValueError, match=r"members=.* must be one or several of 0 to 2"):
        store.blocks(10**6, members=members)


def test_no_byte_is_read_twice(tmp_path):
    store, expected = written(tmp_path / "store")
    store._reading = ts.Context({"cache_pool": {"total_bytes_limit": 10_000}})  # the indices only
    list(store.blocks(10**7))  # which are read once
    before = bytes_read()
    width = 150  # the kernel reaches into 20 blocks
    assert len(list(store.blocks(4 * len(expected) * width))) > 30
    # Small leaves are read whole for each block that they reach into, at most twice.
    assert bytes_read() - before <= expected.nbytes * 1.02


def test_reading_a_member_reads_only_its_own_bytes(tmp_path):
    store, expected = written(tmp_path / "store")
    list(store.blocks(10**7))
    before = bytes_read()
    next(store.blocks(10**7, members=1))
    assert bytes_read() - before <= expected.nbytes / MEMBERS * 1.02


def test_a_store_with_other_chunks_and_compression_reads_the_same(tmp_path, monkeypatch):
    """Orbax writes in this way by default, and another version of this package may."""
    from orbax.checkpoint import v1 as ocp

    monkeypatch.setattr(snapshots, "saving_context", lambda row_axes=(0,): ocp.Context())
    store, expected = written(tmp_path / "store")
    blocks = list(store.blocks(4 * len(expected) * 333))
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected)
