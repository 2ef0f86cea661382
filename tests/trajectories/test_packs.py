"""A packed store: many small snapshots in a checkpoint, which reads like any other store."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts

from jaxscape.trajectories import packs, snapshots
from jaxscape.trajectories.gram import gram
from jaxscape.trajectories.store import TrajectoryStore

MEMBERS, EPOCHS, IN_PACK = 3, 7, 3  # two full packs, and one of a single epoch
LABELS = [{"seed": member} for member in range(MEMBERS)]
SHAPES = {"bias": (100,), "kernel": (3, 3, 16, 20), "matrix": (40, 50), "scalar": ()}  # two of them chunks by row


def snapshot(epoch, dtype=np.float32):
    generator = np.random.default_rng(epoch)
    return {name: jnp.asarray(generator.standard_normal((MEMBERS, *shape)), dtype) for name, shape in SHAPES.items()}


def epoch_bytes(dtype=np.float32):
    return sum(leaf.nbytes for leaf in snapshot(0, dtype).values())


def write(path, packed, dtype=np.float32, epochs=EPOCHS):
    with TrajectoryStore.create(path, LABELS, packed=packed) as store:
        for epoch in range(epochs):
            store.append(epoch, snapshot(epoch, dtype), update=10 * epoch)
    return path


@pytest.fixture(autouse=True)
def small_packs(monkeypatch):
    monkeypatch.setattr(packs, "PACK_BYTES", IN_PACK * epoch_bytes())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The same snapshots in a packed store and in one that is not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packs, "PACK_BYTES", IN_PACK * epoch_bytes())
        folder = tmp_path_factory.mktemp("stores")
        return write(folder / "packed", True), write(folder / "plain", False)


@pytest.fixture
def both(written):
    return tuple(TrajectoryStore.open(path) for path in written)


@pytest.fixture
def path(written, tmp_path):
    """A copy of the packed store, to change."""
    return shutil.copytree(written[0], tmp_path / "store")


def folders(path):
    return sorted((entry.name for entry in path.iterdir() if entry.is_dir()), key=int)


def stacked(name, *epochs):
    return np.stack([np.asarray(snapshot(epoch)[name]) for epoch in epochs])


# It reads like any other store


def test_a_folder_holds_as_many_epochs_as_fit(written):
    assert folders(written[0]) == ["0", "3", "6"]


def test_a_packed_store_has_the_same_properties(both):
    packed, plain = both
    assert (packed.packed, plain.packed) == (True, False)
    for name in ("num_epochs", "num_members", "num_parameters", "missing_epochs", "updates", "labels", "leaf_names"):
        assert getattr(packed, name) == getattr(plain, name)
    assert packed.updates == [0, 10, 20, 30, 40, 50, 60]
    assert packed.last_update == 60


@pytest.mark.parametrize(
    "selection",
    [{}, {"epochs": 4}, {"epochs": [6, 0, 5, 5, 2]}, {"members": [2, 0]}, {"epochs": [3, 1], "leaves": ["matrix"]}],
)
def test_reading_a_packed_store_returns_the_same(both, selection):
    packed, plain = (store.read(**selection) for store in both)
    assert packed.keys() == plain.keys()
    for name in packed:
        assert packed[name].dtype == plain[name].dtype
        np.testing.assert_array_equal(packed[name], plain[name])


@pytest.mark.parametrize("members", [None, [2, 0], 1])
@pytest.mark.parametrize("width", [77, 2000, 10**4])
def test_blocks_are_the_same(both, width, members):
    rows = EPOCHS * np.size(np.arange(MEMBERS) if members is None else members)
    packed, plain = (list(store.blocks(4 * rows * width, members=members)) for store in both)
    assert [block.shape for block in packed] == [block.shape for block in plain]
    np.testing.assert_array_equal(np.concatenate(packed, axis=1), np.concatenate(plain, axis=1))


def test_distances_are_the_same(both):
    packed, plain = (gram(store) for store in both)
    np.testing.assert_array_equal(np.asarray(packed.products), np.asarray(plain.products))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_half_precision_keeps_its_bits(tmp_path, dtype):
    store = TrajectoryStore.open(write(tmp_path / "store", True, dtype))
    for name, values in store.read(2).items():
        assert values[0].tobytes() == np.asarray(snapshot(2, dtype)[name]).tobytes()
    expected = np.asarray(snapshot(0, dtype)["bias"], np.float32)
    np.testing.assert_array_equal(next(store.blocks(10**7))[:MEMBERS, :100], expected)


def test_other_chunks_and_compression_read_the_same(tmp_path, monkeypatch):
    from orbax.checkpoint import v1 as ocp

    monkeypatch.setattr(snapshots, "saving_context", lambda row_axes: ocp.Context())
    store = TrajectoryStore.open(write(tmp_path / "store", True))
    blocks = np.concatenate(list(store.blocks(4 * EPOCHS * MEMBERS * 333)), axis=1)
    np.testing.assert_array_equal(
        blocks[:, 100 : 100 + 2880], stacked("kernel", *range(EPOCHS)).reshape(len(blocks), -1)
    )


def test_no_byte_is_read_twice(written):
    def bytes_read():
        counts = ts.experimental_collect_matching_metrics("/tensorstore/kvstore/file/bytes_read")
        return sum(value["value"] for metric in counts for value in metric["values"])

    store = TrajectoryStore.open(written[0])
    store._reading = ts.Context({"cache_pool": {"total_bytes_limit": 20_000}})  # the indices only
    list(store.blocks(10**7))  # which are read once
    before = bytes_read()
    assert len(list(store.blocks(4 * EPOCHS * MEMBERS * 150))) > 30
    assert bytes_read() - before <= EPOCHS * epoch_bytes() * 1.03


def test_orbax_alone_reads_a_pack(written):
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(written[0]) as checkpointer:
        found = checkpointer.load(3)
    np.testing.assert_array_equal(found["kernel"], stacked("kernel", 3, 4, 5))


# What is on disk, and when


def test_the_version_in_the_index_says_whether_a_store_is_packed(written):
    packed, plain = (json.loads((path / "store.json").read_text()) for path in written)
    assert (packed["version"], plain["version"]) == (2, 1)  # version 0.1 opens 1 alone
    assert "[epoch, member, ...]" in packed["about"]
    assert plain["about"] == (
        "One folder an epoch, an orbax checkpoint whose item 'state' holds the parameters stacked [member, ...]. "
        "labels: a record a member, in that order. leaves: the arrays of one member, in the order of the columns."
    )


@pytest.mark.parametrize(("limit", "value"), [("PACK_EPOCHS", 2), ("PACK_SECONDS", 0.0), ("PACK_BYTES", 1)])
def test_a_pack_is_bounded_in_each_way(tmp_path, monkeypatch, limit, value):
    monkeypatch.setattr(packs, limit, value)
    path = write(tmp_path / "store", True, epochs=4)
    assert folders(path) == (["0", "2"] if limit == "PACK_EPOCHS" else ["0", "1", "2", "3"])
    np.testing.assert_array_equal(TrajectoryStore.open(path).read()["bias"], stacked("bias", 0, 1, 2, 3))


def test_a_full_pack_is_written_while_later_snapshots_are_buffered(tmp_path):
    with TrajectoryStore.create(tmp_path / "store", LABELS, packed=True) as store:
        for epoch in range(IN_PACK + 2):
            store.append(epoch, snapshot(epoch))
        store._pending[1].result()
        assert TrajectoryStore.open(store.path).num_epochs == IN_PACK
        assert (store.num_epochs, len(store.updates)) == (IN_PACK + 2, IN_PACK + 2)
        store.wait()
        assert TrajectoryStore.open(store.path).num_epochs == IN_PACK + 2
    assert folders(store.path) == ["0", "3"]


def test_reading_writes_the_buffer_first(tmp_path):
    with TrajectoryStore.create(tmp_path / "store", LABELS, packed=True) as store:
        store.append(0, snapshot(0))
        np.testing.assert_array_equal(store.read()["kernel"], stacked("kernel", 0))
        store.append(1, snapshot(1))
        np.testing.assert_array_equal(next(store.blocks(10**7))[:, :100], stacked("bias", 0, 1).reshape(-1, 100))


def test_arrays_may_be_overwritten_as_soon_as_append_returns(tmp_path):
    changing = {name: np.array(values) for name, values in snapshot(0).items()}
    with TrajectoryStore.create(tmp_path / "store", LABELS, packed=True) as store:
        for epoch in range(2):
            store.append(epoch, changing)
            for values in changing.values():
                values += 1
        np.testing.assert_array_equal(store.read()["bias"], np.stack([snapshot(0)["bias"], snapshot(0)["bias"] + 1]))


def test_a_killed_process_loses_the_buffer_and_the_store_resumes_after_the_last_pack(tmp_path):
    program = """
        import os, signal, sys
        import numpy as np
        from jaxscape.trajectories import packs
        from jaxscape.trajectories.store import TrajectoryStore

        packs.PACK_EPOCHS = 4
        store = TrajectoryStore.create(sys.argv[1], [{"seed": 0}], packed=True)
        for epoch in range(11):
            store.append(epoch, {"x": np.full((1, 50), epoch, np.float32)}, update=100 * epoch)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "store"
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    killed = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with TrajectoryStore.open(path) as store:
        assert store.num_epochs in (4, 8)  # the write of the second pack had begun
        for epoch in range(store.num_epochs, 12):
            store.append(epoch, {"x": np.full((1, 50), epoch, np.float32)}, update=100 * epoch)
    store = TrajectoryStore.open(path)
    np.testing.assert_array_equal(store.read()["x"][:, 0, 0], np.arange(12))
    assert store.updates == [100 * epoch for epoch in range(12)]


