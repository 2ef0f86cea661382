"""What choosing networks by a measure gains or loses: the hit rate among the best, and the regret of the one chosen.

The best minimum has the smallest gap, and a measure chooses where it is smallest. Ties are broken at random, and the
results are expectations over that.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxscape.generalization.arguments import paired, share_of


class Regret(NamedTuple):
    """The gap of the minimum that a measure chooses, compared with the best."""

    value: float  # gap of the chosen minimum - smallest gap, at least 0, in the unit of the gap
    relative: (
        float  # value / (mean gap - smallest gap): 0 is the best choice, 1 a random one; NaN if all gaps are equal
    )


def hit_rate(measure: Any, gap: Any, *, share: float = 0.2) -> float:
    """Return which share of the minima with the smallest gaps is among those with the smallest measure, 0 to 1.

    Of n minima, k = share n are the best, rounded to the nearest whole number (halves up) and at least 1. Ties for the
    last places are broken at random, for measure and gap independently, and the result is the expectation. A measure
    without information, a constant one included, scores k / n on average.

    What it can be fooled by: it sees only whether the best are found, so a measure that recognises the one
    hyperparameter that all the best share scores high. It moves in steps of 1 / k, and its interval is wide.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum, in any unit.
        share: share of the minima that count as best, above 0 and below 1.

    Raises:
        ValueError: for anything but finite numbers of the same length, at least 2, or a share out of range.
    """
    x, y = paired(measure, gap)
    best = max(1, int(np.floor(share_of("share", share) * len(x) + 0.5)))
    return float((_among_smallest(x, best) * _among_smallest(y, best)).sum() / best)


def regret(measure: Any, gap: Any) -> Regret:
    """Return how much worse than the best minimum the one with the smallest measure is.

    If several minima have the smallest measure, one of them is chosen at random, and the result is the expectation.

    What it can be fooled by: it depends on one minimum alone. A bootstrap of it is unreliable, since the best and the
    chosen minimum are missing in 37 % of the draws each; compare with random measures instead.

    Args:
        measure: (n,) a value per minimum.
        gap: (n,) generalisation gap of each minimum, in any unit.

    Raises:
        ValueError: for anything but finite numbers of the same length, at least 2.
    """
    x, y = paired(measure, gap)
    value = float(y[x == x.min()].mean() - y.min())
    at_random = float(y.mean() - y.min())
    return Regret(value, value / at_random if np.ptp(y) > 0 else np.nan)


def _among_smallest(values: Float64[np.ndarray, " minima"], k: int) -> Float64[np.ndarray, " minima"]:
    """Return the probability (n,) of each value to be among the k smallest, if ties are broken at random."""
    last = np.partition(values, k - 1)[k - 1]
    below, tied = values < last, values == last
    return np.where(below, 1.0, np.where(tied, (k - below.sum()) / tied.sum(), 0.0))
