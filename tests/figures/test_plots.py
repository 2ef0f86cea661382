import itertools
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.transforms import Bbox
from petals import EPOCHS, SEEDS, STEP_SIZES, petals, written

from jaxscape.figures import plots
from jaxscape.figures.layout import PANEL_INCHES
from jaxscape.figures.palette import MINIMUM
from jaxscape.figures.texts import _spread


def panel(title="good", *, minimum=(0.0, 0.0), **options):
    return plots.Panel(title, **petals(**options), minimum=None if minimum is None else np.array(minimum))


def distances(null=None):
    rows = petals()
    del rows["embedding"]
    share = 1 - rows["epoch"] * 0.01 * rows["member"]
    return plots.DistancePanel("good", share, **rows, null=null)


def networks():
    """Return trajectories from initial parameters, one hue per optimiser."""
    named = np.array(["sgd", "momentum", "adam", "adagrad", "lion"])
    rows = petals()
    return plots.Panel("networks", **rows | {"seed": named[rows["seed"]]}, hue="optimizer", begin="initial")


def norms():
    return distances()._replace(distance=30 + petals()["member"] + petals()["epoch"])


TITLE = "memorization"
NOTE = "t 23, stress 0.37, 16 disconnected components (knn 102 connects)"
COLUMN = panel(TITLE)._replace(note=NOTE)
LONG = "a long title " * 9


def in_components(**changes):
    """Return a panel with one component per direction, the last two directions in one."""
    given = panel(TITLE, **changes)
    return given._replace(component=np.minimum(given.seed, SEEDS - 2), minimum_component=0)


FIGURES = {
    "a minimum": lambda: plots.minimum_figure(COLUMN, note="a long note " * 30),
    "in space": lambda: plots.minimum_figure(panel(dimensions=3, minimum=None), note="a note"),
    "1 column, 10 directions": lambda: plots.comparison_figure([panel(TITLE, seeds=10)], note="a note"),
    "2 columns": lambda: plots.comparison_figure([COLUMN] * 2, looks=["dark", "epoch"], note="a note"),
    "3 columns": lambda: plots.comparison_figure([COLUMN] * 3, looks=["dark", "white", "epoch"], note="a note"),
    "5 columns": lambda: plots.comparison_figure([COLUMN, panel(LONG), *[COLUMN] * 3], note="a note"),
    "methods": lambda: plots.methods_figure([[COLUMN] * 3, [COLUMN._replace(note="")] * 2], left="AB", note="a note"),
    "optimizers": lambda: plots.minimum_figure(networks(), note="a note"),
    "losses": lambda: plots.values_figure([COLUMN] * 3, [np.arange(1, 181.0)] * 3, "loss", log=True, note="a note"),
    "losses of one size": lambda: plots.values_figure([COLUMN], [np.linspace(1.6, 2.9, 180)], "loss", log=True),
    "small losses": lambda: plots.values_figure([COLUMN], [np.geomspace(1e-6, 3, 180)], "loss", log=True),
    "four methods": lambda: plots.methods_figure([[COLUMN] * 4] * 2, left=[LONG, "A: euclidean distances"]),
    "seven methods": lambda: plots.methods_figure([[COLUMN] * 3, [COLUMN] * 2, [COLUMN] * 2], note="a note"),
    "components": lambda: plots.comparison_figure([in_components()] * 3, looks=["dark", "epoch"], note="a note"),
    "components of a minimum": lambda: plots.minimum_figure(in_components()),
    "seven distances": lambda: plots.distance_figure([distances()._replace(title=LONG, note=NOTE)] * 7, note="a note"),
    "ten directions": lambda: plots.distance_figure([distances()], color_by="seed"),
    "norms of many": lambda: plots.norm_figure(norms()._replace(seed=np.minimum(petals()["member"], 9)), hue="run"),
    "norms": lambda: plots.norm_figure(norms()._replace(title=TITLE), hue="optimizer", note="a note"),
    "distances": lambda: plots.distance_figure([distances(null=np.ones(180))], note="a note"),
    "3 distances": lambda: plots.distance_figure([distances()._replace(title=TITLE)] * 3, note="a note"),
}


