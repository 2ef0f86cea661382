"""Whole figures of retraining: trajectories in the plane or in space, and the distance from the minimum by epoch.

The last stop of the journey. The encodings are those of Horoi et al., Figures 2 and 5: a hue for each
direction, darker or whiter by epoch, or one colour scale over epochs; a diamond for each jump, coloured by
its step size. Only matplotlib's object-oriented interface is used: no backend, no window, no list of open
figures.
"""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, ScalarFormatter
from numpy.typing import NDArray

from jaxscape.figures.drawing import (
    MEDIAN,
    NULL,
    Trajectories,
    add_colorbar,
    plot_distances,
    plot_lines,
    plot_trajectories,
)
from jaxscape.figures.layout import (
    GAP,
    LARGE,
    NORMAL,
    PANEL_INCHES,
    PLAIN,
    SMALL,
    arrange_panels,
    from_top,
    settle_layout,
    wrapped,
)
from jaxscape.figures.legend import figure_note, legend
from jaxscape.figures.palette import FADES, GREY, HUES, INK, Fade, Palette, make_palette, shade
from jaxscape.figures.panels import DistancePanel, Panel, checked_distances, checked_panel, shared_palette
from jaxscape.figures.style import own_style, replacing

__all__ = [
    "HUES",
    "DistancePanel",
    "Palette",
    "Panel",
    "Trajectories",
    "add_colorbar",
    "comparison_figure",
    "distance_figure",
    "figure_note",
    "legend",
    "make_palette",
    "methods_figure",
    "minimum_figure",
    "norm_figure",
    "plot_trajectories",
    "save_figure",
    "shade",
    "values_figure",
]

type Look = Literal["dark", "white", "epoch"]

_LABELS = ("seed", "step_size", "epoch", "member", "minimum", "begin")

LOOKS: dict[Look, str] = {
    "dark": "darker with every epoch",
    "white": "whiter with every epoch",
    "epoch": "coloured by epoch",
}


@own_style()
def minimum_figure(panel: Panel, *, note: str = "") -> Figure:
    """One minimum three times: hues that darken, hues that whiten, and one colour scale over epochs.

    Args:
        panel: the trajectories, in the plane or in space.
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`.
    """
    cells = [[(panel, look) for look in LOOKS]]
    over = [look.replace("epoch", panel.unit) for look in LOOKS.values()]
    return _grid_figure(cells, heading=panel.title, over=over, under=["", panel.note, ""], note=note)[0]


@own_style()
def comparison_figure(panels: Sequence[Panel], *, looks: Sequence[Look] = ("dark", "white"), note: str = "") -> Figure:
    """Minima side by side as in Figure 2: a column a minimum, a row a look, letters from "a", one legend.

    The panels share hues, step size colours and the scale over epochs; their coordinates have nothing in
    common.

    Args:
        panels: the minima, all in the plane or all in space.
        looks: the rows from the top: "dark" and "white" (hues that darken, whiten) or "epoch" (one scale).
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`; no panels, unknown looks, panels of differing dimensions.
    """
    return draw_comparison(panels, looks, note=note)[0]


@own_style()
def draw_comparison(
    panels: Sequence[Panel], looks: Sequence[Look], *, note: str = ""
) -> tuple[Figure, list[Trajectories]]:
    """As `comparison_figure`, and the artists of its panels row by row, for a film that moves them."""
    if not looks or set(looks) - set(LOOKS):
        raise ValueError(f"looks is {looks!r}; choose one or more of {list(LOOKS)}")
    cells = [[(panel, look) for panel in panels] for look in looks]
    titles, notes = [panel.title for panel in panels], [panel.note for panel in panels]
    return _grid_figure(cells, over=titles, left=[LOOKS[look] for look in looks], under=notes, note=note)


