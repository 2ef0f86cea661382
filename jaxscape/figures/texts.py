"""The texts around a panel: its title above, its note below, and the names of its curves at their ends.

Titles are short; accuracies, counts and settings go under the panel.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from jaxscape.figures.layout import GAP, LARGE, NORMAL, PANEL_INCHES, PLAIN, SMALL, from_top, wrapped
from jaxscape.figures.palette import GREY, INK, Color

MOST_LINES = 3  # of a title
PLAIN_NUMBERS = FuncFormatter(lambda number, _: f"{number:.6g}")  # 0.001 and 1e-06: raised exponents are too small


def write_over(ax: Axes, text: str, width: float = PANEL_INCHES, *, letter: str = "") -> None:
    """Write a title of at most three lines, and a letter level with its first line, left of the panel's corner."""
    text = wrapped(text, width, NORMAL, most=MOST_LINES)
    style: dict[str, Any] = {**PLAIN, "fontsize": NORMAL, "color": INK}  # one size, so that both are level
    ax.set_title(text, **style)
    ax.set_title(letter + "\n" * text.count("\n"), loc="left", x=-0.03, ha="right", fontweight="bold", **style)


def write_under(ax: Axes, text: str, width: float = PANEL_INCHES) -> None:
    """Write a note under the panel, below its tick labels and axis label if there are any."""
    if not text:
        return
    ticks = ax.xaxis.get_tightbbox() if ax.name != "3d" else None
    depth = (ax.get_window_extent().y0 - ticks.y0) * 72 / ax.figure.dpi if ticks is not None else 0
    style: dict[str, Any] = {**PLAIN, "ha": "center", "va": "top", "fontsize": SMALL, "color": GREY}
    place: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    ax.annotate(wrapped(text, width, SMALL), (0.5, 0), (0, -max(depth, 0) - 3), **place, **style)


def write_left(axes: NDArray[Any], texts: Sequence[str], height: float = PANEL_INCHES) -> None:
    """Write a text to the left of each row of panels, in lines as long as a panel is high."""
    style: dict[str, Any] = {**PLAIN, "rotation": 90, "fontsize": NORMAL, "color": INK}
    style |= {"ha": "right", "va": "center", "multialignment": "center"}
    for ax, text in zip(axes[:, 0], texts, strict=False):
        ax.annotate(wrapped(text, height, NORMAL), (-0.03, 0.5), xycoords="axes fraction", **style)


def write_heading(fig: Figure, text: str) -> float:
    """Write a title of the whole figure in one line; return the height that it takes, in inches."""
    style: dict[str, Any] = {**PLAIN, "ha": "center", "va": "top", "transform": from_top(fig)}
    title = fig.text(0.5, -GAP, ": ".join(text.splitlines()), fontsize=LARGE, color=INK, **style)
    return title.get_window_extent().height / fig.dpi + GAP


def label_ends(ax: Axes, heights: Sequence[float], texts: Sequence[str], colors: Sequence[str | Color]) -> None:
    """Write names to the right of the panel, each after a dash in its curve's colour, near the height of its end.

    Args:
        ax: axes whose range is set.
        heights: where the curves end, in the units of the vertical axis.
        texts: a name each.
        colors: a colour each, that of the curve.
    """
    shares = ax.transAxes.inverted().transform(ax.transData.transform([(1, height) for height in heights]))[:, 1]
    line = 1.25 * SMALL / 72 / PANEL_INCHES
    order = np.argsort(shares, kind="stable")
    for height, which in zip(_spread(shares[order], line), order, strict=True):
        dash: dict[str, Any] = {"color": colors[which], "linewidth": 1.6, "solid_capstyle": "butt"}
        ax.plot([1.015, 1.05], [height] * 2, transform=ax.transAxes, clip_on=False, **dash)
        # In ink: a name in a light colour would be hard to read.
        style: dict[str, Any] = {**PLAIN, "fontsize": SMALL, "color": INK, "ha": "left", "va": "center"}
        ax.annotate(texts[which], (1.065, height), xycoords="axes fraction", **style)


def _spread(heights: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Return ascending heights moved as little as needed to be `gap` apart, within 0 and 1 if there is room."""
    free = heights - gap * np.arange(len(heights))  # isotonic regression: pool adjacent violators into block means
    blocks: list[list[float]] = []
    for value in free:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    moved = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks])
    room = 1 - gap * (len(heights) - 1)
    return np.asarray(np.clip(moved, 0, max(room, 0)) + gap * np.arange(len(heights)))


def log_ticks(low: float, high: float) -> list[float]:
    """Return four to nine round numbers within a range of a logarithmic axis, as widely spaced as possible."""
    decades = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for mantissas in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = np.outer(decades, mantissas).ravel()
        inside = ticks[(ticks >= low) & (ticks <= high)]
        if len(inside) >= 4:
            return list(inside[:: -(-len(inside) // 9)].tolist())
    return [float(tick) for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high]
