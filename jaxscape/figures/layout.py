"""The size of a figure and the places of its parts, in inches, once its panels are drawn.

Panels have one size, texts are measured, and the figure becomes as large as its content: nothing overlaps
and no gap is left. What stands at the foot (legend, note) lengthens the figure.
"""

from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox, BboxTransformTo, ScaledTranslation, Transform, blended_transform_factory
from numpy.typing import NDArray

SMALL, NORMAL, LARGE = 6.0, 7.0, 8.5  # type in points, for a figure printed at its own size
PANEL_INCHES = 2.0  # the side of a square panel: three columns fill the width of a page
NARROWEST = 3.4  # the width of one column of text
GAP = 0.08  # between the parts of a figure, and around it
PLAIN: dict[str, Any] = {"parse_math": False}  # text with names that are not ours: a $ in one is no formula


def arrange_panels(fig: Figure, axes: NDArray[Any], *, width: float = PANEL_INCHES, head: float = 0.0) -> None:
    """Gives every panel its size and its texts their room, and the figure the size of all.

    Args:
        fig: a figure without a layout engine.
        axes: (rows, columns) axes, with all their titles, labels and notes.
        width: of a panel, in inches; its height is always `PANEL_INCHES`.
        head: inches left free above the panels.
    """
    height = PANEL_INCHES
    for ax in axes.flat:
        ax.set_position((0, 0, width / fig.get_figwidth(), height / fig.get_figheight()))
    overhangs = np.array([[_overhang(ax) for ax in row] for row in axes])  # (row, column, side)
    (left, _, right, _), (_, bottom, _, top) = overhangs.max(0).T, overhangs.max(1).T

    x = np.cumsum(GAP + left + width + right) - right - width  # to the left edge of each panel
    y = np.cumsum(GAP + top + height + bottom) - bottom + head  # down to the lower edge of each panel
    content, tall = x[-1] + width + right[-1] + GAP, y[-1] + bottom[-1] + GAP
    wide = max(content, NARROWEST)
    fig.set_size_inches(wide, tall)
    for row, lower in zip(axes, y, strict=True):
        for ax, start in zip(row, x + (wide - content) / 2, strict=True):
            ax.set_position((start / wide, 1 - lower / tall, width / wide, height / tall))


def add_strip(fig: Figure, artist: Artist) -> float:
    """Lengthens the figure at its foot for the artist; gives the strip's upper edge as a height `from_top`.

    Axes keep their places on the paper. A layout engine has its last word here.
    """
    settle_layout(fig)
    old = fig.get_figheight()
    new = old + artist.get_window_extent().height / fig.dpi + GAP
    fig.set_figheight(new)
    for ax in fig.axes:
        x, y, width, height = ax.get_position(original=True).bounds
        ax.set_position((x, 1 - (1 - y) * old / new, width, height * old / new))
    return -old


def from_top(fig: Figure) -> Transform:
    """Coordinates that stay as the figure grows at its foot: a share of its width, inches up from its top."""
    top = ScaledTranslation(0, 1, BboxTransformTo(fig.bbox))
    return blended_transform_factory(fig.transFigure, fig.dpi_scale_trans + top)


def settle_layout(fig: Figure) -> None:
    """Lets a layout engine place the axes and then fixes them, since every drawing would move them a little."""
    if fig.get_layout_engine() is None:
        return
    for _ in range(2):  # the first drawing finds the sizes of all texts, the second their places
        fig.draw_without_rendering()
    fig.set_layout_engine("none")


def wrapped(text: str, inches: float, size: float) -> str:
    """The text in lines of at most so many inches, at a size in points.

    Its own lines stay lines, and a no-break space stays a space.
    """
    lines = []
    for paragraph in text.splitlines():
        line, *words = paragraph.split(" ")
        for word in words:
            if _inches(f"{line} {word}", size) > inches:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}"
        lines.append(line)
    return "\n".join(lines)


def _inches(text: str, size: float) -> float:
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return width / 72


def _overhang(ax: Axes) -> NDArray[np.float64]:
    """How far the texts of the axes reach out of their panel: to the left, below, to the right, above."""
    panel = ax.get_position(original=True).transformed(ax.figure.transFigure)
    whole = Bbox.union([panel, ax.get_tightbbox(bbox_extra_artists=[*ax.texts, *ax.child_axes]) or panel])
    return np.abs(np.subtract(whole.extents, panel.extents)) / ax.figure.dpi
