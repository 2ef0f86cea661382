"""Pictures of retraining: trajectories in the plane or in space, and the distance from the minimum by epoch.

The last stop of the journey: coordinates and row labels come in, matplotlib artists go out. The encodings
are those of Horoi et al., Figures 2 and 5: a hue for each direction, darker or whiter by epoch, or
one colour scale over epochs; a diamond for each jump, coloured by its step size. Only matplotlib's
object-oriented interface is used: no backend, no window, no list of open figures.
"""

import string
import textwrap
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colorbar import Colorbar
from matplotlib.colors import LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from mpl_toolkits.mplot3d import Axes3D
from numpy.typing import ArrayLike, NDArray

type ColorBy = Literal["seed", "step_size", "epoch", "values"]
type Fade = Literal["dark", "white"]
type Look = Literal["dark", "white", "epoch"]
type Color = tuple[float, float, float]
type Array = NDArray[Any]
type Entry = tuple[Artist | tuple[Artist, ...], str]  # of a legend: handle, label

# Okabe and Ito's colours first, then some of Tol's and Brewer's. A search chose the order: the first five, at
# every darkness of `shade`, stay apart under protanopia, deuteranopia and tritanopia (Machado et al. 2009).
HUES = (
    *("#1F3F9E", "#E69F00", "#009E73", "#56B4E9", "#D55E00"),
    *("#CC79A7", "#882255", "#999933", "#8C510A", "#0072B2"),
)
FADES: tuple[Fade, ...] = ("dark", "white")
COLOR_BY = ("seed", "step_size", "epoch", "values")
LOOKS: dict[Look, str] = {
    "dark": "darker with every epoch",
    "white": "whiter with every epoch",
    "epoch": "coloured by epoch",
}
SCALE = "viridis"  # perceptually uniform: for epochs and for any other number
STEP_SCALE = "magma"
INK, GREY, FRAME = "#222222", "#777777", "#D0D0D0"
MINIMUM = "#FFD700"
SMALL, NORMAL, LARGE = 6.0, 7.0, 8.5  # points, for a figure printed at its own size
PANEL_INCHES = 2.35


class Palette(NamedTuple):
    """What each colour stands for: one palette for all the panels of a figure and their legend."""

    directions: dict[Hashable, Color]  # seed: its hue
    step_sizes: dict[float, Color]  # in ascending order, light to dark
    last_epoch: float  # where the fading and the scale over epochs end


class Panel(NamedTuple):
    """One minimum and its retraining trajectories; the labels are (n,), a value a row of the embedding."""

    title: str
    embedding: Array  # (n, 2) or (n, 3)
    seed: Array
    step_size: Array
    epoch: Array
    member: Array
    minimum: Array | None = None  # (2,) or (3,), where the minimum was embedded too
    note: str = ""  # a line under the panels of this minimum


class DistancePanel(NamedTuple):
    """The distances of one minimum's trajectories from it; every array is (n,), a value a row."""

    title: str
    distance: Array  # as a share of the jump: 1 at epoch 0
    seed: Array
    step_size: Array
    epoch: Array
    member: Array
    null: Array | None = None  # the same of null trajectories with the same labels


class Trajectories(NamedTuple):
    """The artists of one panel."""

    points: PathCollection
    rows: NDArray[np.intp]  # (n,), the row that each point shows: what is darkest is drawn last
    lines: dict[Hashable, Line2D]  # by member
    starts: PathCollection  # diamonds, in the order of the rows of epoch 0
    minimum: PathCollection | None
    colorbar: Colorbar | None


