"""Views in which every position is exact: distances and angles seen from one point, the minimum.

An embedding bends distances to fit into the plane. Here nothing is fitted: the radius of a point is its distance from
the minimum, and its angle off a spoke, or its height over an axis, follows from the angle between its displacement and
that of the start. What a plane cannot show, the distances between trajectories, is not shown.
"""

from collections.abc import Hashable, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from jaxscape.figures.layout import NORMAL, PANEL_INCHES, PLAIN, SMALL, arrange_panels, wrapped
from jaxscape.figures.legend import figure_note, legend
from jaxscape.figures.palette import FRAME, GREY, INK, MINIMUM, Color, Fade, Palette, diamond_areas, shade
from jaxscape.figures.panels import Array, ExactPanel, check_exact, rows_by_member, shared_palette, step_sizes
from jaxscape.figures.style import own_style

DASHES: tuple[Any, ...] = ((0, (1, 1)), (0, (4, 2)), (0, (4, 1, 1, 1)))  # of the surrogates, in their order
_CHOSEN = 8  # copies of one direction whose sides are chosen together: 2^8 ways


def ended_nearer(panel: ExactPanel, distance: Array | None = None) -> tuple[int, int]:
    """Return how many trajectories end nearer to the minimum than they began, and how many there are."""
    distances = np.asarray(panel.distance if distance is None else distance)
    rows = list(rows_by_member(panel).values())
    return sum(bool(distances[each[-1]] < distances[each[0]]) for each in rows), len(rows)


@own_style()
def polar_figure(panels: Sequence[ExactPanel], *, radius: str = "distance from the minimum", note: str = "") -> Figure:
    """Each minimum as a star in the middle, a spoke a direction: the radius is the distance, the angle the angle.

    A trajectory begins on its spoke, as a diamond, and ends in a dot. Its radius is its distance from the minimum, on
    one linear scale for all panels, and the angle between its point and the spoke that between its displacement and the
    jump. Dotted arcs have the radius of each start: a trajectory inside of its arc is nearer than it began. Spokes
    are equally spaced, whatever the angles between the jumps. The side of the spoke on which a trajectory lies has no
    meaning; it is chosen so that trajectories do not cross.

    Args:
        panels: the minima, copies that were perturbed.
        radius: what the radius is, in words.
        note: for the foot of the figure.

    Raises:
        ValueError: as `check_exact`; no panels.
    """
    panels, palette, dashes = _checked(panels)
    fig = Figure()
    axes = fig.subplots(1, len(panels), squeeze=False)
    reach = 1.06 * max(
        max(panel.distance.max(), *(surrogate.distance.max() for surrogate in panel.surrogates), 0) for panel in panels
    )
    for ax, panel in zip(axes[0], panels, strict=True):
        _draw_polar(ax, panel, palette, dashes, reach)
        _write_over(ax, panel)
    words = (
        f"Every position is exact: the radius is the {radius}, the angle off the spoke that between displacement and "
        "jump. Inside of its dotted arc a copy is nearer than it began. Spokes are equally spaced; the side of the "
        "spoke has no meaning, and distances between copies are not shown."
    )
    return _finished(fig, axes, panels, palette, dashes, f"{words}\n{note}" if note else words, directions=True)


@own_style()
def plane_figure(panels: Sequence[ExactPanel], *, note: str = "") -> Figure:
    """The way along the jump against the way across it, in jumps: the minimum is at 0, every start at 1.

    Arcs have equal distances from the minimum; the black one is that of the starts, and left of it is nearer.

    Args:
        panels: the minima, copies that were perturbed; the axes of all have one range.
        note: for the foot of the figure.

    Raises:
        ValueError: as `check_exact`; no panels.
    """
    panels, palette, dashes = _checked(panels)
    fig = Figure()
    axes = fig.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)
    for ax, panel in zip(axes[0], panels, strict=True):
        _draw_plane(ax, panel, palette, dashes)
        _write_over(ax, panel)
    _set_range(axes[0])
    axes[0, 0].set_ylabel("across it", fontsize=NORMAL, color=INK)
    words = (
        "Every position is exact, in jumps. Arcs: equal distance from the minimum; black: that of the starts, left of "
        "it is nearer. A dot ends a copy."
    )
    return _finished(fig, axes, panels, palette, dashes, f"{words}\n{note}" if note else words, directions=False)


