import numpy as np
import pytest
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from petals import EPOCHS, SEEDS, STEP_SIZES, luminance, petals

from jaxscape.figures import plots


def draw(rows, **options):
    ax = Figure().subplots()
    return ax, plots.plot_trajectories(ax, **{**rows, **options})


def colors_by_row(drawn):
    colors = np.empty((len(drawn.rows), 3))
    colors[drawn.rows] = drawn.points.get_facecolors()[:, :3]
    return colors


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
def test_dark_points_are_drawn_over_light_ones(fade):
    _, drawn = draw(petals(seeds=1), fade=fade)
    assert np.all(np.diff(luminance(drawn.points.get_facecolors()[:, :3])) <= 0)


def test_without_fading_a_direction_has_one_hue():
    rows = petals()
    _, drawn = draw(rows)
    for seed in range(SEEDS):
        np.testing.assert_allclose(
            colors_by_row(drawn)[rows["seed"] == seed], [to_rgb(plots.HUES[seed])] * (4 * (EPOCHS + 1))
        )


def test_lines_join_the_epochs_of_a_member_in_order():
    rows = petals()
    _, drawn = draw(rows)
    for member, line in drawn.lines.items():
        mine = np.flatnonzero(rows["member"] == member)
        mine = mine[np.argsort(rows["epoch"][mine])]
        np.testing.assert_array_equal(line.get_xydata(), rows["embedding"][mine])


def test_a_diamond_lies_at_every_jump_and_has_the_colour_of_its_step_size():
    rows = petals()
    _, drawn = draw(rows)
    palette = plots.make_palette(rows["seed"], rows["step_size"], rows["epoch"])
    starts = rows["epoch"] == 0
    expected = [
        (*place, *palette.step_sizes[size])
        for place, size in zip(rows["embedding"][starts], rows["step_size"][starts], strict=True)
    ]
    seen = np.hstack([drawn.starts.get_offsets(), drawn.starts.get_facecolors()[:, :3]])
    np.testing.assert_allclose(sorted(seen.tolist()), sorted(expected))


def test_diamonds_at_one_point_are_all_visible_because_smaller_ones_lie_on_top():
    _, drawn = draw({**petals(seeds=1), "embedding": np.zeros((4 * (EPOCHS + 1), 2))})
    assert np.all(np.diff(drawn.starts.get_sizes()) < 0)  # in the order of drawing


def test_points_by_step_size_have_the_colours_of_the_diamonds():
    rows = petals()
    _, drawn = draw(rows, color_by="step_size")
    palette = plots.make_palette(rows["seed"], rows["step_size"], rows["epoch"])
    np.testing.assert_allclose(colors_by_row(drawn), [palette.step_sizes[size] for size in rows["step_size"]])


def test_points_by_epoch_span_the_colour_bar():
    rows = petals()
    _, drawn = draw(rows, color_by="epoch")
    np.testing.assert_array_equal(drawn.points.get_array(), rows["epoch"][drawn.rows])
    assert (drawn.colorbar.vmin, drawn.colorbar.vmax) == (0, EPOCHS)


def test_values_can_have_a_logarithmic_scale_and_a_label():
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


def test_axes_have_one_scale_no_ticks_and_contain_every_point():
    rows = petals()
    ax, _ = draw(rows, minimum=[3.0, 0.0])
    assert ax.get_aspect() == 1
    assert [*ax.get_xticks(), *ax.get_yticks()] == []
    assert ax.get_xlim()[1] > 3
    assert ax.get_ylim()[1] > rows["embedding"][:, 1].max()


def test_a_3d_embedding_is_drawn_on_3d_axes():
    rows = petals(dimensions=3)
    ax = Figure().add_subplot(projection="3d")
    drawn = plots.plot_trajectories(ax, **rows, minimum=[0, 0, 0])
    np.testing.assert_array_equal(np.stack(drawn.points._offsets3d, 1), rows["embedding"][drawn.rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": np.zeros(3)}, r"seed has shape \(3,\); it needs \(180,\)"),
        ({"step_size": np.full(180, np.nan)}, "step_size holds 180 NaN"),
        ({"embedding": np.full((180, 2), np.nan)}, "embedding holds 360 NaN"),
        ({"embedding": np.zeros((180, 4))}, r"embedding has shape \(180, 4\)"),
        ({"embedding": np.zeros((180, 3))}, "embedding has 3 columns; these axes need 2"),
        ({"member": np.zeros(180)}, "member and epoch must be unique together"),
        ({"minimum": [0.0, 0.0, 0.0]}, r"minimum has shape \(3,\)"),
        ({"minimum": [0.0, np.inf]}, "minimum holds 1 NaN or infinite"),
        ({"begin": "end"}, "begin is 'end'; choose one of"),
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
def test_invalid_input_is_rejected_before_anything_is_drawn(change, message):
    ax = Figure().subplots()
    with pytest.raises(ValueError, match=message):
        plots.plot_trajectories(ax, **{**petals(), **change})
    assert not ax.collections
    assert not ax.lines
