"""Geometry against explicit computations on the vectors themselves, and against closed forms."""

import jax
import numpy as np
import pytest

from jaxscape.trajectories.geometry import trajectory_departure, trajectory_geometry, trajectory_rows
from jaxscape.trajectories.gram import gram, take_points
from jaxscape.trajectories.null import null_trajectories


def gram_of(points, minimum):
    """Trajectories [epoch, member, P] as a store gives them: epoch by epoch, members within."""
    epochs, members, size = points.shape
    parents = np.maximum(np.arange(epochs * members) - members, -1)
    return gram(points.reshape(-1, size), reference=minimum, parents=parents)


def geometry_of(points, minimum=None):
    points = np.asarray(points)
    return trajectory_geometry(gram_of(points, np.zeros(points.shape[-1]) if minimum is None else minimum))


def random_trajectories(seed, *, epochs=6, members=4, size=9):
    generator = np.random.default_rng(seed)
    minimum = generator.standard_normal(size)
    moves = generator.standard_normal((epochs, members, size))
    return minimum + np.cumsum(moves, axis=0), minimum


def exact_geometry(points, minimum):
    """Each statistic from its definition, on explicit vectors in extended precision."""
    points, minimum = np.asarray(points, np.longdouble), np.asarray(minimum, np.longdouble)

    def length(vectors):
        return np.sqrt((vectors * vectors).sum(axis=-1))

    def cosine(one, other):
        return (one * other).sum(axis=-1) / (length(one) * length(other))

    y = points - minimum
    movement = np.diff(y, axis=0)
    ahead = y[:-1] / length(y[:-1])[..., None]
    sideways = movement - (movement * ahead).sum(axis=-1, keepdims=True) * ahead
    epochs, members = points.shape[:2]
    exact = {
        "norm": length(points),
        "distance": length(y),
        "chord": length(y - y[0]),
        "petal": cosine(y, y[0]),
        "movement": length(movement),
        "lateral": length(sideways) / length(movement),
        "turning": np.arccos(cosine(movement[1:], movement[:-1])),
        "falling": length(y)[1:] < length(y)[:-1],
    }
    undefined = {name: np.full((epochs - len(values), members), np.nan) for name, values in exact.items()}
    exact = {name: np.concatenate([undefined[name], values]).astype(float) for name, values in exact.items()}
    ends = points[-1]
    others = [np.delete(np.arange(members), member) for member in range(members)]
    exact["end_spread"] = np.array([length(ends[m] - ends[others[m]]).mean() for m in range(members)], float)
    return exact


@pytest.mark.parametrize("seed", range(3))
def test_every_statistic_equals_that_of_the_explicit_vectors(seed):
    points, minimum = random_trajectories(seed)
    exact = exact_geometry(points, minimum)
    geometry = geometry_of(points, minimum)._asdict()
    assert geometry.keys() == exact.keys()
    for name, values in exact.items():
        assert geometry[name].dtype == np.float64
        np.testing.assert_allclose(geometry[name], values, rtol=1e-10, err_msg=name)


def test_the_summary_follows_from_the_statistics():
    points, minimum = random_trajectories(0)
    exact = exact_geometry(points, minimum)
    start, end = exact["distance"][[0, -1]]
    path = exact["movement"][1:].sum(axis=0)
    expected = {
        "return": 1 - end / start,
        "outward": exact["distance"].max(axis=0) / start - 1,
        "monotone": exact["falling"][1:].mean(axis=0),
        "petal": exact["petal"][-1],
        "lateral": exact["lateral"][1:].mean(axis=0),
        "path": path / start,
        "tortuosity": path / np.linalg.norm(points[-1] - points[0], axis=1),
        "travel": np.linalg.norm(points[-1] - points[0], axis=1) / start,
        "turning": exact["turning"][2:].mean(axis=0),
        "norm_change": exact["norm"][-1] / exact["norm"][0] - 1,
        "end_spread": exact["end_spread"] / start,
    }
    summary = geometry_of(points, minimum).summary()
    assert summary.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(summary[name], values, rtol=1e-10, err_msg=name)


