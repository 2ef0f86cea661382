"""The map of PHATE and its rivals: its trees, its rules on synthetic scores, and a run of two small trees."""

import json
from dataclasses import replace
from io import StringIO

import embedding_map
import numpy as np
import pytest
from embedding_map import LEVELS, PHATES, RIVALS, Cell
from rich.console import Console
from scales import SCALES
from scipy.stats import ttest_1samp
from stages import Experiment

SCALE = replace(SCALES["quick"], map_points=(20, 10))


def records(score, seeds=range(10)):
    """Return records in which every score is the same function of cell, method and seed."""
    return [
        cell._asdict()
        | {"seed": seed, "method": method}
        | dict.fromkeys(embedding_map.SCORES, score(cell, method, seed))
        for cell in embedding_map.cells(SCALE)
        for seed in seeds
        for method in ("the distances", *PHATES, *RIVALS)
    ]


def test_every_cell_is_there_once_and_those_of_the_claims_come_first():
    found = embedding_map.cells(SCALE)
    assert len(found) == len(set(found)) == len({cell.file for cell in found})
    count = sum(map(len, LEVELS.values()))
    assert {cell.points for cell in found[:count]} == {20}
    assert {cell.kind for cell in found[:count]} == set(LEVELS)


def test_gaussian_noise_has_the_level_as_its_standard_deviation():
    (tree, exact), (_, noisy) = (
        embedding_map.make_tree(Cell("gaussian", level, 10, 40, 100), 3) for level in (0.0, 2.0)
    )
    assert exact.std() == pytest.approx(1)
    centered = tree.points - tree.points.mean(axis=0)
    np.testing.assert_allclose(exact * centered.std(), centered, atol=1e-9)
    assert (noisy - exact).std() == pytest.approx(2, rel=0.02)


def test_normalized_counts_do_not_depend_on_library_sizes():
    counts = np.array([[1, 3, 0], [10, 30, 0], [0, 0, 0], [2, 0, 2]])
    normal = embedding_map.normalize_counts(counts)
    np.testing.assert_allclose(normal[0], normal[1])
    np.testing.assert_allclose((normal**2).sum(axis=1), [4, 4, 0, 4])


@pytest.mark.parametrize(("advantage", "outcome"), [(0.1, "wins"), (-0.1, "loses"), (0.0, "level")])
def test_the_interval_of_the_difference_from_the_best_rival_decides(advantage, outcome):
    noise = np.random.default_rng(0).normal(0, 0.05, 10)
    noise -= noise.mean()
    base = {"PHATE": 0.6 + advantage, "PCA": 0.6, "UMAP": 0.5}
    made = records(lambda _, method, seed: base.get(method, 0.3) + (noise[seed] if method == "PHATE" else 0.0))
    found = embedding_map.compare(made, embedding_map.cells(SCALE)[0])
    assert (found.rival, found.outcome) == ("PCA", outcome)
    expected = ttest_1samp(advantage + noise, 0).confidence_interval(0.95)
    np.testing.assert_allclose([found.difference.low, found.difference.high], expected, atol=1e-12)


def test_an_embedding_that_fell_together_counts_as_0():
    made = records(lambda _, method, seed: None if method == "PHATE, t 100" else 0.5 + 0.01 * (seed % 2))
    cell = embedding_map.cells(SCALE)[0]
    assert embedding_map.scores(made, cell, "PHATE, t 100").tolist() == [0] * 10
    assert embedding_map.compare(made, cell, "PHATE, t 100").outcome == "loses"


def test_claims_are_decided_by_what_the_scores_were_made_of():
    jitter = np.linspace(-0.005, 0.005, 10)

    def score(cell, method, seed):
        place = LEVELS[cell.kind].index(cell.level)
        # Only PCA suffers from noise, by 0.3 in all; PHATE is ahead of t-SNE by 0.1 but with Poisson counts.
        ahead = {"PHATE": 0.8, "t-SNE": 0.95 if cell.kind == "poisson" else 0.7, "PCA": 0.5 - 0.1 * place}
        return ahead.get(method, 0.1) + jitter[seed] * (place + len(method)) / 5

    found = embedding_map.claims(records(score), SCALE.map_points[0])
    assert len(found) == 5 * len(LEVELS)
    assert all(len(each["values"]) == 10 and each["family"] == "embedding" for each in found)
    decided = {each["text"]: verdict for each, (_, verdict) in zip(found, embedding_map.verdicts(found), strict=True)}
    assert decided["PHATE preserves trajectories better than any other method, gaussian noise."] == "holds"
    assert decided["PHATE preserves trajectories better than any other method, poisson noise."] == "does not hold"
    assert decided["PCA is highly affected by noise, gaussian noise."] == "holds"
    # Every method has the same numbers for all scores here, so t-SNE "breaks" 70 % of the steps and PHATE 80 %.
    shattered = "t-SNE shatters trajectories that should be connected, gaussian noise."
    assert decided[shattered] == "holds, but a surrogate does as much"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:n_jobs value:UserWarning")
def test_two_small_trees_are_embedded_by_every_method_and_not_twice(tmp_path):
    out = StringIO()
    experiment = Experiment("embedding_map", SCALES["smoke"], tmp_path, {}, Console(file=out, soft_wrap=True))
    embedding_map.main(experiment)
    record = json.loads((tmp_path / "embedding_map.json").read_text())
    assert len(record["trees"]) == 12 * 2 * (1 + len(PHATES) + len(RIVALS))
    assert len(record["claims"]) == 15
    assert (tmp_path / "embedding_map" / "embedding_map.png").exists()
    assert out.getvalue().count("of 12:") == 12
    embedding_map.main(experiment)
    assert out.getvalue().count("of 12:") == 12
    again = json.loads((tmp_path / "embedding_map.json").read_text())
    assert again["trees"] == record["trees"]
