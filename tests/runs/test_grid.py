"""The perturbation of a run folder's copies: its settings, and what the problem says about its parameters."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.jumps.directions import jump_grid
from jaxscape.problem import Problem
from jaxscape.runs.config import RetrainSettings
from jaxscape.runs.retrain import _grid


def test_copies_are_perturbed_in_the_leaves_and_along_the_axes_that_the_problem_names():
    params = {name: jax.random.normal(jax.random.key(seed), (4, 3)) for seed, name in enumerate(["base", "adapter"])}
    settings = {"filter_axis": 0, "where": {"base": False, "adapter": True}}
    problem = Problem(lambda params, state, batch, key: None, jnp.ones(3), **settings)
    asked = RetrainSettings(seeds=(0, 2), step_sizes=(0.5, 1.0), controls=0)
    found = _grid(SimpleNamespace(params=params), asked, problem)
    expected = jump_grid(params, seeds=[0, 2], step_sizes=[0.5, 1.0], **settings)
    for name in params:
        np.testing.assert_array_equal(found.params[name], expected.params[name])
    np.testing.assert_array_equal(found.params["base"], np.stack([params["base"]] * 4))


def test_unperturbed_copies_come_last():
    params = {"w": jnp.ones((4, 3))}
    problem = Problem(lambda params, state, batch, key: None, jnp.ones(3))
    asked = RetrainSettings(seeds=(3,), step_sizes=(0.5, 1.0))
    found = _grid(SimpleNamespace(params=params), asked, problem)
    assert asked.num_copies == 4
    assert found.labels[2:] == [{"seed": 3, "step_size": 0.0}, {"seed": 0, "step_size": 0.0}]
    np.testing.assert_array_equal(found.params["w"][2:], np.ones((2, 4, 3)))


def test_with_a_step_size_of_0_no_copies_are_added():
    asked = RetrainSettings(seeds=(3, 1), step_sizes=(0, 1.0))
    assert (asked.num_controls, asked.num_copies) == (0, 4)
    problem = Problem(lambda params, state, batch, key: None, jnp.ones(3))
    assert len(_grid(SimpleNamespace(params={"w": jnp.ones((4, 3))}), asked, problem).labels) == 4