def make_palette(seed: ArrayLike, step_size: ArrayLike, epoch: ArrayLike) -> Palette:
    """Gives each seed a hue and each step size a colour, in ascending order.

    Args:
        seed: (n,) directions, labels of one sortable kind; more than ten share hues, with a warning.
        step_size: (n,) floats.
        epoch: (n,) numbers.
    """
    seeds, sizes = np.unique(np.asarray(seed)).tolist(), np.unique(_as_step_size(step_size)).tolist()
    if len(seeds) > len(HUES):
        warnings.warn(f"{len(seeds)} directions share {len(HUES)} hues", UserWarning, stacklevel=2)
    colors = matplotlib.colormaps[STEP_SCALE](np.linspace(0.9, 0.18, len(sizes)))[:, :3].tolist()
    return Palette(
        directions={seed: to_rgb(HUES[i % len(HUES)]) for i, seed in enumerate(seeds)},
        step_sizes={size: to_rgb(color) for size, color in zip(sizes, colors, strict=True)},
        last_epoch=float(np.max(np.asarray(epoch, float))),
    )


def shade(hue: str | Color, darkness: ArrayLike) -> NDArray[np.float64]:
    """Colours (..., 3) from a tint of the hue (darkness 0) through the hue itself to a deep shade (1)."""
    darkness = np.asarray(darkness, float)
    return np.stack([np.interp(darkness, [0, 0.5, 1], [0.7 + 0.3 * c, c, 0.4 * c]) for c in to_rgb(hue)], -1)


def plot_trajectories(
    ax: Axes,
    embedding: ArrayLike,
    *,
    seed: ArrayLike,
    step_size: ArrayLike,
    epoch: ArrayLike,
    member: ArrayLike,
    color_by: ColorBy = "seed",
    fade: Fade | None = None,
    values: ArrayLike | None = None,
    label: str = "",
    norm: Normalize | None = None,
    minimum: ArrayLike | None = None,
    palette: Palette | None = None,
    colorbar: bool = True,
    point_size: float = 5.5,
) -> Trajectories:
    """Draws trajectories: a point a row, a thin line a member, a diamond a jump, a star for the minimum.

    Args:
        ax: axes to draw on; 3-D ones for an embedding in space.
        embedding: (n, 2) or (n, 3) coordinates.
        seed: (n,) direction of the jump.
        step_size: (n,) floats.
        epoch: (n,) epoch of retraining; 0 is right after the jump.
        member: (n,) the trajectory that a row belongs to.
        color_by: "seed" (a hue a direction), "step_size" (as the diamonds), "epoch" or "values" (a scale).
        fade: with color_by="seed", the hue grows "dark" or "white" with the epochs (Fig. 2, top and bottom).
        values: (n,) floats for color_by="values", such as the loss (Appendix B).
        label: name of the values, beside their colour bar.
        norm: scale of the values, `LogNorm()` for a logarithmic one; linear over their range by default.
        minimum: (2,) or (3,) coordinates of the minimum, where it was embedded with the trajectories.
        palette: colours shared with other panels; by default made from these labels.
        colorbar: whether a colour scale gets its bar beside the axes.
        point_size: area of a point in square points; diamonds and star grow with it.

    Returns:
        The artists.

    Raises:
        ValueError: lengths that differ, NaN, coordinates that do not fit the axes, unknown options.
    """
    panel = Panel(
        title="",
        embedding=np.asarray(embedding),
        seed=np.asarray(seed),
        step_size=np.asarray(step_size),
        epoch=np.asarray(epoch),
        member=np.asarray(member),
        minimum=None if minimum is None else np.asarray(minimum),
    )
    panel = _checked_panel(panel)
    palette = palette or make_palette(panel.seed, panel.step_size, panel.epoch)
    _check_axes(ax, panel)
    _check_palette(palette, panel)
    _check_coloring(color_by, fade, values, norm)
    if color_by == "epoch":
        label, values, norm = "epoch", panel.epoch, Normalize(0, palette.last_epoch)

    order = np.argsort(-panel.epoch if fade == "white" else panel.epoch, kind="stable")
    if values is None:
        coloring: dict[str, Any] = {"c": _row_colors(panel, palette, color_by, fade)[order]}
    else:
        number = _checked_column("values", values, len(order), numeric=True)
        coloring = {"c": number[order], "cmap": SCALE, "norm": norm}
    points = _scatter(ax, panel.embedding[order], s=point_size, linewidths=0, zorder=2, **coloring)
    artists = Trajectories(
        points=points,
        rows=order,
        lines=_draw_lines(ax, panel, palette, color_by),
        starts=_draw_starts(ax, panel, palette, 4 * point_size),
        minimum=_draw_minimum(ax, panel, 18 * point_size),
        colorbar=add_colorbar(points, [ax], label) if colorbar and values is not None else None,
    )
    _set_frame(ax, panel)
    return artists


