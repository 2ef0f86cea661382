"""Figures of the landscape: what is drawn is measured on the artists."""

import itertools

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from petals import written

from jaxscape.figures import landscapes
from jaxscape.figures.landscape_panels import checked_line, height_above_chord
from jaxscape.figures.landscapes import (
    LinePanel,
    PathPanel,
    PersistencePanel,
    SpectrumPanel,
    SurfacePanel,
    TrajectoryPanel,
)
from jaxscape.figures.plots import save_figure

POSITION = np.linspace(-0.5, 1.5, 41)
PEAK = 0.1 + 0.4 * POSITION + 2 * np.exp(-(((POSITION - 0.5) / 0.2) ** 2))
AXIS = np.linspace(-1, 1, 15)
BOWL = 0.02 + AXIS[None] ** 2 + 3 * AXIS[:, None] ** 2


def line(**changes):
    curves = {"recalibrated": PEAK, "kept": PEAK + 1}
    panel = LinePanel(
        "good to bad", POSITION, curves, ("good", "bad"), "recalibrated", "recalibrated and kept", "train"
    )
    return panel._replace(**changes)


def surface(**changes):
    points = {"minimum": (0.0, 0.0), "corner": (0.9, -0.9)}
    return SurfacePanel("good", AXIS, AXIS, BOWL, points, ("direction 1", "direction 2"), "a note")._replace(**changes)


def holed():
    values = BOWL.copy()
    values[:3, 10:] = np.nan
    values[8, 3] = np.inf
    return surface(title="bad", values=values)


def trajectory(**changes):
    share = np.linspace(0, 1, 20)
    place = np.stack([0.8 * np.cos(3 * share), 0.8 * np.sin(3 * share)], axis=1) * (1 - share[:, None])
    fields = {"outside": 0.9 * share, "epoch": np.arange(20), "loss": np.exp(-share), "plane_loss": np.exp(-2 * share)}
    return TrajectoryPanel(surface(), place, **fields)._replace(**changes)


def paths(**changes):
    position = np.linspace(0, 1, 21)
    first = PathPanel("loss", position, 0.1 + 0 * position, 0.1 + np.sin(np.pi * position), "train")
    return [first._replace(**changes), PathPanel("error", position, 0.01 + 0 * position, 0.9 * position)]


def spectrum(**changes):
    value = np.linspace(-5, 60, 200)
    panel = SpectrumPanel("good", value, np.exp(-((value / 2) ** 2)), np.array([40.0, 30, 22]), "3 probes")
    return panel._replace(**changes)


def diagram(**changes):
    rng = np.random.default_rng(0)
    birth = rng.uniform(size=12)
    death = birth + rng.uniform(size=12)
    death[3] = np.inf
    null = -np.sort(-rng.exponential(size=(99, 15)), axis=1)
    return PersistencePanel("good", birth, death, null, "knn 5")._replace(**changes)


FIGURES = {
    "lines": lambda: landscapes.line_figure([line(), line(title="others")], note="a note"),
    "a line between long names": lambda: landscapes.line_figure([line(ends=("an end of a long name", "another one"))]),
    "contours": lambda: landscapes.contour_figure([surface(), holed()], note="a note"),
    "linear contours": lambda: landscapes.contour_figure([surface(values=BOWL + 5)] * 4),
    "in space": lambda: landscapes.surface_figure([surface(), holed()], note="a note"),
    "a trajectory": lambda: landscapes.trajectory_figure([trajectory()] * 2, note="a note"),
    "a path": lambda: landscapes.path_figure(paths(), ends=("good", "bad"), note="a note"),
    "spectra": lambda: landscapes.spectrum_figure([spectrum(), spectrum(title="bad")], note="a note"),
    "persistence": lambda: landscapes.persistence_figure([diagram(), diagram()], note="a note"),
}


@pytest.fixture(scope="module", params=FIGURES)
def fig(request):
    fig = FIGURES[request.param]()
    fig.draw_without_rendering()
    return fig


