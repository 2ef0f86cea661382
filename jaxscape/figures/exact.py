"""Views in which every position is exact: distances and angles relative to one reference point.

An embedding distorts distances to fit them into the plane. Here nothing is fitted: the radius of a point is its
distance from the reference, and its angle to a spoke, or its height above an axis, follows from the angle between its
displacement and a reference displacement. For perturbed copies the reference is the minimum, and the reference
displacement is the jump. For other trajectories it is their own first point, and their final displacement. Distances
between trajectories, which a plane cannot show, are not shown.
"""

from collections.abc import Hashable, Sequence
from itertools import cycle, product
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from jaxscape.figures.layout import NORMAL, PLAIN, SMALL, arrange_panels, panel_axes, row_lengths
from jaxscape.figures.legend import figure_note, legend
from jaxscape.figures.palette import FRAME, GREY, INK, MINIMUM, Fade, Palette, diamond_areas, shade
from jaxscape.figures.panels import (
    REFERENCES,
    Array,
    ExactPanel,
    check_exact,
    progress,
    rows_by_member,
    shading_words,
    shared_palette,
    step_sizes,
)
from jaxscape.figures.style import own_style
from jaxscape.figures.texts import write_over, write_under

DOTTED: Any = (0, (1, 1))  # surrogates without a draw: weight decay alone
DASHES: tuple[Any, ...] = ((0, (4, 2)), (0, (4, 1, 1, 1)))  # of the others, in order
MOST_SPOKES = 24  # for trajectories with one spoke each
_A_ROW = 3  # most panels per row
_CHOSEN = 8  # most copies of one direction whose sides are optimized together: 2^8 combinations


class Curve(NamedTuple):
    """The artists of one trajectory in the polar view, real or surrogate, and the points that they show."""

    places: NDArray[np.float64]  # (epochs, 2)
    epochs: Array
    line: LineCollection | Line2D
    end: PathCollection
    shades: NDArray[np.float64] | None  # (epochs, 3); None for a surrogate

    def show(self, epoch: float) -> None:
        """Show the trajectory up to an epoch."""
        count = int(np.searchsorted(self.epochs, epoch, side="right"))
        if isinstance(self.line, Line2D):
            self.line.set_data(*self.places[:count].T)
        else:
            self.line.set_segments(_segments(self.places[:count]))
        self.end.set_offsets(self.places[count - 1 : count] if count else np.empty((0, 2)))
        if self.shades is not None and count:
            self.end.set_facecolor(tuple(self.shades[count - 1].tolist()))


class _Spoke(NamedTuple):
    """A ray from the centre, and the trajectories whose angles are measured from it."""

    angle: float
    seed: Hashable
    members: list[NDArray[np.intp]]  # the rows of each, in the order of epochs


def ended_nearer(panel: ExactPanel, distance: Array | None = None) -> tuple[int, int]:
    """Return how many trajectories end nearer to the minimum than they started, and how many there are."""
    distances = np.asarray(panel.distance if distance is None else distance)
    rows = list(rows_by_member(panel).values())
    return sum(bool(distances[each[-1]] < distances[each[0]]) for each in rows), len(rows)


def count_words(panel: ExactPanel) -> tuple[str, list[str]]:
    """Return as text how many trajectories end nearer than they started, and how many of each kind of surrogates."""
    nearer, of = ended_nearer(panel)
    others = [f"{each.label} {ended_nearer(panel, each.distance)[0]}" for each in panel.surrogates]
    return f"{nearer} of {of} ended nearer", others


@own_style()
def polar_figure(panels: Sequence[ExactPanel], *, note: str = "") -> Figure:
    """Draw one spoke per direction, or per trajectory: radius is the distance, angle to the spoke is the angle.

    Perturbed copies: the minimum is a star in the centre, and there is one spoke per direction. A copy starts on its
    spoke, as a diamond, and ends in a dot. Its radius is its distance from the minimum, on one linear scale for all
    panels, and the angle between its point and the spoke is that between its displacement and the jump. Dotted arcs
    have the radius of each start: inside its arc a copy is nearer than it started. The side of the spoke on which a
    copy lies has no meaning; it is chosen so that curves do not cross.

    Other trajectories: the star is the first point of each, and each has a spoke, on which it ends. Its radius is its
    distance from its first point, on a separate linear scale for each panel, and the angle to the spoke is that between
    its displacement so far and its final displacement: a straight path lies on the spoke. All lie on the same side. If
    a panel has more than 24, then 24 of them, evenly spaced in order, are drawn, and the panel says so.

    Spokes are evenly spaced, whatever the angles between the displacements. A bar shows the scale.

    Args:
        panels: minima with perturbed copies, or groups of trajectories that start otherwise.
        note: for the foot of the figure.

    Raises:
        ValueError: as `check_exact`; for no panels, or panels that differ in their hue, beginning, unit or length.
    """
    fig, _, words = draw_polar(panels)
    figure_note(fig, f"{words}\n{note}".rstrip("\n"))
    return fig


