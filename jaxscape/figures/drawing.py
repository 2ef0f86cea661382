"""One panel: trajectories in 2-D or 3-D, or distances by epoch, on axes that the caller made.

Coordinates and row labels in, matplotlib artists out.
"""

from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, NullLocator
from mpl_toolkits.mplot3d import Axes3D
from numpy.typing import ArrayLike, NDArray

from jaxscape.figures.boxes import Boxes, path, put_in_boxes
from jaxscape.figures.layout import NORMAL, SMALL
from jaxscape.figures.palette import (
    FADES,
    FRAME,
    GREY,
    INK,
    MINIMUM,
    POINT_SIZE,
    SCALE,
    Color,
    Fade,
    Palette,
    diamond_areas,
    make_palette,
    shade,
)
from jaxscape.figures.panels import (
    BEGINS,
    Array,
    Begin,
    DistancePanel,
    Panel,
    checked_column,
    checked_panel,
    progress,
    rows_by_member,
    step_sizes,
)
from jaxscape.figures.texts import PLAIN_NUMBERS, log_ticks

type ColorBy = Literal["seed", "step_size", "epoch", "values"]

COLOR_BY = ("seed", "step_size", "epoch", "values")
EDGE: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.5}
MEDIAN: dict[str, Any] = {"color": INK, "linewidth": 1.6}
NULL: dict[str, Any] = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (4, 2))}


class Trajectories(NamedTuple):
    """The artists of a panel."""

    points: PathCollection
    rows: NDArray[np.intp]  # (n,), the row that each point shows: the darkest are drawn last
    lines: dict[Hashable, Line2D]  # by member
    starts: PathCollection  # diamonds, those of small steps on top; or stars
    minimum: PathCollection | None
    colorbar: Colorbar | None


def plot_trajectories(
    ax: Axes,
    embedding: ArrayLike,
    *,
    seed: ArrayLike,
    epoch: ArrayLike,
    member: ArrayLike,
    step_size: ArrayLike | None = None,
    color_by: ColorBy = "seed",
    fade: Fade | None = None,
    values: ArrayLike | None = None,
    label: str = "",
    norm: Normalize | None = None,
    minimum: ArrayLike | None = None,
    begin: Begin = "jump",
    component: ArrayLike | None = None,
    minimum_component: int | None = None,
    palette: Palette | None = None,
    colorbar: bool = True,
    point_size: float = POINT_SIZE,
) -> Trajectories:
    """Draw trajectories: a point per row, a line per member, diamonds at jumps, a star at the minimum or the start.

    Args:
        ax: axes to draw on; 3-D axes for a 3-D embedding.
        embedding: (n, 2) or (n, 3) coordinates.
        seed: (n,) direction of the jump.
        epoch: (n,) epoch of retraining; 0 is right after the jump.
        member: (n,) the trajectory that a row belongs to.
        step_size: (n,) floats; None if the members were not perturbed.
        color_by: "seed" (one hue per direction), "step_size" (as the diamonds), "epoch" or "values" (a colour scale).
        fade: with color_by="seed", the hue becomes "dark" or "white" with the epochs (Fig. 2, top and bottom).
        values: (n,) floats for color_by="values", such as the loss (Appendix B).
        label: name of the values, beside their colour bar.
        norm: normalization of the values, `LogNorm()` for a logarithmic scale; linear over their range by default.
        minimum: (2,) or (3,) coordinates of the minimum, if it was embedded with the trajectories.
        begin: the start of a trajectory: a "jump" (a diamond at epoch 0, coloured by its step size), "initial"
            parameters or the "first" recorded ones (a star).
        component: (n,) ints, the connected component of each row in the embedded graph. With several components in
            2-D, each is drawn in a box of its own, all at one scale, sorted by direction and step size, because their
            relative positions have no meaning. In 3-D they are not moved.
        minimum_component: the component of the minimum, which puts it into a box.
        palette: colours shared with other panels; by default made from these labels.
        colorbar: whether a colour scale gets a colour bar beside the axes.
        point_size: area of a point in square points; diamonds and star scale with it.

    Returns:
        The artists.

    Raises:
        ValueError: for lengths that differ, NaN, coordinates that do not fit the axes, unknown options.
    """
    panel = Panel(
        title="",
        embedding=np.asarray(embedding),
        seed=np.asarray(seed),
        step_size=None if step_size is None else np.asarray(step_size),
        epoch=np.asarray(epoch),
        member=np.asarray(member),
        minimum=None if minimum is None else np.asarray(minimum),
        begin=begin,
        component=None if component is None else np.asarray(component),
        minimum_component=minimum_component,
    )
    panel, boxes = put_in_boxes(checked_panel(panel))
    palette = palette or make_palette(panel.seed, step_sizes(panel), panel.epoch)
    _check_axes(ax, panel)
    _check_palette(palette, panel)
    _check_coloring(color_by, fade, values, norm)
    if begin not in BEGINS:
        raise ValueError(f"begin is {begin!r}; choose one of {list(BEGINS)}")
    if color_by == "epoch":
        label, values, norm = "epoch", panel.epoch, Normalize(0, palette.last_epoch)

    order = np.argsort(-panel.epoch if fade == "white" else panel.epoch, kind="stable")
    if values is None:
        coloring: dict[str, Any] = {"c": _row_colors(panel, palette, color_by, fade)[order]}
    else:
        number = checked_column("values", values, len(order), numeric=True)
        coloring = {"c": number[order], "cmap": SCALE, "norm": norm}
    points = _scatter(ax, panel.embedding[order], s=point_size, linewidths=0, zorder=2, **coloring)
    artists = Trajectories(
        points=points,
        rows=order,
        lines=_draw_lines(ax, panel, palette, color_by),
        starts=_draw_starts(ax, panel, palette, point_size, begin),
        minimum=_draw_minimum(ax, panel, 18 * point_size),
        colorbar=add_colorbar(points, ax, label) if colorbar and values is not None else None,
    )
    _set_frame(ax, panel, boxes)
    return artists


