"""Whole figures of retraining: trajectories in 2-D or 3-D, and the distance from the minimum by epoch.

The encodings are those of Horoi et al., Figures 2 and 5: one hue per direction, darker or whiter by epoch, or one
colour scale over epochs; a diamond for each jump, coloured by its step size. Only matplotlib's object-oriented
interface is used: no backend, no window, no global list of figures.
"""

import string
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator
from numpy.typing import NDArray

from jaxscape.figures.boxes import COMPONENTS, has_components
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
    NORMAL,
    PANEL_INCHES,
    arrange_panels,
    panel_axes,
    panel_side,
    row_lengths,
    settle_layout,
)
from jaxscape.figures.legend import figure_note, legend
from jaxscape.figures.palette import FADES, HUES, INK, Fade, Palette, make_palette, shade
from jaxscape.figures.panels import (
    REFERENCES,
    DistancePanel,
    Panel,
    checked_distances,
    checked_panel,
    rows_by_member,
    shading_words,
    shared_palette,
    step_sizes,
)
from jaxscape.figures.style import own_style, replacing
from jaxscape.figures.texts import (
    PLAIN_NUMBERS,
    label_ends,
    log_ticks,
    write_heading,
    write_left,
    write_over,
    write_under,
)

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

_LABELS = ("seed", "step_size", "epoch", "member", "minimum", "begin", "component", "minimum_component")
_A_ROW = 3  # most panels per row where rows are free: the width of a page
_NAMED = 8  # most curves or groups whose names are written at their ends instead of in a legend

LOOKS: dict[Look, str] = {
    "dark": "darker with every epoch",
    "white": "whiter with every epoch",
    "epoch": "coloured by epoch",
}


@own_style()
def minimum_figure(panel: Panel, *, note: str = "") -> Figure:
    """Draw one minimum three times: hues that become darker, hues that become whiter, one colour scale over epochs.

    Args:
        panel: the trajectories, in 2-D or 3-D.
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`.
    """
    cells = [[(panel, look) for look in LOOKS]]
    over = [look.replace("epoch", panel.unit) for look in LOOKS.values()]
    return _grid_figure(cells, heading=panel.title, over=over, under=["", panel.note, ""], note=note)[0]


@own_style()
def comparison_figure(panels: Sequence[Panel], *, looks: Sequence[Look] = ("dark", "white"), note: str = "") -> Figure:
    """Draw minima side by side as in Figure 2: one column per minimum, one row per look, letters from "a", one legend.

    The panels share hues, step size colours and the scale over epochs; their coordinates are unrelated.

    Args:
        panels: the minima, all in 2-D or all in 3-D.
        looks: the rows from the top: "dark" and "white" (hues that become darker or whiter) or "epoch" (one scale).
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`; for no panels, unknown looks, panels of different dimensions.
    """
    return draw_comparison(panels, looks, note=note)[0]


@own_style()
def draw_comparison(
    panels: Sequence[Panel], looks: Sequence[Look], *, note: str = ""
) -> tuple[Figure, list[Trajectories]]:
    """Draw `comparison_figure`, and return the artists of its panels row by row too, for a film that moves them."""
    if not looks or set(looks) - set(LOOKS):
        raise ValueError(f"looks is {looks!r}; choose one or more of {list(LOOKS)}")
    cells = [[(panel, look) for panel in panels] for look in looks]
    titles, notes = [panel.title for panel in panels], [panel.note for panel in panels]
    return _grid_figure(cells, over=titles, left=[LOOKS[look] for look in looks], under=notes, note=note)


@own_style()
def methods_figure(rows: Sequence[Sequence[Panel]], *, left: Sequence[str] = (), note: str = "") -> Figure:
    """Draw the same trajectories by several methods, as in Figure 1: dark hues, a title above and a note below each.

    Args:
        rows: the panels, row by row; rows may have different lengths. The panels of a row share hues and step size
            colours, and the legend shows those of the first row; their coordinates are unrelated. Without `left`,
            shorter rows are centred.
        left: a text to the left of each row.
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`; for no panels, a wrong number of texts, panels of different dimensions.
    """
    if not rows or not all(rows):
        raise ValueError(f"rows has {[len(row) for row in rows]} panels; give at least one row, with at least one each")
    if left and len(left) != len(rows):
        raise ValueError(f"left has {len(left)} texts for {len(rows)} rows")
    checked = [[checked_panel(panel) for panel in row] for row in rows]
    fig, axes = _panel_axes([len(row) for row in checked], [panel for row in checked for panel in row])
    palettes, side = [shared_palette(row) for row in checked], panel_side(axes.shape[1])
    for row_axes, row, palette in zip(axes, checked, palettes, strict=True):
        _draw_row(row_axes[: len(row)], [(panel, "dark") for panel in row], palette)
        for ax, panel in zip(row_axes, row, strict=False):
            write_over(ax, panel.title, side)
            write_under(ax, panel.note, side)
    write_left(axes, left, side)
    arrange_panels(fig, axes, width=side, height=side, center=not left)
    _explain(fig, palettes[0], checked[0], ["dark"])
    _write_foot(fig, [panel for row in checked for panel in row], note)
    return fig


