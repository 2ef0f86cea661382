"""The analysis of the experiment on weight decay, on synthetic numbers."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import valley
import valley_analysis
import valley_page
from rich.console import Console
from scales import SCALES
from scipy import stats
from stages import Experiment

LEVELS = list(itertools.product((0, 1), repeat=3))


def table(function, seeds=5):
    """Return [seed, kind, decay, crops], the function of the levels for each seed."""
    return np.array([[function(*levels, seed) for levels in LEVELS] for seed in range(seeds)]).reshape(seeds, 2, 2, 2)


def record(function=lambda kind, decay, crops, seed: 0.0, seeds=5):
    """Return a record in which every number of a cell is the same function of its levels and seed."""
    names = (*valley_analysis.RESPONSES, "exchange_gradient_part", "exchange_return", "cosine", "exchange_cosine")
    alone = ("drift", "train_loss", "train_accuracy", "test_accuracy")
    cells = [
        dict(zip(("kind", "decay", "crops"), levels, strict=True))
        | {"seed": seed, "copies": {name: [function(*levels, seed)] * 2 for name in names if name != "drift"}}
        | dict.fromkeys(alone, function(*levels, seed))
        for seed in range(20, 20 + seeds)
        for levels in LEVELS
    ]
    about = {"command": "python valley.py", "environment": {"commit": "abc", "device": "cpu"}, "dataset": "digits"}
    sizes = {"train_size": 100, "copies": 6, "controls": 2, "epochs": 50, "learning_rate": 0.05, "weight_decay": 1e-3}
    return about | sizes | {"augmentation": "crop", "cells": cells}


def test_effects_are_those_that_the_numbers_were_made_of():
    noise = np.random.default_rng(0).normal(size=5)
    made = table(
        lambda kind, decay, crops, seed: (
            3 * kind + 0.5 * decay - crops + 4 * (kind - 0.5) * (decay - 0.5) + noise[seed] * crops
        )
    )
    found = valley_analysis.effects(made)
    np.testing.assert_allclose(found[("kind",)], 3)
    np.testing.assert_allclose(found[("decay",)], 0.5)
    np.testing.assert_allclose(found[("crops",)], noise - 1)
    # From -1 to 1 as the other factor's level changes: half of the difference, 1.
    np.testing.assert_allclose(found[("kind", "decay")], 2)
    for rest in (("kind", "crops"), ("decay", "crops"), ("kind", "decay", "crops")):
        np.testing.assert_allclose(found[rest], 0, atol=1e-12)


def test_an_interaction_is_half_the_difference_of_an_effect_at_the_levels_of_the_other():
    made = np.random.default_rng(0).normal(size=(5, 2, 2, 2))
    of_decay = made[:, :, 1] - made[:, :, 0]  # [seed, kind, crops]
    expected = (of_decay[:, 1] - of_decay[:, 0]).mean(axis=1) / 2
    np.testing.assert_allclose(valley_analysis.effects(made)[("kind", "decay")], expected)


@pytest.mark.parametrize("by", [0, 1])
def test_the_parts_of_the_contrast_add_up_to_it(by):
    made = np.random.default_rng(by).normal(size=(5, 2, 2, 2))
    parts = valley_analysis.split_contrast(made, by)
    np.testing.assert_allclose(sum(parts.values()), made[:, 1, 1, 1] - made[:, 0, 0, 0])


def test_the_splits_compare_the_kinds_without_or_with_both():
    # Only bad minima with crops differ: their copies leave.
    made = table(lambda kind, decay, crops, seed: -0.6 * (not kind) * crops)
    by_good, by_bad = valley_analysis.split_contrast(made, 1), valley_analysis.split_contrast(made, 0)
    assert {name: values[0] for name, values in by_good.items()} == {"kind": 0, "decay": 0, "crops": 0}
    np.testing.assert_allclose([by_bad[name][0] for name in ("kind", "decay", "crops")], [0.6, 0, -0.6])


@pytest.mark.parametrize(
    ("kind", "decay", "expected"),
    [(0.01, 0.05, "retraining"), (0.05, 0.01, "the kind of minimum"), (0.03, 0.03, "undecided")],
)
def test_the_larger_part_is_named_if_the_interval_of_the_difference_excludes_0(kind, decay, expected):
    noise = np.array([-2, -1, 0, 1, 2]) * 1e-3
    parts = {"kind": kind + noise, "decay": decay - noise, "crops": np.zeros(5)}
    assert valley_analysis.larger_part(parts)[0] == expected


def test_an_estimate_is_students_mean_interval_and_test():
    values = np.random.default_rng(0).normal(1, 2, 5)
    found, expected = valley_analysis.estimate(values), stats.ttest_1samp(values, 0)
    np.testing.assert_allclose([found.low, found.high], expected.confidence_interval(0.95))
    np.testing.assert_allclose([found.mean, found.p], [values.mean(), expected.pvalue])
    assert valley_analysis.estimate(np.array([0.1, 0.1, 0.1, 0.1, -0.1])).text.endswith("4/5")


NOISE = np.array([-2, -1, 0, 1, 2]) * 1e-3  # its interval reaches 0.002 to both sides


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (0.05, "more"),
        (-0.05, "less"),
        (0.0, "negligible"),
        (0.005, "negligible"),
        (0.01, "unclear"),
        (-0.011, "unclear"),
    ],
)
def test_verdicts_need_the_whole_interval_beyond_or_within_the_margin(mean, verdict):
    assert valley_analysis.verdicts([valley_analysis.estimate(mean + NOISE)], 0.01) == [verdict]


def test_a_verdict_that_only_the_uncorrected_p_supports_is_unclear():
    one = valley_analysis.estimate(0.03 + 10 * NOISE)
    assert 0.05 / 7 < one.p < 0.05
    assert one.low > 0.01
    zeros = [valley_analysis.estimate(np.zeros(5))] * 6
    assert valley_analysis.verdicts([one], 0.01) == ["more"]
    assert valley_analysis.verdicts([one, *zeros], 0.01)[0] == "unclear"


def test_what_is_the_same_everywhere_is_negligible():
    assert valley_analysis.estimate(np.zeros(5)).p == 1
    assert valley_analysis.estimate(np.full(5, 0.5)).p == 0


def test_the_page_has_every_cell_effect_and_split():
    made = record(lambda kind, decay, crops, seed: 0.05 * decay + 0.002 * kind + 1e-4 * (seed % 3))
    text = valley_page.page(made)
    assert text.count("\n| good |") == text.count("\n| bad |") == 4
    assert all(f"| {' x '.join(names)} |" in text for names in valley_analysis.EFFECTS)
    assert text.count("| retraining |") == 6  # three responses, two splits
    assert "nan" not in text
    shown = next(line for line in text.splitlines() if line.startswith("| decay |"))
    assert shown.count("0.050 [0.050, 0.050] 5/5 **more**") == len(valley_analysis.RESPONSES)


def test_the_pull_of_the_gradients_is_compared_by_cell():
    different = record(lambda kind, decay, crops, seed: 0.1 * kind * crops + 1e-3 * kind * (seed % 5 - 2))
    line = next(each for each in valley_page.sentences(different) if each.startswith("**Gradient.**"))
    assert "neither 0.000 [-0.002, 0.002]" in line
    assert "decay + crops 0.100 [0.098, 0.102] 5/5, more" in line
    assert line.endswith("No difference is shown without crops: these intervals contain 0.")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0.05, "decay raises the return: the change is 0.05"),
        (-0.05, "decay lowers the return: the change is -0.05"),
        (0.001, "decay hardly changes the return: the change is 0.001"),
        (0.01, "it is unclear whether decay changes the return: the change is 0.01"),
    ],
)
def test_a_verdict_on_decay_is_a_sentence(size, words):
    made = record(lambda kind, decay, crops, seed: decay * (size + 1e-3 * (seed % 5 - 2)))
    assert f"Over all cells, {words}" in " ".join(valley_page.sentences(made))


def test_the_figure_shows_the_parts_of_every_cell_beside_those_of_its_surrogate():
    figure = valley_page.draw(record(lambda kind, decay, crops, seed: 0.01 + 1e-3 * seed))
    shown = [[label.get_text().replace("\n", " ") for label in ax.get_xticklabels()] for ax in figure.axes]
    assert shown == [list(valley_analysis.WAYS.values()), ["neither", "decay"], ["crops", "decay + crops"]]
    for ax, ways in zip(figure.axes, shown, strict=True):
        assert len(ax.patches) == len(ways) * 2 * 3
    good, bad, _ = figure.axes
    assert good.get_ylim() == bad.get_ylim()


def test_minima_of_a_seed_share_images_and_directions_and_no_other_seed_has_them():
    experiment = Experiment("valley", SCALES["quick"], Path("runs"), {}, Console(quiet=True))
    minima = valley.plan_minima(experiment)
    again = valley.plan_runs(experiment, minima)
    assert (len(minima), len(again)) == (10, 40)
    drawn, directions = {}, {}
    for source, config in again.values():
        seed = minima[source].seed
        drawn.setdefault(minima[source].images_seed, set()).add(seed)
        directions.setdefault(config.seeds, set()).add(seed)
        assert config.step_sizes == (0.5, 1.0)
        assert config.num_copies == 8
    assert all(len(seeds) == 1 for seeds in (*drawn.values(), *directions.values()))
    assert len({number for seeds in directions for number in seeds}) == 15
    ways = {(minima[source].preset, config.weight_decay, config.augmentation) for source, config in again.values()}
    assert ways == set(itertools.product(("good", "bad"), (0.0, 1e-3), ("none", "crop")))
