"""Run every experiment once, from training to figures, at the smallest scale."""

import json
import warnings
from io import StringIO

import claims
import figure1
import figure2
import figure4
import figure5
import film
import jax
import landscapes
import numpy as np
import optimizers
import pytest
import sweep
import valley
import valley_analysis
import valley_page
from claims_rules import decide, records_of
from common import SCALES, Experiment
from optimizers_page import page
from optimizers_runs import OPTIMIZERS
from rich.console import Console

from jaxscape import Run, TrajectoryStore, trajectory_geometry
from jaxscape.generalization.verdicts import VERDICTS
from jaxscape.runs.config import PRESETS
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.methods import CENTERS

pytestmark = pytest.mark.slow

SCALE = SCALES["smoke"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a function that runs a script in the shared folder, and returns the folder and the printed text."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"

    def script(module):
        out = StringIO()
        module.main(Experiment(module.__name__, SCALE, folder, {}, Console(file=out, soft_wrap=True)))
        return folder, out.getvalue()

    return script


@pytest.fixture(scope="module")
def figure2_run(run):
    return run(figure2)


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
    folder, out = run(landscapes)
    assert "landscapes: 0 minima to find, 0 retrainings" in out
    drawn = {path.stem for path in (folder / "landscapes").glob("*.png")}
    sections = {f"{name}-{split}" for name in ("line", "plane") for split in ("train", "test")}
    assert drawn == sections | {"plane-train-3d", "plane-test-3d", "spectrum"}
    found = json.loads((folder / "landscapes.json").read_text())
    assert found["minima"].keys() == set(PRESETS)
    assert found["path"]["lengths"]["matched"] <= found["path"]["lengths"]["straight"]
    assert 0 < sum(found["trajectory"]["shares"]) < 1


def test_existing_runs_are_not_repeated(figure2_run, run):
    _, out = run(figure2)
    assert "figure2: 0 minima to find, 0 retrainings; about 0.0 min" in out
    assert out.count("the trajectories are complete, 3 epochs") == 6


def test_films_are_made_from_the_same_runs(figure2_run, run):
    folder, out = run(film)
    assert "0 minima to find" in out
    assert {path.stem for path in (folder / "film").glob("*.gif")} == {
        "phate-cosine-none-knn5",
        "phate-cosine-mean-knn5",
        "polar",
    }


@pytest.fixture(scope="module")
def sweep_run(figure2_run, run):
    return run(sweep)


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
    return run(figure4)


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


def test_both_kinds_of_minimum_are_retrained_in_all_four_ways(run):
    folder, out = run(valley)
    assert "valley: 4 minima to find, 16 retrainings; about" in out
    record = json.loads((folder / "valley.json").read_text())
    table = {name: valley_analysis.table_of(record, name) for name in (*valley_analysis.RESPONSES, "train_loss")}
    assert all(np.isfinite(values).all() for values in table.values())
    report = RunFolder(folder / "valley" / "good-20-decay-crops").read_report()["geometry"]["real"]
    for name, reported in (
        ("return", "return"),
        ("return_to_drifted", "return_drift"),
        ("decay_part", "inward_decay"),
        ("gradient_part", "inward_loss"),
    ):
        np.testing.assert_allclose(table[name][0, 1, 1, 1], report[reported]["mean"], rtol=1e-5)
    assert (table["decay_part"][:, :, 0] == 0).all()
    # 6 updates of the 3 epochs: momentum has not reached its limit, and copies shrink by less than at it.
    assert (table["decay_part"][:, :, 1] > 0).all()
    assert (table["decay_part"][:, :, 1] < 6 * 0.05 * 1e-3 / (1 - 0.9)).all()
    np.testing.assert_allclose(
        sum(table[name] for name in ("decay_part", "gradient_part", "sideways_part")), table["return"], atol=1e-5
    )
    assert (table["sideways_part"] <= 1e-6).all()
    assert (folder / "valley.md").read_text() == valley_page.page(record)
    assert {path.suffix for path in (folder / "valley" / "figures").iterdir()} >= {".png", ".svg", ".pdf"}
    images = {
        RunFolder(folder / "valley" / f"good-{seed}-decay-crops").settings("train").images_seed for seed in (20, 21)
    }
    assert images == {20, 21}


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
    folder, out = figure5_run
    assert "figure5: 4 minima to find, 4 retrainings; about" in out
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


def test_every_claim_is_decided_from_fresh_minima(run):
    folder, out = run(claims)
    assert "claims: 6 minima to find, 8 retrainings; about" in out
    record = json.loads((folder / "claims.json").read_text())["scales"]["custom"]
    both = "paper", "common"
    by_kind = {(each["kind"], *each["protocols"]): each for each in record["cells"]}
    assert by_kind.keys() == {("good", "paper"), ("good", "common"), ("bad", *both), ("memorization", *both)}
    decided = decide(records_of(record["cells"]))
    assert all(each.verdict in VERDICTS for each in decided)
    text = (folder / "claims.md").read_text()
    _, elsewhere = claims.read_committed()
    assert text == claims.page({"custom": record}, elsewhere)
    assert text in out
    report = RunFolder(folder / "claims" / "good-10-paper").read_report()["geometry"]
    numbers = record["cells"][0]
    assert (numbers["kind"], numbers["seed"], numbers["protocols"]) == ("good", 10, ["paper"])
    for name, reported in (("return", "return"), ("lateral", "lateral"), ("cosine", "loss_cosine")):
        np.testing.assert_allclose(np.mean(numbers["values"][name]), report["real"][reported]["mean"], rtol=1e-4)
        beside = report["surrogates"]["exchange"][reported]["mean"]
        np.testing.assert_allclose(np.mean(numbers["surrogates"]["exchange"][name]), beside, rtol=1e-4)
    still = by_kind["good", "common"]["surrogates"]["decay"]
    assert set(still["return"]) == {0}
    images = {RunFolder(folder / "claims" / f"bad-{seed}-paper").settings("train").images_seed for seed in (10, 11)}
    assert images == {10, 11}


def test_claims_on_optimizers_are_decided_from_every_update(run):
    folder, _ = run(optimizers)
    record = json.loads((folder / "optimizers.json").read_text())
    assert [each["text"] for each in record["claims"]] == [claim.text for claim in optimizers.CLAIMS]
    assert len(record["networks"]) == 2 * 5
    networks = {each["network"]: each["epochs"] for each in record["networks"] if each["seed"] == 31}
    assert {name: each["updates"] for name, each in networks.items()} == dict.fromkeys(networks, 6)
    geometry = trajectory_geometry(Run(folder / "optimizer-paths" / "seed-31", quiet=True).measured().gram)
    for member, name in enumerate(OPTIMIZERS):
        found = networks[name]
        np.testing.assert_allclose(found["norm"], geometry.norm[-1, member], rtol=1e-5)
        np.testing.assert_allclose(found["chord"], geometry.chord[-1, member], rtol=1e-5)
        np.testing.assert_allclose(found["path"], np.nansum(geometry.movement[:, member]), rtol=1e-5)
        np.testing.assert_allclose(found["turning"], np.nanmean(geometry.turning[:, member]), rtol=1e-5)
    starts = [RunFolder(folder / "optimizer-paths" / f"seed-31{part}") for part in ("", "-effective", "-order")]
    first = [TrajectoryStore.open(each.trajectories).read(epochs=0, members=0) for each in starts]
    for other in first[1:]:
        jax.tree.map(np.testing.assert_array_equal, other, first[0])
    assert {each.settings("compare").images_seed for each in starts} == {31}
    assert (folder / "optimizer-paths.md").read_text() == page(record, optimizers.decide(record["claims"]))
