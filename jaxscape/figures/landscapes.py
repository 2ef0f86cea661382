"""Figures of the landscape itself: lines, planes, paths, spectra and persistence diagrams.

Arrays in, artists out. Titles are names; settings are in the notes under the panels.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

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
from jaxscape.figures.landscape_parts import (
    STEPS,
    draw_colorbar,
    draw_contours,
    draw_legend,
    draw_points,
    draw_star,
    gap_words,
    gapped,
    is_log,
    is_log_scale,
    joined_lines,
    label_rows,
    level_colors,
    mark_ends,
    plain_axes,
    round_levels,
    set_scale,
    set_space_axes,
    some_panels,
    star_handle,
    write_foot,
)
from jaxscape.figures.layout import (
    NORMAL,
    PANEL_INCHES,
    arrange_panels,
    panel_axes,
    row_lengths,
)
from jaxscape.figures.palette import FRAME, GREY, HUES, INK, SCALE
from jaxscape.figures.style import own_style
from jaxscape.figures.texts import PLAIN_NUMBERS, write_over, write_under

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

LOWEST_DENSITY = 1e-6  # start of a spectrum's density axis, as a fraction of the highest density
BAND = (5, 95)  # percentiles of the null, drawn as a band
OUTSIDE_SCALE = "plasma"
_A_ROW = 3
_NULL: dict[str, Any] = {"color": FRAME, "linewidth": 0}


@own_style()
def line_figure(
    panels: Sequence[LinePanel], *, quantity: str = "loss", log: bool | None = None, note: str = ""
) -> Figure:
    """Draw values along straight lines, with both ends marked and the barrier; all panels share the vertical axis.

    Args:
        panels: lines, each with one or more curves; curves with the same name have the same colour in all panels.
        quantity: label of the vertical axis.
        log: whether the scale is logarithmic; by default decided by `is_log`.
        note: for the foot of the figure.

    Raises:
        ValueError: for no panels; as `checked_line`; for a logarithmic scale with values that are not positive.
    """
    panels = [checked_line(panel) for panel in some_panels(panels)]
    log = is_log_scale([each for panel in panels for each in panel.curves.values()], log)
    names = list(dict.fromkeys(name for panel in panels for name in panel.curves))
    hues = {name: HUES[number % len(HUES)] for number, name in enumerate(names)}
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW), sharey=True)
    shown = list(filter(None, axes.flat))
    for ax, panel in zip(shown, panels, strict=True):
        for name, values in panel.curves.items():
            ax.plot(panel.position, gapped(values), color=hues[name], linewidth=1.2, zorder=3)
        mark_ends(ax, panel.position, panel.ends)
    set_scale(shown[0], log=log)
    for ax, panel in zip(shown, panels, strict=True):
        plain_axes(ax)
        lines = [panel.note, f"statistics {panel.statistics}" if panel.statistics else ""]
        if panel.barrier:
            where, height, chord = height_above_chord(panel)
            inside = (panel.position >= 0) & (panel.position <= 1)
            ax.plot(panel.position[inside], chord[inside], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=2)
            foot = float(np.interp(where, panel.position, chord))
            ax.plot([where] * 2, [foot, foot + height], color=INK, linewidth=0.8, marker="_", markersize=4, zorder=4)
            unknown = gaps(panel.curves[panel.barrier][inside])
            lines.append(f"barrier of {panel.barrier} {'at least ' * bool(unknown)}{height:.3g} at {where:.3g}")
        lines.append(gap_words(*panel.curves.values()))
        write_over(ax, panel.title)
        write_under(ax, joined_lines(lines))
    label_rows(axes, quantity)
    arrange_panels(fig, axes, center=True)
    handles = [Line2D([], [], color=hue, linewidth=1.2, label=name) for name, hue in hues.items()]
    if any(panel.barrier for panel in panels):
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="chord"))
        handles.append(Line2D([], [], color=INK, linewidth=0.8, marker="_", markersize=4, label="barrier"))
    draw_legend(fig, handles)
    write_foot(fig, note)
    return fig


@own_style()
def contour_figure(
    panels: Sequence[SurfacePanel], *, quantity: str = "loss", log: bool | None = None, note: str = ""
) -> Figure:
    """Draw surfaces as filled contours with labelled levels; all panels share levels and colours.

    Args:
        panels: surfaces. NaN and infinite values are hatched.
        quantity: label of the colour bar.
        log: whether the levels are logarithmic; by default decided by `is_log`.
        note: for the foot of the figure.

    Raises:
        ValueError: for no panels; as `checked_surface`; for a logarithmic scale with values that are not positive.
    """
    panels = [checked_surface(panel) for panel in some_panels(panels)]
    log = is_log_scale([panel.values for panel in panels], log)
    levels = round_levels([panel.values for panel in panels], log=log)
    scale, cmap = level_colors(levels, matplotlib.colormaps[SCALE])
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW))
    shown = list(filter(None, axes.flat))
    for ax, panel in zip(shown, panels, strict=True):
        draw_contours(ax, panel, levels, scale, cmap)
        draw_points(ax, panel)
        write_over(ax, panel.title)
        write_under(ax, joined_lines([panel.note, gap_words(panel.values, "hatched")]))
    for row in axes:
        row_axes = list(filter(None, row))
        draw_colorbar(row_axes[-1], ScalarMappable(scale, cmap), quantity, levels)
    arrange_panels(fig, axes, center=True)
    write_foot(fig, note)
    return fig


@own_style()
def surface_figure(
    panels: Sequence[SurfacePanel], *, quantity: str = "loss", log: bool | None = None, note: str = ""
) -> Figure:
    """Draw surfaces in 3-D; all panels share the vertical axis and the colours. NaN and infinite values are holes.

    A marked point has the height of the nearest grid point, and is omitted if that is a hole.

    Args:
        panels: as in `contour_figure`.
        quantity: as in `contour_figure`.
        log: as in `contour_figure`.
        note: for the foot of the figure.

    Raises:
        ValueError: as in `contour_figure`.
    """
    panels = [checked_surface(panel) for panel in some_panels(panels)]
    log = is_log_scale([panel.values for panel in panels], log)
    levels = round_levels([panel.values for panel in panels], log=log)
    height = np.log10 if log else np.asarray
    scale = (LogNorm if log else Normalize)(levels[0], levels[-1])
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW), subplot_kw={"projection": "3d"})
    side = 1.25 * PANEL_INCHES
    shown = list(filter(None, axes.flat))
    for ax, panel in zip(shown, panels, strict=True):
        values = gapped(panel.values)
        colors = matplotlib.colormaps[SCALE](scale(np.nan_to_num(values, nan=levels[0])))
        colors[np.isnan(values)] = 0  # facets with a missing corner are not filled
        x, y = np.meshgrid(panel.x, panel.y)
        style: dict[str, Any] = {"rstride": 1, "cstride": 1, "linewidth": 0.15, "edgecolor": "white", "shade": False}
        ax.plot_surface(x, y, height(values), facecolors=colors, antialiased=True, **style)
        ax.computed_zorder = False
        for across, up in panel.points.values():
            nearest = values[np.abs(panel.y - up).argmin(), np.abs(panel.x - across).argmin()]
            if np.isfinite(nearest):
                draw_star(ax, across, up, height(nearest))
        set_space_axes(ax, panel, height(np.array(levels)), levels)
        write_over(ax, panel.title, side)
        write_under(ax, joined_lines([panel.note, gap_words(panel.values, "left open")]), side)
    for row in axes:
        draw_colorbar(list(filter(None, row))[-1], ScalarMappable(scale, SCALE), quantity, levels, x=1.1)
    arrange_panels(fig, axes, width=side, height=side, center=True)
    names = list(dict.fromkeys(name for panel in panels for name in panel.points))
    draw_legend(fig, [star_handle(", ".join(names))] if names else [])
    write_foot(fig, note)
    return fig


@own_style()
def trajectory_figure(
    panels: Sequence[TrajectoryPanel], *, quantity: str = "loss", log: bool | None = None, note: str = ""
) -> Figure:
    """Draw trajectories projected on a plane, and below the loss of their points beside that of the plane.

    Above, the contours are those of the plane, and the colour of a point is the fraction of its distance from the
    plane's origin that lies outside the plane. Where the two lines below differ, the contours are not the loss that
    the trajectory encountered.

    Args:
        panels: trajectories, each on its plane; all share levels and scales.
        quantity: label of the contours and lines.
        log: whether the scale of the losses is logarithmic; by default decided by `is_log`.
        note: for the foot of the figure.

    Raises:
        ValueError: for no panels; as `checked_trajectory`; for a logarithmic scale with values that are not positive.
    """
    panels = [checked_trajectory(panel) for panel in some_panels(panels)]
    surfaces = [panel.surface.values for panel in panels]
    log = is_log_scale([*surfaces, *(each for panel in panels for each in (panel.loss, panel.plane_loss))], log)
    levels = round_levels(surfaces, log=log)
    light = ListedColormap(matplotlib.colormaps["Greys"](np.linspace(0.02, 0.45, 256)))
    scale, cmap = level_colors(levels, light)
    shares = Normalize(0, 1)
    fig = Figure()
    axes = panel_axes(fig, [len(panels)] * 2)  # each plane has its own range
    for below in axes[1, 1:]:
        below.sharey(axes[1, 0])
        below.tick_params(labelleft=False)
    for ax, below, panel in zip(*axes, panels, strict=True):
        draw_contours(ax, panel.surface, levels, scale, cmap, panel.place)
        ways = [panel.place[panel.member == each] for each in np.unique(panel.member)]
        ax.add_collection(LineCollection(ways, colors=[GREY], linewidths=0.7, zorder=4), autolim=False)
        style: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.3, "s": 12, "zorder": 5}
        style |= {} if len(ways) == 1 else {"linewidths": 0, "s": 4}
        ax.scatter(*panel.place.T, c=panel.outside, cmap=OUTSIDE_SCALE, norm=shares, **style)
        draw_points(ax, panel.surface)
        write_over(ax, panel.surface.title)
        far = f"outside the plane {panel.outside.min():.0%} to {panel.outside.max():.0%} of the distance"
        gap = gap_words(panel.surface.values, "hatched")
        low, high = (np.array([panel.surface.x[end], panel.surface.y[end]]) for end in (0, -1))
        beyond = int(np.any((panel.place < low) | (panel.place > high), axis=1).sum())
        cut = f"{beyond} points outside the picture" if beyond else ""
        write_under(ax, joined_lines([panel.surface.note, far.replace("%", "\N{NO-BREAK SPACE}%"), cut, gap]))
        epochs, loss, plane_loss = median_by_epoch(panel)
        below.plot(epochs, gapped(loss), color=HUES[0], linewidth=1.2, zorder=3)
        below.plot(epochs, gapped(plane_loss), color=HUES[4], linewidth=1.2, linestyle="--", zorder=2)
        plain_axes(below)
        below.set_xlabel(panel.unit, fontsize=NORMAL, color=INK)
        write_under(below, gap_words(np.stack([panel.loss, panel.plane_loss])))
    set_scale(axes[1, 0], log=log)
    label_rows(axes[1:], quantity)
    draw_colorbar(
        axes[0, -1], ScalarMappable(shares, OUTSIDE_SCALE), "fraction outside the plane", [0, 0.25, 0.5, 0.75, 1]
    )
    arrange_panels(fig, axes)
    several = any(panel.member is not None and len(np.unique(panel.member)) > 1 for panel in panels)
    points, them = ("points, median over the trajectories", "them") if several else ("point", "it")
    draw_legend(
        fig,
        [
            Line2D([], [], color=HUES[0], linewidth=1.2, label=f"{quantity} of the {points}"),
            Line2D([], [], color=HUES[4], linewidth=1.2, linestyle="--", label=f"{quantity} of the plane under {them}"),
        ],
    )
    write_foot(fig, f"Contours: {quantity} of the plane.\n{note}")
    return fig


@own_style()
def path_figure(panels: Sequence[PathPanel], *, ends: tuple[str, str] = ("0", "1"), note: str = "") -> Figure:
    """Draw quantities along a low-loss curve and along the straight line between its ends, one panel per quantity.

    Args:
        panels: such as loss and error; each has its own vertical axis, logarithmic if `is_log` says so.
        ends: names of the two ends.
        note: for the foot of the figure.

    Raises:
        ValueError: for no panels; as `checked_path`.
    """
    panels = [checked_path(panel) for panel in some_panels(panels)]
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW))
    for ax, panel in zip(filter(None, axes.flat), panels, strict=True):
        ax.plot(panel.position, gapped(panel.straight), color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), zorder=2)
        ax.plot(panel.position, gapped(panel.curve), color=HUES[0], linewidth=1.4, zorder=3)
        mark_ends(ax, panel.position, ends)
        set_scale(ax, log=is_log_scale([panel.curve, panel.straight], None))
        plain_axes(ax)
        write_over(ax, panel.quantity)
        highest = [f"{name} {each[np.isfinite(each)].max(initial=-np.inf):.3g}" for name, each in _both(panel)]
        write_under(
            ax, joined_lines([panel.note, f"highest: {', '.join(highest)}", gap_words(panel.curve, panel.straight)])
        )
    arrange_panels(fig, axes, center=True)
    draw_legend(
        fig,
        [
            Line2D([], [], color=HUES[0], linewidth=1.4, label="curve"),
            Line2D([], [], color=GREY, linewidth=1.0, linestyle=(0, (4, 2)), label="straight line"),
        ],
    )
    write_foot(fig, note)
    return fig


@own_style()
def spectrum_figure(panels: Sequence[SpectrumPanel], *, quantity: str = "eigenvalue", note: str = "") -> Figure:
    """Draw spectral densities on a logarithmic axis, one row per network; single eigenvalues are ticks on the x axis.

    Args:
        panels: spectra, which share both axes.
        quantity: label of the horizontal axis.
        note: for the foot of the figure.

    Raises:
        ValueError: for no panels; as `checked_spectrum`.
    """
    panels = [checked_spectrum(panel) for panel in some_panels(panels)]
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
        density = np.maximum(panel.density, 1e-6 * floor)  # below the axis, where both are clipped
        ax.fill_between(panel.value, 1e-6 * floor, density, color=HUES[3], alpha=0.4, linewidth=0, zorder=1)
        ax.plot(panel.value, density, color=HUES[0], linewidth=0.9, zorder=2)
        ax.vlines(
            panel.eigenvalues, 0, 0.14, transform=ax.get_xaxis_transform(), color=HUES[4], linewidth=1.0, zorder=3
        )
        ax.set(xlim=(ends.min() - margin, ends.max() + margin), ylim=(floor, 3 * top))
        set_scale(ax, log=True, limits=False)
        plain_axes(ax)
        ax.tick_params(labelbottom=ax is axes[-1, 0])
        ax.set_ylabel("density", fontsize=NORMAL, color=INK)
        if ax is axes[-1, 0]:
            ax.set_xlabel(quantity, fontsize=NORMAL, color=INK)
        write_over(ax, panel.title, width)
        write_under(ax, panel.note, width)
    arrange_panels(fig, axes, width=width, height=height)
    draw_legend(
        fig,
        [
            Patch(facecolor=HUES[3], alpha=0.4, edgecolor=HUES[0], label="spectral density"),
            Line2D([], [], color=HUES[4], linestyle="none", marker="|", markersize=7, label="single eigenvalues"),
        ],
    )
    write_foot(fig, f"The axis begins at {LOWEST_DENSITY:g} of the highest density.\n{note}")
    return fig


@own_style()
def persistence_figure(panels: Sequence[PersistencePanel], *, quantity: str = "loss", note: str = "") -> Figure:
    """Draw persistence diagrams, and below them lifetimes by rank beside those of shuffled losses.

    In the diagram, a point is a basin: born at its minimum, dead where it merges into a deeper one. A triangle on the
    dashed line never dies. Below are the lifetimes in descending order, and the band that holds 90 % of shuffled
    losses.

    Args:
        panels: diagrams; all share their scales.
        quantity: what births and deaths measure, for the axes.
        note: for the foot of the figure.

    Raises:
        ValueError: for no panels; as `checked_persistence`.
    """
    panels = [checked_persistence(panel) for panel in some_panels(panels)]
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
        set_scale(ax, log=False, limits=False)
        ax.xaxis.set(major_locator=MaxNLocator(5, steps=STEPS), major_formatter=PLAIN_NUMBERS)
        ax.set_xlabel(f"birth ({quantity})", fontsize=NORMAL, color=INK)
        plain_axes(ax)
        write_over(ax, panel.title)
        write_under(ax, joined_lines([panel.note, f"{len(panel.birth)} in all, {lasting.sum()} without death"]))
    label_rows(axes[:1], f"death ({quantity})")
    if banded:
        for ax, panel in zip(axes[1], panels, strict=True):
            _draw_lifetimes(ax, panel)
        set_scale(axes[1, 0], log=False, limits=False)
        axes[1, 0].set_ylim(bottom=0)
        label_rows(axes[1:], "death \N{MINUS SIGN} birth")
    arrange_panels(fig, axes)
    handles: list[Any] = [
        Line2D([], [], color=HUES[0], linestyle="none", marker="o", markersize=3.5, label="pair"),
        Line2D([], [], color=HUES[4], linestyle="none", marker="^", markersize=4.5, label="without death"),
    ]
    if banded:
        words = f"shuffled losses, {BAND[0]} to {BAND[1]}\N{NO-BREAK SPACE}%, and their median"
        handles.append((Patch(color=FRAME), words))
    draw_legend(fig, handles)
    write_foot(fig, note)
    return fig


def _draw_lifetimes(ax: Axes, panel: PersistencePanel) -> None:
    shown = np.isfinite(panel.death)
    lifetimes = np.sort(panel.death[shown] - panel.birth[shown])[::-1]
    if panel.null is not None:
        rank = np.arange(1, panel.null.shape[1] + 1)
        low, high = np.percentile(panel.null, BAND, axis=0)
        ax.fill_between(rank, low, high, zorder=1, **_NULL)
        ax.plot(rank, np.median(panel.null, axis=0), color=GREY, linewidth=0.8, zorder=2)
    style: dict[str, Any] = {"markersize": 3, "linewidth": 0.8, "zorder": 3}
    ax.plot(np.arange(1, len(lifetimes) + 1), lifetimes, color=HUES[0], marker="o", markeredgewidth=0, **style)
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_xlabel("rank", fontsize=NORMAL, color=INK)
    plain_axes(ax)


def _both(panel: PathPanel) -> list[tuple[str, Array]]:
    return [("curve", panel.curve), ("straight line", panel.straight)]