@own_style()
def methods_figure(rows: Sequence[Sequence[Panel]], *, left: Sequence[str] = (), note: str = "") -> Figure:
    """The same trajectories by several methods, as in Figure 1: hues that darken, a title and a note over each panel.

    Args:
        rows: the panels, row by row; rows may have different lengths. A row shares hues and step size colours, and the
            first row's are in the legend; their coordinates have nothing in common.
        left: a text to the left of each row.
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`; no panels, texts that are not one a row, panels of differing dimensions.
    """
    if not rows or not all(rows):
        raise ValueError(f"rows has {[len(row) for row in rows]} panels; give one or more rows of one or more")
    if left and len(left) != len(rows):
        raise ValueError(f"left has {len(left)} texts for {len(rows)} rows")
    checked = [[checked_panel(panel) for panel in row] for row in rows]
    fig, axes = _panel_axes(len(rows), max(map(len, rows)), [panel for row in checked for panel in row])
    palettes = [shared_palette(row) for row in checked]
    for row_axes, row, palette in zip(axes, checked, palettes, strict=True):
        _draw_row(row_axes[: len(row)], [(panel, "dark") for panel in row], palette)
        for ax, panel in zip(row_axes, row, strict=False):
            _write_over(ax, f"{panel.title}\n{panel.note}" if panel.note else panel.title)
        for ax in row_axes[len(row) :]:
            ax.set(xticks=[], yticks=[])
            ax.set_axis_off()
    _write_left(axes, left)
    arrange_panels(fig, axes)
    _explain(fig, palettes[0], checked[0], ["dark"])
    if note:
        figure_note(fig, note)
    return fig


@own_style()
def values_figure(
    panels: Sequence[Panel], values: Sequence[NDArray[Any]], label: str, *, log: bool = False, note: str = ""
) -> Figure:
    """Trajectories coloured by a number, such as the loss (Appendix B of the paper); one scale for all panels.

    Args:
        panels: the minima, all in the plane or all in space.
        values: for each panel a number a row, (n,).
        label: name of the numbers, beside their colour bar.
        log: whether the scale is logarithmic.
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`; values that are not one array a panel.
    """
    if len(panels) != len(values) or not panels:
        raise ValueError(f"values has {len(values)} arrays for {len(panels)} panels; give one for each, of one or more")
    panels = [checked_panel(panel) for panel in panels]
    fig, axes = _panel_axes(1, len(panels), panels)
    palette, every = shared_palette(panels), np.concatenate([np.ravel(each) for each in values])
    norm = (LogNorm if log else Normalize)(every.min(), every.max())
    for ax, panel, numbers in zip(axes[0], panels, values, strict=True):
        labels = {name: getattr(panel, name) for name in _LABELS}
        coloring: dict[str, Any] = {"color_by": "values", "values": numbers, "norm": norm}
        drawn = plot_trajectories(ax, panel.embedding, **labels, **coloring, palette=palette, colorbar=False)
        drawn.points.set(clip_on=False, in_layout=False)
    add_colorbar(drawn.points, ax, label)
    _write_texts(axes, [panel.title for panel in panels], [""], [panel.note for panel in panels])
    arrange_panels(fig, axes)
    _explain(fig, palette, panels, [], directions=False)
    if note:
        figure_note(fig, note)
    return fig


@own_style()
def distance_figure(
    panels: Sequence[DistancePanel],
    *,
    color_by: Literal["seed", "step_size"] = "step_size",
    dashed: str = "null trajectories",
    note: str = "",
) -> Figure:
    """Distance from the minimum by epoch, as a share of the jump: what no embedding can show.

    A thin line a member, the median over members in bold; null trajectories, where given, in dashed grey. A
    minimum has its own axes; all share one scale.

    Args:
        panels: the minima.
        color_by: what the colours of the lines stand for.
        dashed: the legend's words for the dashed lines, where they are something else.
        note: for the foot of the figure.

    Raises:
        ValueError: lengths that differ, NaN, no panels, unknown options.
    """
    if color_by not in ("seed", "step_size"):
        raise ValueError(f"color_by is {color_by!r}; choose 'seed' or 'step_size'")
    panels = [checked_distances(panel) for panel in panels]
    palette = shared_palette(panels)
    fig = Figure()
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)
    width = PANEL_INCHES if len(panels) > 1 else 1.5 * PANEL_INCHES
    for ax, panel in zip(axes[0], panels, strict=True):
        plot_distances(ax, panel, palette, color_by)
        _write_over(ax, panel.title, width)
    axes[0, 0].set_ylabel("distance from the minimum / jump", fontsize=NORMAL, color=INK)
    arrange_panels(fig, axes, width=width)
    extra = [Line2D([], [], label="median", **MEDIAN)]
    if any(panel.null is not None for panel in panels):
        extra.append(Line2D([], [], label=dashed, **NULL))
    legend(fig, palette, directions=color_by == "seed", step_sizes=color_by == "step_size", extra=extra)
    if note:
        figure_note(fig, note)
    return fig


