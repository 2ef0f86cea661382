"""Training against closed forms and explicit loops; its batches, keys and counts as recorded by a loss."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from jaxscape.arguments import typed_key
from jaxscape.training.train import copy_states, init_states, num_yielded, train

KEYS = jax.random.split(jax.random.key(0), 3)
SGD = optax.sgd(0.1)
MOMENTUM = optax.sgd(0.05, momentum=0.9)
REGRESSION_DATA = (
    np.random.default_rng(0).normal(size=(11, 2)).astype(np.float32),
    np.random.default_rng(1).normal(size=11).astype(np.float32),
)


def regression_loss(params, model_state, batch, key):
    """Return the mean squared error of a line whose inputs are augmented with noise."""
    inputs, targets = batch
    noisy = inputs + 0.1 * jax.random.normal(key, inputs.shape)
    loss = jnp.mean((noisy @ params["kernel"] + params["bias"] - targets) ** 2)
    return loss, ({"last": loss}, {"loss": loss})


def regression_evaluate(params, model_state):
    return {"bias": params["bias"][0], "last": model_state["last"]}


def regression_epochs(states=None, *, start=(0.0, 1.0, 2.0), **arguments):
    """Return copies of the epochs of a noisy linear regression, from new states or given ones."""
    if states is None:
        params = {"kernel": jnp.tile(jnp.array(start)[:, None], (1, 2)), "bias": jnp.zeros((3, 1))}
        states = init_states(params, MOMENTUM, keys=KEYS, model_state={"last": 0.0})
    run = train(
        regression_loss,
        MOMENTUM,
        copy_states(states),
        REGRESSION_DATA,
        **{"epochs": 4, "batch_size": 4, "evaluate": regression_evaluate} | arguments,
    )
    return [epoch._replace(states=copy_states(epoch.states)) for epoch in run]


@pytest.fixture(scope="module")
def uninterrupted():
    return regression_epochs()


def square_loss(params, model_state, batch, key):
    """Return half the squared distances from the numbers of the batch."""
    return 0.5 * jnp.sum((params - batch) ** 2), (model_state, {})


def square_states(optimizer=SGD, keys=KEYS):
    return init_states(jnp.arange(1.0, len(keys) + 1)[:, None], optimizer, keys=keys)


def recording_loss(params, model_state, batch, key):
    """Train nothing; record each step's batch and random bits."""
    step = model_state["step"]
    model_state = {
        "step": step + 1,
        "rows": model_state["rows"].at[step].set(batch),
        "bits": model_state["bits"].at[step].set(jax.random.bits(key)),
    }
    return 0 * params.sum(), (model_state, {"rows": batch, "step": step})


@functools.cache
def recorded(members=(0, 1, 2), *, epochs=4, num_examples=11, batch_size=4, **options):
    """Return the steps' rows [member, epoch, step, batch], random bits [member, epoch, step], and the last metrics."""
    steps = options.get("steps", num_examples // batch_size)
    blank = {
        "step": 0,
        "rows": jnp.zeros((epochs * steps, batch_size), jnp.int32),
        "bits": jnp.zeros(epochs * steps, jnp.uint32),
    }
    keys = KEYS[np.array(members)]
    states = init_states(jnp.zeros((len(members), 1)), SGD, keys=keys, model_state=blank)
    data, size = np.arange(num_examples), {"epochs": epochs, "batch_size": batch_size}
    *_, last = train(recording_loss, SGD, states, data, **size, **options)
    seen = last.states.model_state
    rows = np.asarray(seen["rows"]).reshape(len(members), epochs, steps, batch_size)
    return rows, np.asarray(seen["bits"]).reshape(len(members), epochs, steps), last.metrics


def as_bytes(states):
    states = states._replace(key=jax.random.key_data(states.key))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(states)]


# The training step.


def test_gradient_descent_on_a_quadratic_follows_its_closed_form():
    target, rate = 4.0, 0.1
    run = train(square_loss, SGD, square_states(), np.full(4, target, np.float32), epochs=4, batch_size=2)
    for epoch, states, _ in run:
        # The batch holds the target twice, which doubles the loss; an epoch has two steps.
        expected = target + (1 - 2 * rate) ** (2 * epoch) * (np.arange(1.0, 4.0)[:, None] - target)
        np.testing.assert_allclose(states.params, expected, rtol=1e-6)