# Each function that draws is there by default; more columns, rows and other sizes are among the slow tests.
SLOW = ("1 column, 10 directions", "3 columns", "5 columns", "losses of one size", "small losses", "four methods")
SLOW += ("seven methods", "components of a minimum", "seven distances", "3 distances")


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FIGURES],
)
def fig(request):
    fig = FIGURES[request.param]()
    fig.draw_without_rendering()
    return fig


def parts(fig):
    """Return boxes in inches around the panels and all texts beside them."""
    texts = [ax.title for ax in fig.axes] + [ax._left_title for ax in fig.axes]
    texts += [text for ax in fig.axes for text in ax.texts]
    boxes = [text.get_window_extent() for text in (*texts, *fig.texts) if text.get_text().strip()]
    boxes += [ax.get_window_extent() for ax in fig.axes] + [legend.get_window_extent() for legend in fig.legends]
    axes = [axis.get_tightbbox() for ax in fig.axes if ax.name != "3d" for axis in (ax.xaxis, ax.yaxis)]
    boxes += [box for box in axes if box]  # None if there are no ticks
    boxes += [bar.get_tightbbox() for ax in fig.axes for bar in ax.child_axes]
    return [box.transformed(fig.dpi_scale_trans.inverted()) for box in boxes]


def test_no_part_of_a_figure_covers_another(fig):
    for one, other in itertools.combinations(parts(fig), 2):
        assert not one.padded(-0.005).overlaps(other)


def test_every_part_lies_within_the_figure(fig):
    whole = Bbox.union(parts(fig))
    assert np.all(whole.min > 0)
    assert np.all(whole.max < fig.get_size_inches())


def test_no_text_is_smaller_than_seven_points_or_covers_another(fig):
    texts = written(fig)
    assert min(text.get_fontsize() for text in texts) >= 7
    assert not [text.get_text() for text in texts if "$" in text.get_text()]  # raised exponents are smaller
    boxes = [text.get_window_extent().transformed(fig.dpi_scale_trans.inverted()) for text in texts]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-0.005).overlaps(other)


def test_no_title_has_more_than_three_lines(fig):
    assert max(ax.get_title().count("\n") + 1 for ax in fig.axes) <= 3


def test_a_shorter_row_is_centred_and_no_row_has_a_single_panel():
    fig = plots.distance_figure([distances()] * 7)
    lefts = [ax.get_position().x0 for ax in fig.axes]
    rows = [lefts[:3], lefts[3:5], lefts[5:]]
    rights = [[ax.get_position().x1 for ax in fig.axes][end] for end in (2, 4, 6)]
    for row, right in zip(rows, rights, strict=True):
        assert row[0] + right == pytest.approx(rows[0][0] + rights[0])
    assert rows[1][0] > rows[0][0]


def test_no_strip_of_a_figure_is_left_empty(fig):
    used = [0.0]
    for box in sorted(parts(fig), key=lambda box: box.y0):
        assert box.y0 - max(used) < 0.12  # inches: the gap between parts, and the font's leading above its letters
        used.append(box.y1)
    assert fig.get_figheight() - max(used) < 0.12


def test_panels_have_one_size_whatever_the_texts_beside_them(fig):
    heights = [ax.get_window_extent().height / fig.dpi for ax in fig.axes]
    columns = max(Counter(round(ax.get_window_extent().y0) for ax in fig.axes).values())
    np.testing.assert_allclose(heights, {4: 1.45, 5: 1.16}.get(columns, PANEL_INCHES), rtol=1e-6)


@pytest.mark.parametrize("columns", [1, 5, *(pytest.param(columns, marks=pytest.mark.slow) for columns in (2, 3, 4))])
def test_up_to_five_columns_fit_the_width_of_a_page(columns):
    figures = [
        plots.comparison_figure([COLUMN] * columns, looks=["dark", "epoch"]),
        plots.methods_figure([[COLUMN] * columns] * 2, left="AB"),
    ]
    assert max(fig.get_figwidth() for fig in figures) < 7.4


