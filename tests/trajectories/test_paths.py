"""Folders with names that orbax, etils or tensorstore read otherwise."""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from jaxscape.trajectories.paths import LONGEST, plain_path
from jaxscape.trajectories.store import TrajectoryStore

NAMES = [
    "lr=[0.1]",
    "seed[0-9]",
    "[!a]",
    "a\\b",
    "x*y",
    "q?",
    "{a}",
    "gs:",
    "new\nline",
    "trail ",
    "~",
    "50%20#é中",
    "|$'\"",
]
SNAPSHOT = {"small": np.arange(6, dtype=np.float32).reshape(2, 3), "large": np.ones((2, 1500), np.float32)}


@pytest.fixture(autouse=True)
def temporary_files(tmp_path, monkeypatch):
    """A folder for temporary files that is not the system's."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def assert_stored(path):
    """A store at this path comes back from there, and nothing stands anywhere else."""
    with TrajectoryStore.create(path, [{"seed": 0}, {"seed": 1}]) as store:
        store.append(0, SNAPSHOT)
    again = TrajectoryStore.open(path)
    for name, values in SNAPSHOT.items():
        np.testing.assert_array_equal(again.read()[name][0], values)
    np.testing.assert_array_equal(next(again.blocks(10**6)), np.concatenate([SNAPSHOT["large"], SNAPSHOT["small"]], 1))
    assert set(os.listdir(path)) == {"0", "store.json"}


@pytest.mark.parametrize("name", NAMES)
def test_a_store_is_where_its_path_says(tmp_path, name):
    assert_stored(tmp_path / name / "store")
    assert set(os.listdir(tmp_path)) == {name, "temporary"}
    assert os.listdir(tmp_path / name) == ["store"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems demand UTF-8")
def test_a_name_that_is_no_text_works(tmp_path):
    assert_stored(tmp_path / os.fsdecode(b"caf\xe9") / "store")


def test_a_path_above_what_orbax_can_append_to_works(tmp_path):
    deep = tmp_path
    while len(str(deep)) <= LONGEST:
        deep /= "x" * 200
    assert_stored(deep)


def test_two_dots_after_a_link_lead_where_the_system_says(tmp_path):
    (tmp_path / "there" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "there" / "inner")
    assert_stored(tmp_path / "link" / ".." / "store")
    assert (tmp_path / "there" / "store" / "0").is_dir()


def test_a_second_slash_at_the_start_is_one(tmp_path):
    assert_stored(Path(f"/{tmp_path}/store"))


def test_a_pattern_takes_nothing_of_another_store(tmp_path):
    """`x*y` also matches its neighbour, whose unfinished files orbax would merge."""
    assert_stored(tmp_path / "xzy")
    aside = tmp_path / "xzy" / "0.orbax-checkpoint-tmp"
    (tmp_path / "xzy" / "0").rename(aside)
    assert_stored(tmp_path / "x*y")


def test_plain_paths_are_not_changed(tmp_path):
    for path in (tmp_path, tmp_path / "lr=0.1, sgd+é_2 @50%~"):
        assert plain_path(path) == path


@pytest.mark.parametrize("path", ["/gs/bucket", "/s3", "/az/x"])
def test_a_folder_that_looks_like_a_bucket_gets_an_alias(path):
    alias = plain_path(Path(path))
    assert alias != Path(path)
    assert os.readlink(alias) == path


def test_an_alias_is_the_same_again_and_only_its_owner_may_change_it(tmp_path, temporary_files):
    alias = plain_path(tmp_path / "a[b]")
    assert plain_path(tmp_path / "a[b]") == alias
    assert alias.parent.stat().st_mode & 0o077 == 0
    alias.unlink()  # a system clears its temporary files
    assert os.readlink(plain_path(tmp_path / "a[b]")) == str(tmp_path / "a[b]")


@pytest.mark.parametrize("trap", ["open to all", "link", "file", "alias elsewhere", "pattern"])
def test_where_no_alias_can_be_made_the_path_is_refused_before_work(tmp_path, temporary_files, monkeypatch, trap):
    private = plain_path(tmp_path / "a[b]").parent
    if trap == "open to all":
        private.chmod(0o777)
    elif trap == "alias elsewhere":
        plain_path(tmp_path / "a[b]").unlink()
        plain_path(tmp_path / "c[d]").rename(plain_path(tmp_path / "a[b]"))
    elif trap == "pattern":
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t[m]p"))
    else:
        private.rename(tmp_path / "aside")
        private.symlink_to(tmp_path / "aside") if trap == "link" else private.touch()
    with pytest.raises(ValueError, match=r"path='.*a\[b\]' has characters .* choose a folder with a plain name"):
        TrajectoryStore.create(tmp_path / "a[b]", [{"seed": 0}])
    assert not (tmp_path / "a[b]").exists()