def test_training_equals_an_optax_loop_over_the_batches_for_every_member():
    optimizer = optax.adam(0.1)
    # Leaves [epoch, member, step, batch, ...].
    inputs = np.random.default_rng(2).normal(size=(2, 3, 4, 5, 2)).astype(np.float32)
    targets = np.random.default_rng(3).normal(size=(2, 3, 4, 5)).astype(np.float32)

    def loss(params, batch):
        return jnp.mean((batch[0] @ params - batch[1]) ** 2)

    start = jnp.arange(6.0).reshape(3, 2)
    *_, (_, states, metrics) = train(
        lambda params, state, batch, key: (loss(params, batch), (state, {"loss": loss(params, batch)})),
        optimizer,
        init_states(start, optimizer, keys=KEYS),
        lambda epoch, keys: (inputs[epoch - 1], targets[epoch - 1]),
        epochs=2,
    )
    for member in range(3):
        params, opt_state, losses = start[member], optimizer.init(start[member]), []
        for epoch, step in np.ndindex(2, 4):
            batch = inputs[epoch, member, step], targets[epoch, member, step]
            value, gradient = jax.value_and_grad(loss)(params, batch)
            updates, opt_state = optimizer.update(gradient, opt_state)
            params = optax.apply_updates(params, updates)
            losses.append(value)
        np.testing.assert_allclose(states.params[member], params, rtol=1e-5)
        np.testing.assert_allclose(metrics["epoch_loss"][member], np.mean(losses[4:]), rtol=1e-5)


# Batches and keys of the steps.


def test_an_epoch_uses_an_example_at_most_once_and_drops_the_last_partial_batch():
    rows, _, _ = recorded()
    assert rows.shape == (3, 4, 2, 4)
    assert (rows.min(), rows.max()) == (0, 10)
    for epoch_rows in rows.reshape(-1, 8):
        assert len(set(epoch_rows)) == 8


def test_the_dropped_examples_change_from_epoch_to_epoch():
    rows, _, _ = recorded()
    assert all(set(member.ravel()) == set(range(11)) for member in rows)


def test_every_member_and_every_epoch_has_its_own_order():
    rows, _, _ = recorded()
    assert len({order.tobytes() for order in rows.reshape(-1, 8)}) == 3 * 4


def test_every_step_of_every_member_has_its_own_key():
    _, bits, _ = recorded()
    assert len(set(bits.ravel())) == bits.size


def test_batches_and_step_keys_depend_on_the_members_key_and_not_on_other_members():
    for together, alone in zip(recorded()[:2], recorded(members=(1,))[:2], strict=True):
        np.testing.assert_array_equal(alone[0], together[1])


def test_the_leaves_of_an_example_stay_together():
    def loss_fn(params, model_state, batch, key):
        differ = jnp.sum(batch["number"] != batch["nested"][0][:, 1])
        return 0 * params.sum(), (model_state, {"differ": differ})

    data = {"number": np.arange(4), "nested": (np.tile(np.arange(4)[:, None], (1, 2)),)}
    *_, last = train(loss_fn, SGD, square_states(), data, epochs=1, batch_size=2)
    assert not last.metrics["epoch_differ"].any()


@pytest.mark.parametrize(("steps", "epochs"), [(1, 8), (2, 4), (3, 2), (5, 1)])
def test_epochs_of_a_given_number_of_steps_take_batches_from_consecutive_passes(steps, epochs):
    in_passes, by_steps = recorded()[0].reshape(3, 8, 4), recorded(steps=steps, epochs=epochs)[0]
    np.testing.assert_array_equal(by_steps.reshape(3, -1, 4), in_passes[:, : steps * epochs])


def test_a_function_is_called_for_epochs_1_2_3_with_the_members_keys():
    calls = []

    def data(epoch, keys):
        calls.append((epoch, np.array(jax.random.key_data(keys)).tobytes()))
        return jnp.zeros((3, 1, 1))

    list(train(square_loss, SGD, square_states(), data, epochs=3))
    assert calls == [(epoch, np.array(jax.random.key_data(KEYS)).tobytes()) for epoch in (1, 2, 3)]


# Resuming from a yielded state.


def test_a_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one(uninterrupted):
    resumed = regression_epochs(uninterrupted[2].states, first_epoch=2)
    for again, before in zip(resumed, uninterrupted[3:], strict=True):
        assert as_bytes(again.states) == as_bytes(before.states)
    for name, values in uninterrupted[4].metrics.items():
        np.testing.assert_array_equal(resumed[-1].metrics[name], values)