def add_colorbar(points: PathCollection, ax: Axes, label: str) -> Colorbar:
    """Draw a thin colour bar for the colour scale of `points` beside the axes, whose size does not change."""
    bar = ax.figure.colorbar(points, cax=ax.inset_axes((1.03, 0, 0.03, 1)))
    bar.set_label(label, fontsize=NORMAL, color=INK)
    bar.ax.tick_params(which="both", labelsize=SMALL, width=0.5, length=2, color=INK, labelcolor=INK)
    bar.outline.set_visible(False)
    if isinstance(points.norm, LogNorm):
        bar.set_ticks(FixedLocator(log_ticks(*bar.ax.get_ylim())))
        bar.ax.yaxis.set_major_formatter(PLAIN_NUMBERS)
        bar.ax.yaxis.set_minor_locator(NullLocator())
    return bar


def plot_lines(ax: Axes, panel: DistancePanel, palette: Palette, color_by: Literal["seed", "step_size"]) -> None:
    """Draw one thin line per member over its epochs.

    The panel comes from `checked_distances`, and the palette must have its labels.
    """
    for rows in rows_by_member(panel).values():
        color = _label_color(panel, rows[0], palette, color_by)
        ax.plot(panel.epoch[rows], panel.distance[rows], color=color, linewidth=0.8, alpha=0.8, zorder=2)
    ax.set_xlabel(panel.unit, fontsize=NORMAL, color=INK)
    ax.tick_params(which="both", labelsize=SMALL, width=0.5, length=2, color=INK, labelcolor=INK)
    for side, spine in ax.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=GREY, linewidth=0.6)


def plot_distances(
    ax: Axes, panel: DistancePanel, palette: Palette, color_by: Literal["seed", "step_size"], level: float = 1
) -> None:
    """Draw one thin line per member, dashed grey lines for null trajectories, and the median in bold."""
    ax.axhline(level, color=FRAME, linewidth=0.6, zorder=0)
    plot_lines(ax, panel, palette, color_by)
    if panel.null is not None:
        for rows in rows_by_member(panel).values():
            ax.plot(panel.epoch[rows], panel.null[rows], **NULL, alpha=0.6, zorder=1)
    epochs = np.unique(panel.epoch)
    ax.plot(epochs, [np.median(panel.distance[panel.epoch == epoch]) for epoch in epochs], **MEDIAN, zorder=3)
    ax.ticklabel_format(useOffset=False)


def _check_axes(ax: Axes, panel: Panel) -> None:
    wanted = 3 if isinstance(ax, Axes3D) else 2
    if panel.embedding.shape[1] != wanted:
        raise ValueError(f"embedding has {panel.embedding.shape[1]} columns; these axes need {wanted}")


def _check_palette(palette: Palette, panel: Panel) -> None:
    for name, known in (("seed", palette.directions), ("step_size", palette.step_sizes)):
        missing = set(getattr(panel, name).tolist()) - set(known)
        if missing:
            raise ValueError(f"{name} holds {sorted(missing)}; the palette knows {list(known)}")


def _check_coloring(color_by: ColorBy, fade: Fade | None, values: ArrayLike | None, norm: Normalize | None) -> None:
    if color_by not in COLOR_BY:
        raise ValueError(f"color_by is {color_by!r}; choose one of {list(COLOR_BY)}")
    if fade not in (None, *FADES):
        raise ValueError(f"fade is {fade!r}; choose one of {[None, *FADES]}")
    if fade and color_by != "seed":
        raise ValueError(f"fade is {fade!r} and color_by {color_by!r}; only the hues of 'seed' fade")
    if (values is not None) != (color_by == "values"):
        raise ValueError(f"color_by is {color_by!r} and values is {'not ' * (values is not None)}None")
    if values is not None and isinstance(norm, LogNorm) and np.min(np.asarray(values)) <= 0:
        raise ValueError(f"values reach {np.min(np.asarray(values)):g}; a logarithmic scale needs values above 0")