@own_style()
def draw_polar(panels: Sequence[ExactPanel]) -> tuple[Figure, list[Curve], str]:
    """Draw `polar_figure` without a note, and return the artists of its trajectories too, for a film that moves them.

    Returns:
        The figure, the curves, and the text about positions for the note.
    """
    panels, palette, dashes = _checked(panels)
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW))
    reaches = [
        1.06 * max(panel.distance.max(), *(surrogate.distance.max() for surrogate in panel.surrogates), 0)
        for panel in panels
    ]
    if panels[0].begin == "jump":
        reaches = [max(reaches)] * len(panels)
    curves = []
    for ax, panel, reach in zip(filter(None, axes.flat), panels, reaches, strict=True):
        curves += _draw_polar(ax, panel, palette, dashes, reach)
        _draw_bar(ax, reach)
        _write_around(ax, panel, drawn=min(_count(panel), MOST_SPOKES) if panel.begin != "jump" else None)
    _arrange(fig, axes, panels, palette, dashes, polar=True)
    return fig, curves, _polar_words(panels)


@own_style()
def plane_figure(panels: Sequence[ExactPanel], *, note: str = "") -> Figure:
    """Draw the component along a displacement against the component across it, in units of that displacement.

    Perturbed copies: along the jump, in jumps; the minimum is at 0, every start at 1. Arcs have equal distances from
    the minimum; the black one is that of the starts, and left of it is nearer. Other trajectories: along the final
    displacement; every one leads from 0 to 1.

    Args:
        panels: as in `polar_figure`; all share one range of the axes.
        note: for the foot of the figure.

    Raises:
        ValueError: as in `polar_figure`.
    """
    panels, palette, dashes = _checked(panels)
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW))
    shown = list(filter(None, axes.flat))
    for ax, panel in zip(shown, panels, strict=True):
        _draw_plane(ax, panel, palette, dashes)
    _set_range(shown, has_jumps=panels[0].begin == "jump")
    for row in axes:
        row[0].set_ylabel("across it", fontsize=NORMAL, color=INK)
        for ax in filter(None, row[1:]):
            ax.tick_params(labelleft=False)
    for ax, panel in zip(shown, panels, strict=True):
        _write_around(ax, panel)
    _arrange(fig, axes, panels, palette, dashes, polar=False)
    figure_note(fig, f"{_plane_words(panels)}\n{note}".rstrip("\n"))
    return fig


def choose_sides(curves: Sequence[NDArray[Any]], mirrored: Sequence[NDArray[Any]]) -> list[bool]:
    """Return for each curve of a direction whether to mirror it: the fewest crossings, alternating sides if equal.

    Args:
        curves: (m, 2) points each, on one side of the spoke.
        mirrored: the same curves on the other side.
    """
    count = len(curves)
    alternating = [number % 2 == 1 for number in range(count)]
    if count > _CHOSEN:
        return alternating
    crossings: dict[tuple[int, bool, int, bool], bool] = {}

    def cross(one: int, side: bool, other: int, its_side: bool) -> bool:
        key = (one, side, other, its_side)
        if key not in crossings:
            crossings[key] = _cross((curves, mirrored)[side][one], (curves, mirrored)[its_side][other])
        return crossings[key]

    def cost(sides: Any) -> tuple[int, int]:
        pairs = [(one, other) for other in range(count) for one in range(other)]
        crossed = sum(cross(one, sides[one], other, sides[other]) for one, other in pairs)
        return crossed, sum(side != default for side, default in zip(sides, alternating, strict=True))

    return list(min(product((False, True), repeat=count), key=cost))