def add_colorbar(points: PathCollection, axes: Sequence[Axes], label: str) -> Colorbar:
    """Draws a thin bar for the colour scale of `points` beside one or several axes of a figure."""
    bar = axes[0].figure.colorbar(points, ax=axes, fraction=0.05, pad=0.02, aspect=30)
    bar.set_label(label, fontsize=NORMAL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, width=0.5, length=2, color=INK, labelcolor=INK)
    bar.outline.set_visible(False)
    return bar


def legend(
    fig: Figure,
    palette: Palette,
    *,
    directions: bool = True,
    step_sizes: bool = True,
    fades: Sequence[Fade] = (),
    minimum: bool = False,
    extra: Sequence[Artist] = (),
) -> Legend:
    """Puts a legend at the foot of the figure, in room of its own: outside of the points.

    A row explains the hues, a row the diamonds; where the figure is too narrow they go on in further rows.

    Args:
        fig: a figure; without a layout engine it gets the one called "compressed".
        palette: what the colours stand for.
        directions: whether the hues are explained.
        step_sizes: whether the diamonds are.
        fades: for each of these, a gradient from epoch 0 to the last one.
        minimum: whether the star is.
        extra: more artists, under their own labels.
    """
    groups: dict[str, list[Entry]] = {}
    if directions:
        groups["direction"] = [(_marker("o", hue), str(seed)) for seed, hue in palette.directions.items()]
    if step_sizes:
        groups["step size"] = [(_marker("D", color), f"{size:g}") for size, color in palette.step_sizes.items()]
    others: list[Entry] = [(_gradient(fade), f"epoch 0 to {palette.last_epoch:g}") for fade in fades]
    others += [(_marker("*", MINIMUM, size=7), "minimum")] if minimum else []
    others += [(artist, str(artist.get_label())) for artist in extra]
    return _place_legend(fig, groups, others)


def figure_note(fig: Figure, text: str) -> Text:
    """Writes a note in small type at the foot of the figure, wrapped to its width, in room of its own.

    What it should say (distance, centring, knn, t, components, data, run) only the caller knows. A note that
    is written before the legend stands under it.
    """
    text = _wrapped(text, fig.get_figwidth())
    note = fig.text(0.5, 0, text, fontsize=SMALL, color=GREY, ha="center", va="bottom", linespacing=1.3)
    note.set_y(_make_room(fig, note))
    return note


def minimum_figure(panel: Panel, *, note: str = "") -> Figure:
    """One minimum three times: hues that darken, hues that whiten, and one colour scale over epochs.

    Args:
        panel: the trajectories, in the plane or in space.
        note: for the foot of the figure.

    Raises:
        ValueError: as `plot_trajectories`.
    """
    fig, axes = _draw_grid([[(panel, look) for look in LOOKS]], note)
    fig.suptitle(panel.title, fontsize=LARGE, color=INK)
    for ax, name in zip(axes[0], LOOKS.values(), strict=True):
        ax.set_title(name, fontsize=NORMAL, color=INK)
    _write_under(axes[0, 1], panel.note)
    return fig


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
    if not looks or set(looks) - set(LOOKS):
        raise ValueError(f"looks is {looks!r}; choose one or more of {list(LOOKS)}")
    fig, axes = _draw_grid([[(panel, look) for panel in panels] for look in looks], note)
    for column, panel in zip(axes.T, panels, strict=True):
        column[0].set_title(panel.title, fontsize=NORMAL, color=INK)
        _write_under(column[-1], panel.note)
    for ax, look in zip(axes[:, 0], looks, strict=True):
        _write_left(ax, LOOKS[look])
    return fig


