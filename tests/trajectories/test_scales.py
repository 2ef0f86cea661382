"""Points of every size that float64 holds, and of very different sizes: right, or refused with the reason."""

from decimal import Decimal, localcontext

import jax
import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.geometry import trajectory_geometry
from jaxscape.trajectories.gram import gram, inner_products, take_points
from jaxscape.trajectories.null import KINDS, NEED_FACTORS, null_trajectories


def exact_distances(points, metric, center=None, reference=None):
    """The textbook formulas in 120 digits; None where a cosine does not exist."""
    with localcontext() as context:
        context.prec = 120
        rows = [[Decimal(float(value)) for value in row] for row in points]
        middle = [Decimal(0)] * len(rows[0])
        if center == "mean":
            middle = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
        if center == "reference":
            middle = [Decimal(float(value)) for value in reference]
        rows = [[a - b for a, b in zip(row, middle, strict=True)] for row in rows]
        if metric == "euclidean":
            return [[float(length([a - b for a, b in zip(x, y, strict=True)])) for y in rows] for x in rows]
        if not all(length(row) for row in rows):
            return None
        return [[0.0 if x is y else float(1 - dot(x, y) / length(x) / length(y)) for y in rows] for x in rows]


def dot(x, y):
    return sum((a * b for a, b in zip(x, y, strict=True)), Decimal(0))


def length(x):
    return dot(x, x).sqrt()


@st.composite
def points_of_many_sizes(draw):
    """Rows at 1e-300 to 1e300 with ratios up to 1e30: random, nearly parallel, or parallel and opposite."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, size = draw(st.integers(2, 5)), draw(st.integers(1, 8))
    rows = generator.standard_normal((n, size))
    kind = draw(st.sampled_from(["random", "near", "parallel"]))
    if kind == "near":
        rows = rows[:1] + 10.0 ** -draw(st.integers(0, 12)) * rows
    if kind == "parallel":
        rows = np.sign(rows[:, :1]) * rows[:1]
    powers = np.array(draw(st.lists(st.integers(-15, 15), min_size=n, max_size=n)))
    scale = 10.0 ** draw(st.integers(-285, 285))
    reference = generator.standard_normal(size) * 10.0 ** draw(st.integers(-5, 5)) * scale
    return rows * 10.0 ** powers[:, None] * scale, reference


@pytest.mark.slow
@given(points_of_many_sizes(), st.sampled_from([None, "mean", "reference"]), st.booleans(), st.data())
@settings(max_examples=50, deadline=None)
def test_cosines_are_accurate_to_1e_6_or_refused(case, center, with_reference, data):
    rows, reference = case
    reference = reference if with_reference or center == "reference" else None
    choices = [st.integers(-1, row - 1) for row in range(len(rows))]
    parents = data.draw(st.none() | st.tuples(*choices))
    try:
        found = pairwise_distances(gram(rows, reference=reference, parents=parents, devices=[]), center=center)
    except ValueError as error:
        if "direction" not in str(error) and "differ too much in size" not in str(error):
            raise
        reject()
    np.testing.assert_allclose(found, exact_distances(rows, "cosine", center, reference), rtol=0, atol=1e-6)


@pytest.mark.slow
@given(points_of_many_sizes())
@settings(max_examples=30, deadline=None)
def test_euclidean_distances_are_accurate_to_1e_6(case):
    rows, _ = case
    np.testing.assert_allclose(pairwise_distances(rows, metric="euclidean"), exact_distances(rows, "euclidean"), 1e-6)


@pytest.mark.parametrize("ratio", [1e5, 1e10, 1e15, 1e18, 1e30, 1e100])
@pytest.mark.parametrize("large_first", [True, False])
def test_vectors_of_very_different_norm_have_their_cosine(ratio, large_first):
    x, y = np.random.default_rng(0).standard_normal((2, 40))
    rows = np.stack([ratio * x, x, y])
    rows = rows if large_first else rows[::-1]
    exact = np.array(exact_distances(rows, "cosine"))
    np.testing.assert_allclose(pairwise_distances(rows), exact, atol=1e-14)


def test_a_small_child_of_a_large_parent_is_refused_where_its_digits_are_lost():
    x, y = np.random.default_rng(0).standard_normal((2, 40))
    near = gram(np.stack([1e3 * x, y]), parents=[-1, 0])
    np.testing.assert_allclose(pairwise_distances(near), exact_distances([1e3 * x, y], "cosine"), atol=1e-9)
    far = gram(np.stack([1e6 * x, y]), parents=[-1, 0])
    with pytest.raises(ValueError, match=r"rows 1 are the centre itself, or within 2e-05 of their path length"):
        pairwise_distances(far)


def test_rows_that_shrink_step_by_step_do_not_lead_through_one_another():
    """Each step is shorter than the row, but the way to the last one is 1e9 times its length."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal(30)
    rows = [0.6**power * (x + 0.1 * generator.standard_normal(30)) for power in range(40)]
    np.testing.assert_allclose(pairwise_distances(np.stack(rows)), exact_distances(rows, "cosine"), atol=1e-9)


SCALES = [1e-300, 1e-170, 1e-160, 1e160, 1e200, 1e300]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("center", [None, "mean", "reference"])
def test_cosines_do_not_depend_on_the_scale_of_all(scale, center):
    rows, reference = np.random.default_rng(0).standard_normal((6, 40)), np.ones(40)
    expected = pairwise_distances(gram(rows, reference=reference), center=center)
    found = pairwise_distances(gram(scale * rows, reference=scale * reference), center=center)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("devices", [[], None])