@own_style()
def norm_figure(panel: DistancePanel, *, hue: str, note: str = "") -> Figure:
    """L2 norm of the parameters by epoch, on a logarithmic scale: a thin line a member, a hue a label.

    Args:
        panel: its distances are the norms, its `seed` is what the hue stands for.
        hue: the legend's word for that.
        note: for the foot of the figure.

    Raises:
        ValueError: lengths that differ, NaN, a norm of 0 or less.
    """
    panel = checked_distances(panel)
    if panel.distance.min() <= 0:
        raise ValueError(f"distance reaches {panel.distance.min():g}; a logarithmic scale begins over 0")
    palette = shared_palette([panel])
    fig = Figure()
    axes = fig.subplots(1, 1, squeeze=False)
    plot_lines(axes[0, 0], panel, palette, "seed")
    axes[0, 0].set_yscale("log")
    axes[0, 0].yaxis.set_major_formatter(ScalarFormatter())
    # Between the powers of ten some have room: 2, 3, 4, 6; all of them where there is less than half a decade.
    axes[0, 0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(3, 0.5)))
    axes[0, 0].set_ylabel("L2 norm of the parameters", fontsize=NORMAL, color=INK)
    _write_over(axes[0, 0], panel.title, 1.5 * PANEL_INCHES)
    arrange_panels(fig, axes, width=1.5 * PANEL_INCHES)
    legend(fig, palette, hue=hue, step_sizes=False)
    if note:
        figure_note(fig, note)
    return fig


@own_style()
def save_figure(fig: Figure, stem: str | Path) -> list[Path]:
    """Writes STEM.png (200 dpi) and STEM.svg; the same figure always gives the same bytes.

    Missing folders are made. The layout is fixed from then on.

    Raises:
        OSError: says which file could not be written, and why; an old one stays as it was.
    """
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    settle_layout(fig)
    with replacing(png) as path:
        fig.savefig(path, format="png", dpi=200)
    with replacing(svg) as path:
        fig.savefig(path, format="svg", metadata={"Date": None})
    return [png, svg]


def _grid_figure(
    cells: Sequence[Sequence[tuple[Panel, Look]]],
    *,
    heading: str = "",
    over: Sequence[str],
    left: Sequence[str] = ("",),
    under: Sequence[str],
    note: str,
) -> tuple[Figure, list[Trajectories]]:
    """A figure of trajectories: rows from the top, with the texts over and under each column and left of each row."""
    panels = [checked_panel(panel) for panel, _ in cells[0]]
    palette = shared_palette(panels)
    fig, axes = _panel_axes(len(cells), len(panels), panels)
    rows = zip(cells, axes, strict=True)
    drawn = [artists for row, row_axes in rows for artists in _draw_row(row_axes, row, palette)]
    _write_texts(axes, over, left, under)
    arrange_panels(fig, axes, head=_write_heading(fig, heading) if heading else 0)

    looks = {look for row in cells for _, look in row}
    fades: list[Fade] = [fade for fade in FADES if fade in looks]
    _explain(fig, palette, panels, fades)
    if note:
        figure_note(fig, note)
    return fig, drawn


