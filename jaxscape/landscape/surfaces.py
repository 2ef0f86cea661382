"""Metrics on a grid of points on a plane or a line."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
from jaxtyping import Bool, Float64, Real

from jaxscape.landscape.options import Options, split_of
from jaxscape.landscape.planes import Plane, plane_weights
from jaxscape.landscape.points import points_evaluator
from jaxscape.problem import Problem

PyTree = Any


class Surface(NamedTuple):
    """Metrics on a grid; on a line arrays have no axis y."""

    x: Float64[np.ndarray, " x"]
    y: Float64[np.ndarray, " y"] | None  # None on a line
    metrics: dict[str, Float64[np.ndarray, "*y x"]]  # by name; NaN if not evaluated, or if the metric is NaN
    done: Bool[np.ndarray, "*y x"]  # which points were evaluated
    statistics: str  # a key of `jaxscape.landscape.options.STATISTICS`: the running statistics used
    split: str | None  # "train" or "test" data; None: the problem's own `evaluate`


def surface(
    problem: Problem,
    plane: Plane,
    x: Sequence[float] | Real[np.ndarray, " x"],
    y: Sequence[float] | Real[np.ndarray, " y"] | None = None,
    *,
    done: Surface | None = None,
    on_rows: Callable[[Surface], None] | None = None,
    **options: Unpack[Options],
) -> Surface:
    """Evaluate the points of a grid on a plane, one row of y after the other.

    Args:
        problem: the problem whose metrics are evaluated.
        plane: the result of `plane`, `filter_plane` or `trajectory_plane`.
        x: coordinates on the first axis, two or more, increasing.
        y: coordinates on the second axis, two or more, increasing; None for a line.
        done: an earlier surface of the same grid and options; its evaluated points are kept, and only the others are
            evaluated.
        on_rows: called with the surface so far whenever points have been evaluated, for example to save or show it. An
            exception that it raises ends the evaluation.
        options: `model_state`, `model_states` (one per network that spans the plane), `statistics`, `split`,
            `batch_size`, `metrics`, `strategy` and `devices`; see `evaluate_points`.

    Returns:
        A surface with all points evaluated. A NaN or infinite point does not affect the others.

    Raises:
        TypeError: see `evaluate_points`.
        ValueError: if x or y has fewer than 2 points, does not increase or is not finite; if y is given for a line or
            missing for a plane; if `done` has another grid or other options; for interpolated statistics on a plane
            along directions; see also `evaluate_points`.
    """
    check_plane(plane)
    x = check_range("x", x)
    if (y is None) != (plane.num_axes == 1):
        raise ValueError(f"y must be {'None on a line' if y is not None else 'given on a plane, which has two axes'}")
    y = None if y is None else check_range("y", y)
    check_corners(plane, options)
    evaluator = points_evaluator(problem, plane.vectors, **options)
    split = split_of(problem, options.get("split"))
    grid = x[:, None] if y is None else np.stack([each.ravel() for each in np.meshgrid(x, y)], axis=1)
    shape = (len(x),) if y is None else (len(y), len(x))
    result = Surface(x, y, {}, np.zeros(shape, bool), evaluator.statistics, split)
    if done is not None:
        _check_done(done, result, evaluator.names)
        evaluated = {name: np.array(values, np.float64) for name, values in done.metrics.items()}
        result = result._replace(metrics=evaluated, done=np.array(done.done, bool))
    missing = np.flatnonzero(~result.done.ravel())
    if not len(missing):
        return result
    weights = plane_weights(plane, grid[missing])
    for rows, metrics in evaluator.chunks(weights, len(weights)):
        for name, values in metrics.items():
            metric = result.metrics.setdefault(name, np.full(shape, np.nan))
            metric.ravel()[missing[rows]] = values  # ravel returns a view
        result.done.ravel()[missing[rows]] = True
        if on_rows is not None:
            on_rows(_copy(result))
    return result


def check_range(name: str, values: Any, *, least: int = 2) -> Float64[np.ndarray, " points"]:
    """Return coordinates along an axis.

    Raises:
        ValueError: if there are fewer than `least`, or they do not increase or are not finite.
    """
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers, got {values!r:.100}") from None
    if array.ndim != 1 or len(array) < least:
        raise ValueError(f"{name} must be {least} or more numbers, got shape {array.shape}")
    if not np.isfinite(array).all() or not np.all(np.diff(array) > 0):
        raise ValueError(f"{name} must be increasing finite numbers, got {values!s:.100}")
    return array


def check_plane(plane: Any) -> None:
    """Raise an error if the argument is not a `Plane`.

    Raises:
        TypeError: names the type of the argument.
    """
    if not isinstance(plane, Plane):
        raise TypeError(f"plane must be a Plane, such as from plane or filter_plane, got {type(plane).__name__}")


def check_corners(plane: Plane, options: Options) -> None:
    """Raise an error if interpolated statistics are requested on a plane that is not spanned by networks.

    Raises:
        ValueError: says what to use instead.
    """
    interpolated = options.get("statistics") == "interpolated" or options.get("model_states") is not None
    if interpolated and not len(plane.corners):
        raise ValueError(
            f"statistics can only be interpolated between networks, and a plane along {plane.kind} has none at its "
            'corners; use "recalibrated" or "kept", and one model_state'
        )


def _check_done(done: Surface, new: Surface, names: tuple[str, ...] | None) -> None:
    for name in ("x", "y"):
        old_values, new_values = getattr(done, name), getattr(new, name)
        if (old_values is None) != (new_values is None) or (
            old_values is not None and not np.array_equal(old_values, new_values)
        ):
            raise ValueError(f"done must have the same grid, but its {name} differs")
    for name in ("statistics", "split"):
        if getattr(done, name) != getattr(new, name):
            raise ValueError(f"done has {name} {getattr(done, name)!r}, but {getattr(new, name)!r} is requested")
    shapes = {np.shape(values) for values in (done.done, *done.metrics.values())}
    if shapes != {new.done.shape}:
        raise ValueError(f"done must have arrays of shape {new.done.shape}, got {sorted(shapes)}")
    if done.done.any() and names is not None and set(done.metrics) != set(names):
        raise ValueError(f"done has the metrics {', '.join(done.metrics)}, but {', '.join(names)} are requested")


def _copy(surface: Surface) -> Surface:
    metrics = {name: values.copy() for name, values in surface.metrics.items()}
    return surface._replace(metrics=metrics, done=surface.done.copy())
