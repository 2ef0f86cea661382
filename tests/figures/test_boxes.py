"""Components of a disconnected graph: each in a box of its own, without suggesting relative positions."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from petals import EPOCHS, SEEDS, petals

from jaxscape.figures import film, plots
from jaxscape.figures.boxes import has_components, path, put_in_boxes
from jaxscape.figures.panels import checked_panel


def panel(component=None, **options):
    rows = petals(**options)
    minimum = options.get("dimensions", 2) * [0.0]
    return checked_panel(plots.Panel("good", **rows, component=component, minimum=minimum, minimum_component=0))


def by_direction_and_size(count=7):
    """Return one component per direction and step size, numbered in an arbitrary order."""
    rows = petals()
    return (rows["member"] * 5) % count


def boxes_of(ax):
    return [each for each in ax.patches if isinstance(each, Rectangle)]


def test_every_point_lies_in_the_box_of_its_component_and_no_two_boxes_overlap():
    given = panel(by_direction_and_size())
    moved, boxes = put_in_boxes(given)
    assert len(boxes.corners) == 7
    owners = set()
    for component in range(7):
        places = moved.embedding[given.component == component]
        inside = [
            number
            for number, corner in enumerate(boxes.corners)
            if np.all((places > corner) & (places < corner + boxes.side))
        ]
        assert len(inside) == 1
        owners.update(inside)
    assert len(owners) == 7
    apart = np.abs(boxes.corners[:, None] - boxes.corners[None]).max(axis=2)
    assert apart[~np.eye(7, dtype=bool)].min() > boxes.side


def test_lengths_within_all_boxes_are_preserved():
    given = panel(by_direction_and_size())
    moved, _ = put_in_boxes(given)
    for component in range(7):
        rows = given.component == component
        shift = moved.embedding[rows] - given.embedding[rows]
        np.testing.assert_allclose(shift, np.broadcast_to(shift[0], shift.shape), atol=1e-12)
    shift = moved.embedding[given.component == 0] - given.embedding[given.component == 0]
    np.testing.assert_allclose(moved.minimum - given.minimum, shift[0], atol=1e-12)


def test_boxes_are_sorted_by_direction_and_step_size_row_by_row():
    rows = petals()
    given = panel(19 - rows["member"])._replace(minimum_component=19)  # one component per member, numbered backwards
    moved, _ = put_in_boxes(given)
    middles = np.array([moved.embedding[rows["member"] == member].mean(axis=0) for member in range(20)])
    order = sorted(range(20), key=lambda member: (-round(middles[member, 1]), middles[member, 0]))
    assert order == list(range(20))  # members are numbered by direction and step size


def test_box_positions_do_not_depend_on_where_the_method_put_the_components():
    one = panel(by_direction_and_size())
    pushed = one.embedding + 100.0 * one.component[:, None]
    other = one._replace(embedding=pushed, minimum=np.zeros(2))
    np.testing.assert_allclose(put_in_boxes(one)[0].embedding, put_in_boxes(other)[0].embedding, atol=1e-9)


@pytest.mark.parametrize("component", [None, np.zeros(180, int)])
def test_a_single_component_is_unchanged(component):
    given = panel(component)
    moved, boxes = put_in_boxes(given)
    assert boxes is None
    assert not has_components(given)
    np.testing.assert_array_equal(moved.embedding, given.embedding)


def test_lines_end_at_the_edge_of_a_component():
    rows = petals()
    given = panel((rows["epoch"] > 3).astype(int))
    first = np.flatnonzero(rows["member"] == 0)
    first = first[np.argsort(rows["epoch"][first])]
    line = path(given, first)
    assert np.isnan(line[4]).all()
    np.testing.assert_array_equal(np.delete(line, 4, axis=0), given.embedding[first])
    ax = Figure().subplots()
    labels = {name: rows[name] for name in ("seed", "step_size", "epoch", "member")}
    drawn = plots.plot_trajectories(ax, given.embedding, **labels, component=given.component)
    assert all(np.isnan(line.get_xdata()).sum() == 1 for line in drawn.lines.values())


def test_a_panel_draws_a_frame_around_each_component_and_none_around_all():
    fig = plots.comparison_figure([panel(by_direction_and_size()), panel()], looks=["dark"])
    boxed, plain = fig.axes
    assert len(boxes_of(boxed)) == 7
    assert not boxes_of(plain)
    assert [spine.get_visible() for spine in boxed.spines.values()] == [False] * 4
    assert all(spine.get_visible() for spine in plain.spines.values())
    low, high = np.transpose([boxed.get_xlim(), boxed.get_ylim()])
    for box in boxes_of(boxed):
        assert np.all(low < box.get_corners()[0])
        assert np.all(high > box.get_corners()[2])
    assert "Each box is a component of the embedded graph" in fig.texts[-1].get_text().replace("\n", " ")
    assert not plots.comparison_figure([panel()]).texts


def test_in_3d_components_are_not_moved_and_the_note_says_so():
    given = panel(by_direction_and_size(), dimensions=3)
    fig = plots.minimum_figure(given, note="a note")
    assert "their relative positions mean nothing" in fig.texts[-1].get_text().replace("\n", " ")
    moved, boxes = put_in_boxes(given)
    assert boxes is None
    np.testing.assert_array_equal(moved.embedding, given.embedding)


def test_a_film_moves_its_lines_within_the_boxes():
    given = panel(by_direction_and_size())
    moved = film._make_film([given], "dark", max_frames=100, note="")
    film._show(moved, EPOCHS)
    still, _ = put_in_boxes(given)
    (drawn,) = moved.drawn
    assert len(drawn.lines) == SEEDS * 4
    for member, line in drawn.lines.items():
        rows = np.flatnonzero(given.member == member)
        rows = rows[np.argsort(given.epoch[rows])]
        np.testing.assert_array_equal(line.get_xydata(), still.embedding[rows])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"component": np.zeros(3)}, r"component has shape \(3,\)"),
        ({"component": np.zeros(180), "minimum_component": None}, "minimum_component is None"),
    ],
)
def test_invalid_components_are_rejected(changes, words):
    with pytest.raises(ValueError, match=words):
        checked_panel(panel()._replace(**changes))