def test_the_unfinished_pack_of_a_crash_does_not_count(path):
    (path / "3").rename(path / "3.orbax-checkpoint-tmp")
    shutil.rmtree(path / "6")
    with TrajectoryStore.open(path) as store:
        assert store.num_epochs == 3
        store.append(3, snapshot(3), update=25)
    assert TrajectoryStore.open(path).updates == [0, 10, 20, 25]


# What is refused


@pytest.mark.parametrize("update", [60, 59, 0, -1])
def test_steps_that_do_not_increase_are_refused(path, update):
    with TrajectoryStore.open(path) as store:
        with pytest.raises(ValueError, match=f"update={update} of epoch 7 does not increase; allowed: more than 60"):
            store.append(7, snapshot(7), update=update)
        store.append(7, snapshot(7), update=61)
        with pytest.raises(ValueError, match="allowed: more than 61"):
            store.append(8, snapshot(8), update=61)
        store.append(8, snapshot(8))
        with pytest.raises(ValueError, match="allowed: more than 61"):
            store.append(9, snapshot(8), update=61)
    assert TrajectoryStore.open(path).updates[7:] == [61, None]


def test_buffered_arrays_unlike_the_first_are_refused_by_key_path(tmp_path):
    with TrajectoryStore.create(tmp_path / "store", LABELS, packed=True) as store:
        store.append(0, snapshot(0))
        with pytest.raises(ValueError, match=r"'bias' of a member is float32 \(8,\); allowed: float32 \(100,\)"):
            store.append(1, {**snapshot(1), "bias": np.ones((MEMBERS, 8), np.float32)})
        with pytest.raises(ValueError, match="epoch=2 cannot be appended; the next epoch is 1"):
            store.append(2, snapshot(1))
        assert store.num_epochs == 1