@own_style()
def values_figure(
    panels: Sequence[Panel], values: Sequence[NDArray[Any]], label: str, *, log: bool = False, note: str = ""
) -> Figure:
    """Draw trajectories coloured by a number, such as the loss (Appendix B of the paper); one scale for all panels.

    Args:
        panels: the minima, all in 2-D or all in 3-D.
        values: for each panel one number per row, (n,).
        label: name of the numbers, beside their colour bar.
        log: whether the scale is logarithmic.
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`; for a wrong number of arrays in values.
    """
    if len(panels) != len(values) or not panels:
        raise ValueError(f"values has {len(values)} arrays for {len(panels)} panels; give one for each, at least one")
    panels = [checked_panel(panel) for panel in panels]
    fig, axes = _panel_axes([len(panels)], panels)
    palette, every = shared_palette(panels), np.concatenate([np.ravel(each) for each in values])
    norm = (LogNorm if log else Normalize)(every.min(), every.max())
    for ax, panel, numbers in zip(axes[0], panels, values, strict=True):
        coloring: dict[str, Any] = {"color_by": "values", "values": numbers, "norm": norm}
        drawn = plot_trajectories(
            ax, panel.embedding, **_drawn_labels(panel), **coloring, palette=palette, colorbar=False
        )
        drawn.points.set(clip_on=False, in_layout=False)
    add_colorbar(drawn.points, ax, label)
    _write_texts(axes, [panel.title for panel in panels], [""], [panel.note for panel in panels])
    side = panel_side(len(panels))
    arrange_panels(fig, axes, width=side, height=side)
    _explain(fig, palette, panels, [], directions=False)
    _write_foot(fig, panels, note)
    return fig


@own_style()
def distance_figure(
    panels: Sequence[DistancePanel],
    *,
    color_by: Literal["seed", "step_size"] = "step_size",
    quantity: str = "distance from the minimum / jump",
    level: float = 1,
    dashed: str = "null trajectories",
    note: str = "",
) -> Figure:
    """Draw the distance from the minimum by epoch, in units of the jump, or another number: exact, unlike embeddings.

    One thin line per member, the median over members in bold; null trajectories, if given, in dashed grey. Each
    minimum has its own axes; all share one scale.

    Args:
        panels: the minima.
        color_by: what the colours of the lines stand for.
        quantity: label of the vertical axis, if other numbers are drawn.
        level: the common start of all lines, marked by a thin line.
        dashed: label of the dashed lines in the legend, if they are something else.
        note: for the foot of the figure.

    Raises:
        ValueError: for lengths that differ, NaN, no panels, unknown options.
    """
    if color_by not in ("seed", "step_size"):
        raise ValueError(f"color_by is {color_by!r}; choose 'seed' or 'step_size'")
    panels = [checked_distances(panel) for panel in panels]
    palette = shared_palette(panels)
    fig = Figure()
    axes = panel_axes(fig, row_lengths(len(panels), _A_ROW), sharey=True)
    width = PANEL_INCHES if len(panels) > 1 else 1.5 * PANEL_INCHES
    for ax, panel in zip(filter(None, axes.flat), panels, strict=True):
        plot_distances(ax, panel, palette, color_by, level)
        write_over(ax, panel.title, width)
        write_under(ax, panel.note, width)
    for row in axes:
        row[0].tick_params(labelleft=True)
        row[0].set_ylabel(quantity, fontsize=NORMAL, color=INK)
    named = color_by == "step_size" and len(palette.step_sizes) <= _NAMED
    if named:
        _name_step_sizes(axes, panels, palette)
    arrange_panels(fig, axes, width=width, center=True)
    extra = [Line2D([], [], label="median", **MEDIAN)]
    if any(panel.null is not None for panel in panels):
        extra.append(Line2D([], [], label=dashed, **NULL))
    signs: dict[str, Any] = {"directions": color_by == "seed", "step_sizes": color_by == "step_size" and not named}
    legend(fig, palette, **signs, extra=extra)
    if note:
        figure_note(fig, note)
    return fig


