"""What is damaged in a store is named in one line with the way out, or comes back the same; never silently wrong."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxscape.trajectories import checksums
from jaxscape.trajectories.store import TrajectoryStore

MEMBERS, EPOCHS = 3, 3
LABELS = [{"seed": member} for member in range(MEMBERS)]


def snapshot(epoch):
    generator = np.random.default_rng(epoch)
    shapes = {"bias": (100,), "kernel": (30, 50)}  # one chunk altogether; a chunk for each member
    return {name: generator.standard_normal((MEMBERS, *shape)).astype(np.float32) for name, shape in shapes.items()}


EXPECTED = {name: np.stack([snapshot(epoch)[name] for epoch in range(EPOCHS)]) for name in snapshot(0)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "store"
    with TrajectoryStore.create(path, LABELS) as store:
        for epoch in range(EPOCHS):
            store.append(epoch, snapshot(epoch), update=epoch)
    return path


@pytest.fixture
def path(whole, tmp_path):
    """A copy to damage."""
    return shutil.copytree(whole, tmp_path / "store")


@pytest.fixture
def packed_path(tmp_path, monkeypatch):
    """The same snapshots in packs of one and two."""
    monkeypatch.setattr("jaxscape.trajectories.packs.PACK_EPOCHS", 2)
    with TrajectoryStore.create(tmp_path / "packed", LABELS, packed=True) as store:
        for epoch in range(EPOCHS):
            store.append(epoch, snapshot(epoch), update=epoch)
    return tmp_path / "packed"


def read_everything(path):
    """By `read` and by `blocks`, in pieces that cut the kernel."""
    store = TrajectoryStore.open(path)
    blocks = np.concatenate(list(store.blocks(4 * EPOCHS * MEMBERS * 100)), axis=1)
    found = store.read()
    rows = [found[name].reshape(EPOCHS * MEMBERS, -1) for name in ("bias", "kernel")]
    np.testing.assert_array_equal(blocks, np.concatenate(rows, axis=1))
    return found


def assert_named(error, *words):
    """One line of moderate length, without a system's number or a page of tensorstore."""
    text = str(error)
    assert "\n" not in text
    assert len(text) < 700, text
    assert not re.search(r"Errno|tensorstore_spec|Traceback", text), text
    for word in words:
        assert str(word) in text


def flip(content, place):
    return content[:place] + bytes(byte ^ 1 for byte in content[place : place + 1]) + content[place + 1 :]


DAMAGES = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "braces": lambda content: b"{}",
    "null": lambda content: b"null",
    "list": lambda content: b"[]",
    "noise": lambda content: np.random.default_rng(0).bytes(len(content)),
    "flipped at a third": lambda content: flip(content, len(content) // 3),
    "flipped near the end": lambda content: flip(content, max(0, len(content) - 20)),
    "nested": lambda content: b"[" * 200_000,
    "deleted": None,
    "folder": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("form", ["path", "packed_path"])
def test_every_file_of_a_store_damaged_in_turn(request, form, damage):
    path = request.getfixturevalue(form)
    folders = len([entry for entry in path.iterdir() if entry.is_dir()])
    reported = 0
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        content = file.read_bytes()
        file.unlink()
        if damage == "folder":
            file.mkdir()
        elif damage != "deleted":
            file.write_bytes(DAMAGES[damage](content))
        try:
            found = read_everything(path)
        except (ValueError, OSError) as error:
            reported += 1
            assert_named(error, path)
        else:
            for name, values in EXPECTED.items():
                np.testing.assert_array_equal(found[name], values, err_msg=str(file))
        finally:
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
            file.write_bytes(content)
    assert reported >= 1 + 2 * folders  # the index; the metadata and the arrays of each epoch or pack


@pytest.mark.parametrize("name", ["bias", "kernel"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_bit_of_an_array_is_noticed_by_every_way_of_reading(path, name, place):
    values = EXPECTED[name][1, 2].ravel()
    where = values[place : place + 1 or None].tobytes()
    [file] = [file for file in (path / "1").rglob("*") if file.is_file() and where in file.read_bytes()]
    content = file.read_bytes()
    file.write_bytes(flip(content, content.index(where)))
    store = TrajectoryStore.open(path)
    readings = [
        lambda: store.read(1, 2, [name]),
        lambda: list(store.blocks(10**6)),
        lambda: list(store.blocks(4 * EPOCHS * MEMBERS * 100)),
        lambda: list(store.blocks(10**4, members=[2])),
    ]
    for reading in readings:
        with pytest.raises(ValueError, match=f"epoch 1 .*'{name}' of member 2 does not match its checksum") as caught:
            reading()
        assert_named(caught.value, f"Delete the folder {path / '1'}", "append the epoch again")
    np.testing.assert_array_equal(store.read([0, 2])[name], EXPECTED[name][[0, 2]])
    np.testing.assert_array_equal(store.read(1, [0, 1])[name][0], EXPECTED[name][1, :2])
    assert len(list(store.blocks(10**6, members=[0, 1]))) == 1


def test_a_snapshot_of_an_earlier_version_has_no_checksums_and_reads_as_before(path):
    for epoch in range(EPOCHS):
        file = path / str(epoch) / "_CHECKPOINT_METADATA"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"custom_metadata": {"update": 5}}))
    for name, values in read_everything(path).items():
        np.testing.assert_array_equal(values, EXPECTED[name])
    assert TrajectoryStore.open(path).updates == [5] * EPOCHS