def distance_figure(
    panels: Sequence[DistancePanel], *, color_by: Literal["seed", "step_size"] = "step_size", note: str = ""
) -> Figure:
    """Distance from the minimum by epoch, as a share of the jump: what no embedding can show.

    A thin line a member, the median over members in bold; null trajectories, where given, in dashed grey. A
    minimum has its own axes; all share one scale.

    Args:
        panels: the minima.
        color_by: what the colours of the lines stand for.
        note: for the foot of the figure.

    Raises:
        ValueError: lengths that differ, NaN, no panels, unknown options.
    """
    if color_by not in ("seed", "step_size"):
        raise ValueError(f"color_by is {color_by!r}; choose 'seed' or 'step_size'")
    panels = [_checked_distances(panel) for panel in panels]
    palette = _shared_palette(panels)
    fig = Figure(figsize=_figure_inches(1, len(panels)), layout="compressed")
    axes = fig.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        _draw_distances(ax, panel, palette, color_by)
        ax.set_title(panel.title, fontsize=NORMAL, color=INK)
    axes[0].set_ylabel("distance from the minimum / jump", fontsize=NORMAL, color=INK)
    if note:
        figure_note(fig, note)
    extra = [Line2D([], [], label="median", **MEDIAN)]
    if any(panel.null is not None for panel in panels):
        extra.append(Line2D([], [], label="null trajectories", **NULL))
    legend(fig, palette, directions=color_by == "seed", step_sizes=color_by == "step_size", extra=extra)
    return fig


def save_figure(fig: Figure, stem: str | Path) -> list[Path]:
    """Writes STEM.png (200 dpi) and STEM.svg; the same figure always gives the same bytes.

    Missing folders are made. The layout is fixed from then on, since every drawing would move it a little.
    """
    png, svg = Path(f"{stem}.png"), Path(f"{stem}.svg")
    png.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):  # the first drawing finds the sizes of all texts, the second their places
        fig.draw_without_rendering()
    fig.set_layout_engine("none")
    with matplotlib.rc_context({"svg.hashsalt": "jaxscape"}):  # the ids of SVG elements are random otherwise
        fig.savefig(png, dpi=200)
        fig.savefig(svg, metadata={"Date": None})
    return [png, svg]


# What the caller gave, checked before anything is drawn.


def _checked_panel(panel: Panel) -> Panel:
    panel = panel._replace(embedding=np.asarray(panel.embedding, float))
    shape = panel.embedding.shape
    if len(shape) != 2 or shape[1] not in (2, 3):
        raise ValueError(f"embedding has shape {shape}; allowed are (n, 2) and (n, 3)")
    _check_finite("embedding", panel.embedding)
    if panel.minimum is not None:
        panel = panel._replace(minimum=_checked_column("minimum", panel.minimum, shape[1], numeric=True))
    return _with_checked_labels(panel, shape[0])


def _checked_distances(panel: DistancePanel) -> DistancePanel:
    n = len(panel.distance)
    panel = panel._replace(distance=_checked_column("distance", panel.distance, n, numeric=True))
    if panel.null is not None:
        panel = panel._replace(null=_checked_column("null", panel.null, n, numeric=True))
    return _with_checked_labels(panel, n)


def _with_checked_labels[P: (Panel, DistancePanel)](panel: P, n: int) -> P:
    if not n:
        raise ValueError(f"panel {panel.title!r} has no rows")
    panel = panel._replace(
        seed=_checked_column("seed", panel.seed, n),
        step_size=_as_step_size(_checked_column("step_size", panel.step_size, n, numeric=True)),
        epoch=_checked_column("epoch", panel.epoch, n, numeric=True),
        member=_checked_column("member", panel.member, n),
    )
    if len(set(zip(panel.member.tolist(), panel.epoch.tolist(), strict=True))) < n:
        raise ValueError("member and epoch name some row twice; a member has one row an epoch")
    return panel


def _checked_column(name: str, column: ArrayLike, n: int, *, numeric: bool = False) -> Array:
    array = np.asarray(column, float) if numeric else np.asarray(column)
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}; ({n},) is needed")
    if array.dtype.kind == "f":
        _check_finite(name, array)
    return array