def _draw_polar(ax: Axes, panel: ExactPanel, palette: Palette, dashes: dict[str, Any], reach: float) -> list[Curve]:
    spokes, areas, curves = _spokes(panel), diamond_areas(palette), []
    half, shares = np.pi / max(len(spokes), 3), progress(panel, palette)
    for spoke in spokes:
        ax.plot(*places_of(np.array([0, reach]), np.full(2, spoke.angle)).T, color=FRAME, linewidth=0.5, zorder=0)
        sided = [
            [places_of(panel.distance[rows], spoke.angle + sign * panel.angle[rows]) for rows in spoke.members]
            for sign in (1, -1)
        ]
        sides = choose_sides(*sided) if panel.begin == "jump" else [False] * len(spoke.members)
        for rows, side, *places in zip(spoke.members, sides, *sided, strict=True):
            epochs = panel.epoch[rows]
            for surrogate in panel.surrogates:
                turned = spoke.angle + (-1 if side else 1) * surrogate.angle[rows]
                drawn = places_of(surrogate.distance[rows], turned)
                curves.append(Curve(drawn, epochs, *_draw_surrogate(ax, drawn, dashes[surrogate.label]), None))
            shades = shade(palette.directions[spoke.seed], shares[rows])
            curves.append(Curve(places[side], epochs, *_draw_curve(ax, places[side], shades), shades))
            if panel.begin == "jump":
                start = panel.distance[rows[0]]
                arc = np.linspace(spoke.angle - 0.9 * half, spoke.angle + 0.9 * half, 40)
                ax.plot(*places_of(np.full(40, start), arc).T, color=GREY, linewidth=0.4, linestyle=":", zorder=0)
                size = step_sizes(panel).tolist()[rows[0]]
                diamond: dict[str, Any] = {"marker": "D", "edgecolors": INK, "linewidths": 0.4, "zorder": 4}
                _dot(ax, places[side][0], s=areas[size], c=[palette.step_sizes[size]], **diamond)
    _draw_star(ax)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    ax.set_aspect("equal")
    for spine in ax.spines.values():
        spine.set_visible(False)
    return curves


def _draw_bar(ax: Axes, reach: float) -> None:
    """Draw a bar of a round length in the lower left corner, which no circle reaches, and its length."""
    _, length, *_ = MaxNLocator(3, steps=[1, 2, 5, 10]).tick_values(0, 0.75 * reach)
    ax.plot([-reach, -reach + length], [-0.97 * reach] * 2, color=INK, linewidth=1.2, solid_capstyle="butt", zorder=1)
    style: dict[str, Any] = {**PLAIN, "fontsize": SMALL, "color": INK, "ha": "left", "va": "bottom"}
    ax.text(-reach, -0.95 * reach, f"{length:g}", **style)


def _draw_star(ax: Axes) -> None:
    ax.scatter(0, 0, s=40, marker="*", c=MINIMUM, edgecolors=INK, linewidths=0.5, zorder=5, clip_on=False)


def _draw_plane(ax: Axes, panel: ExactPanel, palette: Palette, dashes: dict[str, Any]) -> None:
    has_jumps = panel.begin == "jump"
    for rows in rows_by_member(panel).values():
        unit = 0 if has_jumps else -1  # the row whose displacement lies on the axis
        for surrogate in panel.surrogates:
            whole = surrogate.distance[rows[unit]] or 1.0
            _draw_surrogate(
                ax, places_of(surrogate.distance[rows] / whole, surrogate.angle[rows]), dashes[surrogate.label]
            )
        places = places_of(panel.distance[rows] / panel.distance[rows[unit]], panel.angle[rows])
        size, seed = step_sizes(panel).tolist()[rows[0]], panel.seed.tolist()[rows[0]]
        color = palette.step_sizes[size] if has_jumps else palette.directions[seed]
        ax.plot(*places.T, color=color, linewidth=0.8, zorder=2)
        _dot(ax, places[-1], s=6, color=color, linewidths=0, zorder=3, clip_on=False)
    if not has_jumps:
        _draw_star(ax)
    ax.set_xlabel(f"along the {'jump' if has_jumps else 'final displacement'}", fontsize=NORMAL, color=INK)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.tick_params(which="both", labelsize=SMALL, width=0.5, length=2, color=INK, labelcolor=INK)
    for name, spine in ax.spines.items():
        spine.set(visible=name in ("left", "bottom"), color=GREY, linewidth=0.6)


