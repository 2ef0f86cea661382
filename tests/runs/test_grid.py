"""What a run folder's copies are perturbed by: the settings, and what the problem says of its parameters."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.jumps.directions import jump_grid
from jaxscape.problem import Problem
from jaxscape.runs.retrain import _grid


def test_the_copies_of_a_run_are_thrown_where_and_along_the_axes_that_the_problem_says():
    params = {name: jax.random.normal(jax.random.key(seed), (4, 3)) for seed, name in enumerate(["base", "adapter"])}
    settings = {"filter_axis": 0, "where": {"base": False, "adapter": True}}
    problem = Problem(lambda params, state, batch, key: None, jnp.ones(3), **settings)
    found = _grid(SimpleNamespace(params=params), SimpleNamespace(seeds=(0, 2), step_sizes=(0.5, 1.0)), problem)
    expected = jump_grid(params, seeds=[0, 2], step_sizes=[0.5, 1.0], **settings)
    for name in params:
        np.testing.assert_array_equal(found.params[name], expected.params[name])
    np.testing.assert_array_equal(found.params["base"], np.stack([params["base"]] * 4))
