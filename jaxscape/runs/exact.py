"""The data of the exact views: distances and angles of a run's trajectories and of their surrogates.

For perturbed copies the origin is the minimum, and angles are measured from the jump. For other trajectories the origin
is their own first point, and angles are measured from their final displacement.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from jaxscape.figures.panels import ExactPanel, Surrogate
from jaxscape.runs import captions
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.keys import key_data
from jaxscape.runs.labels import row_labels
from jaxscape.runs.measure import Measured, by_row, measure, perturbed
from jaxscape.runs.methods import NULLS
from jaxscape.runs.null import Nulls, nulls_of
from jaxscape.runs.progress import make_console
from jaxscape.runs.scale_free import Filters, scale_free_table
from jaxscape.trajectories.geometry import Departure, Geometry, trajectory_departure, trajectory_geometry
from jaxscape.trajectories.gram import IncrementGram, unscaled

# The null of trajectories without a minimum. The rotated null would look the same as the real trajectories, since it
# preserves everything that this view shows.
_DEPARTURE_NULL = "random"
_MAX_PANELS = 12  # for groups of trajectories


def exact_panel(run: Path) -> ExactPanel | None:
    """Return distances and angles of a run's trajectories from its minimum, or from their own first points.

    Unperturbed copies, and trajectories that end where they began, have no direction and are left out.

    Args:
        run: a finished run of any kind.

    Returns:
        The panel, with surrogates; None if no trajectory is left. Its `begin` says which view it is: "jump" (distances
        from the minimum, in units of its norm; angles from the jump), "initial" or "first" (Euclidean distances from
        the trajectory's own initial parameters or first recorded step; angles from its final displacement).
    """
    run = RunFolder(run)
    measured = perturbed(measure(run, console=make_console(silent=True)))
    return _jump_panel(run, measured) if run.kind.has_minimum else _departure_panel(run, measured)


def scale_free_panel(run: Path, *, filters: Filters | None = None, console: Console | None = None) -> ExactPanel | None:
    """Return scale-free distances and angles of a run's copies: every filter is rescaled to the norm of the minimum's.

    There are no surrogates: weight decay alone moves nothing here, and the rotated null is not known per filter.

    Args:
        run: a finished run of copies around a minimum.
        filters: see `scale_free_table`.
        console: where to print the progress.

    Returns:
        The panel, as from `exact_panel`; None if no copy was perturbed.

    Raises:
        See `scale_free_table`.
    """
    run = RunFolder(run)
    columns, norm = scale_free_table(run, filters=filters, console=console)
    first = {member: row for row, member in reversed(list(enumerate(columns["member"].tolist())))}
    starts = np.array([first[member] for member in columns["member"].tolist()])
    displaced = columns["scale_free_distance"][starts] > 0
    if not displaced.any():
        return None
    angle = np.where(np.isnan(columns["scale_free_angle"]), np.pi / 2, columns["scale_free_angle"])
    positions = {"distance": columns["scale_free_distance"][displaced] / norm, "angle": angle[displaced]}
    return _panel(run, columns, displaced, length="norms of the minimum's filters", **positions)


def exact_panels_of_groups(panel: ExactPanel) -> list[ExactPanel]:
    """Return one panel per group of trajectories, such as those of an optimizer, titled by the group.

    The panel is not split if there is only one group, if every group has only one trajectory, if there are more than
    twelve groups, or if hues stand for jump directions.
    """
    groups = dict.fromkeys(panel.seed.tolist())
    members = len(np.unique(panel.member))
    if panel.begin == "jump" or not 1 < len(groups) <= _MAX_PANELS or members == len(groups):
        return [panel]
    return [_take_rows(panel, panel.seed == group)._replace(title=str(group), note="") for group in sorted(groups)]


def _jump_panel(run: RunFolder, measured: Measured) -> ExactPanel | None:
    products, geometry = measured.gram, trajectory_geometry(measured.gram)
    displaced = by_row(products, np.broadcast_to(geometry.distance[0], geometry.distance.shape)) > 0
    if not displaced.any():
        return None
    norm = unscaled(np.sqrt(products.products[:1, 0]), products)[0]

    def positions(geometry: Geometry) -> dict[str, Any]:
        distance, petal = (by_row(products, values)[displaced] for values in (geometry.distance, geometry.petal))
        return {"distance": distance / norm, "angle": np.arccos(np.nan_to_num(petal))}

    nulls = nulls_of(run, products, measured.labels)
    surrogates = [
        Surrogate(NULLS[kind].words, **positions(trajectory_geometry(each)), is_random=kind != "decay")
        for kind, each in _surrogates(nulls).items()
    ]
    own: dict[str, Any] = {"surrogates": surrogates, "length": "norms of the minimum"} | positions(geometry)
    panel = _panel(run, measured.labels, displaced, **own)
    if nulls.factors is None:  # nothing dotted must not look like "no weight decay"
        panel = panel._replace(note="; ".join(filter(None, (panel.note, "effect of weight decay alone unknown"))))
    return panel


def _departure_panel(run: RunFolder, measured: Measured) -> ExactPanel | None:
    products, departure = measured.gram, trajectory_departure(measured.gram)
    has_angles = np.isfinite(departure.angle).any(axis=0)  # defined if the end differs from the first point
    moved = by_row(products, np.broadcast_to(has_angles, departure.distance.shape)) > 0
    if not moved.any():
        return None

    def positions(departure: Departure) -> dict[str, Any]:
        distance, angle = (by_row(products, values)[moved] for values in departure)
        return {"distance": distance, "angle": np.nan_to_num(angle)}  # undefined at distance 0 and for a null at rest

    null = nulls_of(run, products, measured.labels).draw(_DEPARTURE_NULL, key_data(0))
    surrogates = [Surrogate(NULLS[_DEPARTURE_NULL].words, **positions(trajectory_departure(null)))]
    return _panel(run, measured.labels, moved, surrogates=surrogates, **positions(departure))


def _panel(run: RunFolder, labels: Mapping[str, np.ndarray], rows: np.ndarray, **values: Any) -> ExactPanel:
    about: dict[str, Any] = {"title": captions.title(run), "note": captions.about(run), "begin": run.kind.begin}
    return ExactPanel(**about, **row_labels(run, labels, rows), **values)


def _take_rows(panel: ExactPanel, rows: np.ndarray) -> ExactPanel:
    """Return the panel with some of its rows."""
    names = ("distance", "angle", "seed", "epoch", "member", "step_size")
    columns: dict[str, Any] = {name: getattr(panel, name) for name in names}
    columns = {name: None if column is None else column[rows] for name, column in columns.items()}
    surrogates = [each._replace(distance=each.distance[rows], angle=each.angle[rows]) for each in panel.surrogates]
    return panel._replace(**columns, surrogates=surrogates)


def _surrogates(nulls: Nulls) -> dict[str, IncrementGram]:
    """Return by kind: weight decay alone, if there is any, and the null that tests if the loss brings copies back."""
    decays = nulls.factors is not None and bool((nulls.factors != 1).any())
    kinds = [*(["decay"] if decays else []), nulls.of_return]
    return {kind: next(nulls.draws(kind)) for kind in kinds}
