"""Statistics of the runs of a scale, with one value per independent minimum or set of initial parameters.

A statistic is a function of the runs and a seed. It returns its value, and that of null trajectories if it has a null.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import select

from jaxscape import Run, null_trajectories, pairwise_distances, trajectory_geometry
from jaxscape.runs.null import NULL_DRAWS, NULL_KIND
from jaxscape.trajectories.geometry import trajectory_rows
from jaxscape.trajectories.gram import IncrementGram, take_points

Value = tuple[float, float | None]  # of one minimum, and of its null trajectories if there are any


class Runs(NamedTuple):
    """The folder and the seeds of the runs of a scale."""

    folder: Path
    seeds: Sequence[int]
    harder_seeds: Sequence[int]
    optimizer_seeds: Sequence[int]
    sweep_seeds: Sequence[int]

    def of(self, group: str) -> Sequence[int]:
        """Return the seeds of a group, on which a claim is decided."""
        return {
            "minima": self.seeds,
            "harder": self.harder_seeds,
            "optimizers": self.optimizer_seeds,
            "sweep": self.sweep_seeds,
        }[group]


Statistic = Callable[[Runs, int], Value]


# Statistics of retrained copies.


@cache
def _geometry(run: Path) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]], np.ndarray]:
    """Return the statistics of the copies, those of null trajectories, and the step sizes of the copies."""
    measured = Run(run, quiet=True).measured()
    real = trajectory_geometry(measured.gram).summary()
    keys = jax.random.split(jax.random.key(0), NULL_DRAWS)
    draws = [null_trajectories(measured.gram, kind=NULL_KIND, key=key) for key in keys]
    first = trajectory_rows(measured.gram)[0] - 1
    return real, [trajectory_geometry(draw).summary() for draw in draws], measured.labels["step_size"][first]


def copies(kind: str, statistic: str, step_size: float | None = None) -> Statistic:
    """Return a statistic: the mean over the copies of a minimum, of one step size or of all."""

    def value(runs: Runs, seed: int) -> Value:
        real, nulls, steps = _geometry(runs.folder / f"{kind}-{seed}")
        chosen = steps == (steps if step_size is None else step_size)
        if not chosen.any():
            raise KeyError(f"no copies of step size {step_size}")
        null_mean = np.mean([draw[statistic][chosen] for draw in nulls])
        return float(np.mean(real[statistic][chosen])), float(null_mean)

    return value


def contrast(one: Statistic, other: Statistic) -> Statistic:
    """Return the difference of two statistics of the same seed, and of their nulls."""

    def value(runs: Runs, seed: int) -> Value:
        (a, null_a), (b, null_b) = one(runs, seed), other(runs, seed)
        return a - b, None if null_a is None or null_b is None else null_a - null_b

    return value


def accuracy(kind: str, part: str) -> Statistic:
    """Return the training or test accuracy of a minimum, as a statistic."""
    return lambda runs, seed: (
        Run(runs.folder / f"{kind}-{seed}", quiet=True).report()["minimum"][f"{part}_accuracy"],
        None,
    )


# Statistics of networks that several optimisers trained from shared initial parameters.


@cache
def _networks(folder: Path) -> tuple[IncrementGram, dict[str, np.ndarray], np.ndarray]:
    measured = Run(folder / "optimizers", quiet=True).measured()
    return measured.gram, measured.labels, pairwise_distances(measured.gram, metric="euclidean")


def _path(labels: dict[str, np.ndarray], optimizer: str, seed: int) -> np.ndarray:
    return np.flatnonzero((labels["optimizer"] == optimizer) & (labels["seed"] == seed))


def network(optimizer: str, statistic: str) -> Statistic:
    """Return a statistic of one trajectory, with the origin of parameter space as reference."""

    def value(runs: Runs, seed: int) -> Value:
        gram, labels, _ = _networks(runs.folder)
        path = take_points(gram, _path(labels, optimizer, seed))
        return float(trajectory_geometry(path).summary()[statistic][0]), None

    return value


def end_norm(runs: Runs, optimizer: str, seed: int) -> float:
    """Return the L2 norm of the final parameters."""
    gram, labels, _ = _networks(runs.folder)
    return float(trajectory_geometry(take_points(gram, _path(labels, optimizer, seed))).norm[-1, 0])


def ratio_of_norms(one: str, other: str) -> Statistic:
    """Return the ratio of the norms of the final parameters of two optimisers, as a statistic."""
    return lambda runs, seed: (end_norm(runs, one, seed) / end_norm(runs, other, seed), None)


def ratio(one: Statistic, other: Statistic) -> Statistic:
    """Return the ratio of two statistics of the same seed."""
    return lambda runs, seed: (one(runs, seed)[0] / other(runs, seed)[0], None)


def same_direction(one: str, other: str) -> Statistic:
    """Return the cosine of the displacements from the shared start to two ends; the null uses ends of other seeds."""

    def cosine(runs: Runs, seed: int, other_seed: int) -> float:
        _, labels, distances = _networks(runs.folder)
        a, b = _path(labels, one, seed), _path(labels, other, other_seed)
        if seed == other_seed:
            x, y, between = distances[a[0], a[-1]], distances[b[0], b[-1]], distances[a[-1], b[-1]]
            return float((x**2 + y**2 - between**2) / (2 * x * y))
        # (a_end - a_0) . (b_end - b_0) from the four distances between them.
        product = distances[a[-1], b[0]] ** 2 + distances[a[0], b[-1]] ** 2
        product -= distances[a[-1], b[-1]] ** 2 + distances[a[0], b[0]] ** 2
        return float(product / (2 * distances[a[0], a[-1]] * distances[b[0], b[-1]]))

    def value(runs: Runs, seed: int) -> Value:
        others = [cosine(runs, seed, each) for each in runs.optimizer_seeds if each != seed]
        return cosine(runs, seed, seed), float(np.mean(others))

    return value


def nearest_end(runs: Runs, seed: int) -> Value:
    """Return the smallest distance between two ends of a seed, divided by the shorter of their displacements."""
    _, labels, distances = _networks(runs.folder)
    paths = [_path(labels, name, seed) for name in dict.fromkeys(labels["optimizer"].tolist())]
    ratios = [
        distances[a[-1], b[-1]] / min(distances[a[0], a[-1]], distances[b[0], b[-1]])
        for number, a in enumerate(paths)
        for b in paths[:number]
    ]
    return float(min(ratios)), None


def ends_apart(optimizer: str) -> Statistic:
    """Return the mean distance of a seed's end from the ends of other seeds with the same optimiser, as a statistic."""

    def value(runs: Runs, seed: int) -> Value:
        _, labels, distances = _networks(runs.folder)
        end = _path(labels, optimizer, seed)[-1]
        others = [_path(labels, optimizer, each)[-1] for each in runs.optimizer_seeds if each != seed]
        return float(distances[end, others].mean()), None

    return value