@own_style()
def norm_figure(panel: DistancePanel, *, hue: str, note: str = "") -> Figure:
    """Draw the L2 norm of the parameters by epoch, on a logarithmic scale: one line per member, one hue per label.

    Up to eight labels are written where their lines end; more of them go into a legend.

    Args:
        panel: its distances are the norms, its `seed` the labels shown by the hues.
        hue: name of these labels in the legend.
        note: for the foot of the figure.

    Raises:
        ValueError: for lengths that differ, NaN, a norm of 0 or less.
    """
    panel = checked_distances(panel)
    if panel.distance.min() <= 0:
        raise ValueError(f"distance reaches {panel.distance.min():g}; a logarithmic scale needs values above 0")
    palette, width = shared_palette([panel]), 1.5 * PANEL_INCHES
    fig = Figure()
    axes = panel_axes(fig, [1])
    ax = axes[0, 0]
    plot_lines(ax, panel, palette, "seed")
    ax.set_yscale("log")
    ax.set_ylim(*ax.get_ylim())
    ax.yaxis.set(
        major_locator=FixedLocator(log_ticks(*ax.get_ylim())),
        minor_locator=NullLocator(),
        major_formatter=PLAIN_NUMBERS,
    )
    ax.set_ylabel("L2 norm of the parameters", fontsize=NORMAL, color=INK)
    write_over(ax, panel.title, width)
    write_under(ax, panel.note, width)
    named = len(palette.directions) <= _NAMED
    if named:
        ends = np.array([rows[-1] for rows in rows_by_member(panel).values()])
        seeds = panel.seed[ends]
        heights = [float(np.median(panel.distance[ends[seeds == seed]])) for seed in palette.directions]
        label_ends(ax, heights, list(map(str, palette.directions)), list(palette.directions.values()))
    arrange_panels(fig, axes, width=width)
    if not named:
        legend(fig, palette, hue=hue, step_sizes=False)
    if note:
        figure_note(fig, note)
    return fig


@own_style()
def save_figure(fig: Figure, stem: str | Path) -> list[Path]:
    """Write STEM.png (200 dpi), STEM.svg and STEM.pdf; the same figure always gives the same bytes.

    Missing folders are created. The layout is fixed from then on.

    Raises:
        OSError: if a file cannot be written; the message names the file and the reason, and an old file is kept.
    """
    settle_layout(fig)
    # Without the metadata that record when, and with which version, a file was made.
    options: dict[str, dict[str, Any]] = {
        "png": {"dpi": 200},
        "svg": {"metadata": {"Date": None}},
        "pdf": {"metadata": {"CreationDate": None}},
    }
    files = []
    for ending, how in options.items():
        files.append(Path(f"{stem}.{ending}"))
        # In memory first: if the disk is full, matplotlib's PDF backend hides the OSError behind an error of its own.
        picture = BytesIO()
        fig.savefig(picture, format=ending, **how)
        with replacing(files[-1]) as path:
            path.write_bytes(picture.getvalue())
    return files


def _grid_figure(
    cells: Sequence[Sequence[tuple[Panel, Look]]],
    *,
    heading: str = "",
    over: Sequence[str],
    left: Sequence[str] = ("",),
    under: Sequence[str],
    note: str,
) -> tuple[Figure, list[Trajectories]]:
    """Draw a figure of trajectories: rows from the top, texts over and under each column and left of each row."""
    panels = [checked_panel(panel) for panel, _ in cells[0]]
    palette = shared_palette(panels)
    fig, axes = _panel_axes([len(panels)] * len(cells), panels)
    rows = zip(cells, axes, strict=True)
    drawn = [artists for row, row_axes in rows for artists in _draw_row(row_axes, row, palette)]
    _write_texts(axes, over, left, under)
    side = panel_side(len(panels))
    arrange_panels(fig, axes, width=side, height=side, head=write_heading(fig, heading) if heading else 0)

    looks = {look for row in cells for _, look in row}
    fades: list[Fade] = [fade for fade in FADES if fade in looks]
    _explain(fig, palette, panels, fades)
    _write_foot(fig, panels, note)
    return fig, drawn


