"""What the paper says of optimisers (5.2, appendix D), from every update: SGD, momentum and Adam from shared starts.

    python -m uv run python experiments/optimizers.py --scale quick --publish
    python -m uv run python experiments/optimizers.py --scale real --publish \
        --set train.data_dir=/usr/share/datasets/fashion-mnist

Each seed has training images, initial parameters and batches of its own. From them five networks are trained, without
weight decay and at a constant learning rate: `sgd`, `momentum` (0.9) and `adam` at the learning rate of the paper, 0.1;
`sgd_effective`, SGD at 0.1 / (1 - 0.9) = 1, the rate of a momentum step that lasts; and `momentum_order`, momentum
again from the same start and with the same images, in another order of batches and crops. The first four are recorded
after every update, the last after every epoch.

Networks are compared after the same number of epochs ("epochs"), and when each has first reached the same training loss
("loss"). The training loss is the mean loss of the batches of the last three epochs. The target, 0.5 (of 2.3 at the
start), was chosen from seed 0 of the digits alone. It says at which loss minima are compared: these networks have not
converged.

RULES, fixed before the first run on seeds 30 to 34 (the history of this file shows it). Thresholds were chosen with
knowledge of seeds 0 to 4 and 10 to 14 of the digits, by epoch, and of seed 0 by update. Fashion-MNIST (`--scale real`)
is decided by the same rules, target and number of epochs; it was added before any of its networks was trained.

1. A value is one number per seed. Ratios are compared by their natural logarithms; 0.1 (10 %) is the smallest ratio
   that matters, 0.05 the smallest difference of cosines, of relative distances, and of angles in radians.
2. Every sentence has one primary value in `CLAIMS`. It is judged by `jaxscape.judge_claim` with the margin also as
   `threshold_margin`, and corrected by Holm over all claims of this file, for each scale by itself. The other values
   of the tables are shown with their intervals and decide nothing.
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

`--publish` also writes benchmarks/results/optimizers.json and docs/optimizer-paths.md, in which each scale has a
section of its own, and the figures docs/optimizers-SCALE-polar.png and docs/optimizers-SCALE-norm.png.
"""

import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from command import start
from optimizers_page import FIGURES, figure_name, page
from optimizers_runs import (
    RECORDED,
    STOPS,
    Moved,
    Network,
    comparison_of,
    flat,
    networks_of,
    numbers,
    parts,
    seed_values,
)
from records import ROOT, Record, committed_scales, publish, rounded
from stages import Experiment

from jaxscape.figures.plots import save_figure
from jaxscape.runs.compare import compare_optimizers
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json, write_text

RATIO, SMALLEST = 0.1, 0.05  # margins (rule 1)
DRAWN = 4  # every so many updates of a curve are kept for the figures


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
                values.setdefault(f"{name} {stop}", []).append(rounded(value))
    first = parts(experiment, seeds[0])[0].config
    record = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "dataset": first.dataset,
        "train_size": first.train_size,
        "batch_size": first.batch_size,
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
    begin = flat(network.points["start"])
    return Moved(begin, flat(network.points[stop]) - begin)


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
        record[stop] = shown and {key: rounded(value) for key, value in shown.items()}
    if name in RECORDED:
        kept = {each: network.walk[each][::DRAWN] for each in ("norm", "chord", "angle")}
        record["curves"] = {each: [float(f"{value:.4g}") for value in values] for each, values in kept.items()}
        record["curves"]["update"] = network.updates[::DRAWN].tolist()
    return record


# The script.


def main(experiment: Experiment) -> None:
    """Train missing networks, measure, draw, and write the numbers and the page."""
    console, folder = experiment.console, experiment.folder
    started = time.monotonic()
    for seed in experiment.scale.path_seeds:
        for part in parts(experiment, seed):
            compare_optimizers(part.folder, comparison_of(part, seed), console=console)
    console.print(f"Runs done in {(time.monotonic() - started) / 60:.1f} min.")
    scale, record = experiment.scale_name, measure(experiment)
    write_json(folder / "optimizers.json", {"scales": {scale: record}})
    text = page({scale: record})
    write_text(folder / "optimizer-paths.md", text)
    figures = {
        figure_name(scale, name): save_figure(draw(record), folder / "optimizer-paths" / "figures" / name)
        for name, draw in FIGURES.items()
    }
    console.print(text, markup=False, soft_wrap=True)
    if experiment.publish:
        scales = committed_scales("optimizers") | {scale: record}
        publish("optimizers", {"scales": scales}, figures)
        write_text(ROOT / "docs" / "optimizer-paths.md", page(scales))
    console.print(f"Done in {(time.monotonic() - started) / 60:.1f} min.")


if __name__ == "__main__":
    start(main, __doc__, "optimizers")