def _check_finite(name: str, array: Array) -> None:
    bad = int(np.sum(~np.isfinite(array)))
    if bad:
        raise ValueError(f"{name} holds {bad} NaN or infinite values; leave out the members that diverged")


def _as_step_size(step_size: ArrayLike) -> NDArray[np.float64]:
    # Rounded, so that 0.1 in float32 from one run and in float64 from another are one step size.
    return np.asarray(step_size, float).round(6)


def _check_axes(ax: Axes, panel: Panel) -> None:
    wanted = 3 if isinstance(ax, Axes3D) else 2
    if panel.embedding.shape[1] != wanted:
        raise ValueError(f"embedding has {panel.embedding.shape[1]} columns; these axes take {wanted}")


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
        raise ValueError(f"values reach {np.min(np.asarray(values)):g}; a logarithmic scale begins over 0")


# Drawing.

EDGE: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.6}
MEDIAN: dict[str, Any] = {"color": INK, "linewidth": 1.6}
NULL: dict[str, Any] = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (4, 2))}


def _row_colors(panel: Panel, palette: Palette, color_by: ColorBy, fade: Fade | None) -> NDArray[np.float64]:
    if color_by == "step_size":
        return np.array([palette.step_sizes[size] for size in panel.step_size.tolist()])
    progress = panel.epoch / (palette.last_epoch or 1)
    darkness = {None: np.full(len(progress), 0.5), "dark": progress, "white": 1 - progress}[fade]
    colors = np.empty((len(progress), 3))
    for seed, hue in palette.directions.items():
        colors[panel.seed == seed] = shade(hue, darkness[panel.seed == seed])
    return colors


def _by_member(panel: Panel | DistancePanel) -> dict[Hashable, NDArray[np.intp]]:
    """The rows of each member, in the order of epochs."""
    order = np.argsort(panel.epoch, kind="stable")
    return {member: order[panel.member[order] == member] for member in np.unique(panel.member).tolist()}


def _draw_lines(ax: Axes, panel: Panel, palette: Palette, color_by: ColorBy) -> dict[Hashable, Line2D]:
    lines = {}
    for member, rows in _by_member(panel).items():
        color = _label_color(panel, rows[0], palette, color_by)
        lines[member] = ax.plot(*panel.embedding[rows].T, color=color, linewidth=0.5, alpha=0.5, zorder=1)[0]
    return lines


def _label_color(panel: Panel | DistancePanel, row: int, palette: Palette, color_by: str) -> str | Color:
    if color_by == "seed":
        return palette.directions[panel.seed.tolist()[row]]
    if color_by == "step_size":
        return palette.step_sizes[panel.step_size.tolist()[row]]
    return GREY


def _draw_starts(ax: Axes, panel: Panel, palette: Palette, size: float) -> PathCollection:
    rows = np.flatnonzero(panel.epoch == 0)
    colors = [palette.step_sizes[step_size] for step_size in panel.step_size[rows].tolist()]
    return _scatter(ax, panel.embedding[rows], s=size, zorder=3, marker="D", c=colors, **EDGE)


def _draw_minimum(ax: Axes, panel: Panel, size: float) -> PathCollection | None:
    if panel.minimum is None:
        return None
    return _scatter(ax, panel.minimum[None], s=size, zorder=4, marker="*", c=MINIMUM, **EDGE)


def _scatter(ax: Axes, places: Array, **style: Any) -> PathCollection:
    draw: Callable[..., PathCollection] = ax.scatter
    if isinstance(ax, Axes3D):  # nothing may fade with depth where a shade stands for the epoch
        return draw(*places.T, depthshade=False, **style)
    return draw(*places.T, **style)