def level(fig):
    """Return the visible texts, except those along 3-D axes, whose boxes are larger than the slanted text."""
    space = [ax for ax in fig.axes if ax.name == "3d"]
    aslant = {id(text) for ax in space for axis in (ax.xaxis, ax.yaxis, ax.zaxis) for text in axis.findobj(Text)}
    return [text for text in written(fig) if id(text) not in aslant]


def under(ax):
    """Return the note under the panel, without line breaks."""
    return ax.texts[-1].get_text().replace("\n", " ")


def test_no_text_is_smaller_than_seven_points_or_covers_another(fig):
    assert min(text.get_fontsize() for text in written(fig)) >= 7
    texts = level(fig)
    boxes = [text.get_window_extent().transformed(fig.dpi_scale_trans.inverted()) for text in texts]
    for (one, box), (other, its_box) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not box.padded(-0.01).overlaps(its_box), (one.get_text(), other.get_text())


def test_everything_lies_within_the_figure(fig):
    boxes = [text.get_window_extent() for text in level(fig)] + [ax.get_window_extent() for ax in fig.axes]
    whole = Bbox.union(boxes).transformed(fig.dpi_scale_trans.inverted())
    assert np.all(whole.min >= 0)
    assert np.all(whole.max <= fig.get_size_inches())


@pytest.mark.parametrize(
    "name", ["contours", *(pytest.param(name, marks=pytest.mark.slow) for name in ("in space", "persistence"))]
)
def test_the_same_panels_give_the_same_bytes(name, tmp_path):
    once, again = (save_figure(FIGURES[name](), tmp_path / str(number)) for number in (1, 2))
    assert [file.suffix for file in once] == [".png", ".svg", ".pdf"]
    assert [file.read_bytes() for file in once] == [file.read_bytes() for file in again]


def test_the_barrier_is_the_height_above_the_chord_between_the_ends():
    where, height, chord = height_above_chord(checked_line(line()))
    assert where == pytest.approx(0.5)
    at_ends = PEAK[[10, 30]]
    assert height == pytest.approx(PEAK[20] - at_ends.mean())
    np.testing.assert_allclose(chord[[10, 30]], at_ends)
    (ax,) = landscapes.line_figure([line()]).axes
    assert f"barrier of recalibrated {height:.3g} at 0.5" in under(ax)
    assert "statistics recalibrated and kept" in under(ax)
    (bar,) = [drawn for drawn in ax.lines if drawn.get_marker() == "_"]
    np.testing.assert_allclose(bar.get_ydata(), [at_ends.mean(), PEAK[20]])
    np.testing.assert_allclose(bar.get_xdata(), 0.5)


def test_a_barrier_is_searched_only_between_the_ends():
    beyond = np.where(POSITION > 1.2, 100.0, PEAK)
    where, _, _ = height_above_chord(checked_line(line(curves={"recalibrated": beyond})))
    assert where == pytest.approx(0.5)
    dip = -np.exp(-(((POSITION - 0.5) / 0.2) ** 2))
    where, height, _ = height_above_chord(checked_line(line(curves={"recalibrated": dip})))
    assert (where in (0.0, 1.0), height) == (True, 0.0)


def test_the_ends_of_a_line_are_named_and_a_curve_has_one_colour_in_all_panels():
    fig = landscapes.line_figure([line(), line(curves={"kept": PEAK}, barrier="")])
    first, second = fig.axes
    names = dict(zip(first.get_xticks().tolist(), [tick.get_text() for tick in first.get_xticklabels()], strict=True))
    assert (names[0.0], names[1.0]) == ("good", "bad")
    assert {0.0, 1.0} <= {drawn.get_xdata()[0] for drawn in first.lines}
    (kept,) = [drawn for drawn in first.lines if np.array_equal(drawn.get_ydata(), PEAK + 1)]
    (alone,) = [drawn for drawn in second.lines if np.array_equal(drawn.get_ydata(), PEAK)]
    assert kept.get_color() == alone.get_color()
    assert first.get_ylim() == second.get_ylim()
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["recalibrated", "kept", "chord", "barrier"]


