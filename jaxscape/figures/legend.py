"""The foot of a figure: a legend for hues, diamonds and fading, and a note in small type.

Each takes a strip of its own below the existing content, so that neither covers a point.
"""

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from jaxscape.figures.layout import GAP, NORMAL, PLAIN, SMALL, add_strip, from_top, wrapped
from jaxscape.figures.palette import GREY, INK, MINIMUM, Color, Fade, Palette, diamond_areas, shade

type Entry = tuple[Artist | tuple[Artist, ...], str]  # handle, label

STYLE: dict[str, Any] = {
    "loc": "upper center",
    "fontsize": NORMAL,
    "labelcolor": INK,
    "frameon": False,
    "borderpad": 0,
    "borderaxespad": 0,
    "columnspacing": 1.0,
    "handlelength": 1.2,
    "handletextpad": 0.3,
    "handler_map": {tuple: HandlerTuple(ndivide=None, pad=0)},
}


def legend(
    fig: Figure,
    palette: Palette,
    *,
    directions: bool = True,
    step_sizes: bool = True,
    fades: Sequence[Fade] = (),
    minimum: bool = False,
    hue: str = "direction",
    initial: str = "",
    unit: str = "epoch",
    shading: str = "",
    extra: Sequence[Artist] = (),
) -> Legend:
    """Draw a legend at the foot of the figure, in a strip of its own below the points.

    One row explains the hues, one the diamonds; a narrow figure gets more rows.

    Args:
        fig: a figure; it grows by the strip, and its layout is fixed from then on.
        palette: the colours.
        directions: whether to explain the hues.
        step_sizes: whether to explain the diamonds.
        fades: draw a gradient for each of these.
        minimum: whether to explain the star as the minimum.
        hue: what the hues stand for.
        initial: what the star at the start of each trajectory stands for, if there is one.
        unit: what is counted: the epoch, or the step.
        shading: what the gradient stands for, if not the unit from 0 to the last one of all.
        extra: more artists, with their own labels.
    """
    groups: dict[str, list[Entry]] = {}
    if directions:
        groups[hue] = [(_marker("o", hue), str(seed)) for seed, hue in palette.directions.items()]
    if step_sizes:
        sides = {size: area**0.5 for size, area in diamond_areas(palette).items()}
        diamonds = {size: _marker("D", color, sides[size]) for size, color in palette.step_sizes.items()}
        groups["step size"] = [(diamond, f"{size:g}") for size, diamond in diamonds.items()]
    others: list[Entry] = [(_gradient(fade), shading or f"{unit} 0 to {palette.last_epoch:g}") for fade in fades]
    others += [(_marker("*", MINIMUM, size=7), "minimum")] if minimum else []
    others += [(_marker("*", MINIMUM, size=7), initial)] if initial else []
    others += [(artist, str(artist.get_label())) for artist in extra]
    box = _fitting_legend(fig, groups, others)
    box.set_bbox_to_anchor((0.5, add_strip(fig, box)), transform=from_top(fig))
    return box


def figure_note(fig: Figure, text: str) -> Text:
    """Write a note in small type at the foot of the figure, wrapped to its width, in a strip of its own.

    Its content (distance, centring, knn, t, components, data, run) is up to the caller.
    """
    text = wrapped(text, fig.get_figwidth() - 4 * GAP, SMALL)
    style: dict[str, Any] = {**PLAIN, "ha": "center", "va": "top", "linespacing": 1.3, "transform": from_top(fig)}
    note = fig.text(0.5, 0, text, fontsize=SMALL, color=GREY, **style)
    note.set_y(add_strip(fig, note))
    return note


def _marker(marker: str, color: str | Color, size: float = 4.5) -> Line2D:
    edge = 0 if marker == "o" else 0.5
    style: dict[str, Any] = {"markerfacecolor": color, "markeredgecolor": INK, "markeredgewidth": edge}
    return Line2D([], [], linestyle="none", marker=marker, markersize=size, **style)


def _gradient(fade: Fade) -> tuple[Patch, ...]:
    darkness = np.linspace(0, 1, 7) if fade == "dark" else np.linspace(1, 0, 7)
    return tuple(Patch(color=tuple(color), linewidth=0.3) for color in shade(GREY, darkness))


def _fitting_legend(fig: Figure, groups: Mapping[str, Sequence[Entry]], others: Sequence[Entry]) -> Legend:
    """Draw one row per group with the other entries to their right; if too wide, below them, and in several rows."""
    longest = max(map(len, groups.values()), default=1)
    stacked = {**groups, "": others}
    trials = [_table(groups, others, longest), *(_table(stacked, [], n) for n in range(longest, 0, -1))]
    for i, (handles, labels, columns) in enumerate(trials, start=1):
        box = fig.legend(handles, labels, ncols=columns, **STYLE)
        for text in box.get_texts():
            text.set(**PLAIN)
        if box.get_window_extent().width < fig.bbox.width - 2 * GAP * fig.dpi or i == len(trials):
            break
        box.remove()
    return box


def _table(
    groups: Mapping[str, Sequence[Entry]], others: Sequence[Entry], per_row: int
) -> tuple[list[Any], list[str], int]:
    """Return handles, labels and the number of columns, in matplotlib's order: column by column."""
    blank = Line2D([], [], linestyle="none")
    rows = [
        [(blank, name if i == 0 else ""), *entries[i : i + per_row]]
        for name, entries in groups.items()
        for i in range(0, len(entries), per_row)
    ]
    columns = list(zip_longest(*rows, fillvalue=(blank, "")))
    cells = [cell for column in columns for cell in column] + list(others)
    height = max(len(rows), 1)
    cells += [(blank, "")] * (-len(cells) % height)
    return [handle for handle, _ in cells], [label for _, label in cells], len(cells) // height