def _set_frame(ax: Axes, panel: Panel) -> None:
    """One scale for all axes, no ticks (PHATE's axes have no meaning), a light frame."""
    places = panel.embedding if panel.minimum is None else np.vstack([panel.embedding, panel.minimum])
    center, half = (places.max(0) + places.min(0)) / 2, 0.55 * np.ptp(places, axis=0)
    longest = half.max() or 1.0
    half = np.maximum(half, 0.2 * longest) if isinstance(ax, Axes3D) else np.full(2, longest)
    for name, middle, reach in zip("xyz", center, half, strict=False):
        ax.set(**{f"{name}lim": (middle - reach, middle + reach), f"{name}ticks": []})
    for spine in ax.spines.values():
        spine.set(color=FRAME, linewidth=0.6)
    if isinstance(ax, Axes3D):
        ax.set_box_aspect(half.tolist(), zoom=1.2)
        ax.computed_zorder = False  # diamonds and the star stay on top
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.line.set(color=FRAME, linewidth=0.6)
            axis.set_pane_color("white")
    else:
        ax.set_aspect("equal")


def _shared_palette(panels: Sequence[Panel] | Sequence[DistancePanel]) -> Palette:
    if not panels:
        raise ValueError("panels is empty; give one or more")
    labels = ("seed", "step_size", "epoch")
    return make_palette(*(np.concatenate([getattr(panel, name) for panel in panels]) for name in labels))


def _figure_inches(rows: int, columns: int) -> tuple[float, float]:
    return max(3.4, 0.2 + PANEL_INCHES * columns), 1.0 + PANEL_INCHES * rows


def _draw_grid(cells: Sequence[Sequence[tuple[Panel, Look]]], note: str) -> tuple[Figure, NDArray[Any]]:
    """A figure of trajectories with letters, colour bars, note and legend; cells are rows from the top."""
    panels = [_checked_panel(panel) for panel, _ in cells[0]]
    palette = _shared_palette(panels)
    dimensions = {panel.embedding.shape[1] for panel in panels}
    if len(dimensions) != 1:
        raise ValueError(f"panels have {sorted(dimensions)} columns; give panels of one dimension")
    projection = "3d" if dimensions == {3} else "rectilinear"
    shape = (len(cells), len(panels))
    fig = Figure(figsize=_figure_inches(*shape), layout="compressed")
    axes = fig.subplots(*shape, squeeze=False, subplot_kw={"projection": projection})
    for row, row_axes in zip(cells, axes, strict=True):
        _draw_cells(row_axes, row, palette)
    for i, ax in enumerate(axes.flat):
        ax.set_title(_letter(i), loc="left", fontsize=LARGE, fontweight="bold", color=INK)
    if note:
        figure_note(fig, note)
    looks = {look for row in cells for _, look in row}
    fades: list[Fade] = [fade for fade in FADES if fade in looks]
    legend(fig, palette, fades=fades, minimum=any(panel.minimum is not None for panel in panels))
    return fig, axes


def _draw_cells(axes: Sequence[Axes], cells: Sequence[tuple[Panel, Look]], palette: Palette) -> None:
    scaled: list[tuple[Axes, PathCollection]] = []
    for ax, (panel, look) in zip(axes, cells, strict=True):
        labels = {name: getattr(panel, name) for name in ("seed", "step_size", "epoch", "member", "minimum")}
        coloring: dict[str, Any] = {"color_by": "epoch"} if look == "epoch" else {"fade": look}
        drawn = plot_trajectories(ax, panel.embedding, **labels, **coloring, palette=palette, colorbar=False)
        if look == "epoch":
            scaled.append((ax, drawn.points))
    if scaled:
        add_colorbar(scaled[0][1], [ax for ax, _ in scaled], "epoch")