def test_nan_and_infinite_losses_are_gaps_and_counted():
    broken = PEAK.copy()
    broken[[15, 16]] = np.nan
    broken[17] = np.inf
    (ax,) = landscapes.line_figure([line(curves={"recalibrated": broken})]).axes
    assert "3 NaN or infinite: gaps" in under(ax)
    assert f"barrier of recalibrated at least {height_above_chord(checked_line(line()))[1]:.3g} at 0.5" in under(ax)
    drawn = ax.lines[0].get_ydata()
    assert np.flatnonzero(np.isnan(drawn)).tolist() == [15, 16, 17]
    np.testing.assert_array_equal(drawn[:15], PEAK[:15])


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 100], False), ([1, 101], True), ([0, 101], False), ([-1, 500], False), ([1, 101, np.nan, np.inf], True)],
)
def test_a_scale_is_logarithmic_beyond_two_decades_of_positive_values(values, expected):
    assert landscapes.is_log([np.array(values, float)]) is expected
    ends = np.resize(np.array(values, float), len(POSITION))
    (ax,) = landscapes.line_figure([line(curves={"loss": ends}, barrier="")]).axes
    assert ax.get_yscale() == ("log" if expected else "linear")


def test_contours_share_levels_that_cover_all_values_and_hatch_missing_ones():
    fig = landscapes.contour_figure([surface(), surface(values=100 * BOWL), holed()])
    filled = [next(each for each in ax.collections if each.get_array() is not None) for ax in fig.axes]
    levels = filled[0].levels
    assert levels[0] <= BOWL.min()
    assert levels[-1] >= 100 * BOWL.max()
    assert np.all(np.diff(np.log10(levels)) < 0.6)
    for ax, each in zip(fig.axes, filled, strict=True):
        np.testing.assert_array_equal(each.levels, levels)
        assert (each.norm.vmin, each.norm.vmax) == (levels[0], levels[-1])
        assert ax.patch.get_hatch()
    assert "hatched" not in under(fig.axes[0])
    assert "16 NaN or infinite: hatched" in under(fig.axes[2])
    assert [bar.get_ylabel() for ax in fig.axes for bar in ax.child_axes] == ["loss"]


def test_a_hatched_area_is_not_filled():
    (ax,) = landscapes.contour_figure([holed()]).axes
    filled = next(each for each in ax.collections if each.get_array() is not None)
    inside = [path.contains_point((0.9, -0.95)) for path in filled.get_paths() if len(path.vertices)]
    assert not any(inside)
    (ax,) = landscapes.contour_figure([surface()]).axes
    filled = next(each for each in ax.collections if each.get_array() is not None)
    assert any(path.contains_point((0.9, -0.95)) for path in filled.get_paths() if len(path.vertices))


def test_points_are_stars_with_their_names():
    (ax,) = landscapes.contour_figure([surface()]).axes
    stars = [each.get_offsets()[0].tolist() for each in ax.collections if isinstance(each, PathCollection)]
    assert stars == [[0, 0], [0.9, -0.9]]
    assert {"minimum", "corner"} <= {text.get_text() for text in ax.texts}


def test_a_constant_surface_is_drawn():
    flat = surface(values=np.full(BOWL.shape, 2.0))
    for figure in (landscapes.contour_figure, landscapes.surface_figure):
        figure([flat]).draw_without_rendering()


def test_a_3d_surface_has_the_height_of_its_values_and_holes():
    fig = landscapes.surface_figure([surface(), holed()])
    facets = [len(ax.collections[0].get_facecolors()) for ax in fig.axes]
    assert facets[0] == 14 * 14
    low, high = fig.axes[0].get_zlim()
    assert low <= np.log10(BOWL.min()) < np.log10(BOWL.max()) <= high
    assert fig.axes[0].get_zlim() == fig.axes[1].get_zlim()
    visible = (fig.axes[1].collections[0].get_facecolors()[:, 3] > 0).sum()
    assert visible < 14 * 14 - 8
    assert "16 NaN or infinite: left open" in under(fig.axes[1])