def test_a_snapshot_in_the_place_of_another_is_noticed(path):
    shutil.rmtree(path / "1")
    shutil.copytree(path / "2", path / "1")
    with pytest.raises(ValueError, match=r"epoch 1 of the store .* is damaged"):
        TrajectoryStore.open(path)


@pytest.mark.parametrize("name", ["²", "02", "-1", "3.orbax-checkpoint-tmp", "notes"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_entries_that_are_not_epochs_are_not_touched(path, name, kind):
    (path / name).touch() if kind == "file" else (path / name).mkdir()
    assert TrajectoryStore.open(path).num_epochs == EPOCHS


@pytest.mark.parametrize("name", ["3", "7"])
@pytest.mark.parametrize(
    ("kind", "words"), [("file", "is not a snapshot but a file"), ("folder", "is damaged: it has")]
)
def test_an_entry_named_like_an_epoch_that_is_not_one_is_refused(path, name, kind, words):
    (path / name).touch() if kind == "file" else (path / name).mkdir()
    with pytest.raises(ValueError, match=words) as caught:
        TrajectoryStore.open(path)
    assert_named(caught.value, path / name, "elete")


@pytest.mark.parametrize(
    "entries",
    [
        {"labels": {}},
        {"labels": []},
        {"labels": [1, 2, 3]},
        {"labels": [{"a": 1}, {"b": 1}, {}]},
        {"leaves": None},
        {"leaves": [{}]},
        {"leaves": ["kernel"]},
        {"leaves": [{"keys": "kernel", "shape": [7], "dtype": "float32"}]},
        {"leaves": [{"keys": ["kernel"], "shape": [-7], "dtype": "float32"}]},
        {"leaves": [{"keys": ["kernel"], "shape": [30, 50.5], "dtype": "float32"}]},
        {"leaves": [{"keys": ["kernel"], "shape": [30, 50], "dtype": "float64"}]},
        {"leaves": [{"keys": ["kernel"], "shape": [30, 50], "dtype": ["float32"]}]},
    ],
)
def test_an_index_without_checksum_and_of_other_types_is_named(path, entries):
    index = json.loads((path / "store.json").read_text())
    del index["sha256"]
    (path / "store.json").write_text(json.dumps(index | entries))
    with pytest.raises(ValueError, match=rf"store.json is damaged: {next(iter(entries))} must be") as caught:
        TrajectoryStore.open(path)
    assert_named(caught.value, path)


@pytest.mark.parametrize(
    "leaf", [{"shape": [30, 51]}, {"shape": [30, 49]}, {"dtype": "bfloat16"}, {"keys": ["other"]}, {"keys": ["../1"]}]
)
def test_an_index_that_does_not_match_the_arrays_is_named(path, leaf):
    index = json.loads((path / "store.json").read_text())
    del index["sha256"]
    index["leaves"][1] |= leaf
    (path / "store.json").write_text(json.dumps(index))
    for reading in (lambda store: store.read(), lambda store: list(store.blocks(10**6))):
        with pytest.raises(ValueError, match=r"epoch 0 .* is damaged") as caught:
            reading(TrajectoryStore.open(path))
        assert_named(caught.value, path)


# Gaps


def test_a_damaged_epoch_can_be_deleted_and_appended_again(path):
    shutil.rmtree(path / "1")
    with TrajectoryStore.open(path) as store:
        assert (store.num_epochs, store.missing_epochs, store.updates) == (EPOCHS, [1], [0, None, 2])
        np.testing.assert_array_equal(store.read([2, 0])["kernel"], EXPECTED["kernel"][[2, 0]])
        for reading in (store.read, lambda: store.read([0, 1]), lambda: store.blocks(10**6)):
            with pytest.raises(FileNotFoundError, match="epoch 1 is missing in the store") as caught:
                reading()
            assert_named(caught.value, path)
        with pytest.raises(ValueError, match=r"epoch=2 cannot be appended; the next epoch is 3, and \[1\] are missing"):
            store.append(2, snapshot(2))
        store.append(1, snapshot(1), update=1)
        assert (store.num_epochs, store.missing_epochs, store.updates) == (EPOCHS, [], [0, 1, 2])
    for name, values in read_everything(path).items():
        np.testing.assert_array_equal(values, EXPECTED[name])


def test_a_store_with_gaps_resumes_at_its_end_and_keeps_its_structure(path):
    for epoch in (0, 1):
        shutil.rmtree(path / str(epoch))
    with TrajectoryStore.open(path) as store:
        assert store.missing_epochs == [0, 1]
        with pytest.raises(ValueError, match="as in epoch 0"):
            store.append(0, {"other": np.ones((MEMBERS, 2), np.float32)})
        store.append(3, snapshot(3))
        assert (store.num_epochs, store.missing_epochs) == (4, [0, 1])


def test_the_snapshot_of_another_process_is_told_apart_from_a_failed_write(path):
    first, second = TrajectoryStore.open(path), TrajectoryStore.open(path)
    with first, second:
        first.append(3, snapshot(3))
        first.wait()
        second.append(3, snapshot(4))
        with pytest.raises(FileExistsError, match="another process has written epoch 3 to") as caught:
            second.wait()
        assert_named(caught.value, path)
    np.testing.assert_array_equal(TrajectoryStore.open(path).read(3)["bias"][0], snapshot(3)["bias"])


def test_a_store_that_was_deleted_is_not_written_to(path):
    with TrajectoryStore.open(path) as store:
        shutil.rmtree(path)
        store.append(3, snapshot(3))
        with pytest.raises(OSError, match=r"epoch 3 could not be written .*: the folder is gone"):
            store.wait()
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "words"), [("x" * 300, "File name too long"), ("file/x", "Not a directory"), ("loop", "File exists")]
)
def test_a_folder_that_cannot_be_made_is_named(tmp_path, name, words):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OSError, match=words) as caught:
        TrajectoryStore.create(tmp_path / name, LABELS)
    assert_named(caught.value, tmp_path / name)
    with pytest.raises(OSError, match=r"does not exist|cannot read") as caught:
        TrajectoryStore.open(tmp_path / name)
    assert_named(caught.value, tmp_path / name)