# Statistics of the embeddings (experiments/figure1.py of the same scale).


def embedding(method: str, number: str, metric: str = "cosine") -> Statistic:
    """Return a measure of a method's embeddings, averaged over the good, bad and memorization runs of a seed."""

    def value(runs: Runs, seed: int) -> Value:
        records = json.loads((runs.folder / "figure1.json").read_text())["runs"]
        chosen = [
            record[number]
            for record in records
            if (record["method"], record["metric"]) == (method, metric) and record["data"].endswith(f"-{seed}")
        ]
        if not chosen:
            raise KeyError(f"no embedding of seed {seed} by {method}")
        return float(np.mean(chosen)), None

    return value


# Statistics of experiments/sweep.py, which the paper does not have.


def picture(number: str, center: str) -> Statistic:
    """Return a number of the embedding of a good minimum's copies at learning rate 0.1, and that of its null."""

    def value(runs: Runs, seed: int) -> Value:
        about = {"kind": "good", "seed": seed, "learning_rate": 0.1, "data_order": "member", "center": center}
        path = runs.folder / "sweep.json"
        return _only(path, "stars", **about, null=False)[number], _only(path, "stars", **about, null=True)[number]

    return value


def _only(path: Path, section: str, **values: Any) -> dict[str, Any]:
    records = select(json.loads(path.read_text())[section], **values)
    if len(records) != 1:
        raise KeyError(f"{path} has {len(records)} records of {values}")
    return records[0]
