"""What the paper says of optimisers (5.2, appendix D), from every update: SGD, momentum and Adam from shared starts.

    python -m uv run python experiments/optimizers.py --scale quick --publish

Each seed has training images, initial parameters and batches of its own. From them five networks are trained, without
weight decay and at a constant learning rate: `sgd`, `momentum` (0.9) and `adam` at the learning rate of the paper, 0.1;
`sgd_effective`, SGD at 0.1 / (1 - 0.9) = 1, the rate of a momentum step that lasts; and `momentum_order`, momentum
again from the same start and with the same images, in another order of batches and crops. The first four are recorded
after every update, the last after every epoch.

Networks are compared after the same number of epochs ("epochs"), and when each has first reached the same training loss
("loss"). The training loss is the mean loss of the batches of the last three epochs. The target, 0.5 (of 2.3 at the
start), was chosen from seed 0 alone. It says at which loss minima are compared: these networks have not converged.

RULES, fixed before the first run on seeds 30 to 34 (the history of this file shows it). Thresholds were chosen with
knowledge of seeds 0 to 4 and 10 to 14, by epoch, and of seed 0 by update.

1. A value is one number per seed. Ratios are compared by their natural logarithms; 0.1 (10 %) is the smallest ratio
   that matters, 0.05 the smallest difference of cosines, of relative distances, and of angles in radians.
2. Every sentence has one primary value in `CLAIMS`. It is judged by `jaxscape.judge_claim` with the margin also as
   `threshold_margin`, and corrected by `holm_verdicts` over all claims of this file. The other values of the tables are
   shown with their intervals and decide nothing.
3. Equal epochs decide what the paper says of trajectories, because that is what it drew. Equal loss decides what it
   says of minima. What the paper did not compare (equal loss and equal effective rate for momentum's path) has claims
   of its own, marked "not in the paper".
4. "Similar" and "the same region" are claims with an upper or lower bound: a cosine above 0.5; a distance below half of
   what orthogonal displacements of these lengths would have; nearer than the start is. A difference that is not
   significant does not make things similar.
5. Surrogates. "other seeds": the other network's displacement is taken from the other seeds (mean). "random walk": the
   steps keep their lengths and get independent random directions, in so many dimensions that they are orthogonal: then
   the distance travelled is the root of the sum of squared steps. "other order": momentum from the same start on the
   same images, in another order of batches. "averaged noise": directions averaged with weight 0.9, as in momentum and
   Adam, turn by arccos(0.9) in every update, whatever is averaged, if it is noise (0 for Adam minus momentum, the
   threshold of that claim; the angles are shown beside it).
6. A network that never reaches the target has no values at equal loss; then claims that need it are not decided.

`--publish` also writes docs/optimizer-paths.md, docs/optimizers-polar.png, docs/optimizers-norm.png and
benchmarks/results/optimizers.json.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from claims_rules import interval_text, judge_record
from common import ROOT, Experiment, Record, publish, start
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter

from jaxscape import holm_verdicts, mean_interval
from jaxscape.figures.layout import SMALL
from jaxscape.figures.palette import HUES, INK
from jaxscape.figures.plots import save_figure
from jaxscape.figures.style import own_style
from jaxscape.problem import Problem
from jaxscape.runs.compare import Comparison, compare_optimizers
from jaxscape.runs.config import CompareConfig
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json, write_text
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
RATIO, SMALLEST = 0.1, 0.05  # margins (rule 1)
DRAWN = 4  # every so many updates of a curve are kept for the figures


# The runs.


class Part(NamedTuple):
    """One run folder of a seed: its settings, and the names of its networks."""

    folder: Path
    config: CompareConfig
    names: tuple[str, ...]


def parts(experiment: Experiment, seed: int) -> tuple[Part, ...]:
    """Return the three runs of a seed."""
    folder = experiment.folder / "optimizer-paths"
    changed = {**experiment.scale.path_compare, **experiment.changes.get("compare", {})}
    config = replace(experiment.comparison(), **{"strategy": "loop", **changed, "optimizers": OPTIMIZERS})
    if config.train_size is not None:
        config = replace(config, images_seed=seed)
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


def _flat(tree: Any) -> np.ndarray:
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


# The claims.


class Claim(NamedTuple):
    """A sentence, its value and the rule that decides it."""

    source: str
    text: str
    value: str  # name of the value, with its stop: "path epochs"
    meaning: str
    threshold: float
    margin: float
    above: bool
    surrogates: Mapping[str, str] = {}  # what it is -> name of its value; never changed
    margin_reason: str = "10 % is the smallest ratio that matters."


_OURS = "not in the paper"
_COSINES = "0.05 is the smallest difference of cosines, relative distances and angles that matters."
_PATH = "log of the path length, momentum / {}, every update, {}"
_STRAIGHT = "log of path length over distance, momentum / {}, every update, {}"
_EQUAL_RATE = "SGD of equal effective learning rate"

CLAIMS = (
    Claim(
        "5.2",
        "SGD and momentum from one seed travel in similar directions.",
        "cosine epochs",
        "cosine of their displacements, equal epochs",
        0.5,
        SMALLEST,
        True,
        {"other seeds": "cosine_seeds epochs"},
        _COSINES,
    ),
    Claim(
        "5.2",
        "Momentum takes a shorter path than SGD.",
        "path epochs",
        _PATH.format("SGD", "equal epochs"),
        0.0,
        RATIO,
        False,
    ),
    Claim(
        "5.2",
        "Momentum takes a straighter path than SGD.",
        "tortuosity epochs",
        _STRAIGHT.format("SGD", "equal epochs"),
        0.0,
        RATIO,
        False,
        {"random walk": "tortuosity_walk epochs"},
    ),
    Claim(
        "5.2",
        "Without momentum, SGD reaches a similar minimum.",
        "similar loss",
        "distance of their ends / that of orthogonal displacements, equal training loss",
        0.5,
        SMALLEST,
        False,
        {"other seeds": "similar_seeds loss"},
        _COSINES,
    ),
    Claim(
        "5.2",
        "Each optimiser ends in a minimum of its own.",
        "own loss",
        "smallest distance of two optimisers' ends / that of orthogonal displacements, equal training loss",
        0.1,
        SMALLEST,
        True,
        {"other order": "similar_order loss"},
        _COSINES,
    ),
    Claim(
        "5.2, D",
        "Adam's parameters are larger than those of SGD and momentum.",
        "adam_norm epochs",
        "log of the L2 norm, Adam / the larger of the others, equal epochs",
        0.0,
        RATIO,
        True,
        {"random walk": "adam_norm_walk epochs"},
    ),
    Claim(
        "5.2",
        "Adam ends further from the start than SGD and momentum.",
        "adam_far epochs",
        "log of the distance from start to end, Adam / the larger of the others, equal epochs",
        0.0,
        RATIO,
        True,
        {"random walk": "adam_far_walk epochs"},
    ),
    Claim(
        "5.2",
        "Adam's trajectory is smoother than those of SGD and momentum.",
        "adam_turning epochs",
        "mean angle between successive updates, Adam - the smaller of the others, radians, equal epochs",
        0.0,
        SMALLEST,
        False,
        {},
        _COSINES,
    ),
    Claim(
        "5.2",
        "Adam's end points are further apart than those of SGD and momentum.",
        "adam_spread epochs",
        "log of the mean distance of ends of different seeds, Adam / the larger of the others, equal epochs",
        0.0,
        RATIO,
        True,
        {"random directions": "adam_spread_walk epochs"},
    ),
    Claim(
        "5.2",
        "Adam travels in a direction orthogonal to momentum's.",
        "adam_cosine epochs",
        "cosine of their displacements, equal epochs",
        0.2,
        SMALLEST,
        False,
        {},
        _COSINES,
    ),
    Claim(
        "5.2",
        "Adam returns to the same region of minima as momentum.",
        "adam_back loss",
        "log of the distance between their ends / that of momentum's end from the start, equal training loss",
        0.0,
        RATIO,
        False,
    ),
    Claim(
        _OURS,
        "At equal training loss momentum's path is shorter than SGD's.",
        "path loss",
        _PATH.format("SGD", "equal training loss"),
        0.0,
        RATIO,
        False,
    ),
    Claim(
        _OURS,
        "At equal training loss momentum's path is straighter than SGD's.",
        "tortuosity loss",
        _STRAIGHT.format("SGD", "equal training loss"),
        0.0,
        RATIO,
        False,
        {"random walk": "tortuosity_walk loss"},
    ),
    Claim(
        _OURS,
        f"Momentum's path is shorter than that of {_EQUAL_RATE}.",
        "path_effective epochs",
        _PATH.format(_EQUAL_RATE, "equal epochs"),
        0.0,
        RATIO,
        False,
    ),
    Claim(
        _OURS,
        f"Momentum's path is straighter than that of {_EQUAL_RATE}.",
        "tortuosity_effective epochs",
        _STRAIGHT.format(_EQUAL_RATE, "equal epochs"),
        0.0,
        RATIO,
        False,
        {"random walk": "tortuosity_effective_walk epochs"},
    ),
    Claim(
        _OURS,
        f"Momentum and {_EQUAL_RATE} travel in similar directions.",
        "cosine_effective epochs",
        "cosine of their displacements, equal epochs",
        0.5,
        SMALLEST,
        True,
        {"other seeds": "cosine_effective_seeds epochs"},
        _COSINES,
    ),
)


def claim_records(values: Mapping[str, Sequence[float]]) -> list[Record]:
    """Return the claims whose values exist, in the form that experiments/claims.py reads."""
    return [
        {
            "source": claim.source,
            "text": claim.text,
            "statistic": claim.meaning,
            "values": list(values[claim.value]),
            "surrogates": {name: list(values[value]) for name, value in claim.surrogates.items()},
            "threshold": claim.threshold,
            "margin": claim.margin,
            "margin_reason": claim.margin_reason,
            "above": claim.above,
            "family": "optimizers",
        }
        for claim in CLAIMS
        if {claim.value, *claim.surrogates.values()} <= values.keys()
    ]


def decide(claims: Sequence[Record]) -> list[tuple[str, Any]]:
    """Return each claim's verdict after Holm's correction, and the record of its judgement (rule 2)."""
    if not claims:
        return []
    judged = [judge_record(each) for each in claims]
    return list(zip(holm_verdicts(judged), judged, strict=True))


# The record.


def measure(experiment: Experiment) -> Record:
    """Return the record of all seeds."""
    seeds, target = experiment.scale.path_seeds, experiment.scale.path_loss
    found: dict[int, dict[str, Network]] = {}
    for seed in seeds:
        runs = parts(experiment, seed)
        problem = comparison_of(runs[0], seed).problem
        found[seed] = {name: network for part in runs for name, network in networks_of(part, problem, target)}
    values: dict[str, list[float]] = {}
    for stop in STOPS:
        if any(network.at(stop) is None for networks in found.values() for network in networks.values()):
            continue  # rule 6
        moved = {seed: {name: _moved(each, stop) for name, each in found[seed].items()} for seed in seeds}
        for seed in seeds:
            others = [moved[each] for each in seeds if each != seed]
            by = {name: numbers(found[seed][name], _stop(found[seed][name], stop)) for name in RECORDED}
            one = seed_values(moved[seed], others, by)
            if stop == "epochs":
                one |= _by_epoch(found[seed])
            for name, value in one.items():
                values.setdefault(f"{name} {stop}", []).append(float(f"{value:.6g}"))
    first = parts(experiment, seeds[0])[0].config
    record = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "scale": f"{first.dataset}, {first.train_size} training images, batches of {first.batch_size}",
        "seeds": list(seeds),
        "epochs": first.epochs,
        "learning_rate": first.learning_rate,
        "decay_epochs": first.decay_epochs,
        "augmentation": first.augmentation,
        "target_loss": target,
        "networks": [_network_record(seed, name, found[seed][name]) for seed in seeds for name in found[seed]],
        "values": values,
        "claims": claim_records(values),
    }
    return json.loads(json.dumps(record))


def _stop(network: Network, stop: str) -> int:
    found = network.at(stop)
    assert found is not None  # or the stop is left out
    return found


def _moved(network: Network, stop: str) -> Moved:
    begin = _flat(network.points["start"])
    return Moved(begin, _flat(network.points[stop]) - begin)


def _by_epoch(networks: Mapping[str, Network]) -> dict[str, float]:
    """Return the log ratios of momentum to SGD that a record of every epoch alone would give."""
    path = {name: float(networks[name].walk["coarse"].sum()) for name in ("sgd", "momentum")}
    chord = {name: float(networks[name].walk["chord"][-1]) for name in path}
    return {
        "path_by_epoch": math.log(path["momentum"] / path["sgd"]),
        "tortuosity_by_epoch": math.log(path["momentum"] / chord["momentum"] * chord["sgd"] / path["sgd"]),
    }


def _network_record(seed: int, name: str, network: Network) -> Record:
    stops = {stop: network.at(stop) for stop in STOPS}
    record: Record = {"seed": seed, "network": name}
    for stop, at in stops.items():
        shown = None if at is None else numbers(network, at)
        record[stop] = shown and {key: float(f"{value:.6g}") for key, value in shown.items()}
    if name in RECORDED:
        kept = {each: network.walk[each][::DRAWN] for each in ("norm", "chord", "angle")}
        record["curves"] = {each: [float(f"{value:.4g}") for value in values] for each, values in kept.items()}
        record["curves"]["update"] = network.updates[::DRAWN].tolist()
    return record


# The page.

_SHOWN = {
    "path": "log path length, momentum / SGD",
    "path_by_epoch": "the same, from one record an epoch",
    "tortuosity": "log of path / distance, momentum / SGD",
    "tortuosity_by_epoch": "the same, from one record an epoch",
    "tortuosity_walk": "the same, random walks",
    "path_effective": "log path length, momentum / SGD of equal effective rate",
    "tortuosity_effective": "log of path / distance, momentum / SGD of equal effective rate",
    "tortuosity_effective_walk": "the same, random walks",
    "cosine": "cosine of displacements, SGD and momentum",
    "cosine_effective": "the same, SGD of equal effective rate and momentum",
    "cosine_order": "the same, momentum in two orders of batches",
    "cosine_seeds": "the same, SGD of other seeds and momentum",
    "similar": "relative distance of ends, SGD and momentum",
    "similar_effective": "the same, SGD of equal effective rate and momentum",
    "similar_order": "the same, momentum in two orders of batches",
    "similar_seeds": "the same, SGD of other seeds and momentum",
    "own": "relative distance of ends, smallest of three pairs of optimisers",
    "adam_norm": "log L2 norm, Adam / larger of SGD and momentum",
    "adam_norm_walk": "the same, random walk of Adam's steps",
    "adam_far": "log distance from the start, Adam / larger of SGD and momentum",
    "adam_far_walk": "the same, random walk of Adam's steps",
    "adam_turning_sgd": "turning angle by update, Adam - SGD",
    "adam_turning_momentum": "turning angle by update, Adam - momentum",
    "adam_cosine": "cosine of displacements, Adam and momentum",
    "adam_back": "log of distance between Adam's and momentum's ends / momentum's end and start",
    "adam_spread": "log distance of ends of different seeds, Adam / larger of SGD and momentum",
    "adam_spread_walk": "the same, random directions of Adam's lengths",
}


def page(record: Record) -> str:
    """Return the page, from the record alone."""
    lines = [
        "# Paths of optimisers",
        "",
        f"Generated by `{record['command']}`, not written by hand; commit {record['environment']['commit']}, "
        f"{record['environment']['device']}. {record['scale']}, drawn for each of the seeds "
        f"{', '.join(map(str, record['seeds']))}; {record['epochs']} epochs at a constant learning rate of "
        f"{record['learning_rate']:g}, augmentation {record['augmentation']}, no weight decay. What the paper says of "
        "optimisers in 5.2 and appendix D is decided here from the parameters after every update. How to use "
        "optimisers of optax is in [optimizers.md](optimizers.md).",
        "",
        "![Distance and angle from the start, every update](optimizers-polar.png)",
        "",
        "*Each trajectory starts in the middle. The radius is its distance from the start, the angle that between its "
        "displacement and its final one; both are exact. A straight path lies on its spoke, one spoke for each seed. "
        "Each panel has a scale of its own.*",
        "",
        "![L2 norm by update](optimizers-norm.png)",
        "",
        "## Claims",
        "",
        "Each is decided by a rule of `experiments/optimizers.py` that was committed before these seeds were run: by "
        "the interval of its mean over seeds (Student, 95 %) beside the threshold and its surrogates, and by Holm's "
        f"correction over the {len(record['claims'])} claims. The four verdicts are those of "
        "[the scores](generalization_scores.md).",
        "",
        *_claims_table(record),
        "",
        "A random walk has steps of the same lengths in random directions. Other order: momentum from the same start "
        "on the same images, in another order of batches. Other seeds: the other network comes from them. A relative "
        "distance is that of two ends, divided by what orthogonal displacements of the same lengths would have.",
        "",
        "## The referee's points",
        "",
        *(f"- {line}" for line in answers(record)),
        "",
        "## Networks",
        "",
        f"Means over seeds, after {record['epochs']} epochs and when the mean training loss of the last {WINDOW} "
        f"epochs first reached {record['target_loss']:g}. Momentum in another order is recorded by epoch, and its "
        "path is therefore not comparable.",
        "",
        *_networks_table(record),
        "",
        "## All values",
        "",
        "Means over seeds with Student's 95 % interval; logarithms are natural.",
        "",
        *_values_table(record),
        "",
    ]
    return "\n".join(lines)


def _text(values: Sequence[float]) -> str:
    return interval_text(mean_interval(values))


def _ratio(values: Sequence[float]) -> str:
    found = mean_interval(values)
    return f"{math.exp(found.mean):.2f} [{math.exp(found.low):.2f}, {math.exp(found.high):.2f}]"


def _claims_table(record: Record) -> list[str]:
    lines = ["| source | sentence | value | holds if | mean [95 %] | surrogates | verdict |", "|" + "-|" * 7]
    for claim, (verdict, judged) in zip(record["claims"], decide(record["claims"]), strict=True):
        bound = f"{'>' if claim['above'] else '<'} {claim['threshold']:g}"
        others = "; ".join(f"{name} {_text(values)}" for name, values in claim["surrogates"].items()) or "none"
        uncorrected = "" if judged.verdict == verdict else f" ({judged.verdict} before Holm's correction)"
        lines.append(
            f"| {claim['source']} | {claim['text']} | {claim['statistic']} | {bound} | {_text(claim['values'])} | "
            f"{others} | **{verdict}**{uncorrected} |"
        )
    return lines


def answers(record: Record) -> list[str]:
    """Return the answers to the referee's points on the optimisers, from the record."""
    values = record["values"]
    ends = {name: [each["epochs"]["loss"] for each in _of(record, name)] for name in RECORDED}
    losses = ", ".join(f"{name.replace('_', ' ')} {np.mean(found):.3f}" for name, found in ends.items())
    lines = [
        "**Every update is recorded, from new seeds, and one rule for each sentence was fixed first.** SGD, momentum "
        "and Adam share start, images and batches; each seed has its own.",
        f"**Path length.** Momentum / SGD at equal epochs: {_ratio(values['path epochs'])} from every update, "
        f"{_ratio(values['path_by_epoch epochs'])} from one record an epoch of the same runs. "
        + _if(values, "path loss", "At equal training loss: {}. ")
        + f"Against SGD of equal effective learning rate: {_ratio(values['path_effective epochs'])}.",
        f"**Straightness.** Path over distance, momentum / SGD at equal epochs: {_ratio(values['tortuosity epochs'])} "
        f"from every update, {_ratio(values['tortuosity_by_epoch epochs'])} from one record an epoch; random walks of "
        f"the same steps {_ratio(values['tortuosity_walk epochs'])}. "
        + _if(values, "tortuosity loss", "At equal training loss: {}. ")
        + f"Against SGD of equal effective learning rate: {_ratio(values['tortuosity_effective epochs'])}.",
    ]
    if "own loss" in values:
        lines.append(
            "**Each optimiser its own minimum.** Compared at the same training loss, beside what another order of "
            f"batches does: the relative distance of ends is {_text(values['own loss'])} for the two nearest "
            f"optimisers and {_text(values['similar_order loss'])} for two orders of momentum."
        )
    turns = ", ".join(
        f"{name.replace('_', ' ')} {np.mean([each['epochs']['turning'] for each in _of(record, name)]):.2f}"
        for name in RECORDED
    )
    lines.append(
        f"**Smoothness.** Mean angles between successive updates, in radians: {turns}. Noise turns by "
        f"{math.pi / 2:.2f}, and noise averaged with weight {MOMENTUM:g}, as in momentum and Adam, by "
        f"{math.acos(MOMENTUM):.2f}."
    )
    lines.append(
        f"**Convergence.** The mean training loss of the last {WINDOW} epochs is, on average over seeds: {losses}. "
        f'"Minima" are therefore compared at a training loss of {record["target_loss"]:g}, which is not that of '
        "converged networks."
    )
    return lines


