"""The data of a panel of a landscape figure: losses along a line or a path, on a plane, a spectrum, a diagram.

Only arrays, which are checked before anything is drawn. NaN and infinite losses are allowed: they are drawn as gaps,
and the figure says how many there are.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxscape.figures.panels import checked_column

type Array = NDArray[Any]


class LinePanel(NamedTuple):
    """Values along a straight line through two points, at 0 and 1."""

    title: str
    position: Array  # (n,) ascending
    curves: Mapping[str, Array]  # (n,) values by name
    ends: tuple[str, str] = ("0", "1")  # names of the two points
    barrier: str = ""  # the curve whose barrier is drawn; it needs finite values at 0 and 1
    statistics: str = ""  # batch-norm statistics along the line, for the note: "recalibrated", "interpolated", "kept"
    note: str = ""


class SurfacePanel(NamedTuple):
    """Values on a grid of a plane."""

    title: str
    x: Array  # (columns,) ascending
    y: Array  # (rows,) ascending
    values: Array  # (rows, columns)
    points: Mapping[str, tuple[float, float]] = {}  # marked positions (x, y) by name
    labels: tuple[str, str] = ("", "")  # of the two axes
    note: str = ""


class TrajectoryPanel(NamedTuple):
    """One or several trajectories projected on a plane, and their distance from it."""

    surface: SurfacePanel
    place: Array  # (m, 2) projected points
    outside: Array  # (m,) fraction of the distance from the plane's origin that lies outside the plane, 0 to 1
    epoch: Array  # (m,) ascending on each trajectory
    loss: Array  # (k,) at the points themselves
    plane_loss: Array  # (k,) at their projections on the plane
    unit: str = "epoch"
    member: Array | None = None  # (m,) the trajectory of each point; None if there is one
    rows: Array | None = None  # (k,) ascending, the points with known losses; all by default


class PathPanel(NamedTuple):
    """A quantity along a curve between two points, and along the straight line between them."""

    quantity: str  # for the vertical axis, such as "loss" or "error"
    position: Array  # (n,) ascending, from 0 to 1
    curve: Array  # (n,)
    straight: Array  # (n,)
    note: str = ""


class SpectrumPanel(NamedTuple):
    """The spectral density of a symmetric matrix, and single eigenvalues."""

    title: str
    value: Array  # (n,) ascending
    density: Array  # (n,) at least 0
    eigenvalues: Array  # (k,) the outermost ones
    note: str = ""


class PersistencePanel(NamedTuple):
    """Births and deaths of one dimension, and the lifetimes of shuffled losses."""

    title: str
    birth: Array  # (pairs,)
    death: Array  # (pairs,) infinity if a class never dies
    null: Array | None = None  # (draws, most) lifetimes of each draw, the longest first
    note: str = ""


def checked_line(panel: LinePanel) -> LinePanel:
    """Return the panel with arrays of floats.

    Raises:
        ValueError: for shapes that differ, positions that do not ascend, no curve, an unknown curve of the barrier, or
            one without a finite value at 0 and 1.
    """
    position = _ascending("position", panel.position, 2)
    if not panel.curves:
        raise ValueError(f"panel {panel.title!r} has no curves; give one or more")
    curves = {name: _column(f"curves[{name!r}]", each, len(position)) for name, each in panel.curves.items()}
    if panel.barrier and panel.barrier not in curves:
        raise ValueError(f"barrier must be one of {list(curves)}, got {panel.barrier!r}")
    panel = panel._replace(position=position, curves=curves)
    if panel.barrier:
        at_ends = [curves[panel.barrier][position == end] for end in (0, 1)]
        if not all(len(each) and np.isfinite(each).all() for each in at_ends):
            raise ValueError(f"barrier needs a finite value of {panel.barrier!r} at positions 0 and 1")
    return panel


def checked_surface(panel: SurfacePanel) -> SurfacePanel:
    """Return the panel with arrays of floats.

    Raises:
        ValueError: for shapes that do not fit, axes that do not ascend, no finite value, or points outside the grid.
    """
    x, y = _ascending("x", panel.x, 2), _ascending("y", panel.y, 2)
    values = np.asarray(panel.values, float)
    if values.shape != (len(y), len(x)):
        raise ValueError(f"values has shape {values.shape}; it needs {(len(y), len(x))}, one row for each y")
    if not np.isfinite(values).any():
        raise ValueError(f"panel {panel.title!r} has no finite value")
    for name, place in panel.points.items():
        across, up = checked_column(f"points[{name!r}]", place, 2, numeric=True)
        if not (x[0] <= across <= x[-1] and y[0] <= up <= y[-1]):
            raise ValueError(f"points[{name!r}] must lie on the grid, got ({across:g}, {up:g})")
    return panel._replace(x=x, y=y, values=values)


def checked_trajectory(panel: TrajectoryPanel) -> TrajectoryPanel:
    """Return the panel with arrays of floats.

    Raises:
        ValueError: as `checked_surface`; for columns of different lengths, fractions beyond 0 to 1, epochs that do not
            ascend on a trajectory, and rows that do not exist.
    """
    place = np.asarray(panel.place, float)
    if place.ndim != 2 or place.shape[1] != 2 or len(place) < 2 or not np.isfinite(place).all():
        raise ValueError(f"place must be finite, of shape (points, 2) for 2 points or more, got shape {place.shape}")
    member = np.zeros(len(place), int) if panel.member is None else np.asarray(panel.member)
    member = checked_column("member", member, len(place))
    epoch = checked_column("epoch", panel.epoch, len(place), numeric=True)
    for each in np.unique(member):
        _ascending("epoch", epoch[member == each], 1)
    outside = checked_column("outside", panel.outside, len(place), numeric=True)
    if outside.min() < 0 or outside.max() > 1:
        raise ValueError(f"outside must be from 0 to 1, got {outside.min():g} to {outside.max():g}")
    rows = np.arange(len(place)) if panel.rows is None else np.asarray(panel.rows)
    if rows.ndim != 1 or not len(rows) or rows.min() < 0 or rows.max() >= len(place) or np.any(np.diff(rows) <= 0):
        raise ValueError(f"rows must ascend from 0 to {len(place) - 1}, got {rows.tolist()!r:.60}")
    return panel._replace(
        surface=checked_surface(panel.surface),
        place=place,
        outside=outside,
        epoch=epoch,
        loss=_column("loss", panel.loss, len(rows)),
        plane_loss=_column("plane_loss", panel.plane_loss, len(rows)),
        member=member,
        rows=rows,
    )


def median_by_epoch(panel: TrajectoryPanel) -> tuple[Array, Array, Array]:
    """Return the epochs (e,) with known losses, and the medians (e,) of the losses at the points and on the plane.

    Args:
        panel: from `checked_trajectory`.
    """
    epoch = panel.epoch[panel.rows]
    epochs = np.unique(epoch)
    medians = [np.array([np.median(each[epoch == e]) for e in epochs]) for each in (panel.loss, panel.plane_loss)]
    return epochs, medians[0], medians[1]


def checked_path(panel: PathPanel) -> PathPanel:
    """Return the panel with arrays of floats.

    Raises:
        ValueError: for columns of different lengths, positions that do not ascend.
    """
    position = _ascending("position", panel.position, 2)
    curve, straight = (_column(name, getattr(panel, name), len(position)) for name in ("curve", "straight"))
    return panel._replace(position=position, curve=curve, straight=straight)


def checked_spectrum(panel: SpectrumPanel) -> SpectrumPanel:
    """Return the panel with arrays of floats.

    Raises:
        ValueError: for columns of different lengths, NaN, a density that is negative or 0 everywhere.
    """
    value = _ascending("value", panel.value, 2)
    density = checked_column("density", panel.density, len(value), numeric=True)
    if density.min() < 0 or density.max() == 0:
        raise ValueError(
            f"density must be at least 0, and above 0 somewhere, got {density.min():g} to {density.max():g}"
        )
    eigenvalues = np.asarray(panel.eigenvalues, float)
    return panel._replace(
        value=value,
        density=density,
        eigenvalues=checked_column("eigenvalues", eigenvalues, eigenvalues.size, numeric=True),
    )


def checked_persistence(panel: PersistencePanel) -> PersistencePanel:
    """Return the panel with arrays of floats.

    Raises:
        ValueError: for columns of different lengths, no pairs, births that are not finite, deaths before births, null
            lifetimes that are negative or not sorted.
    """
    birth = np.asarray(panel.birth, float)
    birth = checked_column("birth", birth, birth.size, numeric=True)
    death = _column("death", panel.death, len(birth))
    if not len(birth):
        raise ValueError(f"panel {panel.title!r} has no pairs")
    if np.isnan(death).any() or np.any(death < birth):
        raise ValueError("death must not be NaN or less than birth")
    if panel.null is None:
        return panel._replace(birth=birth, death=death)
    null = np.asarray(panel.null, float)
    if null.ndim != 2 or not len(null) or np.any(~np.isfinite(null) | (null < 0)) or np.any(np.diff(null) > 0):
        raise ValueError(f"null must have shape (draws, most), each row at least 0 and descending, got {null.shape}")
    return panel._replace(birth=birth, death=death, null=null)


def gaps(*columns: Array) -> int:
    """Return how many values are NaN or infinite."""
    return int(sum((~np.isfinite(each)).sum() for each in columns))


def height_above_chord(panel: LinePanel) -> tuple[float, float, Array]:
    """Return the position of the barrier, its height there, and the chord (n,) between the values at 0 and 1.

    The barrier is the largest excess, between 0 and 1, over the linear interpolation of the values at 0 and 1.

    Args:
        panel: from `checked_line`, with a barrier.
    """
    values, inside = panel.curves[panel.barrier], (panel.position >= 0) & (panel.position <= 1)
    first, last = (values[panel.position == end][0] for end in (0, 1))
    chord = first + panel.position * (last - first)
    above = np.where(inside & np.isfinite(values), values - chord, -np.inf)
    highest = int(np.argmax(above))
    return float(panel.position[highest]), float(above[highest]), chord


def _column(name: str, column: ArrayLike, n: int) -> Array:
    """Return the column as `checked_column` does, but allow NaN and infinity."""
    array = np.asarray(column, float)
    checked_column(name, np.zeros(array.shape), n)
    return array


def _ascending(name: str, column: ArrayLike, least: int) -> Array:
    array = np.asarray(column, float)
    array = checked_column(name, array, array.size, numeric=True)
    if len(array) < least or np.any(np.diff(array) <= 0):
        raise ValueError(f"{name} must ascend and have at least {least} values, got {array.tolist()!r:.60}")
    return array
