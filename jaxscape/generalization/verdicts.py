"""A rule that decides a claim about a mean, beside surrogates that make the same number without the claimed cause.

A claim says that a value is above (or below) a threshold. A surrogate, such as weight decay without a loss, gives a
value of its own for every minimum. Thresholds, margins and level must be fixed before the values are seen.

For a claim "above", with the confidence intervals of the mean value and of the mean of value minus surrogate:

- "does not hold": the interval of the value lies below threshold + threshold_margin. That is the other side, or, with
  a threshold_margin above 0, so near to the threshold that it does not matter.
- otherwise, if the interval of the value lies above the threshold:
  - "holds, but a surrogate does as much": for at least one surrogate the interval of the difference lies below the
    margin. It may lie within the margins, or beyond them on the other side.
  - "holds": for every surrogate the interval of the difference lies above 0, and reaches the margin.
- "unclear": everything else. More minima may decide it.

"Below" means wholly below: an interval that ends at a bound does not pass it. For a claim "below" all signs are
reversed.

With two-sided intervals of level 1 - alpha and one surrogate, each of the following has a probability of at most
alpha / 2: "holds" or "as much" if the value is not above the threshold; "holds" if the difference is not above 0;
"as much" if the difference is not below the margin; "does not hold" if the value is not below threshold +
threshold_margin. With m surrogates "as much" has m chances, and its bound is m alpha / 2; "holds" needs all of them,
and its bound stays. Any wrong verdict has a probability of at most alpha with one surrogate.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from jaxscape.arguments import finite_number
from jaxscape.generalization.arguments import numbers, share_of
from jaxscape.generalization.inference import MeanInterval, holm, mean_interval, mean_test

HOLDS = "holds"
SURROGATE = "holds, but a surrogate does as much"
DOES_NOT_HOLD = "does not hold"
UNCLEAR = "unclear"
VERDICTS = (HOLDS, SURROGATE, DOES_NOT_HOLD, UNCLEAR)

type Interval = tuple[float, float]


class Verdict(NamedTuple):
    """A claim, decided by a value per minimum."""

    verdict: str  # one of `VERDICTS`
    value: MeanInterval  # of the values
    differences: dict[str, MeanInterval]  # of value - surrogate, by surrogate
    as_much: tuple[str, ...]  # the surrogates whose difference lies wholly on the other side of the margin
    p_values: dict[str, float]  # one-sided, of the null hypothesis of each verdict but "unclear"
    p_value: float  # twice that of the verdict, at most 1; if it is "unclear", twice the smallest


def judge_intervals(
    value: Interval,
    differences: Mapping[str, Interval] | None = None,
    *,
    threshold: float,
    margin: float | None = None,
    threshold_margin: float = 0.0,
    above: bool = True,
) -> str:
    """Return the verdict on a claim from confidence intervals, of whatever kind; the module states the rule.

    Args:
        value: lower and upper end of the interval of the value.
        differences: the same for value - surrogate, by the name of the surrogate.
        threshold: bound of the claim, in the unit of the value.
        margin: largest difference from a surrogate that does not matter, above 0; needed with surrogates.
        threshold_margin: largest distance from the threshold that does not matter, at least 0.
        above: whether the claim is "above the threshold"; otherwise "below".

    Raises:
        ValueError: for ends that are NaN or in the wrong order, numbers out of range, or surrogates without a margin.

    Example:
        >>> judge_intervals((0.2, 0.4), {"decay": (0.1, 0.3)}, threshold=0, margin=0.05)
        'holds'
        >>> judge_intervals((0.2, 0.4), {"decay": (-0.02, 0.03)}, threshold=0, margin=0.05)
        'holds, but a surrogate does as much'
    """
    differences = {} if differences is None else differences
    margin = _margin(margin, differences)
    bound, near = _thresholds(threshold, threshold_margin)
    low, high = _toward("value", value, above)
    others = {name: _toward(f"differences[{name!r}]", each, above) for name, each in differences.items()}
    sign = 1 if above else -1
    if high < sign * bound + near:
        return DOES_NOT_HOLD
    if low <= sign * bound:
        return UNCLEAR
    if any(end < margin for _, end in others.values()):
        return SURROGATE
    return HOLDS if all(start > 0 for start, _ in others.values()) else UNCLEAR


def judge_claim(
    values: Any,
    surrogates: Mapping[str, Any] | None = None,
    *,
    threshold: float,
    margin: float | None = None,
    threshold_margin: float = 0.0,
    above: bool = True,
    level: float = 0.95,
) -> Verdict:
    """Return the verdict on a claim about the mean of values, with Student's intervals; the module states the rule.

    The p-value of "holds" is the largest of the one-sided tests that it needs: of the value, and of each difference.
    That of "as much" is the larger of the test of the value and, times the number of surrogates, the smallest of the
    tests that a difference is below the margin. With at most one surrogate, a verdict other than "unclear" is given
    exactly if twice the p-value of some verdict is below 1 - level.

    Args:
        values: (n,) a value per minimum, at least 2, independent.
        surrogates: name -> (n,) the surrogate's value for the same minima, in the same order.
        threshold: bound of the claim, in the unit of the values.
        margin: largest difference from a surrogate that does not matter, above 0; needed with surrogates.
        threshold_margin: largest distance from the threshold that does not matter, at least 0.
        above: whether the claim is "above the threshold"; otherwise "below".
        level: of the intervals, above 0 and below 1.

    Raises:
        ValueError: for anything but finite numbers, different lengths, numbers out of range, or surrogates without a
            margin.
    """
    sample = numbers("values", values, least=2)
    share_of("level", level)
    paired = {name: sample - _like(name, each, sample) for name, each in (surrogates or {}).items()}
    margin = _margin(margin, paired)
    bound, near = _thresholds(threshold, threshold_margin)
    value = mean_interval(sample, level=level)
    differences = {name: mean_interval(each, level=level) for name, each in paired.items()}
    verdict = judge_intervals(
        (value.low, value.high),
        {name: (each.low, each.high) for name, each in differences.items()},
        threshold=threshold,
        margin=margin if paired else None,
        threshold_margin=threshold_margin,
        above=above,
    )
    sign = 1 if above else -1
    as_much = [name for name, each in differences.items() if _toward(name, (each.low, each.high), above)[1] < margin]
    p_values = _p_values(sign * sample, [sign * each for each in paired.values()], sign * bound, near, margin)
    p_value = p_values.get(verdict, min(p_values.values()))
    return Verdict(verdict, value, differences, tuple(as_much), p_values, min(1.0, 2 * p_value))


def holm_verdicts(verdicts: Sequence[Verdict], *, level: float = 0.95) -> list[str]:
    """Return the verdicts on a family of claims after Holm's correction: "unclear" where the p-value is too large.

    The family holds all claims that are decided together, fixed before the values are seen. Checks of the protocol are
    no claims, and a family that counts them is too lenient or too strict at will. Holm's proof is for wrong rejections
    of null hypotheses; that it covers wrong directions too is known for independent tests (Shaffer, 1980).

    Args:
        verdicts: those of `judge_claim`, at least one.
        level: 1 - the probability that any claim of the family gets a wrong verdict; above 0 and below 1.

    Raises:
        ValueError: for no verdicts, or a level out of range.
    """
    share_of("level", level)
    if not verdicts:
        raise ValueError("verdicts must hold at least one verdict, got none")
    adjusted = holm([each.p_value for each in verdicts])
    return [each.verdict if p <= 1 - level else UNCLEAR for each, p in zip(verdicts, adjusted, strict=True)]


def _p_values(
    values: Float64[np.ndarray, " minima"],
    differences: list[Float64[np.ndarray, " minima"]],
    bound: float,
    near: float,
    margin: float,
) -> dict[str, float]:
    """Return the one-sided p-values of the verdicts on a claim "above"."""
    beyond = mean_test(values, center=bound, alternative="greater")
    p_values = {
        HOLDS: max([beyond, *(mean_test(each, alternative="greater") for each in differences)]),
        DOES_NOT_HOLD: mean_test(values, center=bound + near, alternative="less"),
    }
    if differences:
        smallest = min(mean_test(each, center=margin, alternative="less") for each in differences)
        p_values[SURROGATE] = max(beyond, min(1.0, len(differences) * smallest))
    return p_values


def _like(name: str, values: Any, sample: Float64[np.ndarray, " minima"]) -> Float64[np.ndarray, " minima"]:
    surrogate = numbers(f"surrogates[{name!r}]", values)
    if surrogate.shape != sample.shape:
        raise ValueError(f"surrogates[{name!r}] must have one value per minimum, {len(sample)}, got {len(surrogate)}")
    return surrogate


def _margin(margin: float | None, differences: Mapping[str, Any]) -> float:
    """Return the margin, 0 without surrogates."""
    if margin is None:
        if differences:
            raise ValueError("margin must be given with surrogates: the largest difference that does not matter")
        return 0.0
    if finite_number("margin", margin) <= 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    return float(margin)


def _thresholds(threshold: float, threshold_margin: float) -> tuple[float, float]:
    if finite_number("threshold_margin", threshold_margin) < 0:
        raise ValueError(f"threshold_margin must be at least 0, got {threshold_margin}")
    return finite_number("threshold", threshold), float(threshold_margin)


def _toward(name: str, interval: Interval, above: bool) -> Interval:
    """Return an interval in the direction of the claim: as it is for "above", mirrored for "below"."""
    low, high = (float(end) for end in interval)
    if not low <= high:
        raise ValueError(f"{name} must be a lower and an upper end, got {low} and {high}")
    return (low, high) if above else (-high, -low)