def test_a_letter_is_level_with_the_first_line_of_its_title():
    fig = plots.comparison_figure([panel("bad"), panel("bad\nbad"), panel("bad\nbad\nbad")], looks=["dark"])
    for ax in fig.axes:
        ax.title.set_color("#0000ff")
        ax._left_title.set_color("#ff0000")
    fig.dpi = 400
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())
    for ax in fig.axes:
        left, _, right, top = ax.get_window_extent().extents.astype(int)
        over = pixels[: len(pixels) - top - 1, left - 80 : right]
        red, blue = (np.all(over == [*color, 255], axis=2).any(1) for color in ([255, 0, 0], [0, 0, 255]))
        lowest = [np.flatnonzero(ink[:-1] & ~ink[1:])[0] for ink in (red, blue)]
        assert abs(lowest[0] - lowest[1]) <= 1  # pixels


def test_a_legend_names_every_direction_step_size_and_sign():
    fig = plots.minimum_figure(panel())
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    signs = ["direction", "step size", "minimum", "epoch 0 to 8"]
    assert {"0", "1", "2", "3", "4", "0.25", "0.5", "0.75", *signs} == set(labels) - {""}


def test_networks_start_at_golden_stars_and_have_no_step_sizes_in_the_legend():
    fig = plots.minimum_figure(networks())
    labels = {text.get_text() for text in fig.legends[0].get_texts()} - {""}
    assert labels == {"optimizer", "sgd", "momentum", "adam", "adagrad", "lion", "epoch 0 to 8", "initial parameters"}
    for ax in fig.axes:
        *_, stars = ax.collections
        assert len(stars.get_offsets()) == SEEDS * len(STEP_SIZES)
        np.testing.assert_allclose(stars.get_facecolors()[:, :3], [to_rgb(MINIMUM)])


def test_panels_with_different_meanings_of_hues_cannot_share_a_legend():
    with pytest.raises(ValueError, match="panels differ in their hue, begin and unit"):
        plots.comparison_figure([panel(), panel()._replace(hue="optimizer")])


def test_norms_are_lines_in_the_hue_of_their_label_on_a_logarithmic_scale():
    given = norms()
    (ax,) = plots.norm_figure(given, hue="optimizer").axes
    assert ax.get_yscale() == "log"
    lines = [line for line in ax.lines if line.get_transform() == ax.transData]
    assert len(lines) == SEEDS * len(STEP_SIZES)
    assert {line.get_color() for line in lines} == {to_rgb(hue) for hue in plots.HUES[:5]}
    first = given.member == 0
    np.testing.assert_array_equal(lines[0].get_ydata(), given.distance[first][np.argsort(given.epoch[first])])
    with pytest.raises(ValueError, match="distance reaches 0"):
        plots.norm_figure(given._replace(distance=np.zeros(180)), hue="optimizer")


def test_values_of_all_panels_share_one_scale_and_match_their_rows():
    given = [panel("one"), panel("other")]
    values = [np.arange(1, 181.0), 1000.0 * np.arange(1, 181.0)]
    fig = plots.values_figure(given, values, "loss", log=True)
    assert [bar.get_ylabel() for ax in fig.axes for bar in ax.child_axes] == ["loss"]
    for ax, expected, shown in zip(fig.axes, values, given, strict=True):
        points = ax.collections[0]
        assert (points.norm.vmin, points.norm.vmax) == (1, 180_000)
        drawn = np.column_stack([points.get_offsets(), points.get_array()])
        assert set(map(tuple, drawn)) == set(map(tuple, np.column_stack([shown.embedding, expected])))
    with pytest.raises(ValueError, match="values has 1 arrays for 2 panels"):
        plots.values_figure(given, values[:1], "loss")


def test_a_comparison_has_one_column_per_minimum_and_letters_by_row():
    fig = plots.comparison_figure([panel("good"), panel("bad"), panel("memorization")])
    assert [ax.get_title(loc="left") for ax in fig.axes] == list("abcdef")
    assert [ax.get_title() for ax in fig.axes] == ["good", "bad", "memorization", "", "", ""]


