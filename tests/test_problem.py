"""What `train` refuses of a user's functions, optimiser, data and states: before any work, in words of the protocol."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape.jumps.retrain import retrain
from jaxscape.training.train import init_states, train

KEYS = jax.random.split(jax.random.key(0), 3)
SGD = optax.sgd(0.1)
DATA = np.zeros((4, 1), np.float32)
MODEL_STATE = {"mean": jnp.zeros(2)}


def square_loss(params, model_state, batch, key):
    return 0.5 * jnp.sum((params[None] - batch) ** 2), (model_state, {})


def states_of(optimizer=SGD, params=None, keys=KEYS):
    params = jnp.ones((3, 1)) if params is None else params
    return init_states(params, optimizer, keys=keys, model_state=MODEL_STATE)


def start(loss_fn=square_loss, optimizer=SGD, states=None, data=DATA, **arguments):
    """Begin to train; the iterator is not asked for anything."""
    states = states_of(optimizer) if states is None else states
    return train(loss_fn, optimizer, states, data, **{"epochs": 2, "batch_size": 2} | arguments)


def batches_like_the_data(epoch, keys):
    return jnp.zeros((3, 2, 2, 1))


# The loss.


def returning(result):
    """A loss function that returns what `result` makes of a loss and a model state."""

    def loss_fn(params, model_state, batch, key):
        return result(params.sum(), model_state)

    return loss_fn


PROTOCOL = r"loss_fn must be loss_fn\(params, model_state, batch, key\) -> \(loss, \(model_state, metrics\)\)"


@pytest.mark.parametrize("data", [DATA, batches_like_the_data], ids=["arrays", "function"])
@pytest.mark.parametrize("strategy", ["loop", "grad_vmap"])
@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (lambda loss, state: loss, TypeError, PROTOCOL + r", got a result of float32\[\]"),
        (lambda loss, state: (loss, state), TypeError, PROTOCOL + r", got a result of \(float32\[\], a dict of 'mean'"),
        (lambda loss, state: (loss, {}), TypeError, PROTOCOL + r", got a result of \(float32\[\], a dict of nothing"),
        (lambda loss, state: None, TypeError, PROTOCOL + ", got a result of None"),
        (lambda loss, state: (loss[None], (state, {})), TypeError, r"loss is one real number; got float32\[1\]"),
        (lambda loss, state: (loss + 1j, (state, {})), TypeError, r"loss is one real number; got complex64\[\]"),
        (lambda loss, state: (1, (state, {})), TypeError, "loss is one real number; got 1"),
        (lambda loss, state: (loss, (state, loss)), TypeError, r"metrics is a dict; got float32\[\]"),
        (lambda loss, state: (loss, (state, None)), TypeError, "metrics is a dict; got None"),
        (lambda loss, state: (loss, (state, {"a": {"b": loss}})), TypeError, "to scalars; got a dict of 'b' at 'a'"),
        (lambda loss, state: (loss, (state, {1: loss})), TypeError, r"to scalars; got float32\[\] at 1"),
        (lambda loss, state: (loss, (state, {"a": "b"})), TypeError, "to scalars; got 'b' at 'a'"),
        (lambda loss, state: (loss, ({}, {})), ValueError, "model_state with the structure that it was given"),
        (lambda loss, state: (loss, (None, {})), ValueError, "model_state with the structure that it was given"),
        (
            lambda loss, state: (loss, ({"mean": state["mean"][:1]}, {})),
            ValueError,
            r"float32\[2\] at \['mean'\] became float32\[1\]",
        ),
        (
            lambda loss, state: (loss, ({"mean": state["mean"].astype(jnp.bfloat16)}, {})),
            ValueError,
            r"float32\[2\] at \['mean'\] became bfloat16\[2\]",
        ),
    ],
)
def test_losses_that_do_not_keep_to_the_protocol_are_refused(data, strategy, result, error, message):
    with pytest.raises(error, match=message):
        start(returning(result), data=data, strategy=strategy)


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("loss_fn", lambda params, batch: 0, r"metrics\)\), but it takes \(params, batch\): too many positional"),
        ("loss_fn", lambda params, state, batch, key, more: 0, "missing a required argument: 'more'"),
        ("loss_fn", "loss", r"must be a function loss_fn\(params.* got 'loss'"),
        ("evaluate", lambda params: {}, r"-> metrics, but it takes \(params\): too many"),
        ("evaluate", {}, r"evaluate must be a function evaluate\(params, model_state\) -> metrics, got {}"),
        ("data", lambda epoch: 0, r"data must be a function data\(epoch, keys\) -> batches, but it takes \(epoch\)"),
    ],
)
def test_functions_of_other_arguments_are_refused(name, function, message):
    with pytest.raises(TypeError, match=message):
        start(**{name: function})


def test_partial_functions_and_objects_are_functions():
    class Loss:
        def __call__(self, params, model_state, batch, key):
            return square_loss(params, model_state, batch, key)

    bound = functools.partial(lambda scale, *arguments: square_loss(*arguments), 2.0)
    for loss_fn in (Loss(), bound, jax.jit(square_loss)):
        assert next(start(loss_fn)).epoch == 0


def test_an_error_of_the_users_own_passes_through():
    error = TypeError("mine")

    def loss_fn(params, model_state, batch, key):
        raise error

    with pytest.raises(TypeError) as caught:
        start(loss_fn)
    assert caught.value is error


def test_nothing_is_traced_or_called_where_nothing_is_left_to_do():
    def data(epoch, keys):
        raise AssertionError

    assert [epoch.epoch for epoch in start(data=data, first_epoch=2)] == []


def test_the_first_batches_of_a_function_are_drawn_once():
    calls = []

    def data(epoch, keys):
        calls.append(epoch)
        return batches_like_the_data(epoch, keys)

    list(start(data=data, strategy=lambda update, states, arrays, batches: "loop"))
    assert calls == [1, 2]


def test_a_loss_that_is_nan_while_the_parameters_are_finite_is_warned_of_once():
    def loss_fn(params, model_state, batch, key):
        loss, rest = square_loss(params, model_state, batch, key)
        return loss, (rest[0], {"loss": jnp.where(params.sum() > 1, jnp.nan, loss)})

    states = init_states(jnp.array([[0.5], [2.0], [3.0]]), optax.sgd(0.0), keys=KEYS, model_state=MODEL_STATE)
    with pytest.warns(RuntimeWarning, match="epoch_loss is NaN in epoch 1 for members .* finite: 1, 2") as warned:
        *_, last = start(loss_fn, optax.sgd(0.0), states)
    assert len(warned) == 1
    assert last.metrics["finite"].all()


# Evaluation.


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        (
            0.5,
            TypeError,
            r"evaluate must be evaluate\(params, model_state\) -> metrics, where metrics is a dict; got 0",
        ),
        (None, TypeError, "where metrics is a dict; got None"),
        ({"loss": "low"}, TypeError, "got 'low' at 'loss'"),
        ({"loss": [1.0]}, TypeError, "got a list at 'loss'"),
        ({"finite": 1.0}, ValueError, 'evaluate must not return a metric "finite"'),
    ],
)
def test_metrics_that_are_no_dict_of_numbers_are_refused_at_the_start(metrics, error, message):
    with pytest.raises(error, match=message):
        next(start(evaluate=lambda params, model_state: metrics))


# Data.


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"images": iter([DATA])}, r"got a list_iterator at \['images'\]"),
        ({"images": range(3)}, r"got a range at \['images'\]"),
        (
            object(),
            r"data must be a pytree of arrays .*, a function .*, or an iterable of batches, got a object at the",
        ),
        ("mnist", "got 'mnist' at the only leaf"),
        ({"images": np.array(["a", "b"])}, r"got <U1\[2\] at \['images'\]"),
        (np.array([{}, None]), r"got object\[2\]"),
    ],
)
def test_data_that_is_neither_arrays_nor_a_function_nor_an_iterable_is_refused(data, message):
    with pytest.raises(TypeError, match=message):
        start(data=data)


def test_a_function_that_gives_no_batches_is_refused():
    with pytest.raises(ValueError, match=r"data must give batches \[member, step, batch, ...\], got None"):
        start(data=lambda epoch, keys: None)


def test_a_function_that_ends_early_is_named():
    batches = iter([batches_like_the_data(1, KEYS)])
    run = start(data=lambda epoch, keys: next(batches))
    assert [next(run).epoch for _ in range(2)] == [0, 1]
    with pytest.raises(ValueError, match="data must give batches for every epoch, but it ended before epoch 2"):
        next(run)


def test_batches_may_change_their_sizes_from_epoch_to_epoch():
    run = start(data=lambda epoch, keys: jnp.zeros((3, epoch, 2 * epoch, 1)), optimizer=optax.sgd(0.25))
    # A batch of n zeros multiplies by 1 - n / 4: once for n = 2, twice for n = 4.
    assert [epoch.states.params[0, 0].item() for epoch in run] == [1.0, 0.5, 0.0]


# The optimiser and the states.


@pytest.mark.parametrize("optimizer", [None, "sgd", 0.1, optax.sgd])
def test_what_is_no_optimizer_is_refused(optimizer):
    for function in (lambda: start(optimizer=optimizer, states=states_of()), lambda: states_of(optimizer)):
        with pytest.raises(TypeError, match=r"optimizer must be an optax\.GradientTransformation, got"):
            function()


def test_an_optimizer_that_needs_what_a_step_does_not_have_is_refused_with_the_reason():
    def update(updates, state, params=None, *, temperature, **extra):
        return jax.tree.map(lambda leaf: leaf * temperature, updates), state

    hot = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    for optimizer in (hot, optax.chain(optax.sgd(0.1), hot)):
        message = (
            r"optimizer must need no more than .*extra is value, grad, value_fn, grad_fn .*argument: 'temperature'"
        )
        with pytest.raises(TypeError, match=message):
            start(optimizer=optimizer)


@pytest.mark.parametrize("other", [optax.adam(0.1), optax.sgd(0.1, momentum=0.9)], ids=["adam", "momentum"])
def test_states_of_another_optimizer_are_refused(other):
    with pytest.raises(ValueError, match="states must hold the state of this optimizer for these params"):
        start(states=states_of(other))


def test_states_are_a_train_state():
    with pytest.raises(TypeError, match="states must be a TrainState, as from init_states, got a dict"):
        start(states={"params": jnp.ones((3, 1))})


@pytest.mark.parametrize(
    ("leaf", "found"),
    [
        (np.ones((3, 1), np.int32), "int32"),
        (np.ones((3, 1), bool), "bool"),
        (np.ones((3, 1), np.complex64), "complex64"),
        (np.array(["a"] * 3), "<U1"),
        (np.array([None] * 3), "object"),
        (KEYS, r"key<fry>"),
    ],
)
def test_parameters_that_are_not_real_numbers_are_refused_by_name(leaf, found):
    params = {"kernel": jnp.ones((3, 2)), "bias": leaf}
    message = rf"params must hold arrays of real floating-point numbers, got {found} at \['bias'\]"
    with pytest.raises(TypeError, match=message):
        states_of(params=params)
    with pytest.raises(TypeError, match=message):
        retrain(square_loss, SGD, params, DATA, epochs=1, key=KEYS[0])
    with pytest.raises(TypeError, match=message):
        start(states=states_of()._replace(params=params))


def test_parameters_of_numpys_float64_train_in_the_precision_that_jax_has():
    first = next(start(states=states_of(params=np.ones((3, 1)))))
    assert first.states.params.dtype == np.float32


@pytest.mark.parametrize("keys", [3, jnp.arange(3), jax.random.key(0), KEYS.reshape(3, 1), "keys"])
def test_member_keys_that_are_none_are_refused(keys):
    with pytest.raises(TypeError, match=r"keys must be PRNG keys \[member\], as from jax.random.split"):
        states_of(keys=keys)


def test_another_number_of_keys_than_members_is_refused():
    with pytest.raises(ValueError, match="keys must hold one key for each of the 3 members, got 2"):
        states_of(keys=KEYS[:2])


def test_legacy_keys_draw_what_the_typed_ones_draw():
    def loss_fn(params, model_state, batch, key):
        return 0 * params.sum(), (model_state, {"bits": jax.random.uniform(key), "first": batch[0, 0]})

    data = np.arange(4, dtype=np.float32)[:, None]
    runs = [list(start(loss_fn, data=data, states=states_of(keys=keys))) for keys in (KEYS, jax.random.key_data(KEYS))]
    for name in ("epoch_bits", "epoch_first"):
        np.testing.assert_array_equal(*(run[-1].metrics[name] for run in runs))


# Single arguments.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 2.0}, "epochs must be a whole number, got 2.0"),
        ({"epochs": "2"}, "epochs must be a whole number, got '2'"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"epochs": None}, "epochs must be a whole number, got None"),
        ({"first_epoch": 1.0}, "first_epoch must be a whole number, got 1.0"),
        ({"batch_size": "2"}, "batch_size must be a whole number, got '2'"),
        ({"batch_size": np.float32(2)}, "batch_size must be a whole number, got"),
        ({"steps": 1.5}, "steps must be a whole number, got 1.5"),
        ({"strategy": None}, "strategy must be a name such as 'loop', got None"),
        ({"strategy": 3}, "strategy must be a name such as 'loop', got 3"),
        ({"devices": "cpu"}, r"devices must be a list of devices, as jax.devices\(\) gives it, got 'cpu'"),
        ({"devices": [0]}, r"devices must be a list of devices, .* got \[0\]"),
        ({"devices": jax.devices()[0]}, "devices must be a list of devices"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(arguments, message):
    with pytest.raises(TypeError, match=message):
        start(**arguments)


def test_a_device_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match="devices must be distinct"):
        start(devices=[jax.devices()[0]] * 2)


def test_numpy_and_jax_integers_are_whole_numbers():
    assert [epoch.epoch for epoch in start(epochs=np.int64(1), batch_size=jnp.int32(2), steps=jnp.int32(2))] == [0, 1]
