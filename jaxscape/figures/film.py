"""Films: trajectories that grow epoch by epoch, several minima side by side.

A film animates the artists of `plots.comparison_figure`, the paper's supplementary film, or those of
`exact.polar_figure`; its last frame is that figure.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import CalledProcessError
from typing import NamedTuple

import numpy as np
from matplotlib.animation import FFMpegWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from mpl_toolkits.mplot3d.art3d import Line3D
from PIL import Image

from jaxscape.figures.boxes import path, put_in_boxes
from jaxscape.figures.drawing import EDGE, Trajectories
from jaxscape.figures.exact import Curve, draw_polar
from jaxscape.figures.layout import NORMAL, add_strip, from_top
from jaxscape.figures.legend import figure_note
from jaxscape.figures.palette import INK, POINT_SIZE
from jaxscape.figures.panels import Array, ExactPanel, Panel, check_exact, checked_panel, rows_by_member
from jaxscape.figures.plots import LOOKS, Look, draw_comparison
from jaxscape.figures.style import own_style, replacing

NEWEST_SIZE = 4 * POINT_SIZE
RANGES = {"seconds": (0.1, 600), "hold": (0.1, 600), "dpi": (30, 600), "max_frames": (2, 1000)}
COLORS = 255  # in a GIF: one of the 256 is reserved for pixels that do not change


class Film(NamedTuple):
    """A figure and its animated artists; `_show` sets the epoch."""

    fig: Figure
    panels: Sequence[Panel]  # of embeddings; empty for a polar view
    drawn: Sequence[Trajectories]  # one per panel
    curves: Sequence[Curve]  # of a polar view
    clock: Text
    epochs: Array  # (frame,), ascending
    unit: str


@own_style()
def save_film(
    panels: Sequence[Panel] | Sequence[ExactPanel],
    stem: str | Path,
    *,
    look: Look = "dark",
    seconds: float = 8.0,
    hold: float = 1.5,
    dpi: float = 140,
    max_frames: int = 101,
    note: str = "",
) -> list[Path]:
    """Write STEM.gif and, if ffmpeg is available, STEM.mp4 with twice the resolution.

    For embeddings, a frame shows the points and lines up to its epoch, the newest points larger than the others; the
    last frame is the figure of `plots.comparison_figure`. For exact panels it shows the polar view up to its epoch,
    with the surrogates; the last frame is the figure of `exact.polar_figure`. The time is written under the panels.
    Jumps and minima are shown from the first frame, and the axes have the range of all epochs. The same panels give
    the same bytes of the GIF. Missing folders are created.

    Args:
        panels: the minima, embedded (all in 2-D or all in 3-D) or as the exact views take them; their epochs may
            differ.
        stem: path of the files without suffix.
        look: for embeddings: "dark" or "white" (hues that become darker or whiter) or "epoch" (one colour scale).
        seconds: duration from the first to the last epoch.
        hold: seconds for which the last frame stays, before the GIF restarts.
        dpi: resolution of the GIF; three panels are about 6.5 inches wide.
        max_frames: with more epochs than this, every k-th is shown, and the last one.
        note: for the foot of the figure.

    Returns:
        The files: [STEM.gif], or [STEM.gif, STEM.mp4].

    Raises:
        ValueError: as `plots.comparison_figure` or `exact.polar_figure`; for panels of both kinds, numbers outside
            `RANGES`, an unknown look.
        OSError: if a file cannot be written; the message names the file and the reason, and an old file is kept.
    """
    for name, value in (("seconds", seconds), ("hold", hold), ("dpi", dpi), ("max_frames", max_frames)):
        low, high = RANGES[name]
        if not low <= value <= high:
            raise ValueError(f"{name} is {value!r}; allowed are {low:g} to {high:g}")
    if look not in LOOKS:
        raise ValueError(f"look is {look!r}; choose one of {list(LOOKS)}")
    # Browsers slow down a GIF with more than 50 frames per second.
    film = _make_film(panels, look, max_frames=min(max_frames, int(50 * seconds) + 1), note=note)
    gif, mp4 = Path(f"{stem}.gif"), Path(f"{stem}.mp4")
    with replacing(gif) as path:
        _save_gif(film, path, seconds, hold, dpi)
    if not FFMpegWriter.isAvailable():
        return [gif]
    with replacing(mp4) as path:
        _save_mp4(film, path, seconds, hold, 2 * dpi)
    return [gif, mp4]


def _make_film(panels: Sequence[Panel] | Sequence[ExactPanel], look: Look, *, max_frames: int, note: str) -> Film:
    if len({type(panel) for panel in panels}) > 1:
        raise ValueError("panels are of embeddings and of exact views; give panels of one kind")
    exact = [check_exact(panel) for panel in panels if isinstance(panel, ExactPanel)]
    embedded = [checked_panel(panel) for panel in panels if isinstance(panel, Panel)]
    curves: list[Curve] = []
    drawn: list[Trajectories] = []
    if exact:
        fig, curves, words = draw_polar(exact)
        note = f"{words}\n{note}".rstrip("\n")
    else:
        fig, drawn = draw_comparison(embedded, [look])
    shown: list[Panel] | list[ExactPanel] = exact or embedded
    epochs, unit = np.unique(np.concatenate([panel.epoch for panel in shown])), shown[0].unit
    every = -(-(len(epochs) - 1) // (max_frames - 1)) or 1
    clock = fig.text(0.5, 0, unit, fontsize=NORMAL, color=INK, ha="center", va="top", transform=from_top(fig))
    clock.set_y(add_strip(fig, clock))
    if note:
        figure_note(fig, note)
    frames = np.union1d(epochs[::every], epochs[-1:])
    return Film(fig, [put_in_boxes(panel)[0] for panel in embedded], drawn, curves, clock, frames, unit)


def _show(film: Film, epoch: float) -> None:
    last = film.epochs[-1]
    width = max(len(f"{known:g}") for known in film.epochs)
    # Padded with spaces as wide as a digit, so that the text does not move.
    film.clock.set_text(f"{film.unit} {f'{epoch:g}'.rjust(width, chr(0x2007))} of {last:g}")
    for curve in film.curves:
        curve.show(epoch)
    for panel, drawn in zip(film.panels, film.drawn, strict=True):
        sizes, edges = np.where(panel.epoch <= epoch, POINT_SIZE, 0), np.zeros(len(panel.epoch))
        for member, rows in rows_by_member(panel).items():
            shown = rows[panel.epoch[rows] <= epoch]
            _set_places(drawn.lines[member], path(panel, shown))
            if epoch < last:
                newest = shown[panel.epoch[shown] > 0][-1:]  # at epoch 0 a diamond or star is visible already
                sizes[newest], edges[newest] = NEWEST_SIZE, EDGE["linewidths"]
        drawn.points.set(sizes=sizes[drawn.rows], linewidths=edges[drawn.rows], edgecolors=EDGE["edgecolors"])


def _set_places(line: Line2D, places: Array) -> None:
    if isinstance(line, Line3D):
        line.set_data_3d(*places.T)
    else:
        line.set_data(*places.T)


def _pictures(film: Film, epochs: Array, dpi: float) -> Iterator[Image.Image]:
    film.fig.set_dpi(dpi)
    canvas = FigureCanvasAgg(film.fig)
    for epoch in epochs:
        _show(film, epoch)
        canvas.draw()
        yield Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _save_gif(film: Film, path: Path, seconds: float, hold: float, dpi: float) -> None:
    """Write one palette for all frames, and only the changes of each: a fifth of the size that `PillowWriter` gives."""
    n = len(film.epochs)
    few = [np.asarray(picture) for picture in _pictures(film, film.epochs[[0, n // 2, -1]], dpi)]
    # The other methods turn white into a light grey.
    palette = Image.fromarray(np.concatenate(few)).quantize(COLORS, Image.Quantize.MAXCOVERAGE)
    pictures = _pictures(film, film.epochs, dpi)
    first, *others = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    ends = np.linspace(0, 100 * seconds, n).round()  # GIF durations are in hundredths of a second
    durations = [10 * int(hundredths) for hundredths in (*np.diff(ends), round(100 * hold))]
    first.save(path, format="GIF", save_all=True, append_images=others, duration=durations, loop=0, disposal=1)


def _save_mp4(film: Film, path: Path, seconds: float, hold: float, dpi: float) -> None:
    """Write H.264 with even width and height, in the one pixel format that every player shows."""
    step = seconds / (len(film.epochs) - 1) if len(film.epochs) > 1 else hold
    still = f"tpad=stop_mode=clone:stop_duration={max(hold - step, 0):g}"
    options = ["-pix_fmt", "yuv420p", "-vf", still, "-movflags", "+faststart", "-f", "mp4"]
    writer = FFMpegWriter(fps=1 / step, codec="h264", extra_args=options)  # type: ignore[arg-type]  # no whole number
    try:
        with writer.saving(film.fig, path, dpi):
            for epoch in film.epochs:
                _show(film, epoch)
                writer.grab_frame()
    except CalledProcessError as error:
        raise OSError(f"ffmpeg ended with code {error.returncode}; can it write H.264?") from None
