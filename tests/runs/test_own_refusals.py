"""Invalid problems of the user's own and invalid arguments of `Run`: one line that says what is allowed."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape.problem import Problem
from jaxscape.runs.run import Run
from jaxscape.tasks.flax import flax_problem
from jaxscape.training.train import init_states, train

PARAMS = {"w": np.ones((4, 3), np.float32)}


def loss_fn(params, model_state, batch, key):
    return jnp.mean((batch @ params["w"]) ** 2), (model_state, {})


def problem(**settings):
    return Problem(loss_fn, jnp.eye(4), init=lambda key: (PARAMS, {}), optimizer=optax.sgd(0.1), **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"seeds": [0.7]}, "seeds must be a whole number, got 0.7"),
        ({"seeds": "12"}, "seeds must be a sequence of numbers, got '12'"),
        ({"seeds": True}, "seeds must be a sequence of numbers, got True"),
        ({"step_sizes": 0.5}, "step_sizes must be a sequence of numbers, got 0.5"),
        ({"step_sizes": ["a"]}, "step_sizes must be a number, got 'a'"),
        ({"epochs": "3"}, "epochs must be a whole number, got '3'"),
        ({"batch_size": 2.0}, "batch_size must be a whole number, got 2.0"),
        ({"order_seed": None}, "order_seed must be a whole number, got None"),
    ],
)
def test_numbers_are_not_rounded_and_strings_are_not_sequences(tmp_path, settings, words):
    with pytest.raises(TypeError, match=words):
        Run(tmp_path / "run", problem(), quiet=True).retrain(**{"epochs": 1} | settings)


@pytest.mark.parametrize(
    ("params", "settings", "error", "words"),
    [
        ({}, {}, ValueError, "params must hold one array or more"),
        (
            {"w": np.ones((3, 4))},
            {},
            ValueError,
            r"arrays that init makes: w is of shape \(3, 4\), not of shape \(4, 3\)",
        ),
        ({"v": np.ones(3)}, {}, ValueError, r"arrays that init makes: w is absent, not of shape \(4, 3\)"),
        (PARAMS, {"metrics": [1]}, TypeError, "metrics must be a dict of numbers"),
        (PARAMS, {"metrics": {"a": "x"}}, TypeError, "metrics: a must be a number, got 'x'"),
    ],
)
def test_an_invalid_minimum_is_refused(tmp_path, params, settings, error, words):
    with pytest.raises(error, match=words):
        Run(tmp_path / "run", problem(), quiet=True).set_minimum(params, **settings)


def test_the_result_of_evaluate_for_a_minimum_is_checked(tmp_path):
    with pytest.raises(TypeError, match=r"evaluate must be .* where metrics is a dict; got 3\.0"):
        Run(tmp_path / "run", problem(evaluate=lambda params, state: 3.0), quiet=True).set_minimum(PARAMS)


def test_an_iterator_cannot_be_resumed_in_a_run_folder(tmp_path):
    own = Problem(loss_fn, iter([np.eye(4)]), init=lambda key: (PARAMS, {}), optimizer=optax.sgd(0.1))
    with pytest.raises(ValueError, match="data must not be an iterator, which a run folder cannot resume"):
        Run(tmp_path / "run", own, quiet=True).train(epochs=1)


def test_a_class_is_not_a_module():
    with pytest.raises(TypeError, match=r"module must be a module of flax\.linen"):
        flax_problem(dict, jnp.eye(4))


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (lambda grads, state, params=None: ({"w": grads["w"].sum()}, state), r"float32\[4, 3\] at \['w'\] became"),
        (lambda grads, state, params=None: ({}, state), "updates with the structure of params"),
        (lambda grads, state, params=None: (grads, (1.0,)), "opt_state with the structure of the last one"),
        (lambda grads, state, params=None: grads, "got a result of a dict of 'w'"),
    ],
)
def test_updates_that_would_be_broadcast_are_refused(update, words):
    import jax

    optimizer = optax.GradientTransformation(lambda params: (), update)
    states = init_states({"w": jnp.ones((2, 4, 3))}, optimizer, keys=jax.random.split(jax.random.key(0), 2))
    with pytest.raises((TypeError, ValueError), match=words):
        train(loss_fn, optimizer, states, jnp.eye(4), epochs=1, batch_size=2)


def test_numpy_integers_are_accepted_as_integers(tmp_path):
    run = Run(tmp_path / "run", problem(), quiet=True)
    run.set_minimum(PARAMS)
    run.retrain(seeds=np.int64(2), step_sizes=(0.5,), epochs=np.int64(2), batch_size=np.int32(2), strategy="loop")
    assert run.folder.read_config()["retrain"]["epochs"] == 2
    assert run.store().num_epochs == 3


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"knn": "many"}, ValueError, "knn must be a whole number, connect or auto, got 'many'"),
        ({"knn": 2.5}, TypeError, "knn must be a whole number, got 2.5"),
        ({"t": "long"}, TypeError, "t must be a whole number, got 'long'"),
    ],
)
def test_embedding_settings_that_are_not_numbers_are_refused(tmp_path, settings, error, words):
    with pytest.raises(error, match=words):
        Run(tmp_path / "run", quiet=True).embed(**settings)


def test_a_single_path_is_not_a_sequence_of_runs_and_a_missing_run_is_reported(tmp_path):
    with pytest.raises(TypeError, match="runs must be a sequence of run folders, got 'folder'"):
        Run.join(tmp_path / "joint", "folder", quiet=True)
    with pytest.raises(FileNotFoundError, match=r"nowhere, .*else does not exist"):
        Run.join(tmp_path / "joint", [tmp_path / "nowhere", tmp_path / "else"], quiet=True)
    assert not (tmp_path / "joint").exists()