def _letter(i: int) -> str:
    """The i-th of a to z, aa, ab, ..."""
    letters = string.ascii_lowercase
    return letters[i] if i < 26 else letters[i // 26 - 1] + letters[i % 26]


def _write_under(ax: Axes, text: str) -> None:
    style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": SMALL, "color": GREY}
    ax.annotate(_wrapped(text, PANEL_INCHES), (0.5, -0.02), xycoords="axes fraction", **style)


def _write_left(ax: Axes, text: str) -> None:
    style: dict[str, Any] = {"ha": "right", "va": "center", "rotation": 90, "fontsize": NORMAL, "color": INK}
    ax.annotate(text, (-0.03, 0.5), xycoords="axes fraction", **style)


def _wrapped(text: str, inches: float) -> str:
    letters = int(inches * 72 / (0.55 * SMALL))  # a letter is about as wide as half its height
    return "\n".join(line for paragraph in text.splitlines() for line in textwrap.wrap(paragraph, letters))


def _draw_distances(ax: Axes, panel: DistancePanel, palette: Palette, color_by: str) -> None:
    ax.axhline(1, color=FRAME, linewidth=0.6, zorder=0)
    for rows in _by_member(panel).values():
        epochs = panel.epoch[rows]
        color = _label_color(panel, rows[0], palette, color_by)
        ax.plot(epochs, panel.distance[rows], color=color, linewidth=0.8, alpha=0.8, zorder=2)
        if panel.null is not None:
            ax.plot(epochs, panel.null[rows], **NULL, alpha=0.6, zorder=1)
    epochs = np.unique(panel.epoch)
    ax.plot(epochs, [np.median(panel.distance[panel.epoch == epoch]) for epoch in epochs], **MEDIAN, zorder=3)
    ax.set_xlabel("epoch", fontsize=NORMAL, color=INK)
    ax.tick_params(labelsize=SMALL, width=0.5, length=2, color=INK, labelcolor=INK)
    ax.ticklabel_format(useOffset=False)
    for side, spine in ax.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=GREY, linewidth=0.6)


# The legend: its handles, and its place.

LEGEND: dict[str, Any] = {
    "loc": "lower center",
    "bbox_to_anchor": (0.5, 0),
    "fontsize": NORMAL,
    "labelcolor": INK,
    "frameon": False,
    "borderpad": 0.2,
    "borderaxespad": 0,
    "columnspacing": 1.0,
    "handlelength": 1.2,
    "handletextpad": 0.3,
    "handler_map": {tuple: HandlerTuple(ndivide=None, pad=0)},
}


def _marker(marker: str, color: str | Color, size: float = 4.5) -> Line2D:
    edge = 0 if marker == "o" else 0.6
    style: dict[str, Any] = {"markerfacecolor": color, "markeredgecolor": INK, "markeredgewidth": edge}
    return Line2D([], [], linestyle="none", marker=marker, markersize=size, **style)


def _gradient(fade: Fade) -> tuple[Patch, ...]:
    darkness = np.linspace(0, 1, 7) if fade == "dark" else np.linspace(1, 0, 7)
    return tuple(Patch(color=tuple(color), linewidth=0.3) for color in shade(GREY, darkness))


def _place_legend(fig: Figure, groups: Mapping[str, Sequence[Entry]], others: Sequence[Entry]) -> Legend:
    """A row a group, or several where the figure is too narrow; the other entries to their right."""
    longest = max(map(len, groups.values()), default=1)
    for per_row in range(longest, 0, -1):
        handles, labels, columns = _table(groups, others, per_row)
        box = fig.legend(handles, labels, ncols=columns, **LEGEND)
        if box.get_window_extent().width < fig.bbox.width or per_row == 1:
            break
        box.remove()
    box.set_bbox_to_anchor((0.5, _make_room(fig, box)), transform=fig.transFigure)
    return box


def _table(
    groups: Mapping[str, Sequence[Entry]], others: Sequence[Entry], per_row: int
) -> tuple[list[Any], list[str], int]:
    """Handles, labels and the number of columns, in matplotlib's order: column by column."""
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


def _make_room(fig: Figure, artist: Artist) -> float:
    """Takes a strip for the artist from the foot of the layout, over earlier strips; gives its lower edge."""
    engine = fig.get_layout_engine()
    if not isinstance(engine, ConstrainedLayoutEngine):
        engine = ConstrainedLayoutEngine(compress=True)
        fig.set_layout_engine(engine)
    left, bottom, width, height = engine.get()["rect"]
    pad = 0.04 / fig.get_figheight()
    room = artist.get_window_extent().height / fig.bbox.height + 2 * pad
    engine.set(rect=(left, bottom + room, width, height - room))
    return bottom + pad