def test_several_processes_are_refused_before_any_work(path, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="packed=True is for one process, and there are 2"):
        TrajectoryStore.create(tmp_path / "new", LABELS, packed=True)
    assert not (tmp_path / "new").exists()
    store = TrajectoryStore.open(path)
    with pytest.raises(ValueError, match="is packed; allowed: one process, and not 2"):
        store.append(7, snapshot(7))
    assert store.num_epochs == 7


# Damage, gaps, failed writes


@pytest.mark.parametrize("name", ["bias", "matrix"])  # one chunk altogether; a chunk for each row
def test_a_flipped_bit_is_named_by_pack_epoch_and_member(path, name):
    where = stacked(name, 4)[0, 2].tobytes()
    [file] = [file for file in (path / "3").rglob("*") if file.is_file() and where in file.read_bytes()]
    content = bytearray(file.read_bytes())
    content[content.index(where)] ^= 1
    file.write_bytes(content)
    store = TrajectoryStore.open(path)
    readings = [
        lambda: store.read(4, 2, [name]),
        lambda: list(store.blocks(10**7)),
        lambda: list(store.blocks(4 * EPOCHS * MEMBERS * 100)),
    ]
    for reading in readings:
        words = rf"pack 3 of the store .* is damaged: '{name}' of member 2 at epoch 4 does not match its checksum"
        with pytest.raises(ValueError, match=words) as caught:
            reading()
        assert f"Delete the folder {path / '3'}" in str(caught.value)
    np.testing.assert_array_equal(store.read([3, 5])[name], stacked(name, 3, 5))
    np.testing.assert_array_equal(store.read(4, [0, 1])[name], stacked(name, 4)[:, :2])


