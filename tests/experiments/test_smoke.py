"""Run every experiment once, from training to figures, at the smallest scale."""

import json
import warnings

import figure1
import figure2
import figure4
import figure5
import film
import landscapes
import pytest
import sweep
from scales import SCALES

from jaxscape.runs.config import PRESETS
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.methods import CENTERS

pytestmark = pytest.mark.slow

SCALE = SCALES["smoke"]


@pytest.fixture(scope="module")
def figure2_run(run):
    return run(figure2, with_plan=True)


def test_figure_2_is_drawn_with_its_control(figure2_run):
    folder, out = figure2_run
    assert "figure2: 6 minima to find, 6 retrainings; about" in out
    drawn = {path.stem for path in (folder / "figure2").glob("*.png")}
    settings = {f"phate-cosine-{center}-knn5" for center in ("none", "mean")}
    controls = {"phate-cosine-none-knn5-null-rotated", "phate-cosine-none-knn5-beside-rotated-null"}
    losses = {f"{setting}-loss" for setting in settings}
    assert drawn == settings | controls | losses | {"distance", "polar", "plane", "parts"}
    assert out.count("Geometry") == len(SCALE.seeds)


@pytest.mark.filterwarnings("ignore:num_steps:UserWarning")
def test_landscapes_are_drawn_around_the_minima_of_figure_2(figure2_run, run):
    folder, _ = run(landscapes)
    drawn = {path.stem for path in (folder / "landscapes").glob("*.png")}
    sections = {f"{name}-{split}" for name in ("line", "plane") for split in ("train", "test")}
    assert drawn == sections | {"plane-train-3d", "plane-test-3d", "spectrum"}
    found = json.loads((folder / "landscapes.json").read_text())
    assert found["minima"].keys() == set(PRESETS)
    assert found["path"]["lengths"]["matched"] <= found["path"]["lengths"]["straight"]
    assert 0 < sum(found["trajectory"]["shares"]) < 1


def test_existing_runs_are_not_repeated(figure2_run, run):
    _, out = run(figure2, with_plan=True)
    assert "figure2: 0 minima to find, 0 retrainings; about 0.0 min" in out
    assert out.count("the trajectories are complete, 3 epochs") == 6


def test_films_are_made_from_the_same_runs(figure2_run, run):
    folder, _ = run(film)
    assert {path.stem for path in (folder / "film").glob("*.gif")} == {
        "phate-cosine-none-knn5",
        "phate-cosine-mean-knn5",
        "polar",
    }


@pytest.fixture(scope="module")
def sweep_run(figure2_run, run):
    return run(sweep, with_plan=True)


@pytest.fixture(scope="module")
def figure1_run(figure2_run, run):
    with warnings.catch_warnings():  # with so few epochs PHATE may be degenerate, and warns
        warnings.filterwarnings("ignore", "the picture is degenerate", UserWarning)
        return run(figure1)


@pytest.fixture(scope="module")
def figure5_run(figure2_run, run):
    return run(figure5)


@pytest.fixture(scope="module")
def figure4_run(run):
    return run(figure4, with_plan=True)


def test_the_sweep_retrains_the_same_minima_with_all_settings(sweep_run):
    folder, out = sweep_run
    # Two kinds, two seeds, one learning rate, three batch orders.
    assert "sweep: 0 minima to find, 12 retrainings; about" in out
    minima = {(run / "minimum" / "metrics.json").read_bytes() for run in (folder / "sweep").glob("good-10-*")}
    assert minima == {(folder / "good-10" / "minimum" / "metrics.json").read_bytes()}
    stars = json.loads((folder / "sweep.json").read_text())["stars"]
    assert len(stars) == 12 * len(CENTERS) * 2
    assert len({(star["kind"], star["data_order"], star["return"]) for star in stars}) == 12 * 2
    assert (folder / "sweep.md").read_text().count("| good | 0.1 |") == 3 * len(CENTERS)
    assert {path.stem for path in (folder / "sweep" / "figures").glob("*.png")} == {
        "good",
        "good-null",
        "bad",
        "bad-null",
    }


@pytest.mark.filterwarnings("ignore:n_jobs value:UserWarning")
def test_every_method_embeds_the_runs_and_trees(figure1_run):
    folder, out = figure1_run
    record = json.loads((folder / "figure1.json").read_text())
    assert {each["method"] for each in record["trees"]} == set(figure1.METHODS)
    assert {each["data"] for each in record["runs"]} == {
        f"smoke/{kind}-{seed}" for kind in PRESETS for seed in SCALE.seeds
    }
    assert (folder / "figure1" / "figure1.png").exists()
    assert "| tree" not in out  # the rows of trees are by noise
    assert "| 1.0 | PHATE, t 200 |" in out


def test_the_harder_data_set_is_trained_and_retrained(figure5_run):
    folder, _ = figure5_run
    assert RunFolder(folder / "harder-good-10").read_config()["train"]["augmentation"] == "crop+rotate+color"
    assert RunFolder(folder / "harder-bad-10").read_config()["train"]["augmentation"] == "none"
    assert (folder / "figure5" / "phate-cosine-none-knn5.png").exists()


@pytest.mark.filterwarnings("ignore:the graph of")
def test_optimizers_are_drawn_separately_in_pairs_and_together(figure4_run):
    folder, out = figure4_run
    assert "figure4: 6 networks to train; about" in out
    drawn = {path.stem for path in (folder / "optimizers" / "figures").glob("*.png")}
    for part in ("", "-null-rotated", "-seed10", "-adam", "-sgd+momentum", "-momentum+adam"):
        assert f"phate-cosine-none-knn5{part}" in drawn
    assert drawn >= {"norm", "polar", "plane"}
    assert "end_spread" in out