def _if(values: Mapping[str, Sequence[float]], name: str, text: str) -> str:
    return text.format(_ratio(values[name])) if name in values else ""


def _of(record: Record, name: str) -> list[Record]:
    return [each for each in record["networks"] if each["network"] == name]


def _networks_table(record: Record) -> list[str]:
    columns = ("updates", "loss", "path", "chord", "tortuosity", "turning", "norm")
    lines = [f"| network | compared at | {' | '.join(columns)} |", "|" + "-|" * (len(columns) + 2)]
    for name in dict.fromkeys(each["network"] for each in record["networks"]):
        for stop, words in STOPS.items():
            found = [each[stop] for each in _of(record, name)]
            if None in found:
                lines.append(f"| {name.replace('_', ' ')} | {words} | not reached by all |" + " |" * (len(columns) - 1))
                continue
            means = {column: float(np.mean([each[column] for each in found])) for column in columns}
            lines.append(
                f"| {name.replace('_', ' ')} | {words} | {' | '.join(f'{value:.4g}' for value in means.values())} |"
            )
    return lines


def _values_table(record: Record) -> list[str]:
    lines = [f"| value | {' | '.join(STOPS.values())} |", "|" + "-|" * (len(STOPS) + 1)]
    for name, words in _SHOWN.items():
        found = [record["values"].get(f"{name} {stop}") for stop in STOPS]
        lines.append(f"| {words} | {' | '.join(_text(each) if each else '' for each in found)} |")
    return lines