def test_lengths_carry_the_scale_of_all(scale, devices):
    devices = jax.devices() if devices is None else devices
    rows = np.random.default_rng(0).standard_normal((8, 40))
    parents = [-1, -1, 0, 1, 2, 3, 4, 5]
    whole, scaled = (gram(points, parents=parents, devices=devices) for points in (rows, scale * rows))
    expected = pairwise_distances(whole, metric="euclidean")
    np.testing.assert_allclose(pairwise_distances(scaled, metric="euclidean"), scale * expected, rtol=1e-12)
    geometry, of_scaled = trajectory_geometry(whole), trajectory_geometry(scaled)
    lengths = {"norm", "distance", "chord", "movement", "end_spread"}
    for name, values in geometry._asdict().items():
        factor = scale if name in lengths else 1
        np.testing.assert_allclose(getattr(of_scaled, name), factor * values, rtol=1e-9, err_msg=name)


def test_a_gram_of_scaled_points_keeps_its_exponent():
    rows = 1e200 * np.random.default_rng(0).standard_normal((8, 40))
    found = gram(rows, parents=[-1, -1, 0, 1, 2, 3, 4, 5])
    assert found.exponent == int(np.frexp(np.abs(rows).max())[1])
    divided = np.ldexp(rows, -found.exponent)
    np.testing.assert_allclose(inner_products(found)[0], divided @ divided.T, rtol=1e-9, atol=1e-9)
    assert take_points(found, [0, 2]).exponent == found.exponent
    for kind in set(KINDS) - set(NEED_FACTORS):
        null = null_trajectories(found, kind=kind, key=jax.random.key(0))
        moved, expected = (np.sort(trajectory_geometry(each).movement[1:].ravel()) for each in (null, found))
        np.testing.assert_allclose(moved, expected, rtol=1e-9, err_msg=kind)
        assert null.exponent == found.exponent


def test_ordinary_points_are_not_scaled():
    rows = np.random.default_rng(0).standard_normal((4, 40))
    for points in (rows, rows.astype(np.float32) * np.float32(1e-38), 1e140 * rows, np.ones((2, 3))):
        assert gram(points).exponent == 0


def test_a_power_of_two_changes_no_bit():
    rows, parents = np.random.default_rng(0).standard_normal((6, 500)), [-1, -1, 0, 1, 2, 3]
    whole, large = gram(rows, parents=parents, devices=[]), gram(2.0**700 * rows, parents=parents, devices=[])
    for one, other in ((whole.products, large.products), (whole.remainders, large.remainders)):
        np.testing.assert_array_equal(np.ldexp(other, 2 * (large.exponent - 700)), one)


@pytest.mark.parametrize(("old", "new"), [(1.0, 1e160), (1e160, 1.0), (1e-170, 1.0), (1e-170, 1e-170), (1e200, 1e300)])
def test_new_rows_of_another_scale_extend_a_previous_result(old, new):
    rows = np.random.default_rng(0).standard_normal((6, 40))
    rows[:3] *= old
    rows[3:] *= new
    parents = [-1] * 6
    previous = gram(rows[:3], parents=parents[:3])
    if max(old, new) / min(old, new) > 1e144:
        with pytest.raises(ValueError, match="points differ too much in size"):
            gram(rows, parents=parents, previous=previous)
    else:
        found = gram(rows, parents=parents, previous=previous)
        np.testing.assert_allclose(pairwise_distances(found), exact_distances(rows, "cosine"), atol=1e-12)


def test_a_previous_of_far_larger_points_is_refused():
    previous = gram(np.full((2, 3), 1e300), parents=[-1, -1])
    with pytest.raises(ValueError, match="previous is of other points"):
        gram(np.full((3, 3), 1e-300), parents=[-1] * 3, previous=previous)


def test_sizes_whose_squares_no_float64_holds_together_are_refused():
    message = "differ too much in size: the step to rows {} "
    with pytest.raises(ValueError, match=message.format(1)):
        gram(np.array([[1.0, 2.0], [1e-170, 0]]), parents=[-1, -1])
    with pytest.raises(ValueError, match=message.format(1)):  # a step, and not a row, that is too small
        gram(np.array([[1.0, 0], [1.0, 1e-170]]), parents=[-1, 0])
    with pytest.raises(ValueError, match=message.format(-1)):
        gram(np.ones((2, 2)), reference=np.array([1e-170, 0]), parents=[-1, -1])


def test_copies_that_do_not_move_are_not_taken_for_lost_digits():
    rows = np.tile(np.random.default_rng(0).standard_normal((2, 40)), (3, 1))
    found = gram(rows, parents=[-1, -1, 0, 1, 2, 3])
    assert found.exponent == 0
    assert (trajectory_geometry(found).movement[1:] == 0).all()
    large = gram(1e200 * rows, parents=[-1, -1, 0, 1, 2, 3])
    assert (trajectory_geometry(large).movement[1:] == 0).all()


def test_distances_beyond_float64_are_refused():
    rows = 1.5e308 * np.array([[1.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(pairwise_distances(rows), [[0, 2], [2, 0]])
    with pytest.raises(ValueError, match="lengths between them are beyond float64"):
        pairwise_distances(rows, metric="euclidean")
    with pytest.raises(ValueError, match="lengths between them are beyond float64"):
        trajectory_geometry(gram(rows, parents=[-1, 0]))


@pytest.mark.parametrize("scale", [1.0, 1e200])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_only_the_rows_with_nan_or_infinity_are_named(scale, value):
    rows = scale * np.random.default_rng(0).standard_normal((4, 40))
    rows[1, 7] = value
    with pytest.raises(ValueError, match=r"points have NaN or infinity in rows 1$"):
        gram(rows, parents=[-1, 0, 1, 2])