def _set_range(axes: Sequence[Axes], *, has_jumps: bool) -> None:
    """Set one range for all panels, and draw the arcs of equal distance in it."""
    low, high = axes[0].dataLim.get_points()
    for ax in axes[1:]:
        points = ax.dataLim.get_points()
        low, high = np.minimum(low, points[0]), np.maximum(high, points[1])
    high = np.maximum(high, [1.0, 1e-6])
    margin = 0.05 * np.maximum(high - low, 1e-9)
    for ax in axes:
        ax.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(0, high[1] + margin[1]))
    top = high[1] + margin[1]
    ticks = [tick for tick in axes[0].get_xticks() if tick > 0 and not np.isclose(tick, 1)]
    for ax in axes:
        for distance in (*ticks, 1.0):
            inside = np.linspace(0, min(distance, top), 200)
            is_start = distance == 1 and has_jumps
            style: dict[str, Any] = {"color": INK if is_start else FRAME, "linewidth": 0.8 if is_start else 0.5}
            ax.plot(np.sqrt(distance**2 - inside**2), inside, **style, zorder=1, scalex=False, scaley=False)


def _draw_curve(ax: Axes, places: NDArray[Any], shades: NDArray[Any]) -> tuple[LineCollection, PathCollection]:
    style: dict[str, Any] = {"colors": shades[1:].tolist(), "linewidths": 1.1, "zorder": 2, "capstyle": "round"}
    line = LineCollection(_segments(places), **style)
    ax.add_collection(line)
    return line, _dot(ax, places[-1], s=8, c=[shades[-1]], linewidths=0, zorder=3)


def _segments(places: NDArray[Any]) -> list[NDArray[Any]]:
    return list(np.stack([places[:-1], places[1:]], axis=1))


def _draw_surrogate(ax: Axes, places: NDArray[Any], dashes: Any) -> tuple[Line2D, PathCollection]:
    (line,) = ax.plot(*places.T, color=GREY, linewidth=0.6, zorder=1, linestyle=dashes)
    return line, _dot(ax, places[-1], s=5, marker="x", color=GREY, linewidths=0.5, zorder=1)


def _dot(ax: Axes, place: NDArray[Any], **style: Any) -> PathCollection:
    return ax.scatter(place[0], place[1], **style)


def _spokes(panel: ExactPanel) -> list[_Spoke]:
    """Return evenly spaced spokes, clockwise from the top: one per direction, or one per trajectory sorted by label."""
    members, seeds = list(rows_by_member(panel).values()), panel.seed.tolist()
    if panel.begin == "jump":
        members.sort(key=lambda rows: panel.distance[rows[0]])
        groups = {seed: [rows for rows in members if seeds[rows[0]] == seed] for seed in np.unique(panel.seed).tolist()}
        spokes = list(groups.items())
    else:
        members.sort(key=lambda rows: seeds[rows[0]])
        if len(members) > MOST_SPOKES:
            members = [members[number] for number in np.linspace(0, len(members) - 1, MOST_SPOKES).round().astype(int)]
        spokes = [(seeds[rows[0]], [rows]) for rows in members]
    return [
        _Spoke(np.pi / 2 - 2 * np.pi * number / len(spokes), seed, each) for number, (seed, each) in enumerate(spokes)
    ]


