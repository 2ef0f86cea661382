import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure

from jaxscape.figures import plots

SEEDS, STEP_SIZES, EPOCHS = 5, (0.25, 0.5, 0.75, 1.0), 8


def petals(seeds=SEEDS, dimensions=2):
    """Rows of copies that walk straight home from `seeds` directions, in a shuffled order."""
    seed, step, epoch = (
        a.ravel() for a in np.meshgrid(range(seeds), range(len(STEP_SIZES)), range(EPOCHS + 1), indexing="ij")
    )
    step_size = np.asarray(STEP_SIZES)[step]
    radius, angle = step_size * (1 - epoch / (EPOCHS + 1)), 2 * np.pi * seed / seeds
    embedding = np.stack([radius * np.cos(angle), radius * np.sin(angle), radius], 1)[:, :dimensions]
    rows = {"seed": seed, "step_size": step_size, "epoch": epoch, "member": seed * len(STEP_SIZES) + step}
    shuffle = np.random.default_rng(0).permutation(len(seed))
    return {"embedding": embedding[shuffle], **{name: column[shuffle] for name, column in rows.items()}}


def draw(rows, **options):
    ax = Figure().subplots()
    return ax, plots.plot_trajectories(ax, **{**rows, **options})


def colors_by_row(drawn):
    colors = np.empty((len(drawn.rows), 3))
    colors[drawn.rows] = drawn.points.get_facecolors()[:, :3]
    return colors


