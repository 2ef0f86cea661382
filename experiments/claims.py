"""Test the paper's claims on the runs of a scale; this script is the only source of docs/claims.md.

    python -m uv run python experiments/claims.py --scale quick --markdown docs/claims.md

A claim is a statistic (run_statistics.py), a threshold and a direction, all chosen before the runs that decide it.
Each independent minimum (or set of initial parameters) gives one value, the mean over its copies. The decision rule:

    holds          the 95 % interval of the mean over minima lies beyond the threshold; and if there is a null model,
                   the interval of the difference from it lies beyond 0
    does not hold  one of these intervals lies on the other side
    unclear        anything else

Thresholds were chosen after looking at demo runs with seeds 0 to 2 and one comparison of optimisers with seeds 0 to 4;
the claims are decided on other seeds. Thresholds for sweep.py were chosen before any of its runs.
Intervals are Student's t intervals. The null of a statistic is its value on rotated null trajectories of the same run,
which keep the starts, lengths and turning angles of the movements and lose their relation to everything else.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import SCALES
from run_statistics import (
    Runs,
    Statistic,
    accuracy,
    contrast,
    copies,
    embedding,
    ends_apart,
    nearest_end,
    network,
    picture,
    ratio,
    ratio_of_norms,
    same_direction,
)
from scipy.stats import t as student

from jaxscape.runs.config import CompareConfig
from jaxscape.runs.environment import environment
from jaxscape.runs.methods import CENTERS


class Claim(NamedTuple):
    """One claim of the paper, and the statistic and threshold that decide it."""

    source: str  # section of the paper
    text: str
    statistic: str
    value: Statistic
    above: bool  # whether the claim is that the value lies above the threshold
    threshold: float
    group: str = "minima"  # the group of seeds that decide it: minima, harder, optimizers, sweep


class Verdict(NamedTuple):
    """The outcome of a claim on the runs."""

    values: np.ndarray
    nulls: np.ndarray | None
    interval: tuple[float, float]
    verdict: str


def judge(values: Sequence[float], nulls: Sequence[float] | None, *, above: bool, threshold: float) -> Verdict:
    """Apply the decision rule at the top of this file.

    Raises:
        ValueError: for fewer than two values.
    """
    numbers = np.asarray(values, float)
    if len(numbers) < 2:
        raise ValueError(f"a spread needs at least two independent values, got {len(numbers)}")
    interval = mean_interval(numbers)
    sides = [_side(interval, threshold, above)]
    if nulls is not None:
        sides.append(_side(mean_interval(numbers - np.asarray(nulls, float)), 0.0, above))
    verdict = "does not hold" if -1 in sides else "holds" if set(sides) == {1} else "unclear"
    return Verdict(numbers, None if nulls is None else np.asarray(nulls, float), interval, verdict)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Return Student's 95 % confidence interval of the mean."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def _side(interval: tuple[float, float], threshold: float, above: bool) -> int:
    """Return 1 if the whole interval lies on the claimed side, -1 on the other side, 0 if it contains the threshold."""
    low, high = interval
    if low <= threshold <= high:
        return 0
    return 1 if (low > threshold) == above else -1


NOT_IN_PAPER = "not in the paper"

CLAIMS = (
    Claim(
        "4, Fig. 1",
        "PHATE keeps trajectories connected where t-SNE shatters them.",
        "steps whose next point is one of the two nearest, PHATE - t-SNE",
        contrast(embedding("PHATE", "continuous"), embedding("t-SNE", "continuous")),
        True,
        0.0,
    ),
    Claim(
        "4, Fig. 1",
        "PHATE keeps trajectories connected where UMAP shatters them.",
        "steps whose next point is one of the two nearest, PHATE - UMAP",
        contrast(embedding("PHATE", "continuous"), embedding("UMAP", "continuous")),
        True,
        0.0,
    ),
    Claim(
        "4, Fig. 1",
        "PHATE preserves global relations better than t-SNE.",
        "rank correlation of all distances, PHATE - t-SNE",
        contrast(embedding("PHATE", "global"), embedding("t-SNE", "global")),
        True,
        0.0,
    ),
    Claim(
        "4, Fig. 1",
        "PHATE preserves global relations better than UMAP.",
        "rank correlation of all distances, PHATE - UMAP",
        contrast(embedding("PHATE", "global"), embedding("UMAP", "global")),
        True,
        0.0,
    ),
    Claim(
        "4, Fig. 1",
        "PCA hides what PHATE shows within trajectories.",
        "rank correlation of distances to 50 neighbours, euclidean, PHATE - PCA",
        contrast(embedding("PHATE", "local", "euclidean"), embedding("PCA", "local", "euclidean")),
        True,
        0.0,
    ),
    Claim("5.1", "Good minima fit the training data.", "training accuracy", accuracy("good", "train"), True, 0.99),
    Claim("5.1", "Bad minima fit the training data.", "training accuracy", accuracy("bad", "train"), True, 0.99),
    Claim(
        "5.1", "Memorization fits random labels.", "training accuracy", accuracy("memorization", "train"), True, 0.99
    ),
    Claim(
        "5.1",
        "Good minima are better on the test data than bad ones.",
        "test accuracy, good - bad",
        contrast(accuracy("good", "test"), accuracy("bad", "test")),
        True,
        0.0,
    ),
    Claim(
        "5.1",
        "Memorization learns nothing about the true labels.",
        "test accuracy (chance is 0.1)",
        accuracy("memorization", "test"),
        False,
        0.15,
    ),
    Claim("5.1", "Good: copies move closer to the minimum.", "return", copies("good", "return"), True, 0.0),
    Claim("5.1", "Good: they return to near the minimum.", "return", copies("good", "return"), True, 0.5),
    Claim("5.1", "Good: they return at once.", "outward", copies("good", "outward"), False, 0.01),
    Claim("5.1", "Good: they return steadily.", "monotone", copies("good", "monotone"), True, 0.9),
    Claim(
        "5.1",
        "Good: they return in the direction in which they were pushed (petals).",
        "petal",
        copies("good", "petal"),
        True,
        0.9,
    ),
    Claim("5.1", "Bad: copies first move outward.", "outward", copies("bad", "outward"), True, 0.01),
    Claim(
        "5.1",
        "Copies of good minima return further than those of bad ones.",
        "return, good - bad",
        contrast(copies("good", "return"), copies("bad", "return")),
        True,
        0.0,
    ),
    Claim(
        "5.1",
        "Copies of bad minima move further outward than those of good ones.",
        "outward, bad - good",
        contrast(copies("bad", "outward"), copies("good", "outward")),
        True,
        0.0,
    ),
    Claim(
        "5.1",
        "Memorization: outward at small steps.",
        "outward, step size 0.25",
        copies("memorization", "outward", 0.25),
        True,
        0.01,
    ),
    Claim(
        "5.1",
        "Memorization: return at large steps.",
        "return, step size 1",
        copies("memorization", "return", 1.0),
        True,
        0.0,
    ),
    Claim(
        "5.1",
        "Memorization: more lateral movement at large steps than around good minima.",
        "lateral, step size 1, memorization - good",
        contrast(copies("memorization", "lateral", 1.0), copies("good", "lateral", 1.0)),
        True,
        0.0,
    ),
    Claim(
        "5.2",
        "SGD and momentum from one seed travel in similar directions.",
        "cosine of their displacements from start to end (null: ends of other seeds)",
        same_direction("sgd", "momentum"),
        True,
        0.5,
        "optimizers",
    ),
    Claim(
        "5.2",
        "Momentum takes a shorter path than SGD.",
        "path length, momentum / SGD",
        ratio(network("momentum", "path"), network("sgd", "path")),
        False,
        1.0,
        "optimizers",
    ),
    Claim(
        "5.2",
        "Momentum takes a straighter path than SGD.",
        "path length over distance, momentum - SGD",
        contrast(network("momentum", "tortuosity"), network("sgd", "tortuosity")),
        False,
        0.0,
        "optimizers",
    ),
    Claim(
        "5.2",
        "Each optimiser ends in a different minimum.",
        "smallest distance between two ends of a seed / the shorter of their displacements",
        nearest_end,
        True,
        0.1,
        "optimizers",
    ),
    Claim(
        "5.2, D",
        "Adam's parameters are larger.",
        "L2 norm at the end, Adam / SGD",
        ratio_of_norms("adam", "sgd"),
        True,
        1.0,
        "optimizers",
    ),
    Claim(
        "5.2",
        "Adam ends further from the start.",
        "distance from start to end, Adam / SGD",
        ratio(network("adam", "travel"), network("sgd", "travel")),
        True,
        1.0,
        "optimizers",
    ),
    Claim(
        "5.2",
        "Adam's trajectory is smoother than SGD's.",
        "mean turning angle, Adam - SGD",
        contrast(network("adam", "turning"), network("sgd", "turning")),
        False,
        0.0,
        "optimizers",
    ),
    Claim(
        "5.2",
        "Adam's end points are further apart.",
        "mean distance between ends of different seeds, Adam / SGD",
        ratio(ends_apart("adam"), ends_apart("sgd")),
        True,
        1.0,
        "optimizers",
    ),
    Claim(
        "5.3",
        "The pattern recurs on a harder data set: good copies return further than bad ones.",
        "return, good - bad, harder data",
        contrast(copies("harder-good", "return"), copies("harder-bad", "return")),
        True,
        0.0,
        "harder",
    ),
    Claim(
        "5.3",
        "It recurs there: bad copies move further outward than good ones.",
        "outward, bad - good, harder data",
        contrast(copies("harder-bad", "outward"), copies("harder-good", "outward")),
        True,
        0.0,
        "harder",
    ),
    Claim(
        "5.3",
        "The petals recur there.",
        "petal, good, harder data",
        copies("harder-good", "petal"),
        True,
        0.9,
        "harder",
    ),
    *(
        Claim(
            NOT_IN_PAPER,
            f"Pictures with center {center}: directions form petals, more clearly than those of null trajectories.",
            "silhouette of directions, good, learning rate 0.1",
            picture("silhouette", center),
            True,
            0.25,
            "sweep",
        )
        for center in CENTERS
    ),
    *(
        Claim(
            NOT_IN_PAPER,
            f"Pictures with center {center}: later epochs lie further inward, more than those of null trajectories.",
            "rank correlation of epoch and distance from the picture's centre, good, learning rate 0.1",
            picture("trend", center),
            False,
            -0.5,
            "sweep",
        )
        for center in CENTERS
    ),
)


def decide(runs: Runs, claim: Claim) -> Verdict | None:
    """Decide a claim on the runs; return None if a run is missing."""
    try:
        pairs = [claim.value(runs, seed) for seed in runs.of(claim.group)]
    except (FileNotFoundError, KeyError):
        return None
    nulls: Any = [null for _, null in pairs]
    values = [value for value, _ in pairs]
    return judge(values, None if None in nulls else nulls, above=claim.above, threshold=claim.threshold)


def markdown(decided: Mapping[str, Mapping[Claim, Verdict | None]], about: Mapping[str, str]) -> str:
    """Return the page, with one table per scale and one row per claim."""
    lines = [
        "# The paper's claims as numbers",
        "",
        "Generated by `experiments/claims.py`, which documents how each claim is decided. Do not edit it by hand.",
    ]
    for scale, verdicts in decided.items():
        counts = dict.fromkeys(("holds", "does not hold", "unclear"), 0)
        for verdict in verdicts.values():
            if verdict is not None:
                counts[verdict.verdict] += 1
        words = ", ".join(f"{number} {word}" for word, number in counts.items())
        lines += ["", f"## Scale {scale}", "", about[scale], "", f"{words}.", ""]
        lines += [
            "| paper | claim | statistic | threshold | value: mean ± SD (n) | 95 % interval | null | verdict |",
            "|-|-|-|-|-|-|-|-|",
        ]
        lines += [_row(claim, verdict) for claim, verdict in verdicts.items()]
    return "\n".join(lines) + "\n"


def _row(claim: Claim, verdict: Verdict | None) -> str:
    threshold = f"{'>' if claim.above else '<'} {claim.threshold:g}"
    cells = [claim.source, claim.text, claim.statistic, threshold]
    if verdict is None:
        return f"| {' | '.join([*cells, '', '', '', 'not run'])} |"
    values = verdict.values
    null = "" if verdict.nulls is None else f"{verdict.nulls.mean():.3f}"
    value = f"{values.mean():.3f} ± {values.std(ddof=1):.3f} ({len(values)})"
    low, high = verdict.interval
    return f"| {' | '.join([*cells, value, f'{low:.3f} to {high:.3f}', null, f'**{verdict.verdict}**'])} |"


def main() -> None:
    """Decide every claim at each scale, print the tables and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, nargs="+", default=["quick"])
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="folder whose subfolder SCALE holds the runs")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    decided, about = {}, {}
    for name in options.scale:
        scale = SCALES[name]
        networks = scale.compare.get("seeds", CompareConfig().seeds)
        runs = Runs(options.folder / name, scale.seeds, scale.harder_seeds, networks, scale.sweep_seeds)
        decided[name] = {claim: decide(runs, claim) for claim in CLAIMS}
        if not any(decided[name].values()):
            sys.exit(f"{runs.folder} has no runs; make the first with python experiments/figure2.py --scale {name}")
        record = environment()
        about[name] = (
            f"{scale.dataset}, minima of the seeds {', '.join(map(str, scale.seeds))}; commit {record['commit']}, "
            f"{record['device']}. `python -m uv run python experiments/claims.py {' '.join(sys.argv[1:])}`"
        )
    page = markdown(decided, about)
    print(page)
    if options.markdown:
        options.markdown.write_text(page)


if __name__ == "__main__":
    main()