def test_an_index_that_does_not_fit_is_named(path):
    leaf = json.loads((path / "store.json").read_text())["leaves"]
    index = json.loads((path / "store.json").read_text())
    del index["sha256"]
    index["leaves"] = [entry | ({"shape": [40, 51]} if entry["keys"] == ["matrix"] else {}) for entry in leaf]
    (path / "store.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"pack 0 of the store .* is damaged: 'matrix' is float32 \(3, 3, 40, 50\), not"
    ):
        list(TrajectoryStore.open(path).blocks(10**7))


def test_a_deleted_pack_is_a_gap_that_can_be_appended_again(path):
    shutil.rmtree(path / "3")
    with TrajectoryStore.open(path) as store:
        assert store.missing_epochs == [3, 4, 5]
        assert store.updates == [0, 10, 20, None, None, None, 60]
        with pytest.raises(FileNotFoundError, match=r"epochs \[3, 4, 5\] are missing"):
            store.blocks(10**7)
        np.testing.assert_array_equal(store.read([6, 2])["bias"], stacked("bias", 6, 2))
        with pytest.raises(ValueError, match="update=60 of epoch 4 does not increase; allowed: less than 60"):
            store.append(4, snapshot(4), update=60)
        for epoch in (5, 3, 4, 7):
            store.append(epoch, snapshot(epoch), update=10 * epoch)
    assert folders(path) == ["0", "3", "5", "6", "7"]
    again = TrajectoryStore.open(path)
    assert (again.missing_epochs, again.updates) == ([], [0, 10, 20, 30, 40, 50, 60, 70])
    np.testing.assert_array_equal(again.read()["matrix"], stacked("matrix", *range(8)))


@pytest.mark.parametrize(("source", "target"), [("3", "6"), ("0", "1")])
def test_a_pack_in_the_place_of_another_is_noticed(path, source, target):
    shutil.rmtree(path / target, ignore_errors=True)
    shutil.copytree(path / source, path / target)
    with pytest.raises(ValueError, match=rf"pack {target} of the store .* is damaged"):
        TrajectoryStore.open(path)


def test_packs_that_overlap_are_noticed(path):
    shutil.rmtree(path / "0")
    with TrajectoryStore.open(path) as first, TrajectoryStore.open(path) as second:
        for epoch in (1, 2):
            first.append(epoch, snapshot(epoch))
        for epoch in (0, 1, 2):
            second.append(epoch, snapshot(epoch))
    with pytest.raises(ValueError, match=r"pack 1 of the store .* is damaged: its epochs are in the pack 0 too"):
        TrajectoryStore.open(path)


def test_the_pack_of_another_process_is_told_apart_from_a_failed_write(path):
    with TrajectoryStore.open(path) as first, TrajectoryStore.open(path) as second:
        for store in (first, second):
            store.append(7, snapshot(7))
            store.append(8, snapshot(8))
        first.wait()
        with pytest.raises(FileExistsError, match="another process has written epochs 7 to 8 to"):
            second.wait()


def test_a_failed_write_names_its_epochs_and_keeps_the_buffer(tmp_path):
    with TrajectoryStore.create(tmp_path / "store", LABELS, packed=True) as store:
        for epoch in range(IN_PACK):
            store.append(epoch, snapshot(epoch), update=epoch)
        store.wait()
        aside = store.path.rename(tmp_path / "aside")
        store.path.touch()  # a file, where the folder was
        for epoch in range(IN_PACK, 2 * IN_PACK + 1):
            store.append(epoch, snapshot(epoch), update=epoch)
        store._pending[1].exception()
        with pytest.raises(OSError, match=r"epochs 3 to 5 could not be written to .* and can be appended again"):
            store.append(2 * IN_PACK + 1, snapshot(0))
        assert store.missing_epochs == [3, 4, 5]
        store.path.unlink()
        aside.rename(store.path)
        store.wait()
        assert folders(store.path) == ["0", "6"]
        for epoch in (3, 4, 5):
            store.append(epoch, snapshot(epoch), update=epoch)
    np.testing.assert_array_equal(TrajectoryStore.open(store.path).read()["bias"], stacked("bias", *range(7)))
