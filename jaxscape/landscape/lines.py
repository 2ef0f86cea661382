"""The metrics along the straight line between two networks, and its barrier."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from jaxscape.landscape.options import Options
from jaxscape.landscape.planes import distance, plane
from jaxscape.landscape.surfaces import check_range, surface
from jaxscape.problem import Problem

PyTree = Any

ALONG = np.linspace(-0.5, 1.5, 51)
BETWEEN = np.linspace(0, 1, 25)


class Line(NamedTuple):
    """Metrics along (1 - t) a + t b."""

    t: np.ndarray  # float64 (points,), 0 at a and 1 at b
    metrics: dict[str, np.ndarray]  # float64 (points,) by name
    length: float  # |b - a|, in the parameters
    statistics: str  # of `jaxscape.landscape.options.STATISTICS`
    split: str | None  # "train" or "test" data; None: what the problem's own `evaluate` measures


class Barrier(NamedTuple):
    """How far a metric rises above the straight line between its values at two networks."""

    height: float  # at least 0; NaN where the metric is
    t: float  # where
    metric: str
    line: Line


def line(
    problem: Problem,
    a: PyTree,
    b: PyTree,
    *,
    t: Sequence[float] | np.ndarray = ALONG,
    **how: Unpack[Options],
) -> Line:
    """Evaluate networks on the straight line through two networks, (1 - t) a + t b (Goodfellow et al. 2015).

    Args:
        problem: whose metrics they are.
        a: the parameters of a network; likewise
        b: of another.
        t: where, two points or more, increasing; 0 is `a` and 1 is `b`, exactly.
        how: `model_state` of both or `model_states`, the two; `statistics`, `split`, `batch_size`, `metrics`,
            `strategy` and `devices`, as in `evaluate_points`.

    Raises:
        TypeError, ValueError: as `plane` and `surface`.

    Reference:
        Goodfellow, Vinyals and Saxe, "Qualitatively characterizing neural network optimization problems", ICLR 2015.
    """
    through = plane(a, b)
    found = surface(problem, through, check_range("t", t), **how)
    return Line(found.x, found.metrics, distance(a, b), found.statistics, found.split)


def barrier(
    problem: Problem,
    a: PyTree,
    b: PyTree,
    *,
    metric: str | None = None,
    t: Sequence[float] | np.ndarray = BETWEEN,
    larger_is_better: bool | None = None,
    **how: Unpack[Options],
) -> Barrier:
    """Return the height of the barrier between two networks, on the straight line.

    The height is the largest metric(t) - ((1 - t) metric(0) + t metric(1)) for t from 0 to 1 (Entezari et al. 2022),
    so that networks of unequal loss without a barrier have the height 0. Of a metric that is better when it is larger,
    such as an accuracy, it is the largest drop below that line.

    Args:
        problem: whose metrics they are.
        a: the parameters of a network; likewise
        b: of another.
        metric: its name, and the line then has this metric alone; by default "loss", or "train_loss" where there is
            no such metric, beside all others. `line_barrier` takes several from one line.
        t: where the line is evaluated, from 0 to 1, increasing.
        larger_is_better: whether the barrier is a drop; by default of metrics whose names end in "accuracy".
        how: as in `line`.

    Raises:
        TypeError, ValueError: as `line`; for a t that does not go from 0 to 1; and for an unknown metric (lists the
            known).

    References:
        Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020;
        Entezari et al., "The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks", ICLR 2022.
    """
    t = check_range("t", t)
    if t[0] != 0 or t[-1] != 1:
        raise ValueError(f"t must go from 0 to 1, got {t[0]} to {t[-1]}")
    if metric is not None and how.get("metrics") is None:
        how = {**how, "metrics": (metric,)}
    found = line(problem, a, b, t=t, **how)
    return line_barrier(found, metric=metric, larger_is_better=larger_is_better)


def line_barrier(line: Line, *, metric: str | None = None, larger_is_better: bool | None = None) -> Barrier:
    """Return the barrier of a metric on a line that was evaluated, between its points t = 0 and t = 1.

    Args:
        line: with points at 0 and at 1, and metrics; likewise
        metric: as in `barrier`; and
        larger_is_better: whether the barrier is a drop.

    Raises:
        ValueError: for an unknown metric (lists the known), or a line without these points.
    """
    name = _metric(metric, line.metrics)
    between = (line.t >= 0) & (line.t <= 1)
    t, values = line.t[between], line.metrics[name][between]
    if not len(t) or t[0] != 0 or t[-1] != 1:
        raise ValueError("line must have points at t = 0 and t = 1")
    if larger_is_better is None:
        larger_is_better = name.endswith("accuracy")
    # Infinite ends leave no line to rise above: NaN.
    with np.errstate(invalid="ignore"):
        rise = values - ((1 - t) * values[0] + t * values[-1])
    rise[[0, -1]] = np.where(np.isfinite(values[[0, -1]]), 0, np.nan)  # whatever rounding leaves
    rise = -rise if larger_is_better else rise
    place = int(np.argmax(rise))  # of NaN where there is any
    return Barrier(float(rise[place]) + 0.0, float(t[place]), name, line)


def _metric(metric: str | None, metrics: dict[str, np.ndarray]) -> str:
    for name in ("loss", "train_loss") if metric is None else (metric,):
        if name in metrics:
            return name
    raise ValueError(f"unknown metric {metric or 'loss'!r}; known: {', '.join(metrics)}")
