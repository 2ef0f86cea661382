"""Embeddings of null trajectories, and of some of the trajectories."""

from unittest import mock

import jax
import numpy as np
import pytest

from jaxscape.embedding.phate import phate
from jaxscape.runs import plot
from jaxscape.runs.embeddings import read_coordinates
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.measure import measure, perturbed
from jaxscape.runs.progress import make_console
from jaxscape.runs.tables import read_csv
from jaxscape.training.optimizers import decay_factors, make_optimizer
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.null import KINDS, NEED_FACTORS, null_trajectories

SETTING = "phate-cosine-none-knn3"


def coordinates(run, name):
    columns = read_coordinates(run, name)
    return np.stack([columns["x"], columns["y"]], axis=1), columns


# All of them are drawn, the usual one by default.
@pytest.mark.parametrize(
    "kind", [kind if kind == "rotated" else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)
def test_the_null_is_embedded_with_the_same_setting_and_drawn_under_the_real_ones(jaxscape, run, kind):
    outcome = jaxscape("embed", run, "--knn", 3, "--null", kind)
    assert outcome.code == 0, outcome.err
    found, columns = coordinates(run, f"{SETTING}-null-{kind}")
    _, real = coordinates(run, SETTING)
    assert all(np.array_equal(columns[name], real[name]) for name in ("member", "seed", "step_size", "epoch"))
    kept = perturbed(measure(run, console=make_console(silent=True)))
    settings = {"alike": kept.labels["step_size"]} if kind == "exchange" else {}
    if kind in ("exchange", *NEED_FACTORS):
        asked = RunFolder(run).settings("retrain")
        optimizer = make_optimizer(asked.optimizer, asked.learning_rate, weight_decay=asked.weight_decay)
        settings["factors"] = decay_factors(optimizer, 4)[kept.labels["update"]]
    null = null_trajectories(kept.gram, kind=kind, key=jax.random.key(0), **settings)
    with pytest.warns(UserWarning, match="the graph of"):
        expected = phate(pairwise_distances(null), knn=3).embedding
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert jaxscape("plot", run).code == 0
    assert (run / "figures" / f"{SETTING}-beside-{kind}-null.png").exists()
    assert (run / "figures" / f"{SETTING}-null-{kind}.png").exists()
    drawn = (run / "figures" / f"{SETTING}-null-{kind}.svg").read_text()
    assert f"null trajectories, {kind}" in drawn


@pytest.mark.slow
def test_settings_side_by_side_have_short_titles_and_say_once_what_they_share(jaxscape, run):
    for words in (["--center", "mean"], ["--only-seeds", 1]):
        outcome = jaxscape("embed", run, "--method", "phate", "--knn", 3, *words)
        assert outcome.code == 0, outcome.err
    with mock.patch.object(plot, "methods_figure", wraps=plot.methods_figure) as drawn:
        plot.plot_run(run)
    rows, note = drawn.call_args.args[0], drawn.call_args.kwargs["note"]
    titles = {panel.title for row in rows for panel in row}
    assert titles == {
        "of directions from the mean",
        "of the parameter vectors",
        "of the parameter vectors, only seed 1",
    }
    assert note.splitlines()[0] == "PHATE, cosine distance, knn 3, decay 40"


def test_some_seeds_are_embedded_by_their_own_distances(jaxscape, run):
    outcome = jaxscape("embed", run, "--method", "pca", "--only-seeds", 1)
    assert outcome.code == 0, outcome.err
    found, columns = coordinates(run, "pca-euclidean-seed1")
    assert set(columns["seed"]) == {1}
    labels = read_csv(run / "geometry.csv")
    assert len(found) == np.sum((labels["seed"] == 1) & (labels["step_size"] > 0))
    assert abs(found.mean(axis=0)).max() < 1e-8 * abs(found).max()


@pytest.mark.slow
def test_figures_say_which_seeds_they_show(jaxscape, run):
    assert jaxscape("embed", run, "--method", "pca", "--only-seeds", 1).code == 0
    assert jaxscape("plot", run).code == 0
    assert "euclidean distance; only seed 1" in (run / "figures" / "pca-euclidean-seed1.svg").read_text()
    assert "only seed 1" not in (run / "figures" / f"{SETTING}.svg").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--only-seeds", 7), "only_seeds must be some of [0, 1], got 7"),
        (("--only-optimizers", "adam"), "only_optimizers must be some of [], got adam"),
    ],
)
def test_missing_trajectories_are_refused(jaxscape, run, options, message):
    outcome = jaxscape("embed", run, *options)
    assert outcome.code == 1
    assert message in outcome.err


def test_an_unknown_kind_of_null_is_refused(jaxscape, run):
    outcome = jaxscape("embed", run, "--null", "wild")
    assert outcome.code == 2
    assert "wild" in outcome.err
