"""The settings of the long retraining at every scale, and its page from synthetic numbers."""

import json
import math
from pathlib import Path

import paperlike
import pytest
from rich.console import Console
from scales import SCALES
from stages import Experiment

from jaxscape.runs.folder import RunFolder
from jaxscape.training.optimizers import named_decay_factors


def planned(scale):
    experiment = Experiment("paperlike", SCALES[scale], Path("runs"), {}, Console(quiet=True))
    minima = paperlike.plan_minima(experiment)
    again = paperlike.plan_runs(experiment, minima)
    settings = {
        (cell.kind, cell.decay): again[paperlike.run_of(experiment, cell)] for cell in paperlike.cells(experiment)
    }
    return {run.name: config for run, config in minima.items()}, settings


@pytest.mark.parametrize("scale", SCALES)
def test_both_minima_are_retrained_as_the_paper_does_with_good_and_with_bad_ones(scale):
    minima, settings = planned(scale)
    good = minima["good"]
    assert settings.keys() == {(1, 1), (1, 0), (0, 1), (0, 0)}
    for (kind, decay), (source, config) in settings.items():
        assert source.name == ("good" if kind else "bad")
        assert config.weight_decay == (good.weight_decay if decay else 0)
        assert config.augmentation == (good.augmentation if decay else "none")
        assert config.learning_rate == 0.1
    assert len({config.seeds for _, config in settings.values()}) == 1
    assert minima["good"].images_seed == minima["bad"].images_seed == (None if good.train_size is None else 70)


def test_the_decay_of_the_real_scale_is_that_of_the_paper():
    minima, settings = planned("real")
    _, config = settings[1, 1]
    updates = config.epochs * (minima["good"].train_size // config.batch_size)
    assert updates == 50 * 39
    left = named_decay_factors(config.optimizer, config.learning_rate, config.weight_decay, updates)[-1]
    assert left == pytest.approx(math.exp(-1.95), rel=0.01)
    assert len(config.seeds) == 5
    assert config.step_sizes == (0.5, 1.0)
    assert config.num_controls == 2


def test_the_page_shows_the_numbers_that_it_is_given():
    values = {(1, 1): 0.8, (1, 0): 0.6, (0, 1): 0.4, (0, 0): 0.2}  # (kind, decay and crops)

    def cell(kind, both, value):
        copies = {name: [value - 0.1, value + 0.1] * 2 for name in paperlike._OF_COPIES}
        return {
            **{"kind": kind, "decay": both, "crops": both, "seed": 70, "updates": 1950, "left_by_decay": 0.142},
            **dict.fromkeys(paperlike._OF_MINIMUM, value),
            "copies": copies | {"step_size": [0.5, 0.5, 1.0, 1.0]},
        }

    about = {"command": "python paperlike.py", "environment": {"commit": "abc", "device": "cpu"}}
    sizes = {
        "train_size": 5000,
        "batch_size": 128,
        "optimizer": "momentum",
        "epochs": 50,
        "learning_rate": 0.1,
        "weight_decay": 1e-3,
    }
    names = {"dataset": "fashion_mnist", "network": "WRN-10-1", "augmentation": "crop+flip"}
    record = about | sizes | names | {"cells": [cell(*key, value) for key, value in values.items()]}
    text = paperlike.page(record)
    assert "(decay and crops) return by 0.800 [0.700, 0.900], those of the bad one (neither) by 0.200" in text
    assert "With neither, copies of the good minimum return by 0.600" in text
    assert "those of the bad one by 0.400 [0.300, 0.500]" in text
    assert "Without any gradient it would leave 14.2% of a jump" in text
    assert "in smallest jumps: 0.80 (good, decay + crops); 0.60 (good, neither); 0.40 (bad, decay + crops); " in text
    assert "and of their minimum: 0.800, 0.800 (good, decay + crops); 0.600, 0.600 (good, neither); " in text
    assert "5,000 training images" in text
    assert "(1950 updates)" in text
    record["cells"][0]["left_by_decay"] = None
    assert "Without any gradient it would leave an unknown share of a jump" in paperlike.page(record)
    assert text.count("| good | decay + crops | 0.5 | 0.800 [0.700, 0.900] |") == 1


@pytest.mark.slow
def test_the_script_runs_from_training_to_page(run):
    folder, out = run(paperlike)
    record = json.loads((folder / "paperlike.json").read_text())
    assert (folder / "paperlike.md").read_text() == paperlike.page(record)
    drawn = {path.name for path in (folder / "paperlike" / "figures").iterdir()}
    assert drawn >= {"distance.png", "polar.png", "parts.png", "phate-cosine-none-knn5.png", "polar-film.gif"}
    report = RunFolder(folder / "paperlike" / "bad-decay-crops").read_report()["geometry"]["real"]
    bad = next(cell for cell in record["cells"] if (cell["kind"], cell["decay"]) == (0, 1))
    assert sum(bad["copies"]["return"]) / 4 == pytest.approx(report["return"]["mean"], rel=1e-4)
    assert bad["updates"] == 6
    assert 0.99 < bad["left_by_decay"] < 1
    assert [cell["left_by_decay"] for cell in record["cells"] if not cell["decay"]] == [1, 1]
    assert "As the paper retrains" in out