def test_methods_have_their_own_titles_and_notes_and_rows_may_be_shorter():
    rows = [[panel("PHATE")._replace(note="t 23"), panel("t-SNE")], [panel("UMAP")]]
    fig = plots.methods_figure(rows, left=["A", "B"])
    assert [ax.get_title() for ax in fig.axes] == ["PHATE", "t-SNE", "UMAP"]
    assert [text.get_text() for ax in fig.axes for text in ax.texts] == ["t 23", "A", "B"]


@pytest.mark.parametrize(("low", "high"), [(11, 14), (27, 340), (0.5, 3), (3, 9e6), (1e-6, 2.0), (99, 101)])
def test_a_norm_of_any_size_has_ticks_with_plain_numbers(low, high):
    given = norms()
    panel = given._replace(distance=np.geomspace(low, high, len(given.distance)))
    fig = plots.norm_figure(panel, hue="optimizer")
    fig.draw_without_rendering()
    (ax,) = fig.axes
    labels = [tick.get_text() for tick in ax.get_yticklabels()]
    assert 4 <= len(labels) <= 9
    inside = np.array(labels, float)
    np.testing.assert_allclose(inside, ax.get_yticks(), rtol=1e-5)
    assert ax.get_ylim()[0] <= inside.min() < inside.max() <= ax.get_ylim()[1]


def test_names_at_the_ends_of_curves_follow_their_order_and_replace_the_legend():
    given = norms()
    fig = plots.norm_figure(given, hue="optimizer")
    assert not fig.legends
    (ax,) = fig.axes
    names = {text.get_text(): text.xy[1] for text in ax.texts}
    assert list(names) == ["0", "1", "2", "3", "4"]
    ends = given.epoch == EPOCHS
    medians = [np.median(given.distance[ends & (given.seed == seed)]) for seed in range(SEEDS)]
    assert np.argsort(list(names.values())).tolist() == np.argsort(medians).tolist()
    first, last = (
        ax.transAxes.inverted().transform(ax.transData.transform((1, medians[seed])))[1] for seed in (0, SEEDS - 1)
    )
    assert names["0"] == pytest.approx(first, abs=0.02)
    assert names["4"] == pytest.approx(last, abs=0.02)


def test_names_of_curves_that_end_together_are_spread_as_little_as_needed():
    heights = np.array([0.2, 0.5, 0.5, 0.5, 0.9])
    actual = _spread(heights, 0.1)
    np.testing.assert_allclose(actual, [0.2, 0.4, 0.5, 0.6, 0.9])
    np.testing.assert_allclose(_spread(np.full(3, 1.0), 0.1), [0.8, 0.9, 1.0])
    np.testing.assert_allclose(_spread(np.full(3, 0.0), 0.1), [0.0, 0.1, 0.2])


