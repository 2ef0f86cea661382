"""The size of a figure and the positions of its parts, in inches, once its panels are drawn.

Panels have one size, texts are measured, and the figure grows to fit its content: nothing overlaps and no gap is left.
Legend and note are added at the foot and lengthen the figure.
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

SMALL, NORMAL, LARGE = 7.0, 7.5, 9.0  # font sizes in points, for a figure printed at its own size: at least 7
PANEL_INCHES = 2.0  # side of a square panel: three columns fill the width of a page
SMALLEST_PANEL = 1.1  # with more columns
NARROWEST = 3.4  # the width of one column of text
GAP = 0.08  # between the parts of a figure, and around it
PLAIN: dict[str, Any] = {"parse_math": False}  # for texts with users' names: a $ in one does not start a formula


def panel_side(columns: int) -> float:
    """Return the side of a square panel, in inches: up to five columns fit a page, on which text keeps its size."""
    return PANEL_INCHES if columns <= 3 else max(SMALLEST_PANEL, 2.9 * PANEL_INCHES / columns)


def row_lengths(count: int, most: int) -> list[int]:
    """Return the number of panels in each row: at most `most`, as equal as possible, no row with a single one."""
    rows = -(-count // most)
    return [count // rows + (row < count % rows) for row in range(rows)]


def panel_axes(fig: Figure, lengths: Sequence[int], **options: Any) -> NDArray[Any]:
    """Return axes (rows, columns), where row i has axes in its first `lengths[i]` columns and None in the others.

    Args:
        fig: a new figure.
        lengths: number of axes in each row.
        options: for `Figure.subplots`.
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
    """Give every panel its size, make room for its texts, and fit the figure to them.

    Args:
        fig: a figure without a layout engine.
        axes: (rows, columns) axes from `panel_axes`, with all their titles, labels and notes.
        width: of a panel, in inches.
        height: likewise.
        head: inches left free above the panels.
        center: whether a row with fewer panels than others is centred, in columns of its own.
    """
    for ax in filter(None, axes.flat):
        ax.set_position((0, 0, width / fig.get_figwidth(), height / fig.get_figheight()))
    overhangs = np.array([[_overhang(ax) if ax else np.zeros(4) for ax in row] for row in axes])  # (row, column, side)
    center = center and any(ax is None for ax in axes.flat)
    if center:  # column widths then depend on all columns
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
    """Lengthen the figure at its foot for the artist; return the strip's upper edge as a height in `from_top`.

    Axes keep their positions on the paper. A layout engine runs a last time here.
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
    """Return coordinates that do not change as the figure grows: fraction of its width, inches up from its top."""
    top = ScaledTranslation(0, 1, BboxTransformTo(fig.bbox))
    return blended_transform_factory(fig.transFigure, fig.dpi_scale_trans + top)


def settle_layout(fig: Figure) -> None:
    """Let a layout engine place the axes and then fix them, since every drawing would move them a little."""
    if fig.get_layout_engine() is None:
        return
    for _ in range(2):  # the first pass finds the sizes of all texts, the second their positions
        fig.draw_without_rendering()
    fig.set_layout_engine("none")


def wrapped(text: str, inches: float, size: float, *, most: int | None = None) -> str:
    """Return the text wrapped to lines of at most `inches`, at a font size in points.

    Its own line breaks and no-break spaces are kept. Lines beyond `most` are replaced by an ellipsis.
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
    """Return the width of a line of text, in inches, at a font size in points."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return width / 72


def _overhang(ax: Axes) -> NDArray[np.float64]:
    """Return how far the texts of the axes extend beyond their panel: left, bottom, right, top."""
    panel = ax.get_position(original=True).transformed(ax.figure.transFigure)
    whole = Bbox.union([panel, ax.get_tightbbox(bbox_extra_artists=[*ax.texts, *ax.child_axes]) or panel])
    return np.abs(np.subtract(whole.extents, panel.extents)) / ax.figure.dpi