def _explain(
    fig: Figure, palette: Palette, panels: Sequence[Panel], fades: Sequence[Fade], *, directions: bool = True
) -> None:
    """The legend of these panels, which mean the same by hues and beginnings."""
    words = {(panel.hue, panel.begin, panel.unit) for panel in panels}
    if len(words) != 1:
        raise ValueError(f"panels differ in their hue, begin and unit: {sorted(words)}")
    ((hue, begin, unit),) = words
    star = {"jump": "", "initial": "initial parameters", "first": "first recorded step"}[begin]
    minimum = any(panel.minimum is not None for panel in panels)
    signs: dict[str, Any] = {"directions": directions, "step_sizes": not star, "initial": star, "minimum": minimum}
    legend(fig, palette, hue=hue, unit=unit, fades=fades, **signs)


def _panel_axes(rows: int, columns: int, panels: Sequence[Panel]) -> tuple[Figure, NDArray[Any]]:
    """A figure with axes (rows, columns), in the plane or in space as the panels are."""
    dimensions = {panel.embedding.shape[1] for panel in panels}
    if len(dimensions) != 1:
        raise ValueError(f"panels have {sorted(dimensions)} columns; give panels of one dimension")
    fig = Figure()
    projection = "3d" if dimensions == {3} else "rectilinear"
    return fig, fig.subplots(rows, columns, squeeze=False, subplot_kw={"projection": projection})


def _draw_row(axes: Sequence[Axes], cells: Sequence[tuple[Panel, Look]], palette: Palette) -> list[Trajectories]:
    drawn = []
    for ax, (panel, look) in zip(axes, cells, strict=True):
        labels = {name: getattr(panel, name) for name in _LABELS}
        coloring: dict[str, Any] = {"color_by": "epoch"} if look == "epoch" else {"fade": look}
        drawn.append(plot_trajectories(ax, panel.embedding, **labels, **coloring, palette=palette, colorbar=False))
        drawn[-1].points.set(clip_on=False, in_layout=False)  # no point lies outside, and an SVG clips each by itself
    scaled = [(ax, artists) for ax, artists, (_, look) in zip(axes, drawn, cells, strict=True) if look == "epoch"]
    if scaled:
        add_colorbar(scaled[-1][1].points, scaled[-1][0], cells[0][0].unit)
    return drawn


def _write_texts(axes: NDArray[Any], over: Sequence[str], left: Sequence[str], under: Sequence[str]) -> None:
    letters = iter(string.ascii_lowercase + string.ascii_uppercase)
    for i, row in enumerate(axes):
        for ax, title in zip(row, over if i == 0 else [""] * len(row), strict=True):
            _write_over(ax, title, letter=next(letters, ""))
    _write_left(axes, left)
    for ax, text in zip(axes[-1], under, strict=True):
        style: dict[str, Any] = {**PLAIN, "ha": "center", "va": "top", "fontsize": SMALL, "color": GREY}
        ax.annotate(wrapped(text, PANEL_INCHES, SMALL), (0.5, -0.02), xycoords="axes fraction", **style)


def _write_left(axes: NDArray[Any], texts: Sequence[str]) -> None:
    style: dict[str, Any] = {**PLAIN, "ha": "right", "va": "center", "rotation": 90, "fontsize": NORMAL, "color": INK}
    for ax, text in zip(axes[:, 0], texts, strict=False):
        ax.annotate(text, (-0.03, 0.5), xycoords="axes fraction", **style)


def _write_over(ax: Axes, text: str, width: float = PANEL_INCHES, *, letter: str = "") -> None:
    """A title in as many lines as it needs, and a letter level with the first, outside of the panel's corner."""
    text = wrapped(text, width, NORMAL)
    style: dict[str, Any] = {**PLAIN, "fontsize": NORMAL, "color": INK}  # one size: the lines of both are level
    ax.set_title(text, **style)
    ax.set_title(letter + "\n" * text.count("\n"), loc="left", x=-0.03, ha="right", fontweight="bold", **style)


def _write_heading(fig: Figure, text: str) -> float:
    """A title of the whole figure in one line; gives the height that it takes, in inches."""
    style: dict[str, Any] = {**PLAIN, "ha": "center", "va": "top", "transform": from_top(fig)}
    title = fig.text(0.5, -GAP, ": ".join(text.splitlines()), fontsize=LARGE, color=INK, **style)
    return title.get_window_extent().height / fig.dpi + GAP