def test_a_projected_trajectory_is_coloured_by_its_share_outside_with_both_losses_below():
    given = trajectory()
    above, below = landscapes.trajectory_figure([given]).axes
    points = next(each for each in above.collections if isinstance(each, PathCollection))
    np.testing.assert_array_equal(points.get_offsets(), given.place)
    np.testing.assert_array_equal(points.get_array(), given.outside)
    assert (points.norm.vmin, points.norm.vmax) == (0, 1)
    [line] = next(each for each in above.collections if isinstance(each, LineCollection)).get_segments()
    np.testing.assert_array_equal(line, given.place)
    np.testing.assert_array_equal(below.lines[0].get_ydata(), given.loss)
    np.testing.assert_array_equal(below.lines[1].get_ydata(), given.plane_loss)
    assert below.get_xlabel() == "epoch"
    assert "outside the plane 0\N{NO-BREAK SPACE}% to 90\N{NO-BREAK SPACE}% of the distance" in under(above)


def test_each_plane_keeps_its_own_range_and_the_losses_share_one():
    wide = trajectory(surface=surface(x=5 * AXIS, y=7 * AXIS), loss=3 + np.arange(20.0))
    one, other, below, beside = landscapes.trajectory_figure([trajectory(), wide]).axes
    assert (one.get_xlim(), one.get_ylim()) == ((-1, 1), (-1, 1))
    assert (other.get_xlim(), other.get_ylim()) == ((-5, 5), (-7, 7))
    assert below.get_ylim() == beside.get_ylim()
    assert below.get_ylim()[1] > 22
    assert "beyond" not in under(one)


def test_several_trajectories_are_separate_lines_with_the_medians_of_their_losses():
    """Three trajectories, epoch by epoch; the losses of two epochs are known, and one is infinite."""
    place = np.random.default_rng(0).uniform(-0.5, 0.5, (9, 2))
    losses = np.array([3.0, 1, 2, 9, np.inf, 7])
    given = trajectory(
        place=place,
        outside=np.full(9, 0.5),
        epoch=np.repeat([0, 1, 2], 3),
        member=np.tile([4, 5, 6], 3),
        rows=np.array([0, 1, 2, 6, 7, 8]),
        loss=losses,
        plane_loss=np.arange(6.0),
    )
    above, below = landscapes.trajectory_figure([given]).axes
    lines = next(each for each in above.collections if isinstance(each, LineCollection)).get_segments()
    for number, line in enumerate(lines):
        np.testing.assert_array_equal(line, place[number::3])
    np.testing.assert_array_equal(below.lines[0].get_xydata(), [[0, 2], [2, 9]])
    np.testing.assert_array_equal(below.lines[1].get_xydata(), [[0, 1], [2, 4]])
    labels = [text.get_text() for text in above.figure.legends[0].get_texts()]
    assert labels == ["loss of the points, median over the trajectories", "loss of the plane under them"]
    assert "1 NaN or infinite" in under(below)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"member": np.zeros(19)}, "member"),
        ({"epoch": np.repeat(np.arange(10), 2)}, "epoch must ascend"),
        ({"rows": np.arange(1, 21)}, "rows must ascend from 0 to 19"),
        ({"rows": np.array([2, 1])}, "rows must ascend from 0 to 19"),
        ({"rows": np.array([0, 1])}, "loss"),
    ],
)
def test_inconsistent_trajectories_are_rejected(changes, message):
    with pytest.raises(ValueError, match=message):
        landscapes.trajectory_figure([trajectory(**changes)])


def test_points_of_a_trajectory_outside_the_picture_are_counted():
    far = trajectory().place.copy()
    far[[0, 1], 0] = -2
    above, _ = landscapes.trajectory_figure([trajectory(place=far)]).axes
    assert "2 points outside the picture" in under(above)
    assert above.get_xlim() == (-1, 1)


def test_a_path_is_drawn_beside_the_straight_line_with_both_maxima():
    loss, error = landscapes.path_figure(paths()).axes
    (straight, curve, *_) = loss.lines
    np.testing.assert_array_equal(curve.get_ydata(), paths()[0].curve)
    np.testing.assert_array_equal(straight.get_ydata(), paths()[0].straight)
    assert "highest: curve 0.1, straight line 1.1" in under(loss)
    assert [loss.get_title(), error.get_title()] == ["loss", "error"]


