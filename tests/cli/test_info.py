"""`info` describes a run folder whatever the state of its files, and changes nothing."""

import json
import os

import pytest

from jaxscape.trajectories.files import CHECKSUM

DAMAGE = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "noise": lambda content: bytes(range(256)) * 4,
    "another kind": lambda content: b"[1]",
    "deep": lambda content: b"[" * 100_000,
}
FILES = (
    "checksums.json",
    "minimum/metrics.json",
    "trajectories/store.json",
    "metrics.csv",
    "geometry.csv",
    "gram.npz",
    "report.json",
    "embeddings/phate-cosine-none-knn3/diagnostics.json",
    "embeddings/phate-cosine-none-knn3/coordinates.csv",
)


def state(run):
    """Return the paths, sizes and modification times of everything in a folder."""
    paths = [run, *sorted(run.rglob("*"))]
    return [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def edit_entries(run, name, **changes):
    """Change edit_entries of a record, as with a text editor; the value "deleted" removes an entry."""
    record = json.loads((run / name).read_text()) | changes
    record.pop(CHECKSUM, None)
    (run / name).write_text(json.dumps({key: value for key, value in record.items() if value != "deleted"}))


@pytest.mark.parametrize("name", ["gram.npz", "geometry.csv", "report.json"])
def test_a_missing_derived_file_is_reported_in_one_line(jaxscape, run, name):
    (run / name).unlink()
    outcome = jaxscape("info", run)
    assert outcome.code == 0, outcome.err
    assert f"{run / name} is missing; `jaxscape embed {run}` makes it again" in outcome.out


def test_an_intact_folder_is_described_and_left_unchanged(jaxscape, finished):
    before = state(finished)
    outcome = jaxscape("info", finished)
    assert outcome.code == 0, outcome.err
    assert "damaged" not in outcome.out
    assert "embed phate-cosine-none-knn3" in outcome.out
    assert state(finished) == before


@pytest.mark.parametrize("file", FILES)
def test_a_corrupt_file_is_reported_in_one_line(jaxscape, run, file):
    content = (run / file).read_bytes()
    for name, damage in DAMAGE.items():
        (run / file).write_bytes(damage(content))
        before = state(run)
        outcome = jaxscape("info", run)
        assert (outcome.code, outcome.err) == (0, ""), name
        assert sum("damaged" in line for line in outcome.out.splitlines()) == 1, name
        assert "stages done: train, retrain (2 of 2 epochs)" in outcome.out
        assert state(run) == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_only_the_damage_is_reported_if_the_record_is_damaged(jaxscape, run, damage):
    (run / "config.json").write_bytes(DAMAGE[damage](b"{}"))
    outcome = jaxscape("info", run)
    assert outcome.code == 1
    assert outcome.err.startswith(f"jaxscape: {run}/config.json is damaged: ")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"retrain": {"seeds": 2}},
        {"train": None},
        {"retrain": None},
        {"strategy": "loop"},
        {"compare": 1},
        {"compare": {"epochs": "3"}},
        {"train": [], "retrain": "x", "strategy": 3},
        {"snapshots": None, "timings": [], "environment": 0},
    ],
    ids=str,
)
def test_entries_of_unexpected_types_do_not_stop_info(jaxscape, run, change):
    edit_entries(run, "config.json", **change)
    outcome = jaxscape("info", run)
    assert (outcome.code, outcome.err) == (0, "")
    assert "stages done" in outcome.out


@pytest.mark.parametrize(
    "change",
    [
        {"geometry": 3},
        {"geometry": None},
        {"geometry": {"real": {}, "null": {}}},
        {"geometry": {"by_optimizer": {"sgd": 1}}},
        {"minimum": "deleted"},
        {"embeddings": [1]},
        {"embeddings": {"x": 1}},
    ],
    ids=str,
)
def test_a_report_without_its_numbers_is_reported_in_one_line(jaxscape, run, change):
    edit_entries(run, "report.json", **change)
    outcome = jaxscape("info", run)
    assert (outcome.code, outcome.err) == (0, "")
    assert sum(str(run / "report.json") in line for line in outcome.out.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the superuser can read everything")
def test_an_unreadable_file_is_reported_in_one_line(jaxscape, run):
    (run / "gram.npz").chmod(0)
    outcome = jaxscape("info", run)
    assert outcome.code == 0
    assert f"cannot access {run}/gram.npz: Permission denied" in outcome.out
