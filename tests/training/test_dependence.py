"""Whether a result depends on its first argument: only through what the result is computed from."""

import jax
import jax.numpy as jnp
import pytest

from jaxscape.training.dependence import depends_on_first

KEY = jax.random.key(0)


@jax.jit
def unused(key, x):
    return x * 2


@jax.jit
def used(key, x):
    return x + jax.random.normal(key)


def drawn_and_dropped(key, x):
    jax.random.bernoulli(key, 0.5)
    return x


def in_a_loop(key, x):
    return jax.lax.fori_loop(0, 3, lambda i, y: y + jax.random.normal(jax.random.fold_in(key, i)), x)


@pytest.mark.parametrize("function", [lambda key, x: x, unused, drawn_and_dropped, jax.checkpoint(unused)])
def test_a_key_that_is_passed_on_but_unused_has_no_influence(function):
    assert not depends_on_first(function, KEY, jnp.ones(()))


@pytest.mark.parametrize("function", [used, in_a_loop, jax.checkpoint(used)])
def test_a_key_that_is_used_has_influence(function):
    assert depends_on_first(function, KEY, jnp.ones(()))


def test_only_shapes_are_needed():
    shapes = jax.eval_shape(lambda: (KEY, jnp.ones(3)))
    assert depends_on_first(used, *shapes)
