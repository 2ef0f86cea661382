"""What a panel shows: the coordinates or distances of one minimum's trajectories, and a label a row.

Whatever a caller gives is checked here, before anything is drawn.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxscape.figures.palette import Palette, make_palette, rounded_step_size

type Array = NDArray[Any]
# How trajectories begin: a jump is a diamond of its step size; initial parameters, or the first ones that were
# recorded, are a golden star.
type Begin = Literal["jump", "initial", "first"]
BEGINS = ("jump", "initial", "first")


class Panel(NamedTuple):
    """Trajectories, of copies of one minimum or of networks; the labels are (n,), a value a row of the embedding."""

    title: str  # its lines stay lines
    embedding: Array  # (n, 2) or (n, 3)
    seed: Array  # what the hue stands for: the direction of the jump, or another label
    epoch: Array
    member: Array
    step_size: Array | None = None  # where they begin with a jump
    minimum: Array | None = None  # (2,) or (3,), where the minimum was embedded too
    note: str = ""  # a line under the panels of this minimum
    hue: str = "direction"  # the legend's word for the labels `seed`
    begin: Begin = "jump"
    unit: str = "epoch"  # of the numbers `epoch`


class DistancePanel(NamedTuple):
    """The distances of one minimum's trajectories from it; every array is (n,), a value a row."""

    title: str
    distance: Array  # as a share of the jump: 1 at epoch 0
    seed: Array
    epoch: Array
    member: Array
    step_size: Array | None = None
    null: Array | None = None  # the same of null trajectories with the same labels
    unit: str = "epoch"


class Surrogate(NamedTuple):
    """Surrogate trajectories with the labels of the real ones; arrays are (n,), a value a row."""

    label: str
    distance: Array
    angle: Array


class ExactPanel(NamedTuple):
    """Trajectories as seen from the minimum; every array is (n,), a value a row."""

    title: str
    distance: Array  # from the minimum, in any unit
    angle: Array  # between the displacements of the row and of its start, radians from 0 to pi
    seed: Array  # the direction of the jump
    epoch: Array
    member: Array
    step_size: Array | None = None
    surrogates: Sequence[Surrogate] = ()
    unit: str = "epoch"


def checked_panel(panel: Panel) -> Panel:
    """The panel with its columns as arrays.

    Raises:
        ValueError: lengths that differ, no rows, NaN, a row named twice.
    """
    panel = panel._replace(embedding=np.asarray(panel.embedding, float))
    shape = panel.embedding.shape
    if len(shape) != 2 or shape[1] not in (2, 3):
        raise ValueError(f"embedding has shape {shape}; allowed are (n, 2) and (n, 3)")
    _check_finite("embedding", panel.embedding)
    if panel.minimum is not None:
        panel = panel._replace(minimum=checked_column("minimum", panel.minimum, shape[1], numeric=True))
    return _with_checked_labels(panel, shape[0])


def checked_distances(panel: DistancePanel) -> DistancePanel:
    """As `checked_panel`."""
    n = len(panel.distance)
    panel = panel._replace(distance=checked_column("distance", panel.distance, n, numeric=True))
    if panel.null is not None:
        panel = panel._replace(null=checked_column("null", panel.null, n, numeric=True))
    return _with_checked_labels(panel, n)


def check_exact(panel: ExactPanel) -> ExactPanel:
    """Return the panel with its columns as arrays.

    Raises:
        ValueError: lengths that differ, no rows, NaN, a row named twice, a start at the minimum itself.
    """
    n = len(panel.distance)
    panel = panel._replace(**_checked_places("", panel.distance, panel.angle, n))
    surrogates = tuple(
        surrogate._replace(**_checked_places(f"{surrogate.label}: ", surrogate.distance, surrogate.angle, n))
        for surrogate in panel.surrogates
    )
    panel = _with_checked_labels(panel._replace(surrogates=surrogates), n)
    starts = np.array([rows[0] for rows in rows_by_member(panel).values()])
    if np.any(panel.distance[starts] == 0):
        raise ValueError(f"panel {panel.title!r} has trajectories that start at the minimum; leave them out")
    return panel


def checked_column(name: str, column: ArrayLike, n: int, *, numeric: bool = False) -> Array:
    """The column as an array (n,); refuses other lengths, NaN and infinity."""
    array = np.asarray(column, float) if numeric else np.asarray(column)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}; ({n},) is needed")
    if array.dtype.kind == "f":
        _check_finite(name, array)
    return array


def shared_palette(panels: Sequence[Panel] | Sequence[DistancePanel] | Sequence[ExactPanel]) -> Palette:
    """The palette of all the rows of all the panels.

    Raises:
        ValueError: no panels.
    """
    if not panels:
        raise ValueError("panels is empty; give one or more")
    labels = ("seed", "epoch")
    seed, epoch = (np.concatenate([getattr(panel, name) for panel in panels]) for name in labels)
    return make_palette(seed, np.concatenate([step_sizes(panel) for panel in panels]), epoch)


def step_sizes(panel: Panel | DistancePanel | ExactPanel) -> Array:
    """The step size of each row; 0 where nothing was thrown."""
    return np.zeros(len(panel.member)) if panel.step_size is None else panel.step_size


def rows_by_member(panel: Panel | DistancePanel | ExactPanel) -> dict[Hashable, NDArray[np.intp]]:
    """The rows of each member, in the order of epochs."""
    order = np.argsort(panel.epoch, kind="stable")
    return {member: order[panel.member[order] == member] for member in np.unique(panel.member).tolist()}


def _with_checked_labels[P: (Panel, DistancePanel, ExactPanel)](panel: P, n: int) -> P:
    if not n:
        raise ValueError(f"panel {panel.title!r} has no rows")
    panel = panel._replace(
        seed=checked_column("seed", panel.seed, n),
        step_size=rounded_step_size(checked_column("step_size", step_sizes(panel), n, numeric=True)),
        epoch=checked_column("epoch", panel.epoch, n, numeric=True),
        member=checked_column("member", panel.member, n),
    )
    if len(set(zip(panel.member.tolist(), panel.epoch.tolist(), strict=True))) < n:
        raise ValueError("member and epoch name some row twice; a member has one row an epoch")
    return panel


def _checked_places(prefix: str, distance: Array, angle: Array, n: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "distance": checked_column(f"{prefix}distance", distance, n, numeric=True),
        "angle": checked_column(f"{prefix}angle", angle, n, numeric=True),
    }
    if found["distance"].min(initial=0) < 0:
        raise ValueError(f"{prefix}distance must be at least 0, got {found['distance'].min():g}")
    if found["angle"].min(initial=0) < 0 or found["angle"].max(initial=0) > np.pi:
        raise ValueError(
            f"{prefix}angle must be from 0 to pi, got {found['angle'].min():g} to {found['angle'].max():g}"
        )
    return found


def _check_finite(name: str, array: Array) -> None:
    bad = int(np.sum(~np.isfinite(array)))
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or infinite values; leave out the members that diverged")