# The figures.

_TITLES = {"sgd": "SGD", "momentum": "momentum", EFFECTIVE: "SGD, effective rate", "adam": "Adam"}


@own_style()
def draw_polar(record: Record) -> Figure:
    """Draw distance and angle of each trajectory from its start, one panel per optimiser."""
    figure = Figure(figsize=(6.8, 2.2), layout="constrained")
    axes = figure.subplots(1, len(_TITLES), subplot_kw={"projection": "polar"})
    for ax, (name, title) in zip(axes, _TITLES.items(), strict=True):
        for place, network in enumerate(_of(record, name)):
            curves = network["curves"]
            spoke = 2 * math.pi * place / len(record["seeds"])
            color = HUES[place % len(HUES)]
            ax.plot(spoke + np.array(curves["angle"]), curves["chord"], color=color, linewidth=0.9)
            ax.plot([spoke, spoke], [0, curves["chord"][-1]], color=color, linewidth=0.5, linestyle=":")
        ax.set_xticks([])
        ax.set_ylim(0)
        ax.yaxis.set_major_locator(MaxNLocator(nbins=2, steps=[1, 2, 5, 10]))
        ax.tick_params(labelsize=SMALL)
        ax.set_title(title)
        ax.grid(linewidth=0.4)
    return figure