def linear(rgb):
    rgb = np.asarray(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(rgb):
    return linear(rgb) @ [0.2126, 0.7152, 0.0722]  # of sRGB, IEC 61966-2-1


def panel(title="good", *, minimum=(0.0, 0.0), **options):
    return plots.Panel(title, **petals(**options), minimum=None if minimum is None else np.array(minimum))


def distances(null=None):
    rows = petals()
    del rows["embedding"]
    share = 1 - rows["epoch"] * 0.01 * rows["member"]
    return plots.DistancePanel("good", share, **rows, null=null)


@pytest.mark.parametrize(("fade", "sign"), [("dark", -1), ("white", 1)])
def test_the_luminance_of_every_trajectory_only_falls_or_only_rises(fade, sign):
    rows = petals(seeds=len(plots.HUES))
    _, drawn = draw(rows, fade=fade)
    light = luminance(colors_by_row(drawn))
    for member in np.unique(rows["member"]):
        mine = np.flatnonzero(rows["member"] == member)
        mine = mine[np.argsort(rows["epoch"][mine])]
        assert np.all(sign * np.diff(light[mine]) > 0.005)


@pytest.mark.parametrize("fade", ["dark", "white"])
def test_dark_points_lie_over_light_ones(fade):
    _, drawn = draw(petals(seeds=1), fade=fade)
    assert np.all(np.diff(luminance(drawn.points.get_facecolors()[:, :3])) <= 0)


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
def test_five_directions_stay_apart_at_every_darkness_and_for_every_colour_vision(vision, darkness):
    shades = [linear(plots.shade(hue, darkness)) for hue in plots.HUES[:5]]
    seen = oklab(np.clip(shades @ np.transpose(COLOR_VISION[vision]), 0, 1))
    apart = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert apart > 0.03  # about 0.02 is a difference that can just be seen


def test_without_fading_a_direction_has_one_hue():
    rows = petals()
    _, drawn = draw(rows)
    for seed in range(SEEDS):
        np.testing.assert_allclose(
            colors_by_row(drawn)[rows["seed"] == seed], [to_rgb(plots.HUES[seed])] * (4 * (EPOCHS + 1))
        )


def test_more_directions_than_hues_share_them_with_a_warning():
    with pytest.warns(UserWarning, match="12 directions share 10 hues"):
        palette = plots.make_palette(range(12), [1.0], [0])
    assert palette.directions[11] == palette.directions[1]


def test_lines_join_the_epochs_of_a_member_in_order():
    rows = petals()
    _, drawn = draw(rows)
    for member, line in drawn.lines.items():
        mine = np.flatnonzero(rows["member"] == member)
        mine = mine[np.argsort(rows["epoch"][mine])]
        np.testing.assert_array_equal(line.get_xydata(), rows["embedding"][mine])


def test_diamonds_lie_at_epoch_0_and_have_the_colour_of_their_step_size():
    rows = petals()
    _, drawn = draw(rows)
    starts = rows["epoch"] == 0
    np.testing.assert_array_equal(drawn.starts.get_offsets(), rows["embedding"][starts])
    palette = plots.make_palette(rows["seed"], rows["step_size"], rows["epoch"])
    expected = [palette.step_sizes[size] for size in rows["step_size"][starts]]
    np.testing.assert_allclose(drawn.starts.get_facecolors()[:, :3], expected)


def test_larger_steps_have_darker_diamonds():
    palette = plots.make_palette([0], STEP_SIZES, [0])
    assert np.all(np.diff(luminance(list(palette.step_sizes.values()))) < -0.05)


def test_a_step_size_in_float32_and_in_float64_is_one_step_size():
    palette = plots.make_palette([0], np.array([0.1, np.float32(0.1)]), [0])
    assert list(palette.step_sizes) == [0.1]


def test_points_by_step_size_have_the_colours_of_the_diamonds():
    rows = petals()
    _, drawn = draw(rows, color_by="step_size")
    starts = np.flatnonzero(rows["epoch"] == 0)
    np.testing.assert_allclose(colors_by_row(drawn)[starts], drawn.starts.get_facecolors()[:, :3])


def test_points_by_epoch_span_the_colour_bar():
    rows = petals()
    _, drawn = draw(rows, color_by="epoch")
    np.testing.assert_array_equal(drawn.points.get_array(), rows["epoch"][drawn.rows])
    assert (drawn.colorbar.vmin, drawn.colorbar.vmax) == (0, EPOCHS)


def test_values_take_a_logarithmic_scale_and_their_label():
    rows = petals()
    loss = 10.0 ** -rows["epoch"]
    _, drawn = draw(rows, color_by="values", values=loss, norm=LogNorm(), label="training loss")
    np.testing.assert_array_equal(drawn.points.get_array(), loss[drawn.rows])
    assert drawn.points.norm(1e-4) == pytest.approx(0.5)  # half way between 1 and 1e-8
    assert drawn.colorbar.ax.get_ylabel() == "training loss"


def test_the_minimum_is_drawn_where_it_is_given():
    _, drawn = draw(petals(), minimum=[0.5, 2.0])
    np.testing.assert_array_equal(drawn.minimum.get_offsets(), [[0.5, 2.0]])
    assert draw(petals())[1].minimum is None


def test_axes_have_one_scale_no_ticks_and_hold_every_point():
    rows = petals()
    ax, _ = draw(rows, minimum=[3.0, 0.0])
    assert ax.get_aspect() == 1
    assert [*ax.get_xticks(), *ax.get_yticks()] == []
    assert ax.get_xlim()[1] > 3
    assert ax.get_ylim()[1] > rows["embedding"][:, 1].max()


def test_an_embedding_in_space_is_drawn_on_axes_in_space():
    rows = petals(dimensions=3)
    ax = Figure().add_subplot(projection="3d")
    drawn = plots.plot_trajectories(ax, **rows, minimum=[0, 0, 0])
    np.testing.assert_array_equal(np.stack(drawn.points._offsets3d, 1), rows["embedding"][drawn.rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": np.zeros(3)}, r"seed has shape \(3,\); \(180,\) is needed"),
        ({"step_size": np.full(180, np.nan)}, "step_size holds 180 NaN"),
        ({"embedding": np.full((180, 2), np.nan)}, "embedding holds 360 NaN"),
        ({"embedding": np.zeros((180, 4))}, r"embedding has shape \(180, 4\)"),
        ({"embedding": np.zeros((180, 3))}, "embedding has 3 columns; these axes take 2"),
        ({"member": np.zeros(180)}, "member and epoch name some row twice"),
        ({"minimum": [0.0, 0.0, 0.0]}, r"minimum has shape \(3,\)"),
        ({"minimum": [0.0, np.inf]}, "minimum holds 1 NaN or infinite"),
        ({"color_by": "loss"}, "color_by is 'loss'; choose one of"),
        ({"color_by": "values"}, "color_by is 'values' and values is None"),
        ({"values": np.ones(180)}, "color_by is 'seed' and values is not None"),
        ({"color_by": "values", "values": np.ones(3)}, r"values has shape \(3,\)"),
        ({"color_by": "values", "values": np.zeros(180), "norm": LogNorm()}, "values reach 0"),
        ({"fade": "black"}, "fade is 'black'"),
        ({"fade": "dark", "color_by": "epoch"}, "fade is 'dark' and color_by 'epoch'"),
        ({"palette": plots.make_palette([0, 1], STEP_SIZES, [8])}, r"seed holds \[2, 3, 4\]; the palette"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_drawn(change, message):
    ax = Figure().subplots()
    with pytest.raises(ValueError, match=message):
        plots.plot_trajectories(ax, **{**petals(), **change})
    assert not ax.collections
    assert not ax.lines


FIGURES = {
    "a minimum": lambda: plots.minimum_figure(panel(), note="a long note " * 30),
    "in space": lambda: plots.minimum_figure(panel(dimensions=3, minimum=None), note="a note"),
    "two looks": lambda: plots.comparison_figure([panel()] * 2, looks=["dark", "epoch"], note="a note"),
    "narrow": lambda: plots.comparison_figure([panel(seeds=10)], note="a note"),
    "distances": lambda: plots.distance_figure([distances(null=np.ones(180))], note="a note"),
}


@pytest.mark.parametrize("make", FIGURES.values(), ids=FIGURES)
def test_legend_and_note_cover_neither_the_axes_nor_each_other_and_fit_the_figure(make):
    fig = make()
    fig.draw_without_rendering()
    (legend,) = fig.legends
    (note,) = [text for text in fig.texts if "note" in text.get_text()]
    boxes = [legend.get_window_extent(), note.get_window_extent()]
    boxes += [ax.get_tightbbox() for ax in fig.axes]
    for box in boxes[:2]:
        assert fig.bbox.padded(0.5).containsx(box.x0)
        assert fig.bbox.padded(0.5).containsx(box.x1)
        assert box.y0 >= 0
        assert not any(box.overlaps(other) for other in boxes if other is not box)


def test_a_legend_names_every_direction_step_size_and_sign():
    fig = plots.minimum_figure(panel())
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    signs = ["direction", "step size", "minimum", "epoch 0 to 8"]
    assert {"0", "1", "2", "3", "4", "0.25", "0.5", "0.75", *signs} == set(labels) - {""}


def test_a_comparison_has_a_column_a_minimum_and_letters_by_row():
    fig = plots.comparison_figure([panel("good"), panel("bad"), panel("memorization")])
    assert [ax.get_title(loc="left") for ax in fig.axes] == list("abcdef")
    assert [ax.get_title() for ax in fig.axes] == ["good", "bad", "memorization", "", "", ""]


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
def test_a_comparison_that_makes_no_sense_is_refused(panels, looks, message):
    with pytest.raises(ValueError, match=message):
        plots.comparison_figure(panels, looks=looks)


def test_the_bold_line_of_distances_is_the_median_over_members():
    given = distances()
    (ax,) = plots.distance_figure([given]).axes
    bold = max(ax.lines, key=lambda line: line.get_linewidth())
    expected = [np.median(given.distance[given.epoch == epoch]) for epoch in range(EPOCHS + 1)]
    np.testing.assert_allclose(bold.get_ydata(), expected)


def test_null_trajectories_are_dashed_a_line_a_member():
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
def test_distances_that_do_not_fit_their_labels_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        plots.distance_figure([distances()._replace(**change)])


def test_a_distance_figure_of_no_minima_is_refused():
    with pytest.raises(ValueError, match="panels is empty"):
        plots.distance_figure([])


def test_a_figure_is_saved_to_the_same_bytes_every_time(tmp_path):
    fig = plots.minimum_figure(panel(seeds=2), note="a note")
    first = plots.save_figure(fig, tmp_path / "new" / "folder" / "knn5.t22")
    again = plots.save_figure(fig, tmp_path / "again")
    anew = plots.save_figure(plots.minimum_figure(panel(seeds=2), note="a note"), tmp_path / "anew")
    assert [path.name for path in first] == ["knn5.t22.png", "knn5.t22.svg"]
    for one, two, three in zip(first, again, anew, strict=True):
        assert one.read_bytes() == two.read_bytes() == three.read_bytes()


def test_pyplot_is_never_imported():
    code = "import sys, jaxscape.figures.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