def places_of(radius: NDArray[Any], angle: NDArray[Any]) -> NDArray[np.float64]:
    """Return the points (m, 2) at these distances and angles (m,), in radians, from the origin."""
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cross(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether two polylines cross: a segment of each has the ends of the other on different sides."""
    a, b = one[:-1, None], one[1:, None]
    c, d = other[None, :-1], other[None, 1:]

    def side(start: NDArray[Any], end: NDArray[Any], point: NDArray[Any]) -> NDArray[Any]:
        along, to = end - start, point - start
        return np.asarray(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0])

    crossing = (side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)
    return bool(crossing.any())


def _write_around(ax: Axes, panel: ExactPanel, *, drawn: int | None = None) -> None:
    """Write the title, and under the panel its note and where its trajectories and their surrogates ended."""
    write_over(ax, panel.title)
    lines = [panel.note] if panel.note else []
    if panel.begin == "jump":
        counted, others = count_words(panel)
        lines.append(counted)
    else:
        others = [f"{surrogate.label} {_ends(panel, surrogate.distance)}" for surrogate in panel.surrogates]
        lines.append(f"ended {_ends(panel, panel.distance)} away")
        if drawn is not None and drawn < _count(panel):
            lines.append(f"{drawn} of {_count(panel)} trajectories are drawn")
    lines += [f"({', '.join(others)})".replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")] * bool(
        others
    )
    write_under(ax, "\n".join(lines))


def _ends(panel: ExactPanel, distance: Array) -> str:
    """Return the range of the final distances as text."""
    ends = [distance[rows[-1]] for rows in rows_by_member(panel).values()]
    least, greatest = f"{min(ends):.3g}", f"{max(ends):.3g}"
    return least if least == greatest else f"{least} to {greatest}"


def _count(panel: ExactPanel) -> int:
    return len(rows_by_member(panel))


def _polar_words(panels: Sequence[ExactPanel]) -> str:
    begin, length = panels[0].begin, panels[0].length
    unit = f", in {length}" if length else ""
    if begin == "jump":
        return (
            f"Every position is exact. Radius: distance from the minimum{unit} (bar); angle to the spoke: between "
            "displacement and jump. Inside its dotted arc a copy is nearer than it started. Spokes are evenly spaced, "
            "their sides have no meaning, and distances between copies are not shown."
        )
    scales = "; each panel has its own scale" if len(panels) > 1 else ""
    return (
        f"Every position is exact. Radius: distance from the trajectory's own {REFERENCES[begin]}{unit} (bar{scales}); "
        "angle to the spoke: between the displacement so far and the final one. A straight path lies on its spoke. "
        "Spokes are evenly spaced, one per trajectory; distances between trajectories are not shown."
    )


def _plane_words(panels: Sequence[ExactPanel]) -> str:
    begin = panels[0].begin
    if begin == "jump":
        return (
            "Every position is exact, in units of the jump. Arcs: equal distance from the minimum (black: of the "
            "starts; left of it is nearer). Dots: ends."
        )
    return (
        f"Every position is exact, in units of each trajectory's final displacement: all lead from 0, the "
        f"{REFERENCES[begin]}, to 1. Arcs: equal distance from there. A straight path lies on the axis, one of "
        "orthogonal steps, as random steps nearly are in many dimensions, on a semicircle."
    )


def _checked(panels: Sequence[ExactPanel]) -> tuple[list[ExactPanel], Palette, dict[str, Any]]:
    """Return the panels, their palette, and the dashes of each surrogate, which are the same in all panels."""
    checked = [check_exact(panel) for panel in panels]
    words = {(panel.hue, panel.begin, panel.unit, panel.length) for panel in checked}
    if len(words) > 1:
        raise ValueError(f"panels differ in their hue, begin, unit and length: {sorted(words)}")
    is_random = {each.label: each.is_random for panel in checked for each in panel.surrogates}
    styles = cycle(DASHES)
    dashes = {label: next(styles) if is_drawn else DOTTED for label, is_drawn in is_random.items()}
    return checked, shared_palette(checked), dashes


def _arrange(
    fig: Figure,
    axes: NDArray[Any],
    panels: Sequence[ExactPanel],
    palette: Palette,
    dashes: dict[str, Any],
    *,
    polar: bool,
) -> None:
    """Place the panels, and draw a legend under them."""
    arrange_panels(fig, axes, center=True)
    extra = [Line2D([], [], color=GREY, linewidth=0.8, label=label, linestyle=each) for label, each in dashes.items()]
    fades: list[Fade] = ["dark"] if polar else []
    first = panels[0]
    has_jumps = first.begin == "jump"
    # A panel with a single group has its name as the title, and needs no legend of hues.
    named = all({panel.title} == set(map(str, panel.seed.tolist())) for panel in panels)
    signs: dict[str, Any] = {
        "directions": polar if has_jumps else not named,
        "step_sizes": has_jumps,
        "minimum": polar and has_jumps,
        "initial": "" if has_jumps else REFERENCES[first.begin],
    }
    legend(
        fig, palette, hue=first.hue, unit=first.unit, shading=shading_words(panels), fades=fades, **signs, extra=extra
    )
