"""Optimisers against numbers recorded from PyTorch (tests/oracles/record_pytorch.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape.training.optimizers import decay_factors, make_optimizer, named_decay_factors, step_decay

RECORDED = json.loads((Path(__file__).parents[1] / "oracles" / "pytorch.json").read_text())["optimizers"]


@pytest.mark.parametrize("record", RECORDED, ids=lambda record: f"{record['optimizer']}-{record['weight_decay']}")
def test_updates_are_those_of_pytorch(record):
    learning_rate = record["learning_rate"]
    if record["milestones"]:
        # Milestones count updates; here an epoch has two updates.
        epochs = [milestone // 2 for milestone in record["milestones"]]
        learning_rate = step_decay(learning_rate, epochs, steps_per_epoch=2)
    name = record["optimizer"].removesuffix("_multistep")
    optimizer = make_optimizer(name, learning_rate, weight_decay=record["weight_decay"])
    index = np.arange(16.0)
    indices = {"kernel": index[:12].reshape(3, 4), "bias": index[12:]}
    with jax.enable_x64(True):
        params = jax.tree.map(lambda i: jnp.cos(i), indices)
        state = optimizer.init(params)
        for update in range(20):
            gradient = jax.tree.map(lambda p, i, s=update: 0.5 * p + jnp.sin(s + i), params, indices)
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            if str(update + 1) in record["after"]:
                for leaf, values in record["after"][str(update + 1)].items():
                    np.testing.assert_allclose(params[leaf], values, rtol=0, atol=1e-12)


def test_step_decay_multiplies_at_the_first_update_of_each_epoch():
    schedule = step_decay(1.0, [1, 3], steps_per_epoch=10, factor=0.5)
    rates = [float(schedule(update)) for update in (0, 9, 10, 29, 30, 1000)]
    assert rates == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_step_decay_without_epochs_is_constant():
    assert float(step_decay(0.5, [], steps_per_epoch=10)(99)) == 0.5


@pytest.mark.parametrize("epochs", [[0], [-1, 2], [3, 2], [2, 2]])
def test_decay_epochs_that_do_not_increase_from_1_are_rejected(epochs):
    with pytest.raises(ValueError, match=r"decay_epochs must be increasing and at least 1, got \["):
        step_decay(0.1, epochs, steps_per_epoch=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay_epochs": [1.5]}, "decay_epochs must be a whole number, got 1.5"),
        ({"decay_epochs": ["1"]}, "decay_epochs must be a whole number, got '1'"),
        ({"steps_per_epoch": 2.0}, "steps_per_epoch must be a whole number, got 2.0"),
        ({"learning_rate": "0.1"}, "learning_rate must be a number, got '0.1'"),
        ({"factor": None}, "factor must be a number, got None"),
    ],
)
def test_schedules_with_numbers_of_the_wrong_type_are_rejected(arguments, message):
    with pytest.raises(TypeError, match=message):
        step_decay(**{"learning_rate": 0.1, "decay_epochs": [1], "steps_per_epoch": 2} | arguments)


@pytest.mark.parametrize("name", ["learning_rate", "factor"])
def test_schedules_that_are_not_finite_are_rejected(name):
    with pytest.raises(ValueError, match=f"{name} must be a finite number, got nan"):
        step_decay(**{"learning_rate": 0.1, "decay_epochs": [1], "steps_per_epoch": 2, name: float("nan")})


@pytest.mark.parametrize("value", ["0.1", None, True, [0.1]])
def test_rates_that_are_not_numbers_are_rejected(value):
    with pytest.raises(TypeError, match="learning_rate must be a number, got"):
        make_optimizer("sgd", value)
    with pytest.raises(TypeError, match="weight_decay must be a number, got"):
        make_optimizer("sgd", 0.1, weight_decay=value)


def test_an_epoch_without_steps_is_rejected():
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1, got 0"):
        step_decay(0.1, [1], steps_per_epoch=0)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="unknown optimizer 'adamw'; known: sgd, momentum, adam"):
        make_optimizer("adamw", 0.1)


@pytest.mark.parametrize("learning_rate", [0, -0.1, float("nan"), float("inf")])
def test_learning_rates_that_are_not_positive_numbers_are_rejected(learning_rate):
    with pytest.raises(ValueError, match=f"learning_rate must be a positive number, got {learning_rate}"):
        make_optimizer("sgd", learning_rate)


@pytest.mark.parametrize("weight_decay", [-1e-4, float("nan"), float("inf")])
def test_bad_weight_decays_are_rejected(weight_decay):
    with pytest.raises(ValueError, match=f"weight_decay must be at least 0, got {weight_decay}"):
        make_optimizer("sgd", 0.1, weight_decay=weight_decay)


# Only weight decay


def test_decay_factors_follow_the_recursion_of_momentum():
    actual = decay_factors(make_optimizer("momentum", 0.05, weight_decay=1e-3), 200)
    x, velocity = 1.0, 0.0
    expected = [x]
    for _ in range(200):
        velocity = 0.9 * velocity + 1e-3 * x
        x -= 0.05 * velocity
        expected.append(x)
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_decay_factors_of_sgd_are_powers_and_follow_the_schedule():
    actual = decay_factors(make_optimizer("sgd", 0.1, weight_decay=0.01), 10)
    np.testing.assert_allclose(actual, 0.999 ** np.arange(11), rtol=1e-12)
    scheduled = decay_factors(make_optimizer("sgd", step_decay(0.1, [1], steps_per_epoch=2), weight_decay=0.01), 4)
    np.testing.assert_allclose(scheduled, [1, 0.999, 0.999**2, 0.999**2 * 0.9999, 0.999**2 * 0.9999**2], rtol=1e-7)


def test_decoupled_decay_shrinks_uniformly_and_that_of_adam_does_not():
    np.testing.assert_allclose(decay_factors(optax.adamw(0.1, weight_decay=0.01), 3), 0.999 ** np.arange(4), rtol=1e-6)
    with pytest.raises(ValueError, match="must shrink all parameters by the same factor"):
        decay_factors(make_optimizer("adam", 0.01, weight_decay=0.01), 5)


def test_without_decay_or_updates_nothing_shrinks():
    np.testing.assert_array_equal(decay_factors(make_optimizer("momentum", 0.1), 3), np.ones(4))
    np.testing.assert_array_equal(decay_factors(make_optimizer("sgd", 0.1, weight_decay=0.1), 0), [1.0])
    with pytest.raises(ValueError, match="updates must be at least 0, got -1"):
        decay_factors(make_optimizer("sgd", 0.1), -1)


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_decay_factors_without_jax_are_those_of_the_optimizer(name, weight_decay):
    expected = decay_factors(make_optimizer(name, 0.05, weight_decay=weight_decay), 500)
    np.testing.assert_allclose(named_decay_factors(name, 0.05, weight_decay, 500), expected, rtol=1e-14)


def test_adam_has_no_decay_factors():
    assert named_decay_factors("adam", 0.01, 0.01, 5) is None
    np.testing.assert_array_equal(named_decay_factors("adam", 0.01, 0.0, 5), np.ones(6))
