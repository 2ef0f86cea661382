"""Boxes for the components of a disconnected graph, whose relative positions have no meaning.

An embedding of a graph with several components arranges them arbitrarily. Each component is translated, without
rotation or scaling, into a box of its own: lengths within all boxes can be compared, and no distance between two boxes
is suggested.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxscape.figures.layout import row_lengths
from jaxscape.figures.panels import Array, Panel, step_sizes

_MARGIN = 0.08  # free margin around the points, as a fraction of the side of a box
_GAP = 0.06  # between boxes, in sides
# The note of a figure with several components, by its number of dimensions.
COMPONENTS = {
    2: "Each box is a component of the embedded graph, all at one scale; their relative positions mean nothing.",
    3: "The embedded graph has several components; their relative positions mean nothing.",
}


class Boxes(NamedTuple):
    """Squares of one size, sorted by the direction and the step size of their content, row by row from the top."""

    corners: NDArray[np.float64]  # (boxes, 2), lower left
    side: float

    @property
    def limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower left and the upper right corner of all boxes together."""
        return self.corners.min(axis=0), self.corners.max(axis=0) + self.side


def has_components(panel: Panel) -> bool:
    """Return whether the embedded graph has several components."""
    return panel.component is not None and len(set(_components(panel))) > 1


def put_in_boxes(panel: Panel) -> tuple[Panel, Boxes | None]:
    """Return the panel with each component in a box, or unchanged if there is only one or the panel is 3-D.

    Args:
        panel: from `checked_panel`.
    """
    if not has_components(panel) or panel.embedding.shape[1] != 2:
        return panel, None
    component = np.array(_components(panel))
    places = panel.embedding if panel.minimum is None else np.concatenate([panel.embedding, panel.minimum[None]])
    members = [np.flatnonzero(component == each) for each in _ordered(panel)]
    middles, extents = [], []
    for rows in members:
        low, high = places[rows].min(axis=0), places[rows].max(axis=0)
        middles.append((low + high) / 2)
        extents.append((high - low).max())
    side = (max(extents) or 1.0) / (1 - 2 * _MARGIN)
    corners = side * _grid(len(members))
    moved = places.copy()
    for rows, middle, corner in zip(members, middles, corners, strict=True):
        moved[rows] += corner + side / 2 - middle
    count = len(panel.embedding)
    minimum = None if panel.minimum is None else moved[count]
    return panel._replace(embedding=moved[:count], minimum=minimum), Boxes(corners, side)


def path(panel: Panel, rows: NDArray[np.intp]) -> Array:
    """Return the positions of these rows as a line that is broken, by NaN, where it would cross between boxes."""
    places = panel.embedding[rows]
    if panel.component is None or panel.embedding.shape[1] != 2:
        return places
    breaks = np.flatnonzero(panel.component[rows][1:] != panel.component[rows][:-1]) + 1
    return np.asarray(np.insert(places, breaks, np.nan, axis=0))


def _components(panel: Panel) -> list[int]:
    """Return the component of each row, and of the minimum after them."""
    rows: list[int] = [] if panel.component is None else panel.component.tolist()
    return rows if panel.minimum is None or panel.minimum_component is None else [*rows, panel.minimum_component]


def _ordered(panel: Panel) -> list[int]:
    """Return the components sorted by direction and step size, that of the minimum first."""
    rows = sorted(zip(panel.seed.tolist(), step_sizes(panel).tolist(), _components(panel), strict=False))
    return list(dict.fromkeys([*_components(panel)[len(rows) :], *(each for *_, each in rows)]))


def _grid(count: int) -> NDArray[np.float64]:
    """Return lower left corners of unit squares with gaps, row by row from the top; shorter rows are centred."""
    lengths = row_lengths(count, int(np.ceil(np.sqrt(count))))
    pitch, corners = 1 + _GAP, []
    for number, length in enumerate(lengths):
        shift = (max(lengths) - length) * pitch / 2
        corners += [(shift + pitch * column, -pitch * number) for column in range(length)]
    return np.array(corners)
