"""Figures of the landscape itself: lines, planes, paths, spectra and persistence diagrams.

Arrays in, artists out. Titles are names; what was used stands in the notes under the panels.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from jaxscape.figures.landscape_panels import (
    Array,
    LinePanel,
    PathPanel,
    PersistencePanel,
    SpectrumPanel,
    SurfacePanel,
    TrajectoryPanel,
    checked_line,
    checked_path,
    checked_persistence,
    checked_spectrum,
    checked_surface,
    checked_trajectory,
    gaps,
    height_above_chord,
    median_by_epoch,
)
from jaxscape.figures.layout import (
    GAP,
    NORMAL,
    PANEL_INCHES,
    PLAIN,
    SMALL,
    add_strip,
    arrange_panels,
    from_top,
    panel_axes,
    row_lengths,
    text_inches,
    wrapped,
)
from jaxscape.figures.legend import STYLE, figure_note
from jaxscape.figures.palette import FRAME, GREY, HUES, INK, MINIMUM, SCALE
from jaxscape.figures.style import own_style
from jaxscape.figures.texts import PLAIN_NUMBERS, log_ticks, write_over, write_under

__all__ = [
    "LinePanel",
    "PathPanel",
    "PersistencePanel",
    "SpectrumPanel",
    "SurfacePanel",
    "TrajectoryPanel",
    "contour_figure",
    "is_log",
    "line_figure",
    "path_figure",
    "persistence_figure",
    "spectrum_figure",
    "surface_figure",
    "trajectory_figure",
]

LOG_RANGE = 100.0  # of the largest value to the smallest, from which on a scale is logarithmic
LOWEST_DENSITY = 1e-6  # of the highest, where the axis of a spectrum begins
BAND = (5, 95)  # percentiles of the null between which a band is drawn
OUTSIDE_SCALE = "plasma"
_A_ROW = 3
_LEVELS = 8  # of a linear scale, about
_STEPS = [1, 2, 2.5, 5, 10]  # between the ticks of a linear scale
_NULL: dict[str, Any] = {"color": FRAME, "linewidth": 0}


@own_style()
def line_figure(
    panels: Sequence[LinePanel], *, quantity: str = "loss", log: bool | None = None, note: str = ""
) -> Figure:
    """Values along straight lines, with both ends marked and the barrier drawn; all panels share the vertical axis.

    Args:
        panels: lines, each with one or more curves; a curve of one name has one colour in all panels.
        quantity: what is drawn, for the axis.
        log: whether the scale is logarithmic; by default as `is_log` has it.
        note: for the foot of the figure.

    Raises:
        ValueError: no panels; as `checked_line`; a logarithmic scale of values that are not positive.
    """
    panels = [checked_line(panel) for panel in _some(panels)]
    log = _scale([each for panel in panels for each in panel.curves.values()], log)
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    hues = {name: HUES[number % len(HUES)] for number, name in enumerate(names)}
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW), sharey=True)
    shown = list(filter(None, axes.flat))
    for ax, panel in zip(shown, panels, strict=True):
        for name, values in panel.curves.items():
            ax.plot(panel.position, _gapped(values), color=hues[name], linewidth=1.2, zorder=3)
        _mark_ends(ax, panel.position, panel.ends)
    _finish_axes(shown[0], log=log)
    for ax, panel in zip(shown, panels, strict=True):
        _plain_axes(ax)
        lines = [panel.note, f"statistics {panel.statistics}" if panel.statistics else ""]
        if panel.barrier:
            where, height, chord = height_above_chord(panel)
            inside = (panel.position >= 0) & (panel.position <= 1)
            ax.plot(panel.position[inside], chord[inside], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=2)
            foot = float(np.interp(where, panel.position, chord))
            ax.plot([where] * 2, [foot, foot + height], color=INK, linewidth=0.8, marker="_", markersize=4, zorder=4)
            unknown = gaps(panel.curves[panel.barrier][inside])
            lines.append(f"barrier of {panel.barrier} {'at least ' * bool(unknown)}{height:.3g} at {where:.3g}")
        lines.append(_gap_words(*panel.curves.values()))
        write_over(ax, panel.title)
        write_under(ax, _lines(lines))
    _label_rows(axes, quantity)
    arrange_panels(fig, axes, center=True)
    handles = [Line2D([], [], color=hue, linewidth=1.2, label=name) for name, hue in hues.items()]
    if any(panel.barrier for panel in panels):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="chord"))
        handles.append(Line2D([], [], color=INK, linewidth=0.8, marker="_", markersize=4, label="barrier"))
    _legend(fig, handles)
    _foot(fig, note)
    return fig


@own_style()
def contour_figure(
    panels: Sequence[SurfacePanel], *, quantity: str = "loss", log: bool | None = None, note: str = ""
) -> Figure:
    """Surfaces as filled contours with labelled levels; all panels share levels and colours.

    Args:
        panels: surfaces. What is NaN or infinite is hatched.
        quantity: what is drawn, beside the colour bar.
        log: whether the levels are those of a logarithmic scale; by default as `is_log` has it.
        note: for the foot of the figure.

    Raises:
        ValueError: no panels; as `checked_surface`; a logarithmic scale of values that are not positive.
    """
    panels = [checked_surface(panel) for panel in _some(panels)]
    log = _scale([panel.values for panel in panels], log)
    levels = _levels([panel.values for panel in panels], log=log)
    scale, cmap = _colors(levels, matplotlib.colormaps[SCALE])
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW))
    shown = list(filter(None, axes.flat))
    for ax, panel in zip(shown, panels, strict=True):
        _draw_contours(ax, panel, levels, scale, cmap)
        _draw_points(ax, panel)
        write_over(ax, panel.title)
        write_under(ax, _lines([panel.note, _gap_words(panel.values, "hatched")]))
    for row in axes:
        row_axes = list(filter(None, row))
        _colorbar(row_axes[-1], ScalarMappable(scale, cmap), quantity, levels)
    arrange_panels(fig, axes, center=True)
    _foot(fig, note)
    return fig


@own_style()
def surface_figure(
    panels: Sequence[SurfacePanel], *, quantity: str = "loss", log: bool | None = None, note: str = ""
) -> Figure:
    """Surfaces in space; all panels share the vertical axis and the colours. What is NaN or infinite is a hole.

    A marked point has the height of the grid's nearest point, and is left out where that is a hole.

    Args:
        panels: as `contour_figure`.
        quantity: as `contour_figure`.
        log: as `contour_figure`.
        note: for the foot of the figure.

    Raises:
        ValueError: as `contour_figure`.
    """
    panels = [checked_surface(panel) for panel in _some(panels)]
    log = _scale([panel.values for panel in panels], log)
    levels = _levels([panel.values for panel in panels], log=log)
    height = np.log10 if log else np.asarray
    scale = (LogNorm if log else Normalize)(levels[0], levels[-1])
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW), subplot_kw={"projection": "3d"})
    side = 1.25 * PANEL_INCHES
    shown = list(filter(None, axes.flat))
    for ax, panel in zip(shown, panels, strict=True):
        values = _gapped(panel.values)
        colors = matplotlib.colormaps[SCALE](scale(np.nan_to_num(values, nan=levels[0])))
        colors[np.isnan(values)] = 0  # no part of a facet at a missing corner is filled
        x, y = np.meshgrid(panel.x, panel.y)
        style: dict[str, Any] = {"rstride": 1, "cstride": 1, "linewidth": 0.15, "edgecolor": "white", "shade": False}
        ax.plot_surface(x, y, height(values), facecolors=colors, antialiased=True, **style)
        ax.computed_zorder = False
        for name, (across, up) in panel.points.items():
            nearest = values[np.abs(panel.y - up).argmin(), np.abs(panel.x - across).argmin()]
            if np.isfinite(nearest):
                _star(ax, across, up, height(nearest), label=name)
        _space_axes(ax, panel, height(np.array(levels)), levels)
        write_over(ax, panel.title, side)
        write_under(ax, _lines([panel.note, _gap_words(panel.values, "left open")]), side)
    for row in axes:
        _colorbar(list(filter(None, row))[-1], ScalarMappable(scale, SCALE), quantity, levels, x=1.1)
    arrange_panels(fig, axes, width=side, height=side, center=True)
    names = list(dict.fromkeys(name for panel in panels for name in panel.points))
    _legend(fig, [_star_handle(", ".join(names))] if names else [])
    _foot(fig, note)
    return fig


@own_style()
def trajectory_figure(
    panels: Sequence[TrajectoryPanel], *, quantity: str = "loss", log: bool | None = None, note: str = ""
) -> Figure:
    """Trajectories projected on a plane, and below the loss of their points beside that of the plane under them.

    Above, the contours are those of the plane, and a point has the colour of the share of its distance from the plane's
    origin that lies outside of the plane. Below, where both lines differ, the contours are not the loss that the
    trajectory met.

    Args:
        panels: trajectories, each on its plane; all share levels and scales.
        quantity: what the contours and lines are.
        log: whether the scale of the losses is logarithmic; by default as `is_log` has it.
        note: for the foot of the figure.

    Raises:
        ValueError: no panels; as `checked_trajectory`; a logarithmic scale of values that are not positive.
    """
    panels = [checked_trajectory(panel) for panel in _some(panels)]
    surfaces = [panel.surface.values for panel in panels]
    log = _scale([*surfaces, *(each for panel in panels for each in (panel.loss, panel.plane_loss))], log)
    levels = _levels(surfaces, log=log)
    light = ListedColormap(matplotlib.colormaps["Greys"](np.linspace(0.02, 0.45, 256)))
    scale, cmap = _colors(levels, light)
    shares = Normalize(0, 1)
    fig = Figure()
    axes = panel_axes(fig, [len(panels)] * 2)  # planes have ranges of their own
    for below in axes[1, 1:]:
        below.sharey(axes[1, 0])
        below.tick_params(labelleft=False)
    for ax, below, panel in zip(*axes, panels, strict=True):
        _draw_contours(ax, panel.surface, levels, scale, cmap, panel.place)
        ways = [panel.place[panel.member == each] for each in np.unique(panel.member)]
        ax.add_collection(LineCollection(ways, colors=[GREY], linewidths=0.7, zorder=4), autolim=False)
        style: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.3, "s": 12, "zorder": 5}
        style |= {} if len(ways) == 1 else {"linewidths": 0, "s": 4}
        ax.scatter(*panel.place.T, c=panel.outside, cmap=OUTSIDE_SCALE, norm=shares, **style)
        _draw_points(ax, panel.surface)
        write_over(ax, panel.surface.title)
        far = f"outside of the plane {panel.outside.min():.0%} to {panel.outside.max():.0%} of the distance"
        gap = _gap_words(panel.surface.values, "hatched")
        low, high = (np.array([panel.surface.x[end], panel.surface.y[end]]) for end in (0, -1))
        beyond = int(np.any((panel.place < low) | (panel.place > high), axis=1).sum())
        cut = f"{beyond} points lie beyond the picture" if beyond else ""
        write_under(ax, _lines([panel.surface.note, far.replace("%", "\N{NO-BREAK SPACE}%"), cut, gap]))
        epochs, loss, plane_loss = median_by_epoch(panel)
        below.plot(epochs, _gapped(loss), color=HUES[0], linewidth=1.2, zorder=3)
        below.plot(epochs, _gapped(plane_loss), color=HUES[4], linewidth=1.2, linestyle="--", zorder=2)
        _plain_axes(below)
        below.set_xlabel(panel.unit, fontsize=NORMAL, color=INK)
        write_under(below, _gap_words(np.stack([panel.loss, panel.plane_loss])))
    _finish_axes(axes[1, 0], log=log)
    _label_rows(axes[1:], quantity)
    _colorbar(axes[0, -1], ScalarMappable(shares, OUTSIDE_SCALE), "share outside of the plane", [0, 0.25, 0.5, 0.75, 1])
    arrange_panels(fig, axes)
    several = any(panel.member is not None and len(np.unique(panel.member)) > 1 for panel in panels)
    points, them = ("points, median over the trajectories", "them") if several else ("point", "it")
    _legend(
        fig,
        [
            Line2D([], [], color=HUES[0], linewidth=1.2, label=f"{quantity} of the {points}"),
            Line2D([], [], color=HUES[4], linewidth=1.2, linestyle="--", label=f"{quantity} of the plane under {them}"),
        ],
    )
    _foot(fig, f"Contours: {quantity} of the plane.\n{note}")
    return fig


@own_style()
def path_figure(panels: Sequence[PathPanel], *, ends: tuple[str, str] = ("0", "1"), note: str = "") -> Figure:
    """Quantities along a curve of low loss and along the straight line between its ends, a panel a quantity.

    Args:
        panels: such as loss and error; each has its own vertical axis, logarithmic as `is_log` has it.
        ends: names of the two ends.
        note: for the foot of the figure.

    Raises:
        ValueError: no panels; as `checked_path`.
    """
    panels = [checked_path(panel) for panel in _some(panels)]
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW))
    for ax, panel in zip(filter(None, axes.flat), panels, strict=True):
        ax.plot(panel.position, _gapped(panel.straight), color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=2)
        ax.plot(panel.position, _gapped(panel.curve), color=HUES[0], linewidth=1.4, zorder=3)
        _mark_ends(ax, panel.position, ends)
        _finish_axes(ax, log=_scale([panel.curve, panel.straight], None))
        _plain_axes(ax)
        write_over(ax, panel.quantity)
        highest = [f"{name} {each[np.isfinite(each)].max(initial=-np.inf):.3g}" for name, each in _both(panel)]
        write_under(ax, _lines([panel.note, f"highest: {', '.join(highest)}", _gap_words(panel.curve, panel.straight)]))
    arrange_panels(fig, axes, center=True)
    _legend(
        fig,
        [
            Line2D([], [], color=HUES[0], linewidth=1.4, label="curve"),
            Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), label="straight line"),
        ],
    )
    _foot(fig, note)
    return fig


@own_style()
def spectrum_figure(panels: Sequence[SpectrumPanel], *, quantity: str = "eigenvalue", note: str = "") -> Figure:
    """Spectral densities on a logarithmic axis, a row a network; single eigenvalues are ticks over the horizontal axis.

    Args:
        panels: spectra, which share both axes.
        quantity: for the horizontal axis.
        note: for the foot of the figure.

    Raises:
        ValueError: no panels; as `checked_spectrum`.
    """
    panels = [checked_spectrum(panel) for panel in _some(panels)]
    top = max(panel.density.max() for panel in panels)
    floor = LOWEST_DENSITY * top
    ends = np.concatenate(
        [each for panel in panels for each in (panel.value[panel.density > floor], panel.eigenvalues)]
    )
    margin = 0.03 * (np.ptp(ends) or 1.0)
    fig = Figure()
    axes = panel_axes(fig, [1] * len(panels), sharex=True, sharey=True)
    width, height = 2.2 * PANEL_INCHES, 0.55 * PANEL_INCHES
    for ax, panel in zip(axes[:, 0], panels, strict=True):
        density = np.maximum(panel.density, 1e-6 * floor)  # under the axis, where both are cut
        ax.fill_between(panel.value, 1e-6 * floor, density, color=HUES[3], alpha=0.4, linewidth=0, zorder=1)
        ax.plot(panel.value, density, color=HUES[0], linewidth=0.9, zorder=2)
        ax.vlines(
            panel.eigenvalues, 0, 0.14, transform=ax.get_xaxis_transform(), color=HUES[4], linewidth=1.0, zorder=3
        )
        ax.set(xlim=(ends.min() - margin, ends.max() + margin), ylim=(floor, 3 * top))
        _finish_axes(ax, log=True, limits=False)
        _plain_axes(ax)
        ax.tick_params(labelbottom=ax is axes[-1, 0])
        ax.set_ylabel("density", fontsize=NORMAL, color=INK)
        if ax is axes[-1, 0]:
            ax.set_xlabel(quantity, fontsize=NORMAL, color=INK)
        write_over(ax, panel.title, width)
        write_under(ax, panel.note, width)
    arrange_panels(fig, axes, width=width, height=height)
    _legend(
        fig,
        [
            Patch(facecolor=HUES[3], alpha=0.4, edgecolor=HUES[0], label="spectral density"),
            Line2D([], [], color=HUES[4], linestyle="none", marker="|", markersize=7, label="single eigenvalues"),
        ],
    )
    _foot(fig, f"The axis begins at {LOWEST_DENSITY:g} of the highest density.\n{note}")
    return fig


@own_style()
def persistence_figure(panels: Sequence[PersistencePanel], *, quantity: str = "loss", note: str = "") -> Figure:
    """Persistence diagrams, and below lifetimes by rank beside those of shuffled losses.

    Above, a point is a basin: born at its minimum, dead where it joins a deeper one. A triangle on the dashed line
    has no death. Below, the lifetimes from the longest on, and the band that holds 90 % of shuffled losses.

    Args:
        panels: diagrams; all share their scales.
        quantity: what births and deaths are, for the axes.
        note: for the foot of the figure.

    Raises:
        ValueError: no panels; as `checked_persistence`.
    """
    panels = [checked_persistence(panel) for panel in _some(panels)]
    finite = np.concatenate([each[np.isfinite(each)] for panel in panels for each in (panel.birth, panel.death)])
    low, reach = float(finite.min()), float(np.ptp(finite)) or 1.0
    limits, infinity = (low - 0.06 * reach, low + 1.18 * reach), low + 1.1 * reach
    banded = any(panel.null is not None for panel in panels)
    fig = Figure()
    axes = panel_axes(fig, [len(panels)] * (2 if banded else 1), sharey="row")
    for ax, panel in zip(axes[0], panels, strict=True):
        lasting = np.isinf(panel.death)
        ax.plot(limits, limits, color=GREY, linewidth=0.6, zorder=1)
        ax.axhline(infinity, color=GREY, linewidth=0.6, linestyle=(0, (4, 2)), zorder=1)
        style: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.3, "zorder": 3, "clip_on": False}
        ax.scatter(panel.birth[~lasting], panel.death[~lasting], s=12, color=HUES[0], **style)
        ax.scatter(panel.birth[lasting], np.full(lasting.sum(), infinity), s=20, marker="^", color=HUES[4], **style)
        ax.set(xlim=limits, ylim=limits)
        ax.set_aspect("equal")
        _finish_axes(ax, log=False, limits=False)
        ax.xaxis.set(major_locator=MaxNLocator(5, steps=_STEPS), major_formatter=PLAIN_NUMBERS)
        ax.set_xlabel(f"birth ({quantity})", fontsize=NORMAL, color=INK)
        _plain_axes(ax)
        write_over(ax, panel.title)
        write_under(ax, _lines([panel.note, f"{len(panel.birth)} in all, {lasting.sum()} without death"]))
    _label_rows(axes[:1], f"death ({quantity})")
    if banded:
        for ax, panel in zip(axes[1], panels, strict=True):
            _draw_lifetimes(ax, panel)
        _finish_axes(axes[1, 0], log=False, limits=False)
        axes[1, 0].set_ylim(bottom=0)
        _label_rows(axes[1:], "death \N{MINUS SIGN} birth")
    arrange_panels(fig, axes)
    handles: list[Any] = [
        Line2D([], [], color=HUES[0], linestyle="none", marker="o", markersize=3.5, label="pair"),
        Line2D([], [], color=HUES[4], linestyle="none", marker="^", markersize=4.5, label="without death"),
    ]
    if banded:
        words = f"shuffled losses, {BAND[0]} to {BAND[1]}\N{NO-BREAK SPACE}%, and their median"
        handles.append((Patch(color=FRAME), words))
    _legend(fig, handles)
    _foot(fig, note)
    return fig


def is_log(values: Sequence[Array]) -> bool:
    """Return whether a scale is logarithmic: all finite values are positive, the largest over 100 times the smallest.

    Args:
        values: of all panels that share the scale.
    """
    finite = np.concatenate([each[np.isfinite(each)] for each in map(np.asarray, values)])
    return bool(len(finite) and finite.min() > 0 and finite.max() > LOG_RANGE * finite.min())


def _scale(values: Sequence[Array], log: bool | None) -> bool:
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    if log and finite.min(initial=1.0) <= 0:
        raise ValueError(f"values reach {finite.min():g}; a logarithmic scale begins over 0")
    return is_log(values) if log is None else log


def _some[P](panels: Sequence[P]) -> Sequence[P]:
    if not panels:
        raise ValueError("panels is empty; give one or more")
    return panels


def _levels(values: Sequence[Array], *, log: bool) -> list[float]:
    """Round levels that cover all finite values: about eight, or on a logarithmic scale 1, 3, 10, ..."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    low, high = float(finite.min()), float(finite.max())
    if not high > low:
        margin = 0.5 * abs(low) or 0.5
        return [low - margin, low + margin]
    if not log:
        return [float(level) for level in MaxNLocator(_LEVELS, steps=_STEPS).tick_values(low, high)]
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    mantissas = (1,) if len(decades) > 7 else (1, 3) if len(decades) > 4 else (1, 2, 5)
    found = np.outer(10.0**decades, mantissas).ravel()
    first, last = np.searchsorted(found, low, side="right") - 1, np.searchsorted(found, high)
    return [float(level) for level in found[max(first, 0) : last + 1][:: -(-(last + 1 - first) // 24)]]


def _colors(levels: Sequence[float], cmap: Colormap) -> tuple[BoundaryNorm, Colormap]:
    """A colour a step between levels."""
    steps = ListedColormap(cmap(np.linspace(0, 1, max(len(levels) - 1, 1))))
    return BoundaryNorm(levels, steps.N), steps


def _draw_contours(
    ax: Axes,
    panel: SurfacePanel,
    levels: list[float],
    scale: BoundaryNorm,
    cmap: Colormap,
    over: NDArray[Any] | Sequence[tuple[float, float]] = (),
) -> None:
    """Contours with their levels, but where these would cover what is drawn over them at the places (k, 2)."""
    values = np.ma.masked_invalid(panel.values)
    ax.patch.set(facecolor="white", hatch="////", edgecolor=GREY)  # shows where there is no value
    ax.contourf(panel.x, panel.y, values, levels=levels, norm=scale, cmap=cmap, zorder=1)
    inner = [level for level in levels if values.min() < level < values.max()]
    if inner:
        lines = ax.contour(panel.x, panel.y, values, levels=inner, colors=[INK], linewidths=0.4, zorder=2)
        labels = ax.clabel(lines, inner, fontsize=SMALL, fmt=PLAIN_NUMBERS, inline=False, zorder=6)
        for label in labels:
            label.set_path_effects([withStroke(linewidth=2.0, foreground="white")])
            label.set(rotation=0)
    ax.set(xlim=(panel.x[0], panel.x[-1]), ylim=(panel.y[0], panel.y[-1]))
    if inner:
        _keep_apart(ax, labels, [*over, *panel.points.values()])
    for axis, name in ((ax.xaxis, panel.labels[0]), (ax.yaxis, panel.labels[1])):
        axis.set_label_text(name, fontsize=NORMAL, color=INK)
        axis.set_major_locator(MaxNLocator(4))
    _ticks(ax)
    for spine in ax.spines.values():
        spine.set(color=GREY, linewidth=0.6)


def _keep_apart(ax: Axes, labels: Any, places: Sequence[Any]) -> None:
    """Remove labels that would cover one another or these places, or reach out of the panel, once it has its size."""
    width, height = ax.figure.bbox.width / ax.figure.dpi, ax.figure.bbox.height / ax.figure.dpi
    ax.set_position((0, 0, PANEL_INCHES / width, PANEL_INCHES / height))
    panel, point = ax.get_window_extent(), ax.figure.dpi / 72
    taken = [_around(ax, place, 3 * point) for place in places]
    for label in labels:
        box = label.get_window_extent()
        inside = panel.x0 < box.x0 and box.x1 < panel.x1 and panel.y0 < box.y0 and box.y1 < panel.y1
        if inside and not any(box.padded(2 * point).overlaps(other) for other in taken):
            taken.append(box)
        else:
            label.remove()


def _around(ax: Axes, place: Any, pixels: float) -> Bbox:
    return Bbox([ax.transData.transform(place)] * 2).padded(pixels)


def _draw_points(ax: Axes, panel: SurfacePanel) -> None:
    middle = (panel.x[0] + panel.x[-1]) / 2, (panel.y[0] + panel.y[-1]) / 2
    for name, (across, up) in panel.points.items():
        _star(ax, across, up)
        # Towards the middle, so that no name leaves the panel.
        right, above = across <= middle[0], up <= middle[1]
        style: dict[str, Any] = {**PLAIN, "fontsize": SMALL, "color": INK, "zorder": 8}
        style |= {"ha": "left" if right else "right", "va": "bottom" if above else "top"}
        shift = (3 if right else -3, 3 if above else -3)
        text = ax.annotate(name, (across, up), shift, textcoords="offset points", **style)
        text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
        name_box = text.get_window_extent()
        for label in [each for each in ax.texts if each.get_transform() == ax.transData]:  # of levels
            if label is not text and label.get_window_extent().overlaps(name_box):
                label.remove()


def _star(ax: Any, *place: Any, label: str = "") -> None:
    style: dict[str, Any] = {"marker": "*", "c": MINIMUM, "edgecolors": INK, "linewidths": 0.5, "zorder": 7}
    if len(place) == 3:
        style["depthshade"] = False
    ax.scatter(*([each] for each in place), s=40, clip_on=False, **style)


def _star_handle(label: str) -> Line2D:
    style: dict[str, Any] = {"markerfacecolor": MINIMUM, "markeredgecolor": INK, "markeredgewidth": 0.5}
    return Line2D([], [], linestyle="none", marker="*", markersize=7, label=label, **style)


def _space_axes(ax: Any, panel: SurfacePanel, heights: NDArray[Any], levels: Sequence[float]) -> None:
    ax.set(xlim=(panel.x[0], panel.x[-1]), ylim=(panel.y[0], panel.y[-1]), zlim=(heights[0], heights[-1]))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(3))
        axis.line.set(color=GREY, linewidth=0.6)
    ax.zaxis.line.set(color=GREY, linewidth=0.6)
    step = -(-len(levels) // 5)
    ax.set_zticks(heights[::step], [f"{level:.6g}" for level in levels[::step]])
    ax.set_xlabel(panel.labels[0], fontsize=NORMAL, color=INK, labelpad=-6)
    ax.set_ylabel(panel.labels[1], fontsize=NORMAL, color=INK, labelpad=-3)
    ax.tick_params(labelsize=SMALL, pad=-3, labelcolor=INK)
    ax.tick_params(axis="z", pad=0)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.set_pane_color("white")
    ax.grid(False)
    ax.view_init(elev=32, azim=-58)
    ax.set_box_aspect((1, 1, 0.75), zoom=0.9)


def _draw_lifetimes(ax: Axes, panel: PersistencePanel) -> None:
    shown = np.isfinite(panel.death)
    found = np.sort(panel.death[shown] - panel.birth[shown])[::-1]
    if panel.null is not None:
        rank = np.arange(1, panel.null.shape[1] + 1)
        low, high = np.percentile(panel.null, BAND, axis=0)
        ax.fill_between(rank, low, high, zorder=1, **_NULL)
        ax.plot(rank, np.median(panel.null, axis=0), color=GREY, linewidth=0.8, zorder=2)
    style: dict[str, Any] = {"markersize": 3, "linewidth": 0.8, "zorder": 3}
    ax.plot(np.arange(1, len(found) + 1), found, color=HUES[0], marker="o", markeredgewidth=0, **style)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_xlabel("rank", fontsize=NORMAL, color=INK)
    _plain_axes(ax)


def _both(panel: PathPanel) -> list[tuple[str, Array]]:
    return [("curve", panel.curve), ("straight line", panel.straight)]


def _mark_ends(ax: Axes, position: Array, ends: tuple[str, str]) -> None:
    """Thin lines at 0 and 1, whose names stand in place of these ticks."""
    for end in (0, 1):
        ax.axvline(end, color=FRAME, linewidth=0.8, zorder=0)
    low, high = float(position[0]), float(position[-1])
    names = {float(end): wrapped(name, 0.45 * PANEL_INCHES, SMALL) for end, name in enumerate(ends)}
    texts = {place: f"{place:.3g}".replace("-", "\N{MINUS SIGN}") for place in (0.5, low, high)} | names
    span = PANEL_INCHES / (1.1 * (high - low))  # inches a unit, with matplotlib's margins
    half = {place: max(text_inches(line, SMALL) for line in text.split("\n")) / 2 for place, text in texts.items()}
    for place in [each for each in texts if each not in names]:
        if any(abs(place - end) * span < half[place] + half[end] + 0.04 for end in names):
            del texts[place]
    ax.set_xticks(list(texts), list(texts.values()), parse_math=False)


def _finish_axes(ax: Axes, *, log: bool, limits: bool = True) -> None:
    """The scale and the ticks of the vertical axis."""
    if not log:
        ax.yaxis.set(major_locator=MaxNLocator(5, steps=_STEPS), major_formatter=PLAIN_NUMBERS)
        return
    ax.set_yscale("log")
    if limits:
        ax.set_ylim(*ax.get_ylim())
    ticks = FixedLocator(log_ticks(*ax.get_ylim()))
    ax.yaxis.set(major_locator=ticks, minor_locator=NullLocator(), major_formatter=PLAIN_NUMBERS)


def _plain_axes(ax: Axes) -> None:
    _ticks(ax)
    for side, spine in ax.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=GREY, linewidth=0.6)


def _ticks(ax: Axes) -> None:
    ax.tick_params(which="both", labelsize=SMALL, width=0.5, length=2, color=INK, labelcolor=INK)


def _label_rows(axes: NDArray[Any], text: str) -> None:
    for row in axes:
        row[0].tick_params(labelleft=True)
        row[0].set_ylabel(text, fontsize=NORMAL, color=INK)


def _colorbar(ax: Any, drawn: ScalarMappable, label: str, ticks: Sequence[float], *, x: float = 1.03) -> None:
    inset = ax.inset_axes((x, 0, 0.03, 1)) if ax.name != "3d" else ax.inset_axes((x, 0.15, 0.03, 0.7))
    bar = ax.figure.colorbar(drawn, cax=inset, spacing="uniform")
    bar.set_label(label, fontsize=NORMAL, color=INK)
    step = -(-len(ticks) // 10)
    bar.set_ticks(FixedLocator(list(ticks[::step])))
    bar.ax.yaxis.set(minor_locator=NullLocator(), major_formatter=PLAIN_NUMBERS)
    _ticks(bar.ax)
    bar.outline.set_visible(False)


def _legend(fig: Figure, handles: Sequence[Any]) -> None:
    """A legend in one row, or in as many as the width needs, in a strip at the foot."""
    if not handles:
        return
    entries = [each if isinstance(each, tuple) else (each, str(each.get_label())) for each in handles]
    for columns in range(len(entries), 0, -1):
        box = fig.legend([each for each, _ in entries], [words for _, words in entries], ncols=columns, **STYLE)
        for text in box.get_texts():
            text.set(**PLAIN)
        if columns == 1 or box.get_window_extent().width < fig.bbox.width - 2 * GAP * fig.dpi:
            break
        box.remove()
    box.set_bbox_to_anchor((0.5, add_strip(fig, box)), transform=from_top(fig))


def _foot(fig: Figure, note: str) -> None:
    if note.strip():
        figure_note(fig, note.strip("\n"))


def _gapped(values: Array) -> NDArray[np.float64]:
    return np.where(np.isfinite(values), values, np.nan)


def _gap_words(*values: Any) -> str:
    """How many values are missing, and how that shows, where the last argument is a word."""
    words = values[-1] if isinstance(values[-1], str) else "gaps"
    count = gaps(*(each for each in values if not isinstance(each, str)))
    return f"{count} NaN or infinite: {words}" if count else ""


def _lines(lines: Sequence[str]) -> str:
    return "\n".join(line for line in lines if line)