def choose_sides(curves: Sequence[NDArray[Any]], mirrored: Sequence[NDArray[Any]]) -> list[bool]:
    """Return for each curve of a direction whether it takes its mirror image: the fewest crossings, by turns if equal.

    Args:
        curves: (m, 2) points each, on one side of the spoke.
        mirrored: the same on the other side.
    """
    count = len(curves)
    turns = [number % 2 == 1 for number in range(count)]
    if count > _CHOSEN:
        return turns
    crossings: dict[tuple[int, bool, int, bool], bool] = {}

    def cross(one: int, side: bool, other: int, its_side: bool) -> bool:
        key = (one, side, other, its_side)
        if key not in crossings:
            crossings[key] = _cross((curves, mirrored)[side][one], (curves, mirrored)[its_side][other])
        return crossings[key]

    def cost(sides: Any) -> tuple[int, int]:
        pairs = [(one, other) for other in range(count) for one in range(other)]
        crossed = sum(cross(one, sides[one], other, sides[other]) for one, other in pairs)
        return crossed, sum(side != turn for side, turn in zip(sides, turns, strict=True))

    return list(min(product((False, True), repeat=count), key=cost))


def _draw_polar(ax: Axes, panel: ExactPanel, palette: Palette, dashes: dict[str, Any], reach: float) -> None:
    spokes = _spokes(panel)
    half = np.pi / max(len(spokes), 3)
    areas = diamond_areas(palette)
    for seed, spoke in spokes.items():
        ax.plot(*_places(np.array([0, reach]), np.full(2, spoke)).T, color=FRAME, linewidth=0.5, zorder=0)
        members = [rows for rows in rows_by_member(panel).values() if panel.seed.tolist()[rows[0]] == seed]
        members.sort(key=lambda rows: panel.distance[rows[0]])
        sided = [
            [_places(panel.distance[rows], spoke + sign * panel.angle[rows]) for rows in members] for sign in (1, -1)
        ]
        for rows, side, *curves in zip(members, choose_sides(*sided), *sided, strict=True):
            start = panel.distance[rows[0]]
            arc = np.linspace(spoke - 0.9 * half, spoke + 0.9 * half, 40)
            ax.plot(*_places(np.full(40, start), arc).T, color=GREY, linewidth=0.4, linestyle=":", zorder=0)
            for surrogate in panel.surrogates:
                turned = spoke + (-1 if side else 1) * surrogate.angle[rows]
                _draw_surrogate(ax, _places(surrogate.distance[rows], turned), dashes[surrogate.label])
            _draw_curve(ax, curves[side], panel.epoch[rows] / (palette.last_epoch or 1), palette.directions[seed])
            size = step_sizes(panel).tolist()[rows[0]]
            diamond: dict[str, Any] = {"marker": "D", "edgecolors": INK, "linewidths": 0.4, "zorder": 4}
            _dot(ax, curves[side][0], s=areas[size], c=[palette.step_sizes[size]], **diamond)
    ax.scatter(0, 0, s=40, marker="*", c=MINIMUM, edgecolors=INK, linewidths=0.5, zorder=5)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    ax.set_aspect("equal")
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw_plane(ax: Axes, panel: ExactPanel, palette: Palette, dashes: dict[str, Any]) -> None:
    for rows in rows_by_member(panel).values():
        jump = panel.distance[rows[0]]
        for surrogate in panel.surrogates:
            _draw_surrogate(
                ax, _places(surrogate.distance[rows] / jump, surrogate.angle[rows]), dashes[surrogate.label]
            )
        places = _places(panel.distance[rows] / jump, panel.angle[rows])
        color = palette.step_sizes[step_sizes(panel).tolist()[rows[0]]]
        ax.plot(*places.T, color=color, linewidth=0.8, zorder=2)
        _dot(ax, places[-1], s=6, color=color, linewidths=0, zorder=3)
    ax.set_xlabel("along the jump", fontsize=NORMAL, color=INK)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(which="both", labelsize=SMALL, width=0.5, length=2, color=INK, labelcolor=INK)
    for name, spine in ax.spines.items():
        spine.set(visible=name in ("left", "bottom"), color=GREY, linewidth=0.6)