def test_scale_and_rotation_do_not_matter_to_the_summary():
    points, minimum = random_trajectories(1)
    rotation, _ = np.linalg.qr(np.random.default_rng(2).standard_normal((9, 9)))
    summary = geometry_of(points, minimum).summary()
    moved = geometry_of(1e-3 * points @ rotation, 1e-3 * minimum @ rotation).summary()
    for name, values in summary.items():
        np.testing.assert_allclose(moved[name], values, rtol=1e-9, err_msg=name)


def test_rows_may_come_member_by_member():
    points, minimum = random_trajectories(0)
    rows = points.swapaxes(0, 1).reshape(-1, points.shape[-1])
    parents = np.where(np.arange(24) % 6 == 0, -1, np.arange(24) - 1)
    by_member = trajectory_geometry(gram(rows, reference=minimum, parents=parents))
    for one, other in zip(by_member, geometry_of(points, minimum), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_a_copy_that_walks_straight_home(share):
    generator = np.random.default_rng(0)
    minimum, jump = generator.standard_normal((2, 50))
    points = minimum + np.linspace(1, 1 - share, 5)[:, None, None] * jump
    summary = geometry_of(points, minimum).summary()
    expected = {"return": share, "outward": 0, "monotone": 1, "path": share, "tortuosity": 1}
    for name, value in expected.items():
        np.testing.assert_allclose(summary[name], value, atol=1e-12, err_msg=name)
    # An angle of almost 0, or almost pi, is known to the root of the rounding only.
    np.testing.assert_allclose(summary["lateral"], 0, atol=1e-7)
    np.testing.assert_allclose(summary["turning"], 0, atol=1e-7)
    # At the minimum itself there is no direction left.
    np.testing.assert_allclose(summary["petal"], np.nan if share == 1 else 1, atol=1e-12)


def test_a_copy_that_walks_straight_outward():
    points = np.array([1, 1.5, 2, 3])[:, None, None] * np.array([3.0, 4.0])
    geometry = geometry_of(points)
    summary = geometry.summary()
    expected = {
        "return": -2,
        "outward": 2,
        "monotone": 0,
        "petal": 1,
        "path": 2,
        "tortuosity": 1,
        "norm_change": 2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(summary[name], value, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(geometry.distance[:, 0], [5, 7.5, 10, 15])
    np.testing.assert_allclose(summary["lateral"], 0, atol=1e-7)


def test_a_circle_around_the_minimum_is_all_sideways_and_returns_nothing():
    angle = np.linspace(0, np.pi / 2, 91)[:, None]
    geometry = geometry_of(np.stack([np.cos(angle), np.sin(angle)], axis=-1))
    step = np.pi / 180
    summary = geometry.summary()
    np.testing.assert_allclose(summary["return"], 0, atol=1e-12)
    np.testing.assert_allclose(summary["outward"], 0, atol=1e-12)
    np.testing.assert_allclose(summary["petal"], 0, atol=1e-12)
    # Along the chord of an arc: at half the arc's angle from the tangent, and of length 2 sin(half).
    np.testing.assert_allclose(summary["lateral"], np.cos(step / 2), rtol=1e-9)
    np.testing.assert_allclose(summary["turning"], step, rtol=1e-9)
    np.testing.assert_allclose(summary["tortuosity"], 90 * 2 * np.sin(step / 2) / np.sqrt(2), rtol=1e-9)


def test_turns_are_measured_in_radians():
    points = np.array([[1.0, 0], [2, 0], [2, 1], [2, 0]])[:, None]
    np.testing.assert_allclose(geometry_of(points).turning[:, 0], [np.nan, np.nan, np.pi / 2, np.pi], atol=1e-7)


@pytest.mark.parametrize("size", [3, 300, 30_000])
def test_a_copy_that_does_not_move_has_nan_for_undefined_statistics(size):
    generator = np.random.default_rng(0)
    minimum, start = generator.standard_normal((2, size)).astype(np.float32)
    summary = geometry_of(np.tile(start, (5, 1, 1)), minimum).summary()
    defined = {"return": 0, "outward": 0, "monotone": 0, "petal": 1, "path": 0, "travel": 0, "norm_change": 0}
    for name in summary:
        np.testing.assert_allclose(summary[name], defined.get(name, np.nan), atol=1e-15, err_msg=name)


def test_means_of_a_copy_that_pauses_are_over_the_epochs_in_which_it_moves():
    points = np.array([[2.0, 0], [2, 0], [2, 1], [2, 1], [2, 2]])[:, None]
    geometry = geometry_of(points)
    np.testing.assert_array_equal(np.isnan(geometry.lateral[:, 0]), [True, True, False, True, False])
    np.testing.assert_allclose(geometry.summary()["lateral"], (1 + 2 / np.sqrt(5)) / 2)


@pytest.mark.parametrize("size", [10, 1000, 30_000])
def test_a_copy_that_reaches_the_minimum_exactly_has_distance_zero_and_no_direction(size):
    """Rounding leaves 1e-8 of the jump there, whose direction would be noise."""
    generator = np.random.default_rng(0)
    minimum, start, halfway = (generator.standard_normal(size).astype(np.float32) for _ in range(3))
    geometry = geometry_of(np.stack([start, halfway, minimum, halfway])[:, None], minimum)
    assert geometry.distance[2] == 0
    assert geometry_of(np.stack([start, halfway, minimum])[:, None], minimum).summary()["return"] == 1
    np.testing.assert_array_equal(np.isnan(geometry.petal[:, 0]), [False, False, True, False])
    np.testing.assert_array_equal(np.isnan(geometry.lateral[:, 0]), [True, False, False, True])
    np.testing.assert_allclose(geometry.chord[2], geometry.distance[0], rtol=1e-12)


def test_a_jump_of_zero_has_no_return():
    summary = geometry_of(np.arange(6.0).reshape(3, 1, 2), np.array([0.0, 1.0])).summary()
    for name in ("return", "outward", "petal", "path", "end_spread"):
        assert not np.isfinite(summary[name]), name


@pytest.mark.parametrize("seed", range(4))
def test_parameters_that_are_all_zero_have_norm_zero(seed):
    """Rounding may leave a squared norm a little below zero."""
    generator = np.random.default_rng(seed)
    start, halfway = generator.standard_normal((2, 1000)).astype(np.float32)
    geometry = geometry_of(np.stack([start, halfway, 0 * start])[:, None], 2 * start)
    np.testing.assert_allclose(geometry.norm[2], 0, atol=1e-5)


def test_trajectories_without_a_movement_have_shapes_and_no_warning():
    points, minimum = random_trajectories(0, epochs=1)
    geometry = geometry_of(points, minimum)
    assert {values.shape for values in geometry[:-1]} == {(1, 4)}
    assert np.isnan(geometry.summary()["monotone"]).all()
    np.testing.assert_array_equal(geometry.summary()["return"], 0)


def test_one_copy_has_no_spread_of_ends():
    points, minimum = random_trajectories(0, members=1)
    assert np.isnan(geometry_of(points, minimum).end_spread).all()


def jumped_copies(movement, *, epochs=5, members=4, size=20_000):
    """float32 copies displaced by the norm of their minimum, which then move by `movement` of it, half of it inward."""
    generator = np.random.default_rng(0)
    minimum = generator.standard_normal(size).astype(np.float32)
    jump = generator.standard_normal((members, size))
    moves = movement * (generator.standard_normal((epochs, members, size)) - np.linspace(0, 1, members)[:, None] * jump)
    moves[0] = 0
    return (minimum + jump + np.cumsum(moves, axis=0)).astype(np.float32), minimum


@pytest.mark.parametrize("movement", [1e-2, 1e-4])
def test_small_float32_movements_keep_their_digits(movement):
    points, minimum = jumped_copies(movement)
    exact = exact_geometry(points, minimum)
    geometry = geometry_of(points, minimum)._asdict()
    np.testing.assert_array_equal(geometry["falling"], exact["falling"])
    for name in ("lateral", "petal", "movement", "chord", "turning", "distance"):
        np.testing.assert_allclose(geometry[name], exact[name], rtol=1e-10, err_msg=name)


def test_end_points_that_meet_keep_the_digits_of_their_spread():
    generator = np.random.default_rng(1)
    minimum = generator.standard_normal(100_000)
    ends = minimum + 1e-5 * generator.standard_normal((3, 100_000))
    points = np.stack([minimum + generator.standard_normal((3, 100_000)), ends]).astype(np.float32)
    exact = exact_geometry(points, minimum.astype(np.float32))["end_spread"]
    np.testing.assert_allclose(geometry_of(points, minimum.astype(np.float32)).end_spread, exact, rtol=1e-5)


def test_without_a_minimum_everything_is_seen_from_the_origin():
    points, _ = random_trajectories(5)
    exact = exact_geometry(points, np.zeros(points.shape[-1]))
    found = trajectory_geometry(gram_of(points, None))._asdict()
    for name, values in exact.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)


def test_trajectories_that_branch_are_refused_with_the_row_as_the_caller_counts():
    with pytest.raises(ValueError, match="must not branch, but row 1 has several successors"):
        trajectory_geometry(gram(np.eye(4), reference=np.zeros(4), parents=[-1, -1, 1, 1]))


def unequal_gram(lengths=(5, 1, 9, 2, 6), *, size=30, reference=True, by_epoch=True):
    """Trajectories of other lengths, row by row as a store of them would be, or one after the other."""
    points, minimum = random_trajectories(3, epochs=max(lengths), members=len(lengths), size=size)
    members = range(len(lengths))
    if by_epoch:
        rows = [(epoch, member) for epoch in range(max(lengths)) for member in members if epoch < lengths[member]]
    else:
        rows = [(epoch, member) for member in members for epoch in range(lengths[member])]
    place = {row: number for number, row in enumerate(rows)}
    parents = [place.get((epoch - 1, member), -1) for epoch, member in rows]
    matrix = np.stack([points[row] for row in rows])
    of_member = [[place[epoch, member] for epoch in range(lengths[member])] for member in members]
    return gram(matrix, reference=minimum if reference else None, parents=parents), of_member, matrix


@pytest.mark.parametrize("by_epoch", [True, False])
@pytest.mark.parametrize("reference", [True, False])
def test_a_trajectory_among_longer_ones_has_the_numbers_that_it_has_alone(reference, by_epoch):
    found, of_member, matrix = unequal_gram(reference=reference, by_epoch=by_epoch)
    geometry = trajectory_geometry(found)
    summary = geometry.summary()
    ends = np.stack([matrix[rows[-1]] for rows in of_member])
    for member, rows in enumerate(of_member):
        alone = trajectory_geometry(take_points(found, rows))
        for name in geometry._fields[:-1]:
            values = getattr(geometry, name)
            assert values.dtype == np.float64
            assert values.shape == (9, 5)
            np.testing.assert_array_equal(values[: len(rows), member], getattr(alone, name)[:, 0], err_msg=name)
            assert np.isnan(values[len(rows) :, member]).all(), name
        spread = np.linalg.norm(np.delete(ends, member, 0) - ends[member], axis=1).mean()
        np.testing.assert_allclose(geometry.end_spread[member], spread, rtol=1e-12)
        expected = {**alone.summary(), "end_spread": spread / alone.distance[0]}
        for name, values in summary.items():
            np.testing.assert_allclose(values[member], expected[name][0], rtol=1e-13, err_msg=name)


def test_a_trajectory_may_end_at_the_minimum_before_others_do():
    minimum, *points = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    start, other, later, last = points
    found = gram(np.stack([start, other, minimum, later, last]), reference=minimum, parents=[-1, -1, 0, 1, 3])
    summary = trajectory_geometry(found).summary()
    assert summary["return"][0] == 1
    assert summary["monotone"][0] == 1
    assert np.isnan(summary["petal"][0])
    np.testing.assert_array_equal(
        np.isnan(trajectory_geometry(found).distance), [[False] * 2, [False] * 2, [True, False]]
    )


def test_a_shorter_trajectory_that_branches_is_refused():
    with pytest.raises(ValueError, match="must not branch, but row 1 has several successors"):
        trajectory_geometry(gram(np.eye(5), parents=[-1, -1, 1, 1, 2]))


def test_rows_after_the_end_of_a_trajectory_are_minus_one():
    rows = trajectory_rows(gram(np.eye(4), reference=np.zeros(4), parents=[-1, -1, 1, 2]))
    np.testing.assert_array_equal(rows, [[1, 2], [-1, 3], [-1, 4]])


def test_rows_of_a_trajectory_are_found_with_and_without_a_reference():
    parents = [-1, -1, 1, 0]
    np.testing.assert_array_equal(trajectory_rows(gram(np.eye(4), parents=parents)), [[0, 1], [3, 2]])
    with_reference = gram(np.eye(4), reference=np.zeros(4), parents=parents)
    np.testing.assert_array_equal(trajectory_rows(with_reference), [[1, 2], [4, 3]])


def exact_departure(points):
    """Distances from the first point and angles with the displacement in the end, in extended precision."""
    z = np.asarray(points, np.longdouble) - points[0]
    length = np.sqrt((z * z).sum(axis=-1))
    cosine = (z[1:] * z[-1]).sum(axis=-1) / (length[1:] * length[-1])
    angle = np.concatenate([np.full((1, points.shape[1]), np.nan), np.arccos(np.clip(cosine, -1, 1))])
    return length.astype(float), angle.astype(float)


@pytest.mark.parametrize("has_reference", [False, True])
def test_departures_equal_those_of_the_explicit_vectors(has_reference):
    points, minimum = random_trajectories(0, epochs=9, members=3, size=20)
    distance, angle = exact_departure(points)
    found = trajectory_departure(gram_of(points, minimum if has_reference else None))
    np.testing.assert_allclose(found.distance, distance, rtol=1e-12)
    np.testing.assert_allclose(found.angle[:-1], angle[:-1], rtol=1e-10)
    np.testing.assert_allclose(found.angle[-1], 0, atol=1e-7)


def test_small_departures_from_a_large_start_keep_their_digits():
    points, _ = random_trajectories(1, epochs=7, members=2, size=30)
    moves = 2.0**-24 * np.round(points * 2**10)  # exact sums with a start of whole numbers
    start = 1e6 * np.arange(1.0, 31)
    distance, angle = exact_departure(moves)
    found = trajectory_departure(gram_of(start + moves - moves[0], None))
    np.testing.assert_allclose(found.distance, distance, rtol=1e-12)
    np.testing.assert_allclose(found.angle[:-1], angle[:-1], rtol=1e-9)


def test_departures_of_trajectories_of_other_lengths_end_where_they_end():
    points, _ = random_trajectories(2, epochs=6, members=2, size=8)
    long, short = points[:, 0], points[:4, 1]
    both = trajectory_departure(gram([*long, *short], parents=[-1, 0, 1, 2, 3, 4, -1, 6, 7, 8]))
    distance, angle = exact_departure(short[:, None])
    np.testing.assert_allclose(both.distance[:4, 1], distance[:, 0], rtol=1e-12)
    np.testing.assert_allclose(both.angle[:3, 1], angle[:3, 0], rtol=1e-10)
    assert np.isnan(both.distance[4:, 1]).all()
    assert np.isnan(both.angle[4:, 1]).all()


def test_a_copy_that_does_not_move_or_that_returns_has_no_direction():
    away = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    points = np.stack([away, np.zeros_like(away)], axis=1) + 7
    found = trajectory_departure(gram_of(points, None))
    np.testing.assert_array_equal(found.distance, [[0, 0], [5, 0], [0, 0]])
    assert np.isnan(found.angle).all()


def test_rotated_trajectories_depart_as_the_real_ones_and_random_ones_on_a_circle():
    """Why the random null is the one to hold departures against: by Thales its steps lie on half a circle."""
    points, _ = random_trajectories(3, epochs=30, members=3, size=200_000)
    real = gram_of(points, None)
    departure = trajectory_departure(real)
    rotated = trajectory_departure(null_trajectories(real, kind="rotated", key=jax.random.key(0)))
    np.testing.assert_allclose(rotated.distance, departure.distance, rtol=1e-9)
    np.testing.assert_allclose(rotated.angle[1:-1], departure.angle[1:-1], rtol=1e-7)
    random = trajectory_departure(null_trajectories(real, kind="random", key=jax.random.key(0)))
    np.testing.assert_allclose(np.cos(random.angle[1:]), random.distance[1:] / random.distance[-1], atol=0.02)
