"""The metrics on a grid of points of a plane, or of a line."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np

from jaxscape.landscape.options import Options, split_of
from jaxscape.landscape.planes import Plane, plane_weights
from jaxscape.landscape.points import points_evaluator
from jaxscape.problem import Problem

PyTree = Any


class Surface(NamedTuple):
    """Metrics on a grid; shape is (len(y), len(x)), or (len(x),) on a line."""

    x: np.ndarray  # float64
    y: np.ndarray | None  # float64; None on a line
    metrics: dict[str, np.ndarray]  # float64 [shape] by name; NaN where it is not done, and where the metric is NaN
    done: np.ndarray  # bool [shape]: which points were evaluated
    statistics: str  # of `jaxscape.landscape.options.STATISTICS`: the running statistics behind the metrics
    split: str | None  # "train" or "test" data; None: what the problem's own `evaluate` measures


def surface(
    problem: Problem,
    plane: Plane,
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray | None = None,
    *,
    done: Surface | None = None,
    on_rows: Callable[[Surface], None] | None = None,
    **how: Unpack[Options],
) -> Surface:
    """Evaluate the points of a grid on a plane, row by row of y.

    Args:
        problem: whose metrics they are.
        plane: of `plane`, `filter_plane` or `trajectory_plane`.
        x: coordinates, two or more, increasing.
        y: likewise, of a plane; None for a line.
        done: an earlier surface of the same grid and options, whose points are kept as they are; the others are
            evaluated.
        on_rows: called with the surface so far whenever points have come, which it may write down and show. What it
            raises ends the evaluation.
        how: `model_state`, `model_states` (of the networks that the plane goes through), `statistics`, `split`,
            `batch_size`, `metrics`, `strategy` and `devices`, as in `evaluate_points`.

    Returns:
        All points done. One that is NaN or infinite is one value.

    Raises:
        TypeError: as `evaluate_points`.
        ValueError: for ranges of fewer than 2 points, that do not increase, or are not finite; a y that the plane
            does not have, or lacks; `done` of another grid or other options; interpolated statistics of a plane that
            goes through no networks; and as `evaluate_points`.
    """
    check_plane(plane)
    x = check_range("x", x)
    if (y is None) != (plane.num_axes == 1):
        raise ValueError(f"y must be {'None on a line' if y is not None else 'given on a plane, which has two axes'}")
    y = None if y is None else check_range("y", y)
    check_corners(plane, how)
    evaluator = points_evaluator(problem, plane.vectors, **how)
    split = split_of(problem, how.get("split"))
    grid = x[:, None] if y is None else np.stack([each.ravel() for each in np.meshgrid(x, y)], axis=1)
    shape = (len(x),) if y is None else (len(y), len(x))
    found = Surface(x, y, {}, np.zeros(shape, bool), evaluator.statistics, split)
    if done is not None:
        _check_done(done, found, evaluator.names)
        kept = {name: np.array(values, np.float64) for name, values in done.metrics.items()}
        found = found._replace(metrics=kept, done=np.array(done.done, bool))
    missing = np.flatnonzero(~found.done.ravel())
    if not len(missing):
        return found
    weights = plane_weights(plane, grid[missing])
    for rows, metrics in evaluator.chunks(weights, len(weights)):
        for name, values in metrics.items():
            of_name = found.metrics.setdefault(name, np.full(shape, np.nan))
            of_name.ravel()[missing[rows]] = values  # a view
        found.done.ravel()[missing[rows]] = True
        if on_rows is not None:
            on_rows(_copy(found))
    return found


def check_range(name: str, values: Any, *, least: int = 2) -> np.ndarray:
    """Return coordinates along an axis as float64.

    Raises:
        ValueError: for fewer than `least`, or such as do not increase or are not finite.
    """
    try:
        found = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers, got {values!r:.100}") from None
    if found.ndim != 1 or len(found) < least:
        raise ValueError(f"{name} must be {least} or more numbers, got shape {found.shape}")
    if not np.isfinite(found).all() or not np.all(np.diff(found) > 0):
        raise ValueError(f"{name} must be finite numbers that increase, got {values!s:.100}")
    return found


def check_plane(plane: Any) -> None:
    """Raise an error for what is no plane.

    Raises:
        TypeError: says what it is.
    """
    if not isinstance(plane, Plane):
        raise TypeError(f"plane must be a Plane, as from plane or filter_plane, got {type(plane).__name__}")


def check_corners(plane: Plane, how: Options) -> None:
    """Raise an error where statistics cannot be interpolated, since a plane goes along directions.

    Raises:
        ValueError: says which planes can.
    """
    if (how.get("statistics") == "interpolated" or how.get("model_states") is not None) and not len(plane.corners):
        raise ValueError(
            f"statistics can be interpolated between networks, and a plane of {plane.kind} goes through none; take "
            '"recalibrated" or "kept", and one model_state'
        )


def _check_done(done: Surface, asked: Surface, names: tuple[str, ...] | None) -> None:
    for name in ("x", "y"):
        was, now = getattr(done, name), getattr(asked, name)
        if (was is None) != (now is None) or (was is not None and not np.array_equal(was, now)):
            raise ValueError(f"done must be of the same grid, and its {name} is another")
    for name in ("statistics", "split"):
        if getattr(done, name) != getattr(asked, name):
            raise ValueError(f"done has {name} {getattr(done, name)!r}, and {getattr(asked, name)!r} is asked for")
    shapes = {np.shape(values) for values in (done.done, *done.metrics.values())}
    if shapes != {asked.done.shape}:
        raise ValueError(f"done must have arrays of shape {asked.done.shape}, got {sorted(shapes)}")
    if done.done.any() and names is not None and set(done.metrics) != set(names):
        raise ValueError(f"done has the metrics {', '.join(done.metrics)}, and {', '.join(names)} are asked for")


def _copy(surface: Surface) -> Surface:
    metrics = {name: values.copy() for name, values in surface.metrics.items()}
    return surface._replace(metrics=metrics, done=surface.done.copy())
