"""The size of a figure and the places of its parts, in inches, once its panels are drawn.

Panels have one size, texts are measured, and the figure becomes as large as its content: nothing overlaps
and no gap is left. What stands at the foot (legend, note) lengthens the figure.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox, BboxTransformTo, ScaledTranslation, Transform, blended_transform_factory
from numpy.typing import NDArray

SMALL, NORMAL, LARGE = 7.0, 7.5, 9.0  # type in points, for a figure printed at its own size: none smaller than 7
PANEL_INCHES = 2.0  # the side of a square panel: three columns fill the width of a page
SMALLEST_PANEL = 1.1  # where there are more columns
NARROWEST = 3.4  # the width of one column of text
GAP = 0.08  # between the parts of a figure, and around it
PLAIN: dict[str, Any] = {"parse_math": False}  # text with names that are not ours: a $ in one is no formula


def panel_side(columns: int) -> float:
    """The side of a square panel, in inches: up to five columns fit a page, on which text keeps its size."""
    return PANEL_INCHES if columns <= 3 else max(SMALLEST_PANEL, 2.9 * PANEL_INCHES / columns)


def row_lengths(count: int, most: int) -> list[int]:
    """How many panels each row has: at most so many, as equal as can be, so that no panel stands alone in a row."""
    rows = -(-count // most)
    return [count // rows + (row < count % rows) for row in range(rows)]


def panel_axes(fig: Figure, lengths: Sequence[int], **options: Any) -> NDArray[Any]:
    """Axes (rows, columns) of which a row has the first so many; what stands for the others is None.

    Args:
        fig: a new figure.
        lengths: of the rows.
        options: of `Figure.subplots`.
    """
    axes = fig.subplots(len(lengths), max(lengths), squeeze=False, **options)
    for row, length in zip(axes, lengths, strict=True):
        for ax in row[length:]:
            ax.remove()
        row[length:] = None
    return np.asarray(axes)


def arrange_panels(
    fig: Figure,
    axes: NDArray[Any],
    *,
    width: float = PANEL_INCHES,
    height: float = PANEL_INCHES,
    head: float = 0.0,
    center: bool = False,
) -> None:
    """Gives every panel its size and its texts their room, and the figure the size of all.

    Args:
        fig: a figure without a layout engine.
        axes: (rows, columns) axes, with all their titles, labels and notes; as `panel_axes` gives them.
        width: of a panel, in inches.
        height: likewise.
        head: inches left free above the panels.
        center: whether a row with fewer panels than others stands in the middle, in columns of its own.
    """
    for ax in filter(None, axes.flat):
        ax.set_position((0, 0, width / fig.get_figwidth(), height / fig.get_figheight()))
    overhangs = np.array([[_overhang(ax) if ax else np.zeros(4) for ax in row] for row in axes])  # (row, column, side)
    center = center and any(ax is None for ax in axes.flat)
    if center:  # its columns have the width of any
        overhangs[:, :, [0, 2]] = overhangs.max(1, keepdims=True)[:, :, [0, 2]].max(0)
    (left, _, right, _), (_, bottom, _, top) = overhangs.max(0).T, overhangs.max(1).T

    x = np.cumsum(GAP + left + width + right) - right - width  # to the left edge of each panel
    y = np.cumsum(GAP + top + height + bottom) - bottom + head  # down to the lower edge of each panel
    content, tall = x[-1] + width + right[-1] + GAP, y[-1] + bottom[-1] + GAP
    wide = max(content, NARROWEST)
    fig.set_size_inches(wide, tall)
    for row, lower in zip(axes, y, strict=True):
        there = [ax for ax in row if ax]
        missing = x[-1] - x[len(there) - 1] if center else 0
        for ax, start in zip(there, x + (wide - content + missing) / 2, strict=False):
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


def wrapped(text: str, inches: float, size: float, *, most: int | None = None) -> str:
    """The text in lines of at most so many inches, at a size in points.

    Its own lines stay lines, and a no-break space stays a space. Of more lines than `most` the others are left out,
    and three dots stand for them.
    """
    lines = []
    for paragraph in text.splitlines():
        line, *words = paragraph.split(" ")
        for word in words:
            if text_inches(f"{line} {word}", size) > inches:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}"
        lines.append(line)
    if most is not None and len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]} \N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(lines)


def text_inches(text: str, size: float) -> float:
    """The width of a line of text, in inches, at a size in points."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return width / 72


def _overhang(ax: Axes) -> NDArray[np.float64]:
    """How far the texts of the axes reach out of their panel: to the left, below, to the right, above."""
    panel = ax.get_position(original=True).transformed(ax.figure.transFigure)
    whole = Bbox.union([panel, ax.get_tightbbox(bbox_extra_artists=[*ax.texts, *ax.child_axes]) or panel])
    return np.abs(np.subtract(whole.extents, panel.extents)) / ax.figure.dpi