def test_spectra_share_their_axes_and_single_eigenvalues_are_ticks():
    first, second = landscapes.spectrum_figure([spectrum(), spectrum(title="b", eigenvalues=[90.0])]).axes
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())
    assert first.get_xlim()[1] > 90
    assert first.get_yscale() == "log"
    ticks = next(each for each in first.collections if isinstance(each, LineCollection))
    assert [segment[0, 0] for segment in ticks.get_segments()] == [40, 30, 22]
    given = spectrum()
    shown = given.density > landscapes.LOWEST_DENSITY * given.density.max()
    np.testing.assert_array_equal(first.lines[0].get_ydata()[shown], given.density[shown])
    assert first.lines[0].get_ydata()[~shown].max() < first.get_ylim()[0]


def test_a_diagram_has_every_pair_and_the_band_of_the_null():
    given = diagram()
    above, below = landscapes.persistence_figure([given]).axes
    pairs, essential = (each.get_offsets() for each in above.collections)
    finite = np.isfinite(given.death)
    np.testing.assert_array_equal(pairs, np.stack([given.birth, given.death], axis=1)[finite])
    assert essential[:, 0].tolist() == given.birth[~finite].tolist()
    assert essential[0, 1] > given.death[finite].max()
    band = below.collections[0].get_paths()[0].vertices
    at_first = band[band[:, 0] == 1, 1]
    expected = np.percentile(given.null[:, 0], landscapes.BAND)
    np.testing.assert_allclose([at_first.min(), at_first.max()], expected)
    median, observed = below.lines
    np.testing.assert_array_equal(median.get_ydata(), np.median(given.null, axis=0))
    np.testing.assert_array_equal(observed.get_ydata(), np.sort((given.death - given.birth)[finite])[::-1])
    assert len(landscapes.persistence_figure([diagram(null=None)]).axes) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: landscapes.line_figure([]), "panels is empty"),
        (lambda: landscapes.line_figure([line(curves={})]), "has no curves"),
        (lambda: landscapes.line_figure([line(barrier="loss")]), r"barrier must be one of \['recalibrated', 'kept'\]"),
        (lambda: landscapes.line_figure([line(position=POSITION + 0.01)]), "finite value of 'recalibrated' at"),
        (lambda: landscapes.line_figure([line(position=-POSITION)]), "position must ascend"),
        (lambda: landscapes.line_figure([line(curves={"a": [1]}, barrier="")]), r"curves\['a'\] has shape \(1,\)"),
        (lambda: landscapes.line_figure([line(curves={"a": PEAK - 1}, barrier="")], log=True), "values reach -"),
        (
            lambda: landscapes.contour_figure([surface(values=BOWL[:3])]),
            r"values has shape \(3, 15\); it needs \(15, 15\)",
        ),
        (lambda: landscapes.contour_figure([surface(values=np.nan * BOWL)]), "has no finite value"),
        (lambda: landscapes.contour_figure([surface(points={"a": (2, 0)})]), r"points\['a'\] must lie on the grid"),
        (lambda: landscapes.surface_figure([surface(x=AXIS[::-1])]), "x must ascend"),
        (lambda: landscapes.trajectory_figure([trajectory(outside=np.full(20, 1.5))]), "outside must be from 0 to 1"),
        (lambda: landscapes.trajectory_figure([trajectory(loss=[1.0])]), r"loss has shape \(1,\)"),
        (lambda: landscapes.trajectory_figure([trajectory(place=np.ones(20))]), "place must be finite, of shape"),
        (lambda: landscapes.path_figure(paths(curve=[1.0])), r"curve has shape \(1,\)"),
        (lambda: landscapes.spectrum_figure([spectrum(density=np.zeros(200))]), "density must be at least 0"),
        (lambda: landscapes.spectrum_figure([spectrum(eigenvalues=[np.nan])]), "eigenvalues holds 1 NaN"),
        (lambda: landscapes.persistence_figure([diagram(death=np.zeros(12))]), "death must not be NaN or less"),
        (lambda: landscapes.persistence_figure([diagram(birth=[], death=[])]), "has no pairs"),
        (lambda: landscapes.persistence_figure([diagram(null=np.arange(4.0)[None])]), "null must have shape"),
    ],
)
def test_invalid_input_is_rejected(make, message):
    with pytest.raises(ValueError, match=message):
        make()
