"""The runs behind the claims, and the numbers of each of their minima. Used by claims.py.

Each seed has one minimum of each kind. Good minima are retrained twice, by the paper's protocol and by the common one;
around the others these are the same settings, and one run serves both.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from claims_list import PROTOCOLS
from records import Record, rounded
from stages import Again, Experiment, with_own_images
from sweep import star
from valley import measure_cell

from jaxscape import Run, trajectory_geometry
from jaxscape.runs.config import PRESETS, RetrainConfig, TrainConfig
from jaxscape.runs.methods import CENTERS
from jaxscape.runs.null import nulls_of
from jaxscape.trajectories.geometry import trajectory_rows

SECONDS_PER_RUN = 30.0  # to measure a run and its surrogates, and to embed those of good minima, on 2 cores

# The statistics that are measured for copies and their surrogates, and those of copies alone.
STATISTICS = ("return", "outward", "monotone", "petal", "lateral")
_OF_COPIES = ("step_size", "return_to_drifted", "return_of_directions", "decay_part", "gradient_part", "cosine")
_OF_MINIMUM = (
    *("drift", "minimum_train_accuracy", "minimum_test_accuracy"),
    *("train_loss", "train_accuracy", "test_accuracy"),  # of the copies after the last epoch
)


def plan_minima(experiment: Experiment) -> dict[Path, TrainConfig]:
    """Return the run folders of all minima with their training, each seed with training images of its own."""
    found = {}
    for seed in experiment.scale.claims_seeds:
        for run, config in experiment.minima(PRESETS, seeds=(seed,)).items():
            found[experiment.folder / "claims" / "minima" / run.name] = with_own_images(config, seed)
    return found


def plan_runs(experiment: Experiment, minima: Mapping[Path, TrainConfig]) -> Again:
    """Return the run folders of all retrainings, with the sources of their minima and their settings."""
    again: Again = {}
    for source, config in minima.items():
        for protocol, settings in retrainings(experiment, config).items():
            again[experiment.folder / "claims" / f"{source.name}-{protocol}"] = source, settings
    return again


def retrainings(experiment: Experiment, config: TrainConfig) -> dict[str, RetrainConfig]:
    """Return the settings of a minimum's retraining by protocol; by the paper's alone if the common one is the same."""
    count, seed = experiment.scale.claims_directions, config.seed
    directions = tuple(range(seed * count, (seed + 1) * count))
    paper = replace(experiment.retraining(config, **experiment.scale.claims_retrain), seeds=directions, order_seed=seed)
    common = replace(paper, weight_decay=0.0, augmentation="none")
    return {"paper": paper} if paper == common else {"paper": paper, "common": common}


def measure_all(experiment: Experiment, again: Again) -> list[Record]:
    """Return the numbers of each retrained minimum."""
    minima = plan_minima(experiment)
    protocols = {source: len(retrainings(experiment, config)) for source, config in minima.items()}
    cells = []
    for run, (source, _) in again.items():
        config = minima[source]
        only = run.name.rpartition("-")[2]
        about = {
            "kind": config.preset,
            "seed": config.seed,
            "protocols": [only] if protocols[source] > 1 else list(PROTOCOLS),
        }
        opened = experiment.open(run)
        numbers = measure_minimum(opened)
        if config.preset == "good" and only == "paper":
            add_pictures(experiment, opened, numbers)
        cells.append(about | numbers)
    return cells


def measure_minimum(run: Run) -> Record:
    """Return the numbers of a retrained minimum: "values" and, by kind, those of "surrogates".

    Lists have an entry for each perturbed copy; other numbers are of the minimum, or means over its copies.
    Without weight decay the surrogate "decay" stands still; comparisons of kinds of minimum need it.
    """
    measured = measure_cell(run)
    copies = run.measured()
    geometry = trajectory_geometry(copies.gram)
    summary = geometry.summary()
    everything = run.measured(controls=True)
    steps = everything.labels["step_size"][trajectory_rows(everything.gram)[0] - 1]
    of_controls = trajectory_geometry(everything.gram).distance[-1, steps == 0].mean()
    beyond = (geometry.distance[-1] - of_controls) / geometry.distance[0]
    values = {
        **{name: measured["copies"][name] for name in _OF_COPIES},
        **{name: rounded(summary[name]) for name in (*STATISTICS, "path")},
        "end_beyond_controls": rounded(beyond),
        **{name: measured[name] for name in _OF_MINIMUM},
    }
    nulls = nulls_of(run.folder, copies.gram, copies.labels)
    surrogates: dict[str, Record] = {}
    for kind in ("exchange", "rotated", "decay"):
        drawn = [trajectory_geometry(each).summary() for each in nulls.draws(kind)]
        surrogates[kind] = {name: rounded(np.mean([each[name] for each in drawn], axis=0)) for name in STATISTICS}
    surrogates["exchange"]["cosine"] = measured["copies"]["exchange_cosine"]
    return {"values": values, "surrogates": surrogates}


def add_pictures(experiment: Experiment, run: Run, numbers: Record) -> None:
    """Add the numbers of PHATE's pictures of the copies, and of their rotated null trajectories."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the graph of")  # in pieces: a claim of this page is about them
        warnings.filterwarnings("ignore", message="the picture is degenerate")
        for center in CENTERS:
            for null, into in ((None, numbers["values"]), ("rotated", numbers["surrogates"]["rotated"])):
                setting = run.embed(**vars(experiment.embedding(center=center, null=null))).name
                found = star(run.folder, setting)
                into |= {f"{name}_{center}": rounded(found[name]) for name in ("silhouette", "trend")}
