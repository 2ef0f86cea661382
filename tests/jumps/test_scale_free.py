"""Scale-free positions against explicit vectors in extended precision, and their invariances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape import filter_normalized_distance, jump_grid, scale_free


def network(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "conv": {"kernel": jax.random.normal(keys[0], (3, 3, 2, 4)), "bias": jax.random.normal(keys[1], (4,))},
        "head": {"kernel": jax.random.normal(keys[2], (6, 5))},
        "norm": {"scale": 1 + jax.random.normal(keys[3], (5,))},
    }


def copies():
    """A minimum, perturbed copies of it, and the same copies after some training."""
    minimum = network(0)
    starts = jump_grid(minimum, seeds=[0, 1], step_sizes=[0.5, 1.0]).params
    moved = jax.tree.map(lambda leaf, noise: leaf + 0.3 * noise[None], starts, network(7))
    return minimum, starts, moved


def exact(minimum, starts, params):
    """Displacements [member, P] of the kernels, filter by filter in extended precision."""

    def displacements(stack):
        found = []
        for *path, axes in (("conv", "kernel", (0, 1, 2)), ("head", "kernel", (0,))):
            w = np.asarray(minimum[path[0]][path[1]], np.longdouble)
            for_members = []
            for member in np.asarray(stack[path[0]][path[1]], np.longdouble):
                norms = [np.sqrt((each**2).sum(axis=axes, keepdims=True)) for each in (w, member)]
                for_members.append((member * norms[0] / norms[1] - w).ravel())
            found.append(for_members)
        return np.concatenate(found, axis=1)

    y, y0 = displacements(params), displacements(starts)
    length, first = (np.sqrt((each**2).sum(axis=1)) for each in (y, y0))
    return length, np.arccos((y * y0).sum(axis=1) / (length * first))


def test_distances_and_angles_equal_those_of_the_explicit_vectors():
    minimum, starts, moved = copies()
    found = scale_free(moved, minimum, starts)
    distance, angle = exact(minimum, starts, moved)
    assert (found.distance.dtype, found.angle.dtype) == (np.float64, np.float64)
    np.testing.assert_allclose(found.distance, distance.astype(float), rtol=1e-12)
    np.testing.assert_allclose(found.angle, angle.astype(float), rtol=1e-12)
    norm = np.sqrt(sum(np.square(np.asarray(minimum[name]["kernel"], float)).sum() for name in ("conv", "head")))
    assert found.norm == pytest.approx(norm, rel=1e-12)


def test_the_distance_is_the_filter_normalized_one():
    minimum, starts, moved = copies()
    expected = jax.vmap(filter_normalized_distance, (0, None))(moved, minimum)
    np.testing.assert_allclose(scale_free(moved, minimum, starts).distance, expected, rtol=1e-5)


def test_positions_do_not_depend_on_filter_norms_biases_or_scales():
    minimum, starts, moved = copies()
    decayed = jax.tree.map(lambda leaf: 0.5 * leaf, moved)  # a power of two: exactly the same directions
    found, same = scale_free(moved, minimum, starts), scale_free(decayed, minimum, starts)
    np.testing.assert_array_equal(found.distance, same.distance)
    np.testing.assert_array_equal(found.angle, same.angle)
    seen = scale_free(decayed, minimum, starts, ignore=False)
    assert np.all(seen.distance > same.distance)


def test_a_copy_at_its_start_has_no_angle_and_one_at_the_minimum_no_direction():
    minimum, starts, _ = copies()
    np.testing.assert_allclose(scale_free(starts, minimum, starts).angle, 0, atol=1e-7)
    at_minimum = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), minimum)
    found = scale_free(at_minimum, minimum, starts)
    np.testing.assert_array_equal(found.distance, 0)
    assert np.isnan(found.angle).all()


def test_filters_of_another_axis():
    minimum, starts, moved = ({"w": tree["head"]["kernel"]} for tree in copies())
    turned = [jax.tree.map(lambda leaf: jnp.swapaxes(leaf, -1, -2), tree) for tree in (moved, minimum, starts)]
    expected = scale_free(moved, minimum, starts)
    found = scale_free(*turned, filter_axis=0)
    np.testing.assert_allclose(found.distance, expected.distance, rtol=1e-12)
    np.testing.assert_allclose(found.angle, expected.angle, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda moved, minimum, starts: (moved["head"], minimum, starts), "params must have the structure of minimum"),
        (lambda moved, minimum, starts: (moved, minimum, minimum), "number of members"),
        (lambda moved, minimum, starts: (moved, starts, starts), "params must hold copies of minimum"),
        (lambda moved, minimum, starts: (jax.tree.map(lambda x: x * jnp.nan, moved), minimum, starts), "NaN"),
        (lambda moved, minimum, starts: (moved["norm"], minimum["norm"], starts["norm"]), "no leaf to measure"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, words):
    minimum, starts, moved = copies()
    with pytest.raises(ValueError, match=words):
        scale_free(*change(moved, minimum, starts))