@pytest.mark.parametrize("first_epoch", range(4))
def test_a_resumed_run_does_not_yield_epochs_of_an_earlier_run(first_epoch):
    run = train(square_loss, SGD, square_states(), np.zeros(4), epochs=3, first_epoch=first_epoch, batch_size=2)
    yielded = [epoch for epoch, _, _ in run]
    assert yielded == list(range(4))[first_epoch and first_epoch + 1 :]
    assert len(yielded) == num_yielded(3, first_epoch)


# The content of a yielded epoch.


def test_epoch_0_is_the_start_with_only_the_metrics_of_evaluate(uninterrupted):
    epoch, states, metrics = uninterrupted[0]
    assert epoch == 0
    np.testing.assert_array_equal(states.params["kernel"], [[0, 0], [1, 1], [2, 2]])
    assert metrics.keys() == {"bias", "last", "finite"}


def test_metrics_are_numpy_arrays_with_one_value_per_member(uninterrupted):
    _, states, metrics = uninterrupted[-1]
    assert metrics.keys() == {"bias", "last", "finite", "epoch_loss"}
    assert {(type(values), values.shape) for values in metrics.values()} == {(np.ndarray, (3,))}
    np.testing.assert_array_equal(metrics["bias"], states.params["bias"][:, 0])
    np.testing.assert_array_equal(metrics["last"], states.model_state["last"])


def test_epoch_metrics_are_means_over_the_steps_of_numbers_and_of_vectors():
    rows, _, metrics = recorded()
    np.testing.assert_array_equal(metrics["epoch_step"], [6.5] * 3)
    np.testing.assert_array_equal(metrics["epoch_rows"], rows[:, -1].mean(axis=1))


def test_the_mean_of_huge_losses_does_not_overflow():
    def loss_fn(params, model_state, batch, key):
        return 0 * params.sum(), (model_state, {"loss": jnp.float32(3e38)})

    *_, last = train(loss_fn, SGD, square_states(), np.zeros(4), epochs=1, batch_size=2)
    np.testing.assert_allclose(last.metrics["epoch_loss"], 3e38, rtol=1e-6)


def test_members_that_diverge_do_not_change_the_bytes_of_the_others(uninterrupted):
    diverged = regression_epochs(start=(np.nan, 1.0, np.inf))
    for ours, healthy in zip(diverged, uninterrupted, strict=True):
        np.testing.assert_array_equal(ours.metrics["finite"], [False, True, False])
        np.testing.assert_array_equal(healthy.metrics["finite"], [True, True, True])
        own = [jax.tree.map(lambda leaf: leaf[1], run.states) for run in (ours, healthy)]
        assert as_bytes(own[0]) == as_bytes(own[1])


# Guarantees to the caller.


def test_the_callers_arrays_outlive_the_run():
    params, keys, model_state = jnp.ones((3, 1)), jnp.array(KEYS), {"x": jnp.ones(())}
    states = init_states(params, SGD, keys=keys, model_state=model_state)
    list(train(square_loss, SGD, states, np.zeros(4), epochs=2, batch_size=2))
    assert not any(leaf.is_deleted() for leaf in (params, keys, model_state["x"]))


def test_an_optimizer_may_keep_the_parameters_in_its_state():
    # DoG keeps the very arrays that it is given, and one buffer cannot be donated twice.
    optimizer = optax.contrib.dog(1.0)
    *_, last = train(square_loss, optimizer, square_states(optimizer), np.zeros(4), epochs=1, batch_size=2)
    assert last.metrics["finite"].all()


def test_nothing_is_compiled_again_between_steps_members_and_epochs():
    traces = []

    def loss_fn(params, model_state, batch, key):
        traces.append(1)
        return square_loss(params, {"steps": model_state["steps"] + 1, "mean": params.mean()}, batch, key)

    # Python numbers have weak types, which the first step would change.
    states = init_states(jnp.ones((3, 1)), MOMENTUM, keys=KEYS, model_state={"steps": 0, "mean": 0.0})
    list(train(loss_fn, MOMENTUM, states, np.zeros(4), epochs=3, batch_size=2))
    assert len(traces) == 1


