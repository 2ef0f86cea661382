"""Parts of the landscape figures: scales and levels, contours, marked points, axes, and the texts beside them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from jaxscape.figures.landscape_panels import Array, SurfacePanel, gaps
from jaxscape.figures.layout import GAP, NORMAL, PANEL_INCHES, PLAIN, SMALL, add_strip, from_top, text_inches, wrapped
from jaxscape.figures.legend import STYLE, figure_note
from jaxscape.figures.palette import FRAME, GREY, INK, MINIMUM
from jaxscape.figures.texts import PLAIN_NUMBERS, log_ticks

LOG_RANGE = 100.0  # ratio of the largest to the smallest value above which a scale is logarithmic
_LEVELS = 8  # approximate number on a linear scale
STEPS = [1, 2, 2.5, 5, 10]  # between the ticks of a linear scale


def is_log(values: Sequence[Array]) -> bool:
    """Return whether a scale is logarithmic: if all finite values are positive and range over more than 1 to 100.

    Args:
        values: of all panels with this scale.
    """
    finite = np.concatenate([each[np.isfinite(each)] for each in map(np.asarray, values)])
    return bool(len(finite) and finite.min() > 0 and finite.max() > LOG_RANGE * finite.min())


def is_log_scale(values: Sequence[Array], log: bool | None) -> bool:
    """Return whether a scale is logarithmic: `log`, or for None the result of `is_log`.

    Raises:
        ValueError: if a logarithmic scale is requested and a value is not positive.
    """
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    if log and finite.min(initial=1.0) <= 0:
        raise ValueError(f"values reach {finite.min():g}; a logarithmic scale needs values above 0")
    return is_log(values) if log is None else log


def some_panels[P](panels: Sequence[P]) -> Sequence[P]:
    """Return the panels, after checking that there are any.

    Raises:
        ValueError: for an empty sequence.
    """
    if not panels:
        raise ValueError("panels is empty; give one or more")
    return panels


def round_levels(values: Sequence[Array], *, log: bool) -> list[float]:
    """Return round levels that cover all finite values: about eight, or on a logarithmic scale 1, 3, 10, ..."""
    finite = np.concatenate([each[np.isfinite(each)] for each in values])
    low, high = float(finite.min()), float(finite.max())
    if not high > low:
        margin = 0.5 * abs(low) or 0.5
        return [low - margin, low + margin]
    if not log:
        return [float(level) for level in MaxNLocator(_LEVELS, steps=STEPS).tick_values(low, high)]
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    mantissas = (1,) if len(decades) > 7 else (1, 3) if len(decades) > 4 else (1, 2, 5)
    candidates = np.outer(10.0**decades, mantissas).ravel()
    first, last = np.searchsorted(candidates, low, side="right") - 1, np.searchsorted(candidates, high)
    return [float(level) for level in candidates[max(first, 0) : last + 1][:: -(-(last + 1 - first) // 24)]]


def level_colors(levels: Sequence[float], cmap: Colormap) -> tuple[BoundaryNorm, Colormap]:
    """Return one colour for each interval between levels."""
    steps = ListedColormap(cmap(np.linspace(0, 1, max(len(levels) - 1, 1))))
    return BoundaryNorm(levels, steps.N), steps


def draw_contours(
    ax: Axes,
    panel: SurfacePanel,
    levels: list[float],
    scale: BoundaryNorm,
    cmap: Colormap,
    over: NDArray[Any] | Sequence[tuple[float, float]] = (),
) -> None:
    """Draw contours and label their levels, except where a label would cover what is drawn at the points (k, 2)."""
    values = np.ma.masked_invalid(panel.values)
    ax.patch.set(facecolor="white", hatch="////", edgecolor=GREY)  # visible where values are missing
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
        _remove_overlaps(ax, labels, [*over, *panel.points.values()])
    for axis, name in ((ax.xaxis, panel.labels[0]), (ax.yaxis, panel.labels[1])):
        axis.set_label_text(name, fontsize=NORMAL, color=INK)
        axis.set_major_locator(MaxNLocator(4))
    _ticks(ax)
    for spine in ax.spines.values():
        spine.set(color=GREY, linewidth=0.6)


def _remove_overlaps(ax: Axes, labels: Any, places: Sequence[Any]) -> None:
    """Remove labels that overlap one another or these points, or leave the panel, once the panel has its size."""
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


def draw_points(ax: Axes, panel: SurfacePanel) -> None:
    """Mark the named points of a surface with stars, their names towards the centre, without covering level labels."""
    middle = (panel.x[0] + panel.x[-1]) / 2, (panel.y[0] + panel.y[-1]) / 2
    for name, (across, up) in panel.points.items():
        draw_star(ax, across, up)
        # Towards the centre, so that no name leaves the panel.
        right, above = across <= middle[0], up <= middle[1]
        style: dict[str, Any] = {**PLAIN, "fontsize": SMALL, "color": INK, "zorder": 8}
        style |= {"ha": "left" if right else "right", "va": "bottom" if above else "top"}
        shift = (3 if right else -3, 3 if above else -3)
        text = ax.annotate(name, (across, up), shift, textcoords="offset points", **style)
        text.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
        name_box = text.get_window_extent()
        for label in [each for each in ax.texts if each.get_transform() == ax.transData]:  # labels of levels
            if label is not text and label.get_window_extent().overlaps(name_box):
                label.remove()


def draw_star(ax: Any, *place: Any) -> None:
    """Draw the star of a marked point, in 2-D or 3-D."""
    style: dict[str, Any] = {"marker": "*", "c": MINIMUM, "edgecolors": INK, "linewidths": 0.5, "zorder": 7}
    if len(place) == 3:
        style["depthshade"] = False
    ax.scatter(*([each] for each in place), s=40, clip_on=False, **style)


def star_handle(label: str) -> Line2D:
    """Return a legend entry for such a star."""
    style: dict[str, Any] = {"markerfacecolor": MINIMUM, "markeredgecolor": INK, "markeredgewidth": 0.5}
    return Line2D([], [], linestyle="none", marker="*", markersize=7, label=label, **style)


def set_space_axes(ax: Any, panel: SurfacePanel, heights: NDArray[Any], levels: Sequence[float]) -> None:
    """Set ranges, ticks, labels and the view of 3-D axes; heights (k,) are those of the levels (k,)."""
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


def mark_ends(ax: Axes, position: Array, ends: tuple[str, str]) -> None:
    """Draw thin lines at 0 and 1, whose names replace the tick labels there."""
    for end in (0, 1):
        ax.axvline(end, color=FRAME, linewidth=0.8, zorder=0)
    low, high = float(position[0]), float(position[-1])
    names = {float(end): wrapped(name, 0.45 * PANEL_INCHES, SMALL) for end, name in enumerate(ends)}
    texts = {place: f"{place:.3g}".replace("-", "\N{MINUS SIGN}") for place in (0.5, low, high)} | names
    span = PANEL_INCHES / (1.1 * (high - low))  # inches per unit, with matplotlib's margins
    half = {place: max(text_inches(line, SMALL) for line in text.split("\n")) / 2 for place, text in texts.items()}
    for place in [each for each in texts if each not in names]:
        if any(abs(place - end) * span < half[place] + half[end] + 0.04 for end in names):
            del texts[place]
    ax.set_xticks(list(texts), list(texts.values()), parse_math=False)


def set_scale(ax: Axes, *, log: bool, limits: bool = True) -> None:
    """Set the scale and the ticks of the vertical axis."""
    if not log:
        ax.yaxis.set(major_locator=MaxNLocator(5, steps=STEPS), major_formatter=PLAIN_NUMBERS)
        return
    ax.set_yscale("log")
    if limits:
        ax.set_ylim(*ax.get_ylim())
    ticks = FixedLocator(log_ticks(*ax.get_ylim()))
    ax.yaxis.set(major_locator=ticks, minor_locator=NullLocator(), major_formatter=PLAIN_NUMBERS)


def plain_axes(ax: Axes) -> None:
    """Keep only the left and the lower edge of a panel."""
    _ticks(ax)
    for side, spine in ax.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=GREY, linewidth=0.6)


def _ticks(ax: Axes) -> None:
    ax.tick_params(which="both", labelsize=SMALL, width=0.5, length=2, color=INK, labelcolor=INK)


def label_rows(axes: NDArray[Any], text: str) -> None:
    """Label the vertical axis of the first panel of each row, with tick labels."""
    for row in axes:
        row[0].tick_params(labelleft=True)
        row[0].set_ylabel(text, fontsize=NORMAL, color=INK)


def draw_colorbar(ax: Any, drawn: ScalarMappable, label: str, ticks: Sequence[float], *, x: float = 1.03) -> None:
    """Draw a thin colour bar beside the axes, whose size does not change; x is its left edge in panel widths."""
    inset = ax.inset_axes((x, 0, 0.03, 1)) if ax.name != "3d" else ax.inset_axes((x, 0.15, 0.03, 0.7))
    bar = ax.figure.colorbar(drawn, cax=inset, spacing="uniform")
    bar.set_label(label, fontsize=NORMAL, color=INK)
    step = -(-len(ticks) // 10)
    bar.set_ticks(FixedLocator(list(ticks[::step])))
    bar.ax.yaxis.set(minor_locator=NullLocator(), major_formatter=PLAIN_NUMBERS)
    _ticks(bar.ax)
    bar.outline.set_visible(False)


def draw_legend(fig: Figure, handles: Sequence[Any]) -> None:
    """Draw a legend in one row, or in as many as the width requires, in a strip at the foot."""
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


def write_foot(fig: Figure, note: str) -> None:
    """Write a note at the foot of the figure, if there is one."""
    if note.strip():
        figure_note(fig, note.strip("\n"))


def gapped(values: Array) -> NDArray[np.float64]:
    """Return values with NaN in place of values that are not finite, so that lines have gaps there."""
    return np.where(np.isfinite(values), values, np.nan)


def gap_words(*values: Any) -> str:
    """Return a text on how many values are missing, and how they are drawn (a last argument that is a word)."""
    words = values[-1] if isinstance(values[-1], str) else "gaps"
    count = gaps(*(each for each in values if not isinstance(each, str)))
    return f"{count} NaN or infinite: {words}" if count else ""


def joined_lines(lines: Sequence[str]) -> str:
    """Return the non-empty lines as one text."""
    return "\n".join(line for line in lines if line)
