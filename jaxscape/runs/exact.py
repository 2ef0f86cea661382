"""What the exact views show of a run: distances and angles, and the same of surrogates.

Copies that were perturbed are seen from the minimum, beside the jump; any other trajectory is seen from its own first
point, beside its displacement in the end.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxscape.figures.panels import ExactPanel, Surrogate
from jaxscape.runs import captions
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.labels import row_labels
from jaxscape.runs.measure import Measured, by_row, measure, perturbed
from jaxscape.runs.methods import NULLS
from jaxscape.runs.null import Nulls, nulls_of
from jaxscape.runs.progress import make_console
from jaxscape.runs.scale_free import Filters, scale_free_table
from jaxscape.trajectories.geometry import Departure, Geometry, trajectory_departure, trajectory_geometry
from jaxscape.trajectories.gram import IncrementGram, unscaled

_DEPARTED = "random"  # rotated movements depart as the real ones do: what is kept of them is all that is seen
_MOST_PANELS = 12  # for groups of trajectories


def exact_panel(run: Path) -> ExactPanel | None:
    """Return a run's trajectories as seen from its minimum, or from their own first points, and their surrogates.

    Copies that were not thrown, and trajectories that end where they began, have no direction and are left out.

    Args:
        run: a finished run of any kind.

    Returns:
        The panel; None where no trajectory is left. Its `begin` says which: "jump" (distances from the minimum, in its
        norms; angles with the jump), "initial" or "first" (Euclidean distances from the trajectory's own initial
        parameters or first recorded step; angles with its displacement in the end).
    """
    run = RunFolder(run)
    measured = perturbed(measure(run, console=make_console(silent=True)))
    return _of_copies(run, measured) if run.kind.has_minimum else _of_trajectories(run, measured)


def scale_free_panel(run: Path, *, filters: Filters | None = None, console: Console | None = None) -> ExactPanel | None:
    """Return a run's copies as seen from its minimum once every filter has the norm of the minimum's.

    Weight decay alone moves nothing here, and the rotated null is not known filter by filter: there are no surrogates.

    Args:
        run: a finished run of copies around a minimum.
        filters: as `scale_free_table` takes them.
        console: where to say what is done.

    Returns:
        The panel, as `exact_panel` gives it; None where no copy was thrown.

    Raises:
        As `scale_free_table`.
    """
    run = RunFolder(run)
    columns, norm = scale_free_table(run, filters=filters, console=console)
    first = {member: row for row, member in reversed(list(enumerate(columns["member"].tolist())))}
    starts = np.array([first[member] for member in columns["member"].tolist()])
    thrown = columns["scale_free_distance"][starts] > 0
    if not thrown.any():
        return None
    angle = np.where(np.isnan(columns["scale_free_angle"]), np.pi / 2, columns["scale_free_angle"])
    places = {"distance": columns["scale_free_distance"][thrown] / norm, "angle": angle[thrown]}
    return _panel(run, columns, thrown, length="norms of the minimum's filters", **places)


def exact_panels_of_groups(panel: ExactPanel) -> list[ExactPanel]:
    """Return a panel for each group of trajectories, such as those of an optimizer, titled by it.

    One panel stays one where there is but one group, where no group has several trajectories, where there are more
    than twelve groups, and where what the hue stands for is a direction.
    """
    groups = dict.fromkeys(panel.seed.tolist())
    members = len(np.unique(panel.member))
    if panel.begin == "jump" or not 1 < len(groups) <= _MOST_PANELS or members == len(groups):
        return [panel]
    return [_rows(panel, panel.seed == group)._replace(title=str(group), note="") for group in sorted(groups)]


def _of_copies(run: RunFolder, measured: Measured) -> ExactPanel | None:
    products, geometry = measured.gram, trajectory_geometry(measured.gram)
    thrown = by_row(products, np.broadcast_to(geometry.distance[0], geometry.distance.shape)) > 0
    if not thrown.any():
        return None
    norm = unscaled(np.sqrt(products.products[0, 0]), products)

    def places(geometry: Geometry) -> dict[str, Any]:
        distance, petal = (by_row(products, values)[thrown] for values in (geometry.distance, geometry.petal))
        return {"distance": distance / norm, "angle": np.arccos(np.nan_to_num(petal))}

    surrogates = _surrogates(nulls_of(run, products, measured.labels))
    found = [Surrogate(name, **places(trajectory_geometry(each))) for name, each in surrogates.items()]
    return _panel(run, measured.labels, thrown, surrogates=found, length="norms of the minimum", **places(geometry))


def _of_trajectories(run: RunFolder, measured: Measured) -> ExactPanel | None:
    products, departure = measured.gram, trajectory_departure(measured.gram)
    has_angles = np.isfinite(departure.angle).any(axis=0)  # at its end, that is, if anywhere
    moved = by_row(products, np.broadcast_to(has_angles, departure.distance.shape)) > 0
    if not moved.any():
        return None

    def places(found: Departure) -> dict[str, Any]:
        distance, angle = (by_row(products, values)[moved] for values in found)
        return {"distance": distance, "angle": np.nan_to_num(angle)}  # at distance 0, and of a null that stands

    null = nulls_of(run, products, measured.labels).draw(_DEPARTED, jax.random.key(0))
    surrogates = [Surrogate(NULLS[_DEPARTED].words, **places(trajectory_departure(null)))]
    return _panel(run, measured.labels, moved, surrogates=surrogates, **places(departure))


def _panel(run: RunFolder, labels: Mapping[str, np.ndarray], rows: np.ndarray, **found: Any) -> ExactPanel:
    about: dict[str, Any] = {"title": captions.title(run), "note": captions.about(run), "begin": run.kind.begin}
    return ExactPanel(**about, **row_labels(run, labels, rows), **found)


def _rows(panel: ExactPanel, rows: np.ndarray) -> ExactPanel:
    """The panel with some of its rows."""
    names = ("distance", "angle", "seed", "epoch", "member", "step_size")
    columns: dict[str, Any] = {name: getattr(panel, name) for name in names}
    columns = {name: None if column is None else column[rows] for name, column in columns.items()}
    surrogates = [each._replace(distance=each.distance[rows], angle=each.angle[rows]) for each in panel.surrogates]
    return panel._replace(**columns, surrogates=surrogates)


def _surrogates(nulls: Nulls) -> dict[str, IncrementGram]:
    """Weight decay alone, where there is some, and what tells whether the loss brings copies back."""
    decays = nulls.factors is not None and bool((nulls.factors != 1).any())
    kinds = [*(["decay"] if decays else []), nulls.of_return]
    return {NULLS[kind].words: next(nulls.draws(kind)) for kind in kinds}