@own_style()
def draw_norm(record: Record) -> Figure:
    """Draw the L2 norm of the parameters by update, a line for each seed."""
    figure = Figure(figsize=(4.2, 2.6), layout="constrained")
    ax = figure.subplots()
    for place, (name, title) in enumerate(_TITLES.items()):
        for number, network in enumerate(_of(record, name)):
            curves = network["curves"]
            ax.plot(
                curves["update"],
                curves["norm"],
                color=HUES[place],
                linewidth=0.9,
                label=None if number else title,
            )
    ax.set_yscale("log")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_major_locator(FixedLocator([30, 50, 100, 200, 500]))
    ax.yaxis.set_major_formatter("{x:.0f}")
    ax.set_xlabel("update")
    ax.set_ylabel("L2 norm of the parameters")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=SMALL, labelcolor=INK)
    return figure


# The script.


def main(experiment: Experiment) -> None:
    """Train missing networks, measure, draw, and write the numbers and the page."""
    console, folder = experiment.console, experiment.folder
    started = time.monotonic()
    for seed in experiment.scale.path_seeds:
        for part in parts(experiment, seed):
            compare_optimizers(part.folder, comparison_of(part, seed), console=console)
    console.print(f"Runs done in {(time.monotonic() - started) / 60:.1f} min.")
    record = measure(experiment)
    write_json(folder / "optimizers.json", record)
    write_text(folder / "optimizer-paths.md", page(record))
    figures = {
        name: save_figure(draw(record), folder / "optimizer-paths" / "figures" / name)
        for name, draw in (("optimizers-polar", draw_polar), ("optimizers-norm", draw_norm))
    }
    console.print(page(record), markup=False, soft_wrap=True)
    if experiment.publish:
        write_text(ROOT / "docs" / "optimizer-paths.md", page(record))
        publish("optimizers", record, figures)
    console.print(f"Done in {(time.monotonic() - started) / 60:.1f} min.")


if __name__ == "__main__":
    start(main, __doc__, "optimizers")
