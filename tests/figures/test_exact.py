"""Views in which every position is exact: what is drawn is measured on the artists."""

import itertools

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from petals import EPOCHS, SEEDS, STEP_SIZES, petals, written

from jaxscape.figures import exact
from jaxscape.figures.exact import MOST_SPOKES, choose_sides, ended_nearer, plane_figure, polar_figure
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


def departures(members=4, title="runs", **changes):
    """Return trajectories that leave their first points, each longer than the one before, with turning ends."""
    member, epoch = (each.ravel() for each in np.meshgrid(range(members), range(EPOCHS + 1), indexing="ij"))
    progress = epoch / EPOCHS
    distance, angle = 10.0 * (member + 1) * progress, np.where(progress > 0, 1 - progress, 0)
    names = np.array(["adam", "sgd"])[member % 2]
    surrogate = Surrogate("random null", 0.5 * distance, np.arccos(progress))
    columns = {"distance": distance, "angle": angle, "seed": names, "epoch": epoch, "member": member}
    panel = ExactPanel(title, **columns, surrogates=[surrogate], begin="initial", hue="optimizer")
    return panel._replace(**changes)


def curves(ax):
    return [np.array(each.get_segments()) for each in ax.collections if isinstance(each, LineCollection)]


def test_radius_and_angle_are_those_of_the_panel():
    panel = exact_panel()
    (ax,) = polar_figure([panel]).axes
    lines = curves(ax)
    assert len(lines) == SEEDS * len(STEP_SIZES)
    drawn = {}
    for segments in lines:
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


def test_the_plane_shows_the_components_along_and_across_the_jump():
    panel = exact_panel(surrogates=False)
    (ax,) = plane_figure([panel]).axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == EPOCHS + 1]
    assert len(lines) == SEEDS * len(STEP_SIZES)
    progress = np.linspace(0, 1, EPOCHS + 1)
    for line in lines:
        np.testing.assert_allclose(line.get_xdata(), (1 - 0.2 * progress) * np.cos(0.3 * progress))
        np.testing.assert_allclose(line.get_ydata(), (1 - 0.2 * progress) * np.sin(0.3 * progress))


def test_arcs_of_the_plane_have_equal_distance_and_one_goes_through_the_starts():
    (ax,) = plane_figure([exact_panel(surrogates=False)]).axes
    arcs = [line for line in ax.lines if len(line.get_xdata()) > EPOCHS + 1]
    radii = [np.hypot(line.get_xdata(), line.get_ydata()) for line in arcs]
    for radius in radii:
        np.testing.assert_allclose(radius, radius[0])
    assert 1 in [pytest.approx(radius[0]) for radius in radii]


@pytest.mark.parametrize(("inward", "nearer"), [(True, SEEDS * len(STEP_SIZES)), (False, 0)])
def test_the_text_under_a_panel_counts_how_many_ended_nearer_beside_the_surrogates(inward, nearer):
    panel = exact_panel(inward=inward)._replace(note="100 % accuracy")
    count = SEEDS * len(STEP_SIZES)
    assert ended_nearer(panel) == (nearer, count)
    for figure in (polar_figure([panel]), plane_figure([panel])):
        (ax,) = figure.axes
        assert ax.get_title() == "good"
        under = ax.texts[-1].get_text().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")
        assert under == f"100 % accuracy {nearer} of {count} ended nearer (decay alone {count})"


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


def test_weight_decay_alone_is_dotted_and_what_is_drawn_at_random_dashed_alone_or_together():
    [decay] = exact_panel().surrogates
    decay, exchanged = decay._replace(is_random=False), decay._replace(label="exchanged")
    for surrogates in ([decay], [exchanged], [decay, exchanged], [exchanged, decay]):
        _, _, dashes = exact._checked([exact_panel()._replace(surrogates=surrogates)])
        expected = {"decay alone": exact.DOTTED, "exchanged": exact.DASHES[0]}
        assert dashes == {each.label: expected[each.label] for each in surrogates}


@pytest.mark.slow
def test_the_same_panels_give_the_same_bytes(tmp_path):
    for name, make in (("polar", polar_figure), ("plane", plane_figure)):
        once, again = (save_figure(make([exact_panel()], note="n"), tmp_path / f"{name}{number}") for number in (1, 2))
        assert [file.suffix for file in once] == [".png", ".svg", ".pdf"]
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
def test_invalid_input_is_rejected(changes, words):
    with pytest.raises(ValueError, match=words):
        check_exact(exact_panel(**changes))
    with pytest.raises(ValueError, match=words):
        polar_figure([exact_panel(**changes)])


def test_surrogates_have_the_rows_of_the_real_ones():
    panel = exact_panel()._replace(surrogates=[Surrogate("decay alone", np.ones(2), np.ones(2))])
    with pytest.raises(ValueError, match="decay alone: distance has shape"):
        plane_figure([panel])


def test_no_panels_are_rejected():
    with pytest.raises(ValueError, match="panels is empty"):
        polar_figure([])


