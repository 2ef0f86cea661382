import itertools

import numpy as np
import pytest
from petals import STEP_SIZES, linear, luminance

from jaxscape.figures import plots
from jaxscape.figures.palette import diamond_areas

# Severity 1 of Machado, Oliveira and Fernandes (2009), on linear RGB.
COLOR_VISION = {
    "full": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def oklab(linear_rgb):
    cones = linear_rgb @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


@pytest.mark.parametrize("vision", COLOR_VISION)
@pytest.mark.parametrize("darkness", [0, 0.25, 0.5, 0.75, 1])
def test_five_directions_are_distinguishable_at_every_darkness_and_for_every_colour_vision(vision, darkness):
    shades = [linear(plots.shade(hue, darkness)) for hue in plots.HUES[:5]]
    seen = oklab(np.clip(shades @ np.transpose(COLOR_VISION[vision]), 0, 1))
    apart = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert apart > 0.03  # about 0.02 is just noticeable


def test_more_directions_than_hues_share_them_with_a_warning():
    with pytest.warns(UserWarning, match="12 directions share 10 hues"):
        palette = plots.make_palette(range(12), [1.0], [0])
    assert palette.directions[11] == palette.directions[1]


def test_larger_steps_have_darker_diamonds():
    palette = plots.make_palette([0], STEP_SIZES, [0])
    assert np.all(np.diff(luminance(list(palette.step_sizes.values()))) < -0.05)


def test_a_step_size_in_float32_and_in_float64_is_one_step_size():
    palette = plots.make_palette([0], np.array([0.1, np.float32(0.1)]), [0])
    assert list(palette.step_sizes) == [0.1]


def test_larger_steps_have_larger_diamonds():
    areas = diamond_areas(plots.make_palette([0], STEP_SIZES, [0]))
    assert list(areas) == sorted(STEP_SIZES)
    assert np.all(np.diff(list(areas.values())) > 0)
