"""Metrics along the straight line between two networks, and the barrier between them."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
from jaxtyping import Float64, Real

from jaxscape.landscape.options import Options
from jaxscape.landscape.planes import distance, plane
from jaxscape.landscape.surfaces import check_range, surface
from jaxscape.problem import Problem

PyTree = Any

LINE_POINTS = np.linspace(-0.5, 1.5, 51)
BARRIER_POINTS = np.linspace(0, 1, 25)


class Line(NamedTuple):
    """Metrics along (1 - t) a + t b."""

    t: Float64[np.ndarray, " points"]  # 0 at a and 1 at b
    metrics: dict[str, Float64[np.ndarray, " points"]]  # by name
    length: float  # |b - a|, the euclidean distance in parameter space
    statistics: str  # a key of `jaxscape.landscape.options.STATISTICS`
    split: str | None  # "train" or "test" data; None: the problem's own `evaluate`


class Barrier(NamedTuple):
    """The largest rise of a metric above the linear interpolation of its values at two networks."""

    height: float  # at least 0; NaN if the metric is NaN anywhere
    t: float  # position of the largest rise
    metric: str
    line: Line


def line(
    problem: Problem,
    a: PyTree,
    b: PyTree,
    *,
    t: Sequence[float] | Real[np.ndarray, " points"] = LINE_POINTS,
    **options: Unpack[Options],
) -> Line:
    """Evaluate networks on the straight line through two networks, (1 - t) a + t b (Goodfellow et al. 2015).

    Args:
        problem: the problem whose metrics are evaluated.
        a: the parameters of one network, or a model; see `Problem.split_model`.
        b: the parameters of another network, or a model.
        t: positions on the line, two or more, increasing; 0 is exactly `a` and 1 is exactly `b`.
        options: `model_state` for both networks, or `model_states`, one for each, by default those of the models, if
            they hold one; `statistics`, `split`, `batch_size`, `metrics`, `strategy` and `devices`; see
            `evaluate_points`.

    Raises:
        TypeError, ValueError: see `plane` and `surface`.

    Reference:
        Goodfellow, Vinyals and Saxe, "Qualitatively characterizing neural network optimization problems", ICLR 2015.
    """
    (a, state_a), (b, state_b) = problem.split_model(a), problem.split_model(b)
    if state_a is not None and state_b is not None and not {"model_state", "model_states"} & options.keys():
        options["model_states"] = state_a, state_b
    values = surface(problem, plane(a, b), check_range("t", t), **options)
    return Line(values.x, values.metrics, distance(a, b), values.statistics, values.split)


def barrier(
    problem: Problem,
    a: PyTree,
    b: PyTree,
    *,
    metric: str | None = None,
    t: Sequence[float] | Real[np.ndarray, " points"] = BARRIER_POINTS,
    larger_is_better: bool | None = None,
    **options: Unpack[Options],
) -> Barrier:
    """Return the barrier between two networks along the straight line.

    Its height is the largest metric(t) - ((1 - t) metric(0) + t metric(1)) for t from 0 to 1 (Entezari et al. 2022),
    so that two networks of unequal loss without a barrier have height 0. For a metric that is better when it is larger,
    such as an accuracy, the height is the largest drop below this linear interpolation.

    Args:
        problem: the problem whose metrics are evaluated.
        a: the parameters of one network.
        b: the parameters of another network.
        metric: name of the metric, and the only one that is evaluated; by default all are evaluated, and the barrier is
            that of "loss", or of "train_loss" if there is no "loss". `line_barrier` takes several from one line.
        t: positions at which the line is evaluated, from 0 to 1, increasing.
        larger_is_better: whether the barrier is a drop; by default for metrics whose names end in "accuracy".
        options: see `line`.

    Raises:
        TypeError, ValueError: see `line`; also if t does not go from 0 to 1, or the metric is unknown (lists the known
            ones).

    References:
        Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020;
        Entezari et al., "The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks", ICLR 2022.
    """
    t = check_range("t", t)
    if t[0] != 0 or t[-1] != 1:
        raise ValueError(f"t must go from 0 to 1, got {t[0]} to {t[-1]}")
    if metric is not None and options.get("metrics") is None:
        options = {**options, "metrics": (metric,)}
    evaluated = line(problem, a, b, t=t, **options)
    return line_barrier(evaluated, metric=metric, larger_is_better=larger_is_better)


def line_barrier(line: Line, *, metric: str | None = None, larger_is_better: bool | None = None) -> Barrier:
    """Return the barrier of a metric on an evaluated line, between its points t = 0 and t = 1.

    Args:
        line: an evaluated line that includes the points t = 0 and t = 1.
        metric: name of the metric; see `barrier`.
        larger_is_better: whether the barrier is a drop; see `barrier`.

    Raises:
        ValueError: if the metric is unknown (lists the known ones), or the line lacks these points.
    """
    name = _metric(metric, line.metrics)
    between = (line.t >= 0) & (line.t <= 1)
    t, values = line.t[between], line.metrics[name][between]
    if not len(t) or t[0] != 0 or t[-1] != 1:
        raise ValueError("line must have points at t = 0 and t = 1")
    if larger_is_better is None:
        larger_is_better = name.endswith("accuracy")
    # With infinite values at the ends there is no interpolation to rise above: NaN.
    with np.errstate(invalid="ignore"):
        rise = values - ((1 - t) * values[0] + t * values[-1])
    rise[[0, -1]] = np.where(np.isfinite(values[[0, -1]]), 0, np.nan)  # exactly zero, without rounding errors
    rise = -rise if larger_is_better else rise
    index = int(np.argmax(rise))  # that of a NaN if there is one
    return Barrier(float(rise[index]) + 0.0, float(t[index]), name, line)


def _metric(metric: str | None, metrics: dict[str, Float64[np.ndarray, " points"]]) -> str:
    for name in ("loss", "train_loss") if metric is None else (metric,):
        if name in metrics:
            return name
    raise ValueError(f"unknown metric {metric or 'loss'!r}; known: {', '.join(metrics)}")
