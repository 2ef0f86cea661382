"""A run folder of version 0.1 opens: missing settings have their defaults, and its results are not recomputed.

`tests/data/make_run_0_1.py` made it, with that version's own code: 15 parameters, four copies, three epochs.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxscape.runs.folder import RunFolder
from jaxscape.trajectories.store import TrajectoryStore

OLD = Path(__file__).parents[1] / "data" / "run-0.1"
SETTING = "phate-cosine-none-knn3"
COORDINATES = f"embeddings/{SETTING}/coordinates.csv"


@pytest.fixture
def old(tmp_path):
    return RunFolder(shutil.copytree(OLD, tmp_path / "run"))


def test_the_settings_of_an_old_run_are_read(old):
    record = old.read_config()
    assert "data_unchecked" not in record["train"]
    assert old.settings("train").data_unchecked is False
    assert old.settings("retrain").step_sizes == (0.5, 1.0)


def test_an_old_run_has_no_controls_and_is_extended_without(old):
    """This version adds two controls by default; the old trajectories have none, and keep their fingerprint."""
    assert "controls" not in old.read_config()["retrain"]
    assert old.settings("retrain").controls == 0
    with np.load(old / "gram.npz") as kept:
        assert old.fingerprint() == str(kept["fingerprint"])


def test_the_results_of_an_old_run_are_found_done(old, jaxscape):
    outcome = jaxscape("embed", old, "--knn", 3)
    assert outcome.code == 0, outcome.err
    assert f"{SETTING} is up to date" in outcome.out
    assert (old / COORDINATES).read_bytes() == (OLD / COORDINATES).read_bytes()
    assert (old / "gram.npz").read_bytes() == (OLD / "gram.npz").read_bytes()


def test_an_old_run_is_described_and_drawn(old, jaxscape):
    outcome = jaxscape("info", old)
    assert outcome.code == 0, outcome.err
    assert "stages done: train, retrain (3 of 3 epochs), distances and geometry, embed" in outcome.out
    assert "75.0%" in outcome.out
    outcome = jaxscape("plot", old)
    assert outcome.code == 0, outcome.err
    assert (old / "figures" / f"{SETTING}.png").exists()


def test_the_geometry_of_an_old_run_is_unchanged(old, jaxscape):
    before = old.read_report()["geometry"]["real"]
    (old / "gram.npz").unlink()
    assert jaxscape("embed", old, "--knn", 3).code == 0
    found = old.read_report()["geometry"]["real"]
    assert {name: found[name]["mean"] for name in before} == pytest.approx(
        {name: each["mean"] for name, each in before.items()}, nan_ok=True
    )


def test_the_store_of_an_old_run_is_read_and_extended(old):
    store = TrajectoryStore.open(old.trajectories)
    assert store.num_epochs == 4
    last = {name: {key: leaf[0] for key, leaf in part.items()} for name, part in store.read(epochs=3).items()}
    store.append(4, last, update=16)
    store.close()
    np.testing.assert_array_equal(store.read(epochs=4)["stem"]["kernel"], store.read(epochs=3)["stem"]["kernel"])
