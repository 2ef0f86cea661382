"""The data of a panel: coordinates or distances of one minimum's trajectories, with labels for each row.

All input is checked here, before anything is drawn.
"""

from collections.abc import Hashable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from jaxscape.figures.palette import Palette, make_palette, rounded_step_size

type Array = NDArray[Any]
# The start of trajectories: a jump is a diamond coloured by its step size; initial parameters, or the first recorded
# ones, are a golden star.
type Begin = Literal["jump", "initial", "first"]
BEGINS = ("jump", "initial", "first")
# The reference point of the distances in the exact views, marked by a star.
REFERENCES: dict[Begin, str] = {
    "jump": "minimum",
    "initial": "initial parameters",
    "first": "first recorded step",
}


class Panel(NamedTuple):
    """Trajectories of copies of one minimum or of networks; the labels are (n,), one value per row of the embedding."""

    title: str  # only the name; at most three lines are drawn
    embedding: Array  # (n, 2) or (n, 3)
    seed: Array  # label shown by the hue: the direction of the jump, or another one
    epoch: Array
    member: Array
    step_size: Array | None = None  # if they begin with a jump
    minimum: Array | None = None  # (2,) or (3,), if the minimum was embedded too
    note: str = ""  # a line under the panels of this minimum
    hue: str = "direction"  # name of the labels `seed` in the legend
    begin: Begin = "jump"
    unit: str = "epoch"  # of the numbers `epoch`
    # The connected component of each row, ints (n,), if the embedded graph has several: each is drawn in a box of its
    # own, because their relative positions have no meaning.
    component: Array | None = None
    minimum_component: int | None = None  # component of the minimum, if both are given


class DistancePanel(NamedTuple):
    """The distances of one minimum's trajectories from it; every array is (n,), one value per row."""

    title: str
    distance: Array  # in units of the jump: 1 at epoch 0
    seed: Array
    epoch: Array
    member: Array
    step_size: Array | None = None
    null: Array | None = None  # distances of null trajectories with the same labels
    unit: str = "epoch"
    note: str = ""  # under the panel


class Surrogate(NamedTuple):
    """Surrogate trajectories with the labels of the real ones; arrays are (n,), one value per row."""

    label: str
    distance: Array
    angle: Array
    is_random: bool = True  # drawn dashed; what is computed without a draw, such as weight decay alone, is dotted


class ExactPanel(NamedTuple):
    """Trajectories relative to one reference point each; every array is (n,), one value per row.

    For perturbed copies (begin "jump") the reference is the minimum, and angles are those with the jump. For all
    others it is their own first point: the distance there is 0, and angles are those with the final displacement.
    """

    title: str  # only the name
    distance: Array  # from the minimum, or from the trajectory's own first point
    angle: Array  # between the displacement of the row and that of the start, or of the end; radians from 0 to pi
    seed: Array  # label shown by the hue: the direction of the jump, or another one
    epoch: Array
    member: Array
    step_size: Array | None = None
    surrogates: Sequence[Surrogate] = ()
    unit: str = "epoch"  # of the numbers `epoch`
    note: str = ""  # under the panel
    hue: str = "direction"  # name of the labels `seed` in the legend
    begin: Begin = "jump"
    length: str = ""  # name of the unit of the distances


def checked_panel(panel: Panel) -> Panel:
    """Return the panel with its columns as arrays.

    Raises:
        ValueError: for lengths that differ, no rows, NaN, or duplicate rows.
    """
    panel = panel._replace(embedding=np.asarray(panel.embedding, float))
    shape = panel.embedding.shape
    if len(shape) != 2 or shape[1] not in (2, 3):
        raise ValueError(f"embedding has shape {shape}; allowed are (n, 2) and (n, 3)")
    _check_finite("embedding", panel.embedding)
    if panel.minimum is not None:
        panel = panel._replace(minimum=checked_column("minimum", panel.minimum, shape[1], numeric=True))
    if panel.component is not None:
        panel = panel._replace(component=checked_column("component", panel.component, shape[0]))
        if panel.minimum is not None and panel.minimum_component is None:
            raise ValueError("minimum_component is None; it must be the component of the minimum")
    return _with_checked_labels(panel, shape[0])


def checked_distances(panel: DistancePanel) -> DistancePanel:
    """Return the panel with its columns as arrays; errors as in `checked_panel`."""
    n = len(panel.distance)
    panel = panel._replace(distance=checked_column("distance", panel.distance, n, numeric=True))
    if panel.null is not None:
        panel = panel._replace(null=checked_column("null", panel.null, n, numeric=True))
    return _with_checked_labels(panel, n)