def _explain(
    fig: Figure, palette: Palette, panels: Sequence[Panel], fades: Sequence[Fade], *, directions: bool = True
) -> None:
    """Draw the legend of these panels, whose hues and beginnings must mean the same."""
    words = {(panel.hue, panel.begin, panel.unit) for panel in panels}
    if len(words) != 1:
        raise ValueError(f"panels differ in their hue, begin and unit: {sorted(words)}")
    ((hue, begin, unit),) = words
    star = "" if begin == "jump" else REFERENCES[begin]
    minimum = any(panel.minimum is not None for panel in panels)
    signs: dict[str, Any] = {"directions": directions, "step_sizes": not star, "initial": star, "minimum": minimum}
    legend(fig, palette, hue=hue, unit=unit, shading=shading_words(panels), fades=fades, **signs)


def _write_foot(fig: Figure, panels: Sequence[Panel], note: str) -> None:
    """Write the note, and an explanation of components if panels have several."""
    dimensions = {panel.embedding.shape[1] for panel in panels if has_components(panel)}
    lines = ([COMPONENTS[min(dimensions)]] if dimensions else []) + ([note] if note else [])
    if lines:
        figure_note(fig, "\n".join(lines))


def _name_step_sizes(axes: NDArray[Any], panels: Sequence[DistancePanel], palette: Palette) -> None:
    """Write the step sizes to the right of each row, where their lines end in its last panel."""
    first = 0
    for row in axes:
        shown = [ax for ax in row if ax]
        panel = panels[first + len(shown) - 1]
        first += len(shown)
        ends = np.array([rows[-1] for rows in rows_by_member(panel).values()])
        sizes = step_sizes(panel)[ends]
        present = [size for size in palette.step_sizes if (sizes == size).any()]
        heights = [float(np.median(panel.distance[ends[sizes == size]])) for size in present]
        texts = [f"step {size:g}" for size in present]
        label_ends(shown[-1], heights, texts, [palette.step_sizes[size] for size in present])


def _panel_axes(lengths: Sequence[int], panels: Sequence[Panel]) -> tuple[Figure, NDArray[Any]]:
    """Return a figure with rows of axes, in 2-D or 3-D as the panels are."""
    dimensions = {panel.embedding.shape[1] for panel in panels}
    if len(dimensions) != 1:
        raise ValueError(f"panels have {sorted(dimensions)} columns; give panels of one dimension")
    fig = Figure()
    projection = "3d" if dimensions == {3} else "rectilinear"
    return fig, panel_axes(fig, lengths, subplot_kw={"projection": projection})


def _draw_row(axes: Sequence[Axes], cells: Sequence[tuple[Panel, Look]], palette: Palette) -> list[Trajectories]:
    drawn = []
    for ax, (panel, look) in zip(axes, cells, strict=True):
        coloring: dict[str, Any] = {"color_by": "epoch"} if look == "epoch" else {"fade": look}
        options = _drawn_labels(panel) | coloring
        drawn.append(plot_trajectories(ax, panel.embedding, **options, palette=palette, colorbar=False))
        drawn[-1].points.set(clip_on=False, in_layout=False)  # none lies outside, and SVG would clip each separately
    scaled = [(ax, artists) for ax, artists, (_, look) in zip(axes, drawn, cells, strict=True) if look == "epoch"]
    if scaled:
        add_colorbar(scaled[-1][1].points, scaled[-1][0], cells[0][0].unit)
    return drawn


def _write_texts(axes: NDArray[Any], over: Sequence[str], left: Sequence[str], under: Sequence[str]) -> None:
    letters, side = iter(string.ascii_lowercase + string.ascii_uppercase), panel_side(axes.shape[1])
    for i, row in enumerate(axes):
        for ax, title in zip(row, over if i == 0 else [""] * len(row), strict=True):
            write_over(ax, title, side, letter=next(letters, ""))
    write_left(axes, left, side)
    for ax, text in zip(axes[-1], under, strict=True):
        write_under(ax, text, side)


def _drawn_labels(panel: Panel) -> dict[str, Any]:
    """Return the arguments of `plot_trajectories` that a panel has, except its embedding."""
    return {name: getattr(panel, name) for name in _LABELS}