def test_hues_of_trajectories_of_different_lengths_darken_from_first_to_last_row():
    rows = petals(seeds=2)
    selected = (rows["seed"] == 0) | (rows["epoch"] <= EPOCHS // 2)
    rows = {name: column[selected] for name, column in rows.items()}
    del rows["step_size"]
    long_and_short = plots.Panel("runs", **rows, begin="first", unit="step")
    fig, (drawn,) = plots.draw_comparison([long_and_short], ["dark"])
    colors = np.empty((len(drawn.rows), 3))
    colors[drawn.rows] = drawn.points.get_facecolors()[:, :3]
    for seed, last in ((0, EPOCHS), (1, EPOCHS // 2)):
        end = colors[(rows["seed"] == seed) & (rows["epoch"] == last)]
        np.testing.assert_allclose(end, [plots.shade(plots.HUES[seed], 1)] * len(end), atol=1e-6)
    assert "first to last step of each" in {text.get_text() for text in fig.legends[0].get_texts()}


@pytest.mark.parametrize(
    ("rows", "left", "message"),
    [
        ([], (), r"rows has \[\] panels"),
        ([[panel()], []], (), r"rows has \[1, 0\] panels"),
        ([[panel()]], ("A", "B"), "left has 2 texts for 1 rows"),
        ([[panel()], [panel(dimensions=3, minimum=None)]], (), r"panels have \[2, 3\] columns"),
    ],
)
def test_invalid_rows_of_methods_are_rejected(rows, left, message):
    with pytest.raises(ValueError, match=message):
        plots.methods_figure(rows, left=left)


def test_a_seed_has_one_hue_in_all_panels_of_a_comparison():
    later = petals()
    later["seed"] += 2  # seeds 2 to 6 beside 0 to 4
    fig = plots.comparison_figure([panel(), plots.Panel("other", **later)], looks=["dark"])
    first, second = ({line.get_color() for line in ax.lines} for ax in fig.axes)
    assert first == {to_rgb(hue) for hue in plots.HUES[:5]}
    assert second == {to_rgb(hue) for hue in plots.HUES[2:7]}


@pytest.mark.parametrize(
    ("panels", "looks", "message"),
    [
        ([], ["dark"], "panels is empty"),
        ([panel()], ["black"], "looks is .*choose one or more of"),
        ([panel()], [], "looks is"),
        ([panel(), panel(dimensions=3, minimum=None)], ["dark"], r"panels have \[2, 3\] columns"),
    ],
)
def test_an_invalid_comparison_is_rejected(panels, looks, message):
    with pytest.raises(ValueError, match=message):
        plots.comparison_figure(panels, looks=looks)


def test_the_bold_line_of_distances_is_the_median_over_members():
    given = distances()
    (ax,) = plots.distance_figure([given]).axes
    bold = max(ax.lines, key=lambda line: line.get_linewidth())
    expected = [np.median(given.distance[given.epoch == epoch]) for epoch in range(EPOCHS + 1)]
    np.testing.assert_allclose(bold.get_ydata(), expected)


def test_null_trajectories_are_dashed_lines_one_per_member():
    (ax,) = plots.distance_figure([distances(null=np.ones(180))]).axes
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert len(dashed) == SEEDS * len(STEP_SIZES)
    assert all(np.all(line.get_ydata() == 1) for line in dashed)


def test_distances_of_all_minima_share_one_scale():
    axes = plots.distance_figure([distances(), distances(null=np.full(180, 3.0))]).axes
    assert axes[0].get_ylim() == axes[1].get_ylim()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": np.full(180, np.nan)}, "distance holds 180 NaN"),
        ({"null": np.ones(3)}, r"null has shape \(3,\)"),
        ({"epoch": np.ones(3)}, r"epoch has shape \(3,\)"),
    ],
)
def test_distances_inconsistent_with_their_labels_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        plots.distance_figure([distances()._replace(**change)])


def test_a_distance_figure_without_minima_is_rejected():
    with pytest.raises(ValueError, match="panels is empty"):
        plots.distance_figure([])


@pytest.mark.slow
def test_a_figure_is_saved_to_the_same_bytes_every_time(tmp_path):
    fig = plots.minimum_figure(panel(seeds=2), note="a note")
    first = plots.save_figure(fig, tmp_path / "new" / "folder" / "knn5.t22")
    again = plots.save_figure(fig, tmp_path / "again")
    anew = plots.save_figure(plots.minimum_figure(panel(seeds=2), note="a note"), tmp_path / "anew")
    assert [path.name for path in first] == ["knn5.t22.png", "knn5.t22.svg", "knn5.t22.pdf"]
    assert first[2].read_bytes().startswith(b"%PDF")
    for one, two, three in zip(first, again, anew, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def test_an_svg_does_not_clip_points_individually(tmp_path):
    _, svg, _ = plots.save_figure(plots.comparison_figure([panel()], looks=["dark"]), tmp_path / "figure")
    assert svg.read_text().count("<g clip-path") < SEEDS * len(STEP_SIZES) * EPOCHS


def test_pyplot_is_never_imported():
    code = "import sys, jaxscape.figures.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