def check_exact(panel: ExactPanel) -> ExactPanel:
    """Return the panel with its columns as arrays.

    Raises:
        ValueError: for lengths that differ, no rows, NaN, duplicate rows, an unknown beginning, a copy that starts at
            the minimum itself, or a trajectory with another reference that does not start there or ends there.
    """
    if panel.begin not in BEGINS:
        raise ValueError(f"begin is {panel.begin!r}; choose one of {list(BEGINS)}")
    n = len(panel.distance)
    panel = panel._replace(**_checked_places("", panel.distance, panel.angle, n))
    surrogates = tuple(
        surrogate._replace(**_checked_places(f"{surrogate.label}: ", surrogate.distance, surrogate.angle, n))
        for surrogate in panel.surrogates
    )
    panel = _with_checked_labels(panel._replace(surrogates=surrogates), n)
    starts, ends = np.array([rows[[0, -1]] for rows in rows_by_member(panel).values()]).T
    if panel.begin == "jump" and np.any(panel.distance[starts] == 0):
        raise ValueError(f"panel {panel.title!r} has trajectories that start at the minimum; leave them out")
    if panel.begin != "jump" and np.any(panel.distance[starts] != 0):
        raise ValueError(
            f"panel {panel.title!r} begins with {panel.begin!r}, and has trajectories whose distance from their own "
            "first point does not start at 0"
        )
    if panel.begin != "jump" and np.any(panel.distance[ends] == 0):
        raise ValueError(f"panel {panel.title!r} has trajectories that end where they started; leave them out")
    return panel


def checked_column(name: str, column: ArrayLike, n: int, *, numeric: bool = False) -> Array:
    """Return the column as an array (n,); raise an error for other lengths, NaN and infinity."""
    array = np.asarray(column, float) if numeric else np.asarray(column)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}; it needs ({n},)")
    if array.dtype.kind == "f":
        _check_finite(name, array)
    return array


def shared_palette(panels: Sequence[Panel] | Sequence[DistancePanel] | Sequence[ExactPanel]) -> Palette:
    """Return one palette for all rows of all panels.

    Raises:
        ValueError: for no panels.
    """
    if not panels:
        raise ValueError("panels is empty; give one or more")
    labels = ("seed", "epoch")
    seed, epoch = (np.concatenate([getattr(panel, name) for panel in panels]) for name in labels)
    return make_palette(seed, np.concatenate([step_sizes(panel) for panel in panels]), epoch)


def step_sizes(panel: Panel | DistancePanel | ExactPanel) -> Array:
    """Return the step size of each row, or 0 if the members were not perturbed."""
    return np.zeros(len(panel.member)) if panel.step_size is None else panel.step_size


def progress(panel: Panel | ExactPanel, palette: Palette) -> NDArray[np.float64]:
    """Return the progress of each row, from 0 to 1, which the shade shows.

    Copies of a minimum are all retrained for the same number of epochs, so the shades of all panels of a figure mean
    the same epochs. Other trajectories may have different lengths: the progress of each runs from its first row to its
    last.
    """
    if panel.begin == "jump":
        return np.asarray(panel.epoch / (palette.last_epoch or 1))
    shares = np.zeros(len(panel.epoch))
    for rows in rows_by_member(panel).values():
        epochs = panel.epoch[rows]
        shares[rows] = (epochs - epochs[0]) / ((epochs[-1] - epochs[0]) or 1)
    return shares


def shading_words(panels: Sequence[Panel] | Sequence[ExactPanel]) -> str:
    """Return the legend's text for the shades."""
    unit = panels[0].unit
    spans = {
        (panel.epoch[rows[0]].item(), panel.epoch[rows[-1]].item())
        for panel in panels
        for rows in rows_by_member(panel).values()
    }
    last = max(end for _, end in spans)
    if panels[0].begin == "jump":
        return f"{unit} 0 to {last:g}"
    (first, end), *others = spans
    return f"first to last {unit} of each" if others else f"{unit} {first:g} to {end:g}"


def rows_by_member(panel: Panel | DistancePanel | ExactPanel) -> dict[Hashable, NDArray[np.intp]]:
    """Return the rows of each member, in the order of epochs."""
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
        raise ValueError("member and epoch must be unique together; a member has one row per epoch")
    return panel


def _checked_places(prefix: str, distance: Array, angle: Array, n: int) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "distance": checked_column(f"{prefix}distance", distance, n, numeric=True),
        "angle": checked_column(f"{prefix}angle", angle, n, numeric=True),
    }
    if columns["distance"].min(initial=0) < 0:
        raise ValueError(f"{prefix}distance must be at least 0, got {columns['distance'].min():g}")
    if columns["angle"].min(initial=0) < 0 or columns["angle"].max(initial=0) > np.pi:
        raise ValueError(
            f"{prefix}angle must be from 0 to pi, got {columns['angle'].min():g} to {columns['angle'].max():g}"
        )
    return columns


def _check_finite(name: str, array: Array) -> None:
    bad = int(np.sum(~np.isfinite(array)))
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or infinite values; leave out the members that diverged")
