"""The runs behind the claims about optimisers, and the values of each of their seeds. Used by optimizers.py."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from stages import Experiment, with_own_images

from jaxscape.problem import Problem
from jaxscape.runs.compare import Comparison
from jaxscape.runs.config import CompareConfig
from jaxscape.runs.images import image_comparison
from jaxscape.runs.keys import init_key
from jaxscape.runs.recorded import read_metrics, read_trajectories
from jaxscape.trajectories.store import TrajectoryStore

OPTIMIZERS = ("sgd", "momentum", "adam")
EFFECTIVE, ORDER = "sgd_effective", "momentum_order"
RECORDED = (*OPTIMIZERS, EFFECTIVE)  # after every update
STOPS = {"epochs": "equal epochs", "loss": "equal training loss"}
MOMENTUM = 0.9
WINDOW = 3  # epochs over which the training loss is averaged
ORDER_SEED = 1000  # added to a seed: another order of batches from the same start


class Part(NamedTuple):
    """One run folder of a seed: its settings, and the names of its networks."""

    folder: Path
    config: CompareConfig
    names: tuple[str, ...]


def parts(experiment: Experiment, seed: int) -> tuple[Part, ...]:
    """Return the three runs of a seed."""
    folder = experiment.folder / "optimizer-paths"
    changed = {**experiment.scale.path_compare, **experiment.changes.get("compare", {})}
    fixed = {"optimizers": OPTIMIZERS, "steps": 1}  # every update is recorded
    config = replace(experiment.comparison(), **{"strategy": "loop", **changed, **fixed})
    config = with_own_images(config, seed)
    fast = replace(config, optimizers=("sgd",), learning_rate=config.learning_rate / (1 - MOMENTUM), seeds=(seed,))
    again = replace(config, optimizers=("momentum",), seeds=(seed + ORDER_SEED,), steps=None)
    return (
        Part(folder / f"seed-{seed}", replace(config, seeds=(seed,)), OPTIMIZERS),
        Part(folder / f"seed-{seed}-effective", fast, (EFFECTIVE,)),
        Part(folder / f"seed-{seed}-order", again, (ORDER,)),
    )


def comparison_of(part: Part, seed: int) -> Comparison:
    """Return the training of a run: from the start of the seed, and without evaluations after each update."""
    made = image_comparison(part.config)
    init = made.problem.init
    assert init is not None
    problem = replace(made.problem, evaluate=None, init=lambda key: init(init_key(seed)))
    return made._replace(problem=problem)


# The numbers of a network.


class Network(NamedTuple):
    """A trajectory: its numbers by snapshot, and the snapshot at which it reached the target loss."""

    walk: dict[str, np.ndarray]
    loss: np.ndarray  # smoothed training loss by snapshot, infinite before the first whole window
    updates: np.ndarray
    points: dict[str, Any]  # parameters at the start and at each stop
    reached: int | None

    def at(self, stop: str) -> int | None:
        """Return the snapshot of a stop."""
        return len(self.loss) - 1 if stop == "epochs" else self.reached


def smoothed(losses: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of the last losses at each snapshot; the first snapshot has no loss."""
    sums = np.concatenate([[0.0], np.cumsum(losses[1:])])
    means = np.full(len(losses), np.inf)
    means[window:] = (sums[window:] - sums[:-window]) / window
    return means


def walk(blocks: Iterable[np.ndarray], every: int) -> dict[str, np.ndarray]:
    """Return lengths and angles of a trajectory by snapshot, summed in float64 over blocks of columns [snapshot, k].

    Args:
        blocks: the columns of the parameters.
        every: snapshots per epoch; "coarse" is the length of the movement of each epoch.
    """
    sums: dict[str, Any] = {}
    for block in blocks:
        values = block.astype(np.float64)
        moves, away, coarse = np.diff(values, axis=0), values - values[0], np.diff(values[::every], axis=0)
        found = {
            "moves": (moves**2).sum(axis=1),
            "turns": (moves[1:] * moves[:-1]).sum(axis=1),
            "chord": (away**2).sum(axis=1),
            "along": away @ away[-1] if away.shape[1] else 0,
            "norm": (values**2).sum(axis=1),
            "coarse": (coarse**2).sum(axis=1),
        }
        sums = {name: sums.get(name, 0) + value for name, value in found.items()}
    lengths = np.sqrt(sums["moves"])
    cosines = sums["turns"] / np.maximum(lengths[1:] * lengths[:-1], 1e-300)
    chord = np.sqrt(sums["chord"])
    return {
        "length": lengths,
        "turning": np.arccos(np.clip(cosines, -1, 1)),
        "chord": chord,
        "angle": np.arccos(np.clip(sums["along"] / np.maximum(chord * chord[-1], 1e-300), -1, 1)),
        "norm": np.sqrt(sums["norm"]),
        "coarse": np.sqrt(sums["coarse"]),
    }


def numbers(network: Network, stop: int) -> dict[str, float]:
    """Return the numbers of a trajectory from its start to a snapshot."""
    lengths = network.walk["length"][:stop]
    squares, path, chord = float((lengths**2).sum()), float(lengths.sum()), float(network.walk["chord"][stop])
    return {
        "updates": float(network.updates[stop]),
        "loss": float(network.loss[stop]),
        "path": path,
        "chord": chord,
        "tortuosity": path / chord,
        "turning": float(network.walk["turning"][: stop - 1].mean()) if stop > 1 else math.nan,
        "norm": float(network.walk["norm"][stop]),
        "walk_chord": math.sqrt(squares),  # of a random walk with steps of these lengths
        "walk_norm": math.hypot(float(network.walk["norm"][0]), math.sqrt(squares)),
    }