def test_nothing_is_compiled_again_by_another_call_with_the_same_functions():
    traces = []

    def loss_fn(*arguments):
        traces.append(1)
        return square_loss(*arguments)

    for members in (3, 2):
        states = init_states(jnp.ones((members, 1)), MOMENTUM, keys=KEYS[:members])
        list(train(loss_fn, MOMENTUM, states, np.zeros(4), epochs=3, batch_size=2))
    assert len(traces) == 1


def test_other_functions_are_compiled_anew():
    results = []
    for scale in (1.0, 2.0):

        def loss_fn(params, model_state, batch, key, scale=scale):
            loss, rest = square_loss(params, model_state, batch, key)
            return scale * loss, rest

        *_, last = train(loss_fn, SGD, square_states(), np.zeros(4), epochs=1, batch_size=2)
        results.append(last.states.params)
    assert (results[0] != results[1]).all()


def test_a_loss_may_be_an_object_that_cannot_be_hashed():
    @dataclass
    class Loss:
        scale: float

        def __call__(self, *arguments):
            loss, rest = square_loss(*arguments)
            return self.scale * loss, rest

    *_, expected = train(square_loss, SGD, square_states(), np.zeros(4), epochs=1, batch_size=2)
    *_, last = train(Loss(1.0), SGD, square_states(), np.zeros(4), epochs=1, batch_size=2)
    assert (last.states.params == expected.states.params).all()


def test_a_model_may_be_without_state_and_a_loss_without_metrics():
    states = init_states(jnp.ones((3, 1)), SGD, keys=KEYS, model_state=None)
    *_, last = train(square_loss, SGD, states, np.zeros(4), epochs=1, batch_size=2)
    assert last.metrics.keys() == {"finite"}


def test_a_legacy_key_becomes_the_typed_key_of_the_same_numbers():
    assert typed_key(jax.random.PRNGKey(7)) == jax.random.key(7)
    assert typed_key(jax.random.key(7)) == jax.random.key(7)


def test_a_number_is_rejected_as_a_key():
    with pytest.raises(TypeError, match=r"key must be a PRNG key, as from jax.random.key\(0\), got 3"):
        typed_key(3)


# Input that is rejected, before any work.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"first_epoch": -1}, "first_epoch must be between 0 and epochs = 2, got -1"),
        ({"first_epoch": 3}, "first_epoch must be between 0 and epochs = 2, got 3"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 12}, "batch_size must be at most the number of examples, 11, got 12"),
        ({"steps": 0}, "steps must be at least 1, and None if data is a function, got 0"),
        ({"steps": 1, "data": lambda epoch, keys: 0}, "None if data is a function, got 1"),
        ({"strategy": "magic"}, "unknown strategy 'magic'; known: auto, loop, threads, vmap_grad, grad_vmap"),
        ({"data": (np.zeros((5, 2)), np.zeros(4))}, r"\[0\] of shape \(5, 2\) and \[1\] of shape \(4,\)"),
        ({"data": ()}, "empty pytree"),
    ],
)
def test_arguments_out_of_range_are_rejected_before_any_work(arguments, message):
    arguments = {"data": REGRESSION_DATA, "epochs": 2, "batch_size": 3} | arguments
    with pytest.raises(ValueError, match=message):
        train(regression_loss, SGD, square_states(), **arguments)


def test_states_whose_leaves_disagree_in_members_are_rejected_before_any_work():
    states = square_states()._replace(key=KEYS[:2])
    with pytest.raises(ValueError, match=r"\.params of shape \(3, 1\) and \.key of shape \(2,\)"):
        train(square_loss, SGD, states, np.zeros(2), epochs=1, batch_size=1)


@pytest.mark.parametrize("shape", [(1, 2, 1), (5, 2, 1), (3, 0, 1), (3,), ()])
def test_batches_of_a_function_with_a_wrong_number_of_members_are_rejected(shape):
    with pytest.raises(ValueError, match=r"leaves \[member, step, batch, ...\] for 3 members and at least one step"):
        train(square_loss, SGD, square_states(), lambda epoch, keys: jnp.zeros(shape), epochs=1)


def test_batches_of_a_function_whose_leaves_disagree_in_steps_are_rejected():
    batches = jnp.zeros((3, 2, 1)), jnp.zeros((3, 1, 1))
    with pytest.raises(ValueError, match=r"got leaves that begin with \[\(3, 1\), \(3, 2\)\]"):
        train(square_loss, SGD, square_states(), lambda epoch, keys: batches, epochs=1)
