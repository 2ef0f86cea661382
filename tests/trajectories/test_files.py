"""Files that are replaced whole, and records that prove themselves."""

import json
import os
from unittest import mock

import numpy as np
import pytest

from jaxscape.trajectories.files import delete_unfinished, file_checksum, read_record, replacing, write_record


def test_a_record_reads_back_as_it_was_written(tmp_path):
    record = {"text": "±", "number": 0.1, "count": 3, "list": [1, 2], "nested": {"a": None}, "flag": True}
    write_record(tmp_path / "a.json", record)
    assert read_record(tmp_path / "a.json") == record


def test_arrays_become_lists_and_what_is_not_finite_null(tmp_path):
    write_record(tmp_path / "a.json", {"a": np.arange(2), "b": np.float64("nan"), "c": (float("inf"), np.int64(3))})
    assert read_record(tmp_path / "a.json") == {"a": [0, 1], "b": None, "c": [None, 3]}


def test_a_record_without_a_checksum_is_accepted(tmp_path):
    (tmp_path / "a.json").write_text('{"epochs": 3}')
    assert read_record(tmp_path / "a.json") == {"epochs": 3}


def test_any_changed_value_is_noticed(tmp_path):
    path = tmp_path / "a.json"
    write_record(path, {"epochs": 3, "name": "good", "rates": [0.1, 0.01]})
    text = path.read_text()
    for old, new in (("3", "4"), ("good", "goad"), ("0.01", "0.02"), ("epochs", "epoch")):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=r"a\.json is damaged, or was edited: it does not match its checksum"):
            read_record(path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"\0" * 20, b"[" * 100_000, b'{"a":' * 100_000]
)
def test_anything_but_a_record_is_reported_as_damaged(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        read_record(tmp_path / "a.json")


def test_a_reader_finds_the_old_file_until_the_new_one_is_complete(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with replacing(tmp_path / "a") as file:
        file.write(b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
    assert (tmp_path / "a").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("mine")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(type(error)), replacing(tmp_path / "a") as file:  # noqa: PT012
        file.write(b"new")
        raise error
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    full = OSError(28, os.strerror(28))
    with (
        mock.patch("os.fsync", side_effect=full),
        pytest.raises(OSError, match=r"^cannot write .*/a: No space left"),
        replacing(tmp_path / "a"),
    ):
        pass


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"precious")
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with replacing(tmp_path / "a") as file:
        file.write(b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"precious"
    assert (tmp_path / "a").read_bytes() == b"new"
    assert not (tmp_path / "a").is_symlink()


def test_temporary_names_differ_from_call_to_call(tmp_path):
    names = set()
    for _ in range(3):
        with replacing(tmp_path / "a"):
            names |= {path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")}
    assert len(names) == 3


def test_a_new_file_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    with replacing(tmp_path / "a"):
        pass
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_process_left_is_deleted_and_nothing_else(tmp_path):
    kept = [".a.tmp", "b.tmp", "c.json", ".d.0123.tmp"]
    for name in [*kept, ".report.json.0123456789abcdef.tmp"]:
        (tmp_path / name).touch()
    delete_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)
    delete_unfinished(tmp_path / "nowhere")


def test_recent_temporary_files_are_not_deleted(tmp_path):
    old, new = (tmp_path / f".a.{digit * 16}.tmp" for digit in "01")
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    delete_unfinished(tmp_path, older_than=60)
    assert list(tmp_path.iterdir()) == [new]


def test_a_checksum_of_a_file_is_the_one_of_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1.
    assert file_checksum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_checksum(tmp_path / "b") is None


def test_the_checksum_stands_in_the_file(tmp_path):
    write_record(tmp_path / "a.json", {"a": 1})
    assert len(json.loads((tmp_path / "a.json").read_text())["sha256"]) == 64