def networks_of(part: Part, problem: Problem, target: float) -> Iterator[tuple[str, Network]]:
    """Read the networks of a run."""
    _, store = read_trajectories(part.folder)
    metrics = read_metrics(part.folder)
    assert problem.init is not None
    like = jax.eval_shape(problem.init, init_key(0))[0]
    for member, name in enumerate(part.names):
        rows = metrics["member"] == member
        updates = metrics["update"][rows]
        per_epoch = round((len(updates) - 1) / part.config.epochs)
        loss = smoothed(metrics["epoch_loss"][rows], WINDOW * per_epoch)
        hits = np.flatnonzero(loss <= target)
        reached = int(hits[0]) if len(hits) else None
        stops = {"start": 0, "epochs": len(loss) - 1} | ({} if reached is None else {"loss": reached})
        points = {stop: _point(store, epoch, member, like) for stop, epoch in stops.items()}
        yield name, Network(walk(store.blocks(2**26, members=member), per_epoch), loss, updates, points, reached)


def _point(store: TrajectoryStore, epoch: int, member: int, like: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0, 0], store.read(epochs=epoch, members=member, like=like))


def flat(tree: Any) -> np.ndarray:
    """Return all parameters as one vector, float64."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


# The values of a seed.


class Moved(NamedTuple):
    """A start and the displacement from it to a stop."""

    start: np.ndarray
    away: np.ndarray

    @property
    def end(self) -> np.ndarray:
        """The point that was reached."""
        return self.start + self.away


def cosine(one: Moved, other: Moved) -> float:
    """Return the cosine of two displacements."""
    return float(one.away @ other.away / (np.linalg.norm(one.away) * np.linalg.norm(other.away)))


def relative_distance(one: Moved, other: Moved) -> float:
    """Return |a - b| / sqrt(|a|^2 + |b|^2) of two displacements: 0 if they are equal, 1 if they are orthogonal."""
    return float(np.linalg.norm(one.away - other.away) / np.hypot(np.linalg.norm(one.away), np.linalg.norm(other.away)))


def seed_values(
    moved: Mapping[str, Moved], others: Sequence[Mapping[str, Moved]], by: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Return the values of a seed at a stop.

    Args:
        moved: the displacement of each network of this seed.
        others: those of the other seeds.
        by: the `numbers` of each recorded network of this seed.
    """

    def log_ratio(name: str, one: str, *of: str) -> float:
        return math.log(by[one][name] / max(by[each][name] for each in of))

    def walk_tortuosity(one: str) -> float:
        return by[one]["path"] / by[one]["walk_chord"]

    def spread(name: str) -> float:
        return float(np.mean([np.linalg.norm(moved[name].end - other[name].end) for other in others]))

    def walk_spread(name: str) -> float:
        one = moved[name]
        squares = [
            np.sum((one.start - other[name].start) ** 2) + np.sum(one.away**2) + np.sum(other[name].away ** 2)
            for other in others
        ]
        return float(np.mean(np.sqrt(squares)))

    def over_pairs(function: Callable[[str, str], float]) -> float:
        return min(function(a, b) for a, b in combinations(OPTIMIZERS, 2))

    momentum, adam = moved["momentum"], moved["adam"]
    values = {
        "adam_norm": log_ratio("norm", "adam", "sgd", "momentum"),
        "adam_norm_walk": math.log(by["adam"]["walk_norm"] / max(by[name]["norm"] for name in ("sgd", "momentum"))),
        "adam_far": log_ratio("chord", "adam", "sgd", "momentum"),
        "adam_far_walk": math.log(by["adam"]["walk_chord"] / max(by[name]["chord"] for name in ("sgd", "momentum"))),
        "adam_turning": by["adam"]["turning"] - min(by["sgd"]["turning"], by["momentum"]["turning"]),
        "adam_turning_sgd": by["adam"]["turning"] - by["sgd"]["turning"],
        "adam_turning_momentum": by["adam"]["turning"] - by["momentum"]["turning"],
        "adam_cosine": cosine(adam, momentum),
        "adam_back": math.log(np.linalg.norm(adam.end - momentum.end) / np.linalg.norm(momentum.away)),
        "adam_spread": math.log(spread("adam") / max(spread("sgd"), spread("momentum"))),
        "adam_spread_walk": math.log(walk_spread("adam") / max(spread("sgd"), spread("momentum"))),
        "own": over_pairs(lambda a, b: relative_distance(moved[a], moved[b])),
        "cosine_order": cosine(momentum, moved[ORDER]),
        "similar_order": relative_distance(momentum, moved[ORDER]),
    }
    for against, name in (("", "sgd"), ("_effective", EFFECTIVE)):
        plain = moved[name]
        values |= {
            f"path{against}": log_ratio("path", "momentum", name),
            f"tortuosity{against}": log_ratio("tortuosity", "momentum", name),
            f"tortuosity{against}_walk": math.log(walk_tortuosity("momentum") / walk_tortuosity(name)),
            f"cosine{against}": cosine(momentum, plain),
            f"cosine{against}_seeds": float(np.mean([cosine(momentum, other[name]) for other in others])),
            f"similar{against}": relative_distance(momentum, plain),
            f"similar{against}_seeds": float(np.mean([relative_distance(momentum, other[name]) for other in others])),
        }
    return values
