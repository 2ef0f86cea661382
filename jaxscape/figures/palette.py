"""The meaning of the colours of a figure: hues for directions, light to dark for step sizes.

All panels of a figure and their legend share one palette. The encodings are those of Horoi et al., Figures 2 and 5.
"""

import warnings
from collections.abc import Hashable
from typing import Literal, NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike, NDArray

type Fade = Literal["dark", "white"]
type Color = tuple[float, float, float]

# Okabe and Ito's colours first, then some of Tol's and Brewer's. The order was found by search: the first five, at
# every darkness of `shade`, are distinguishable under protanopia, deuteranopia and tritanopia (Machado et al. 2009).
HUES = (
    *("#1F3F9E", "#E69F00", "#009E73", "#56B4E9", "#D55E00"),
    *("#CC79A7", "#882255", "#999933", "#8C510A", "#0072B2"),
)
FADES: tuple[Fade, ...] = ("dark", "white")
SCALE = "viridis"  # perceptually uniform: for epochs and other numbers
STEP_SCALE = "magma"
INK, GREY, FRAME = "#222222", "#777777", "#D0D0D0"
MINIMUM = "#FFD700"
POINT_SIZE = 4.0  # area of a point, in square points


class Palette(NamedTuple):
    """The colours of seeds and step sizes, shared by all the panels of a figure and their legend."""

    directions: dict[Hashable, Color]  # seed: its hue
    step_sizes: dict[float, Color]  # in ascending order, light to dark
    last_epoch: float  # where the fading and the scale over epochs end


def make_palette(seed: ArrayLike, step_size: ArrayLike, epoch: ArrayLike) -> Palette:
    """Assign a hue to each seed and a colour to each step size, in ascending order.

    Args:
        seed: (n,) directions, sortable labels; more than ten share hues, with a warning.
        step_size: (n,) floats.
        epoch: (n,) numbers.
    """
    seeds, sizes = np.unique(np.asarray(seed)).tolist(), np.unique(rounded_step_size(step_size)).tolist()
    if len(seeds) > len(HUES):
        warnings.warn(f"{len(seeds)} directions share {len(HUES)} hues", UserWarning, stacklevel=2)
    colors = matplotlib.colormaps[STEP_SCALE](np.linspace(0.9, 0.18, len(sizes)))[:, :3].tolist()
    return Palette(
        directions={seed: to_rgb(HUES[i % len(HUES)]) for i, seed in enumerate(seeds)},
        step_sizes={size: to_rgb(color) for size, color in zip(sizes, colors, strict=True)},
        last_epoch=float(np.max(np.asarray(epoch, float))),
    )


def diamond_areas(palette: Palette, point_size: float = POINT_SIZE) -> dict[float, float]:
    """Return areas in square points: larger steps have larger diamonds, which are drawn below the smaller ones."""
    sides = np.linspace(1.4, 2.5, len(palette.step_sizes))
    return dict(zip(palette.step_sizes, (point_size * sides**2).tolist(), strict=True))


def rounded_step_size(step_size: ArrayLike) -> NDArray[np.float64]:
    """Return step sizes as keys: 0.1 in float32 from one run and in float64 from another are the same step size."""
    return np.asarray(step_size, float).round(6)


def shade(hue: str | Color, darkness: ArrayLike) -> NDArray[np.float64]:
    """Return colours (..., 3) from a tint of the hue (darkness 0) through the hue itself to a deep shade (1)."""
    darkness = np.asarray(darkness, float)
    return np.stack([np.interp(darkness, [0, 0.5, 1], [0.7 + 0.3 * c, c, 0.4 * c]) for c in to_rgb(hue)], -1)
