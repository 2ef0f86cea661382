"""Views in which every position is exact: what is drawn is measured on the artists."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from petals import EPOCHS, SEEDS, STEP_SIZES, petals

from jaxscape.figures.exact import choose_sides, ended_nearer, plane_figure, polar_figure
from jaxscape.figures.palette import HUES
from jaxscape.figures.panels import ExactPanel, Surrogate, check_exact
from jaxscape.figures.plots import save_figure


def exact_panel(title="good", *, inward=True, surrogates=True, **changes):
    rows = petals()
    del rows["embedding"]
    progress = rows["epoch"] / max(rows["epoch"])
    share = 1 - 0.2 * progress if inward else 1 + 0.1 * progress * (rows["member"] % 2)
    fields = {"distance": rows["step_size"] * share, "angle": 0.3 * progress}
    surrogate = Surrogate("decay alone", rows["step_size"] * (1 - 0.1 * progress), 0.05 * progress)
    return ExactPanel(title, **rows | fields | changes, surrogates=[surrogate] if surrogates else [])


def curves(ax):
    return [np.array(found.get_segments()) for found in ax.collections if isinstance(found, LineCollection)]


def test_radius_and_angle_are_those_of_the_panel():
    panel = exact_panel()
    (ax,) = polar_figure([panel]).axes
    found = curves(ax)
    assert len(found) == SEEDS * len(STEP_SIZES)
    drawn = {}
    for segments in found:
        places = np.concatenate([segments[:1, 0], segments[:, 1]])
        radius, angle = np.hypot(*places.T), np.arctan2(places[:, 1], places[:, 0])
        spoke = angle[0]
        off = np.abs((angle - spoke + np.pi) % (2 * np.pi) - np.pi)
        number = round((np.pi / 2 - spoke) / (2 * np.pi / SEEDS)) % SEEDS
        drawn[number, round(radius[0], 6)] = radius, off
    for number, seed in enumerate(np.unique(panel.seed)):
        for size in STEP_SIZES:
            rows = np.flatnonzero((panel.seed == seed) & (panel.step_size == size))
            rows = rows[np.argsort(panel.epoch[rows])]
            radius, off = drawn[number, round(size, 6)]
            np.testing.assert_allclose(radius, panel.distance[rows], atol=1e-12)
            np.testing.assert_allclose(off, panel.angle[rows], atol=1e-12)


def test_the_plane_has_the_way_along_the_jump_and_across_it():
    panel = exact_panel(surrogates=False)
    (ax,) = plane_figure([panel]).axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == EPOCHS + 1]
    assert len(lines) == SEEDS * len(STEP_SIZES)
    progress = np.linspace(0, 1, EPOCHS + 1)
    for line in lines:
        np.testing.assert_allclose(line.get_xdata(), (1 - 0.2 * progress) * np.cos(0.3 * progress))
        np.testing.assert_allclose(line.get_ydata(), (1 - 0.2 * progress) * np.sin(0.3 * progress))


def test_arcs_of_the_plane_have_equal_distance_and_that_of_the_start_is_there():
    (ax,) = plane_figure([exact_panel(surrogates=False)]).axes
    arcs = [line for line in ax.lines if len(line.get_xdata()) > EPOCHS + 1]
    radii = [np.hypot(line.get_xdata(), line.get_ydata()) for line in arcs]
    for radius in radii:
        np.testing.assert_allclose(radius, radius[0])
    assert 1 in [pytest.approx(radius[0]) for radius in radii]


@pytest.mark.parametrize(("inward", "nearer"), [(True, SEEDS * len(STEP_SIZES)), (False, 0)])
def test_the_title_counts_those_that_ended_nearer_beside_the_surrogates(inward, nearer):
    panel = exact_panel(inward=inward)
    count = SEEDS * len(STEP_SIZES)
    assert ended_nearer(panel) == (nearer, count)
    for figure in (polar_figure([panel]), plane_figure([panel])):
        title = figure.axes[0].get_title()
        assert f"{nearer} of {count} ended nearer" in title
        assert f"decay alone {count}" in title.replace("\n", " ")


def test_sides_are_chosen_so_that_curves_do_not_cross():
    straight = np.array([[0.0, 1.0], [1.0, 1.0]])
    across = np.array([[0.0, 0.5], [1.0, 1.5]])  # crosses the other on its own side
    mirror = np.array([-1.0, 1.0])
    one, other = choose_sides([straight, across], [straight * mirror, across * mirror])
    assert one != other
    apart = [straight + np.array([0, shift]) for shift in (0.0, 1.0, 2.0, 3.0)]
    assert choose_sides(apart, [curve * mirror for curve in apart]) == [False, True, False, True]
    many = [straight + np.array([0, shift]) for shift in range(20)]
    assert choose_sides(many, [curve * mirror for curve in many]) == [False, True] * 10


def test_panels_share_scale_hues_and_the_dashes_of_a_surrogate():
    rotated = exact_panel("bad", inward=False)
    rotated = rotated._replace(surrogates=[rotated.surrogates[0]._replace(label="rotated")])
    both = exact_panel()._replace(surrogates=[*exact_panel().surrogates, *rotated.surrogates])
    figure = polar_figure([both, rotated])
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"decay alone", "rotated", "minimum", f"epoch 0 to {EPOCHS}"} <= set(labels)
    dashes = [{line.get_linestyle() for line in ax.lines} for ax in (first, second)]
    assert dashes[1] <= dashes[0]
    assert len(HUES) >= SEEDS


def test_the_same_panels_give_the_same_bytes(tmp_path):
    for name, make in (("polar", polar_figure), ("plane", plane_figure)):
        once, again = (save_figure(make([exact_panel()], note="n"), tmp_path / f"{name}{number}") for number in (1, 2))
        assert [file.read_bytes() for file in once] == [file.read_bytes() for file in again]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"distance": np.ones(3)}, "angle has shape"),
        ({"angle": np.full(len(petals()["epoch"]), 4.0)}, "angle must be from 0 to pi, got 4 to 4"),
        ({"angle": np.full(len(petals()["epoch"]), np.nan)}, "NaN"),
        ({"distance": np.full(len(petals()["epoch"]), -1.0)}, "distance must be at least 0, got -1"),
        ({"distance": np.zeros(len(petals()["epoch"]))}, "start at the minimum; leave them out"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        check_exact(exact_panel(**changes))
    with pytest.raises(ValueError, match=words):
        polar_figure([exact_panel(**changes)])


def test_surrogates_have_the_rows_of_the_real_ones():
    panel = exact_panel()._replace(surrogates=[Surrogate("decay alone", np.ones(2), np.ones(2))])
    with pytest.raises(ValueError, match="decay alone: distance has shape"):
        plane_figure([panel])


def test_no_panels_are_refused():
    with pytest.raises(ValueError, match="panels is empty"):
        polar_figure([])