# Writing


def test_a_first_snapshot_that_cannot_be_read_back_is_an_error_of_the_first_epoch(tmp_path, monkeypatch):
    wrong = checksums.rows_checksums(snapshot(1)["bias"])
    monkeypatch.setattr("jaxscape.trajectories.store.rows_checksums", lambda array: wrong)
    store = TrajectoryStore.create(tmp_path / "store", LABELS)
    store.append(0, snapshot(0))
    with pytest.raises(OSError, match=r"epoch 0 was written and cannot be read back: .* does not match") as caught:
        store.append(1, snapshot(1))
    assert_named(caught.value, f"Delete the folder {tmp_path / 'store' / '0'}")
    store.close()


@pytest.mark.parametrize("labels", [{"seed": 0}, "ab", [1], None, [[1]]])
def test_labels_that_are_no_records_are_refused(tmp_path, labels):
    with pytest.raises(ValueError, match=r"labels=.* must be a sequence of mappings"):
        TrajectoryStore.create(tmp_path / "store", labels)


def test_labels_that_are_nested_too_deeply_are_refused(tmp_path):
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ValueError, match=r"labels\[0\]"):
        TrajectoryStore.create(tmp_path / "store", [{"seed": deep}])


@pytest.mark.slow
def test_two_processes_keep_the_checksums_of_all_members_in_any_folder(tmp_path):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    path, program = tmp_path / "lr=[0.1]" / "store", Path(__file__).with_name("two_writers.py")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    writers = [
        subprocess.Popen(
            [sys.executable, program, str(number), str(port), path], env=environment, stderr=subprocess.PIPE
        )
        for number in range(2)
    ]
    errors = [writer.communicate(timeout=300)[1].decode() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    store = TrajectoryStore.open(path)
    for epoch in range(2):
        values = (np.arange(8000, dtype=np.float32) + epoch).reshape(4, 2000)
        expected = {
            name: checksums.encode(checksums.rows_checksums(values)) for name in ("everywhere", "numpy", "shared")
        }
        expected["small"] = checksums.encode(checksums.rows_checksums(values[:, :3]))
        assert store._snapshots[epoch].checksums == expected
        np.testing.assert_array_equal(store.read(epoch)["shared"][0], values)