@pytest.mark.parametrize("members", [2, 5, MOST_SPOKES + 6])
def test_trajectories_start_in_the_centre_and_end_on_their_own_spokes(members):
    panel = departures(members)
    (ax,) = polar_figure([panel]).axes
    lines = curves(ax)
    count = min(members, MOST_SPOKES)
    assert len(lines) == count
    order = sorted(range(members), key=lambda member: (member % 2, member))  # adam, then sgd
    order = [order[number] for number in np.linspace(0, members - 1, count).round().astype(int)]
    for number, (member, segments) in enumerate(zip(order, lines, strict=True)):
        places = np.concatenate([segments[:1, 0], segments[:, 1]])
        rows = np.flatnonzero(panel.member == member)
        spoke = np.pi / 2 - 2 * np.pi * number / count
        turned = spoke + panel.angle[rows]
        expected = panel.distance[rows, None] * np.stack([np.cos(turned), np.sin(turned)], axis=1)
        np.testing.assert_allclose(places, expected, atol=1e-9)
        np.testing.assert_allclose(places[0], 0, atol=1e-12)
    under = ax.texts[-1].get_text()
    assert (f"{count} of {members} trajectories are drawn" in under) == (count < members)
    assert f"ended 10 to {10 * members:.3g} away" in under


def test_the_plane_leads_from_0_to_1_along_the_final_displacement():
    panel = departures()
    (ax,) = plane_figure([panel]).axes
    lines = [line for line in ax.lines if len(line.get_xdata()) == EPOCHS + 1]
    real = [line for line in lines if line.get_linestyle() == "-"]
    assert (len(real), len(lines)) == (4, 8)
    progress = np.linspace(0, 1, EPOCHS + 1)
    for line in real:
        np.testing.assert_allclose(line.get_xdata(), progress * np.cos(1 - progress), atol=1e-12)
        np.testing.assert_allclose(line.get_ydata(), progress * np.sin(1 - progress), atol=1e-12)
    for line in set(lines) - set(real):  # by Thales
        x, y = line.get_data()
        np.testing.assert_allclose((x - 0.5) ** 2 + y**2, 0.25)


def test_groups_have_separate_scales_with_bars_and_minima_share_one():
    near, far = departures(title="near"), departures(title="far")
    far = far._replace(distance=100 * far.distance)
    reaches = [ax.get_xlim()[1] for ax in polar_figure([near, far]).axes]
    assert reaches[1] == pytest.approx(100 * reaches[0])
    for panels in ([near, far], [exact_panel(), exact_panel()]):
        for ax in polar_figure(panels).axes:
            (bar,) = (line for line in ax.lines if line.get_linewidth() == 1.2)
            assert np.ptp(bar.get_xdata()) == pytest.approx(float(ax.texts[0].get_text()))
            assert 0.15 < np.ptp(bar.get_xdata()) / ax.get_xlim()[1] < 0.8


def test_a_panel_of_one_group_has_its_name_as_title_and_no_legend_of_hues():
    alone = departures()._replace(seed=np.full(4 * (EPOCHS + 1), "adam"), title="adam")
    for make in (polar_figure, plane_figure):
        labels = {text.get_text() for text in make([alone]).legends[0].get_texts()}
        assert "adam" not in labels
        assert {"initial parameters", "random null"} <= labels
        assert {"adam", "sgd"} <= {text.get_text() for text in make([departures()]).legends[0].get_texts()}


PANELS = {
    "minima": lambda: [exact_panel(name)._replace(note="100.0 % training, 13.0 % test accuracy") for name in "abc"],
    "seven minima": lambda: [exact_panel("a long title " * 9)] * 7,
    "one": lambda: [departures()],
    "groups": lambda: [departures(title=name) for name in ("sgd", "momentum", "adam", "lion")],
}


@pytest.mark.parametrize("make", [polar_figure, plane_figure])
@pytest.mark.parametrize(
    "panels", [name if name in ("minima", "groups") else pytest.param(name, marks=pytest.mark.slow) for name in PANELS]
)
def test_texts_are_readable_and_cover_nothing(make, panels):
    fig = make(PANELS[panels](), note="a note")
    texts = written(fig)
    assert min(text.get_fontsize() for text in texts) >= 7
    assert max(ax.get_title().count("\n") + 1 for ax in fig.axes) <= 3
    inches = fig.dpi_scale_trans.inverted()
    boxes = [text.get_window_extent().transformed(inches) for text in texts]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-0.005).overlaps(other)
    for box in boxes:
        assert np.all(box.min > 0)
        assert np.all(box.max < fig.get_size_inches())
    sizes = {tuple(np.round(ax.get_window_extent().transformed(inches).size, 6)) for ax in fig.axes}
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"begin": "end"}, "begin is 'end'; choose one of"),
        ({"distance": np.ones(4 * (EPOCHS + 1))}, "first point does not start at 0"),
        ({"distance": np.zeros(4 * (EPOCHS + 1))}, "end where they started; leave them out"),
    ],
)
def test_invalid_departures_are_rejected(changes, words):
    with pytest.raises(ValueError, match=words):
        plane_figure([departures(**changes)])


def test_panels_of_different_kinds_are_rejected():
    with pytest.raises(ValueError, match="panels differ in their hue, begin, unit and length"):
        polar_figure([exact_panel(), departures()])