def _row_colors(panel: Panel, palette: Palette, color_by: ColorBy, fade: Fade | None) -> NDArray[np.float64]:
    if color_by == "step_size":
        return np.array([palette.step_sizes[size] for size in step_sizes(panel).tolist()])
    share = progress(panel, palette)
    darkness = {None: np.full(len(share), 0.5), "dark": share, "white": 1 - share}[fade]
    colors = np.empty((len(share), 3))
    for seed, hue in palette.directions.items():
        colors[panel.seed == seed] = shade(hue, darkness[panel.seed == seed])
    return colors


def _draw_lines(ax: Axes, panel: Panel, palette: Palette, color_by: ColorBy) -> dict[Hashable, Line2D]:
    lines = {}
    for member, rows in rows_by_member(panel).items():
        color = _label_color(panel, rows[0], palette, color_by)
        lines[member] = ax.plot(*path(panel, rows).T, color=color, linewidth=0.5, alpha=0.5, zorder=1)[0]
    return lines


def _label_color(panel: Panel | DistancePanel, row: int, palette: Palette, color_by: str) -> str | Color:
    if color_by == "seed":
        return palette.directions[panel.seed.tolist()[row]]
    if color_by == "step_size":
        return palette.step_sizes[step_sizes(panel).tolist()[row]]
    return GREY


def _draw_starts(ax: Axes, panel: Panel, palette: Palette, point_size: float, begin: Begin) -> PathCollection:
    if begin != "jump":
        rows = np.array([rows[0] for rows in rows_by_member(panel).values()])
        return _scatter(ax, panel.embedding[rows], s=10 * point_size, zorder=4, marker="*", c=MINIMUM, **EDGE)
    rows = np.flatnonzero(panel.epoch == 0)
    rows = rows[np.argsort(-step_sizes(panel)[rows], kind="stable")]
    sizes, areas = step_sizes(panel)[rows].tolist(), diamond_areas(palette, point_size)
    style: dict[str, Any] = {"marker": "D", "zorder": 3, **EDGE}
    style |= {"c": [palette.step_sizes[size] for size in sizes], "s": [areas[size] for size in sizes]}
    return _scatter(ax, panel.embedding[rows], **style)


def _draw_minimum(ax: Axes, panel: Panel, size: float) -> PathCollection | None:
    if panel.minimum is None:
        return None
    return _scatter(ax, panel.minimum[None], s=size, zorder=4, marker="*", c=MINIMUM, **EDGE)


def _scatter(ax: Axes, places: Array, **style: Any) -> PathCollection:
    draw: Callable[..., PathCollection] = ax.scatter
    if isinstance(ax, Axes3D):  # no fading with depth, because the shade stands for the epoch
        return draw(*places.T, depthshade=False, **style)
    return draw(*places.T, **style)


def _set_frame(ax: Axes, panel: Panel, boxes: Boxes | None) -> None:
    """Set one scale for all axes, no ticks (PHATE's axes have no meaning), a light frame, or one around each box."""
    places = panel.embedding if panel.minimum is None else np.vstack([panel.embedding, panel.minimum])
    center, half = (places.max(0) + places.min(0)) / 2, 0.55 * np.ptp(places, axis=0)
    if boxes is not None:
        low, high = boxes.limits
        center, half = (low + high) / 2, 0.503 * (high - low)  # slightly larger, so that the outer frames are complete
        for corner in boxes.corners:
            frame = Rectangle(tuple(corner), boxes.side, boxes.side, fill=False, edgecolor=FRAME, linewidth=0.6)
            ax.add_patch(frame).set(zorder=0, clip_on=False)
    longest = half.max() or 1.0
    half = np.maximum(half, 0.2 * longest) if isinstance(ax, Axes3D) else np.full(2, longest)
    for name, middle, reach in zip("xyz", center, half, strict=False):
        ax.set(**{f"{name}lim": (middle - reach, middle + reach), f"{name}ticks": []})
    for spine in ax.spines.values():
        spine.set(color=FRAME, linewidth=0.6, visible=boxes is None)
    if isinstance(ax, Axes3D):
        ax.set_box_aspect(half.tolist())
        ax.computed_zorder = False  # keeps diamonds and the star on top
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.line.set(color=FRAME, linewidth=0.6)
            axis.set_pane_color("white")
    else:
        ax.set_aspect("equal")