def _set_range(axes: Sequence[Axes]) -> None:
    """One range for all panels, and the arcs of equal distance in it."""
    low, high = axes[0].dataLim.get_points()
    for ax in axes[1:]:
        points = ax.dataLim.get_points()
        low, high = np.minimum(low, points[0]), np.maximum(high, points[1])
    high = np.maximum(high, [1.0, 1e-6])
    margin = 0.05 * np.maximum(high - low, 1e-9)
    axes[0].set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(0, high[1] + margin[1]))
    across = np.linspace(0, high[1] + margin[1], 200)
    ticks = [tick for tick in axes[0].get_xticks() if tick > 0 and not np.isclose(tick, 1)]
    for ax in axes:
        for distance in (*ticks, 1.0):
            inside = across[across <= distance]
            is_start = distance == 1
            style: dict[str, Any] = {"color": INK if is_start else FRAME, "linewidth": 0.8 if is_start else 0.5}
            ax.plot(np.sqrt(distance**2 - inside**2), inside, **style, zorder=1, scalex=False, scaley=False)


def _draw_curve(ax: Axes, places: NDArray[Any], progress: NDArray[Any], color: Color) -> None:
    segments = np.stack([places[:-1], places[1:]], axis=1)
    shades = shade(color, progress)
    ax.add_collection(
        LineCollection(list(segments), colors=shades[1:].tolist(), linewidths=1.1, zorder=2, capstyle="round")
    )
    _dot(ax, places[-1], s=8, c=[shades[-1]], linewidths=0, zorder=3)


def _draw_surrogate(ax: Axes, places: NDArray[Any], dashes: Any) -> None:
    ax.plot(*places.T, color=GREY, linewidth=0.6, zorder=1, linestyle=dashes)
    _dot(ax, places[-1], s=5, marker="x", color=GREY, linewidths=0.5, zorder=1)


def _dot(ax: Axes, place: NDArray[Any], **style: Any) -> None:
    ax.scatter(place[0], place[1], **style)


def _spokes(panel: ExactPanel) -> dict[Hashable, float]:
    """The angle of each direction: equally spaced, clockwise from the top."""
    seeds = np.unique(panel.seed).tolist()
    return {seed: np.pi / 2 - 2 * np.pi * number / len(seeds) for number, seed in enumerate(seeds)}


def _places(radius: NDArray[Any], angle: NDArray[Any]) -> NDArray[np.float64]:
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cross(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two polylines cross: whether a segment of each has the ends of the other on both of its sides."""
    a, b = one[:-1, None], one[1:, None]
    c, d = other[None, :-1], other[None, 1:]

    def side(start: NDArray[Any], end: NDArray[Any], point: NDArray[Any]) -> NDArray[Any]:
        along, to = end - start, point - start
        return np.asarray(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0])

    apart = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return bool(apart.any())


def _write_over(ax: Axes, panel: ExactPanel) -> None:
    """The title, how many copies ended nearer than they began, and how many of the surrogates."""
    nearer, of = ended_nearer(panel)
    text = f"{panel.title}\n{nearer} of {of} ended nearer"
    others = [f"{surrogate.label} {ended_nearer(panel, surrogate.distance)[0]}" for surrogate in panel.surrogates]
    text += f"\n({', '.join(others)})" if others else ""
    style: dict[str, Any] = {**PLAIN, "fontsize": NORMAL, "color": INK}
    ax.set_title(wrapped(text, PANEL_INCHES, NORMAL), **style)


def _checked(panels: Sequence[ExactPanel]) -> tuple[list[ExactPanel], Palette, dict[str, Any]]:
    """The panels, their palette, and the dashes of each surrogate, which are the same in all panels."""
    checked = [check_exact(panel) for panel in panels]
    labels = dict.fromkeys(surrogate.label for panel in checked for surrogate in panel.surrogates)
    dashes = {label: DASHES[number % len(DASHES)] for number, label in enumerate(labels)}
    return checked, shared_palette(checked), dashes


def _finished(
    fig: Figure,
    axes: NDArray[Any],
    panels: Sequence[ExactPanel],
    palette: Palette,
    dashes: dict[str, Any],
    note: str,
    *,
    directions: bool,
) -> Figure:
    """The figure with its panels in their places, a legend and a note."""
    arrange_panels(fig, axes)
    extra = [Line2D([], [], color=GREY, linewidth=0.8, label=label, linestyle=each) for label, each in dashes.items()]
    fades: list[Fade] = ["dark"] if directions else []
    legend(fig, palette, directions=directions, fades=fades, unit=panels[0].unit, minimum=directions, extra=extra)
    figure_note(fig, note)
    return fig
