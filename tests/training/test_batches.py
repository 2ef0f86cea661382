"""Batches from loaders, iterators and functions, and the detection of a missing member axis."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape.problem import Problem
from jaxscape.runs.recording import Updates
from jaxscape.training.batches import SharedBatches, batches_for_each
from jaxscape.training.train import init_states, train

KEYS = jax.random.split(jax.random.key(0), 3)
SGD = optax.sgd(0.1)
X = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
Y = np.random.default_rng(1).normal(size=12).astype(np.float32)
STRATEGIES = ["loop", "vmap_grad", "grad_vmap"]


class Tensor:
    """A tensor of another framework: `np.asarray` works, `dtype` is none of NumPy's."""

    dtype = "float"

    def __init__(self, values):
        self._values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._values, dtype)


class Loader:
    """Passes over X and Y, like a DataLoader; in a new order in every pass if it shuffles."""

    def __init__(self, batch_size=4, *, examples=12, wrap=np.asarray, shuffle=None):
        self.size, self.examples, self.wrap, self.passes, self.shuffle = batch_size, examples, wrap, 0, shuffle

    def __iter__(self):
        self.passes += 1
        order = np.arange(self.examples) if self.shuffle is None else self.shuffle.permutation(self.examples)
        for start in range(0, self.examples, self.size):
            rows = order[start : start + self.size]
            yield {"x": self.wrap(X[rows]), "y": self.wrap(Y[rows])}


def loss_fn(params, model_state, batch, key):
    loss = jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
    return loss, (model_state, {"loss": loss})


def states_of(members=3):
    return init_states({"w": jnp.arange(2.0 * members).reshape(members, 2)}, SGD, keys=KEYS[:members])


def run(data, *, epochs=2, loss_fn=loss_fn, **arguments):
    return list(train(loss_fn, SGD, states_of(), data, epochs=epochs, **arguments))


def final_bytes(data, **arguments):
    return np.asarray(run(data, **arguments)[-1].states.params["w"]).tobytes()


def by_function(epoch, keys):
    """Return the batches of the loader for every member."""
    return {
        "x": np.broadcast_to(X.reshape(3, 4, 2), (3, 3, 4, 2)),
        "y": np.broadcast_to(Y.reshape(3, 4), (3, 3, 4)),
    }


# An iterable: an epoch is one pass.


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("wrap", [np.asarray, jnp.asarray, Tensor])
def test_a_loader_gives_the_same_batches_as_a_function_for_all_members(strategy, wrap):
    assert final_bytes(Loader(wrap=wrap), strategy=strategy) == final_bytes(by_function, strategy=strategy)


@pytest.mark.usefixtures("by_epoch")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loader_gives_the_same_batches_if_an_epoch_is_one_program(strategy):
    assert final_bytes(Loader(), strategy=strategy) == final_bytes(by_function, strategy=strategy)


def test_an_epoch_is_one_pass_and_none_is_drawn_before_it_is_needed():
    loader = Loader()
    epochs = train(loss_fn, SGD, states_of(), loader, epochs=3)
    assert loader.passes == 1  # the first one, whose shapes are checked
    assert [(epoch.epoch, loader.passes) for epoch in epochs] == [(0, 1), (1, 1), (2, 2), (3, 3)]


def test_every_member_sees_the_same_batches_and_every_pass_its_own():
    def recording(params, model_state, batch, key):
        return 0 * params["w"].sum(), (model_state, {"first": batch["y"][0]})

    epochs = run(Loader(shuffle=np.random.default_rng(0)), loss_fn=recording)
    first, second = (epoch.metrics["epoch_first"] for epoch in epochs[1:])
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]


def test_a_smaller_last_batch_is_dropped_with_one_warning():
    with pytest.warns(RuntimeWarning, match="has 2 examples, the others have 4; it is dropped") as warned:
        dropped = final_bytes(Loader(examples=10))
    assert len(warned) == 1
    assert dropped == final_bytes(Loader(examples=8))


def test_a_pass_of_one_batch_is_an_epoch_of_one_step():
    assert final_bytes(Loader(12)) == final_bytes(lambda epoch, keys: SharedBatches({"x": X[None], "y": Y[None]}))


def test_steps_continue_across_passes():
    # Four epochs of three steps are two passes of six.
    assert final_bytes(Loader(2), epochs=4, steps=3) == final_bytes(Loader(2), epochs=2)


def test_steps_drop_the_smaller_last_batch_of_every_pass():
    with pytest.warns(RuntimeWarning, match="it is dropped"):
        actual = final_bytes(Loader(examples=10), epochs=2, steps=2)
    assert actual == final_bytes(Loader(examples=8), epochs=2)


def test_a_loader_without_batches_is_rejected():
    with pytest.raises(ValueError, match="data must give at least one batch per pass, got none"):
        run(Loader(examples=0))


def test_batches_of_different_shapes_are_rejected_by_index():
    class Uneven:
        def __iter__(self):
            return iter([np.zeros((4, 2)), np.zeros((5, 2)), np.zeros((4, 2))])

    with pytest.raises(ValueError, match=r"got float64\[4, 2\] at index 0 and float64\[5, 2\] at index 1"):
        run(Uneven())


@pytest.mark.parametrize("batch", [{"x": np.array(["a"])}, [], None])
def test_batches_that_are_not_numbers_are_rejected(batch):
    class Texts:
        def __iter__(self):
            return iter([batch])

    with pytest.raises(TypeError, match="data must give batches of arrays of numbers, got"):
        run(Texts())


def test_the_values_of_a_loaders_batches_are_checked():
    seen = []

    def checking(*arguments):
        return loss_fn(*arguments)

    checking.check_data = lambda params, model_state, data: seen.append(data["x"].shape)
    run(Loader(), loss_fn=checking)
    assert seen == [(1, 3, 4, 2)] * 2


# An iterator: an epoch is a given number of steps.


def endless():
    while True:
        yield from Loader()


def test_an_iterator_gives_the_requested_batches_per_epoch():
    assert final_bytes(endless(), steps=3) == final_bytes(Loader())


def test_an_iterator_is_not_read_ahead():
    batches = iter(Loader())
    run(batches, epochs=1, steps=2)
    np.testing.assert_array_equal(next(batches)["y"], Y[8:])


def test_an_iterator_needs_steps():
    with pytest.raises(ValueError, match="steps must be given if data is an iterator"):
        run(endless())


def test_an_iterator_cannot_be_resumed():
    with pytest.raises(ValueError, match="first_epoch must be 0 if data is an iterator, which cannot be resumed"):
        run(endless(), steps=3, first_epoch=1)


def test_an_iterator_that_ends_early_says_where():
    with pytest.raises(ValueError, match="steps = 2 batches for every epoch, but it ended after 1 of epoch 2"):
        run(iter(Loader()), steps=2)


# A stream per member.


def test_every_member_has_the_stream_of_its_key_whatever_the_other_members():
    seeds = []

    def make(epoch, seed):
        seeds.append((epoch, seed))
        return Loader(shuffle=np.random.default_rng(seed))

    data = batches_for_each(make)
    together = data(1, KEYS)
    assert together["x"].shape == (3, 3, 4, 2)
    assert len({member.tobytes() for member in together["x"]}) == 3
    np.testing.assert_array_equal(data(1, KEYS[1:2])["x"][0], together["x"][1])
    data(2, KEYS[:1])
    assert len(set(seeds)) == 4
    assert seeds[3] == seeds[1]


def test_a_stream_per_member_resumes_to_the_same_bytes():
    def data(epoch, seed):
        return Loader(shuffle=np.random.default_rng(seed))

    whole = run(batches_for_each(data), epochs=2)[-1].states
    half = run(batches_for_each(data), epochs=1)[-1].states
    *_, last = train(loss_fn, SGD, half, batches_for_each(data), epochs=2, first_epoch=1)
    assert np.asarray(last.states.params["w"]).tobytes() == np.asarray(whole.params["w"]).tobytes()


def test_members_with_different_numbers_of_batches_are_rejected():
    sizes = iter([4, 6])
    data = batches_for_each(lambda epoch, seed: Loader(next(sizes)))
    with pytest.raises(
        ValueError, match=r"make must give every member the same number of batches in an epoch, got \[3, 2\]"
    ):
        data(1, KEYS[:2])


# The member axis.


def shared_by_mistake(epoch, keys):
    """Return batches with as many steps as there are members, and no member axis."""
    return {"x": X.reshape(3, 4, 2), "y": Y.reshape(3, 4)}


def autoencoder(params, model_state, batch, key):
    """Compute a loss that accepts a single example in place of a batch."""
    return jnp.mean((batch["x"] @ params["w"]) ** 2), (model_state, {})


@pytest.mark.parametrize("loss_fn", [loss_fn, autoencoder])
def test_batches_without_the_member_axis_are_rejected_even_with_as_many_steps(loss_fn):
    for data in (shared_by_mistake, lambda epoch, keys: {"x": X.reshape(3, 4, 2)}):
        if loss_fn is autoencoder or data is shared_by_mistake:
            with pytest.raises(ValueError, match=r"accepts only as \[step, batch, ...\]: the member axis is missing"):
                run(data, loss_fn=loss_fn)


def test_a_loss_for_a_single_batch_size_is_accepted():
    def fixed(params, model_state, batch, key):
        return loss_fn(
            params, model_state, jax.tree.map(lambda leaf: leaf + jnp.zeros((4, *leaf.shape[1:])), batch), key
        )

    assert final_bytes(by_function, loss_fn=fixed) == final_bytes(by_function)


def test_weights_of_whole_batches_are_accepted():
    def weighted(params, model_state, batch, key):
        loss, rest = loss_fn(params, model_state, batch, key)
        return batch["weight"] * loss, rest

    actual = final_bytes(lambda epoch, keys: by_function(epoch, keys) | {"weight": np.ones((3, 3))}, loss_fn=weighted)
    assert actual == final_bytes(by_function)


def test_a_function_may_return_batches_that_all_members_share():
    assert final_bytes(lambda epoch, keys: SharedBatches(shared_by_mistake(epoch, keys))) == final_bytes(by_function)


def test_a_function_shares_the_batches_of_every_epoch_or_of_none():
    def data(epoch, keys):
        batches = shared_by_mistake(epoch, keys)
        return SharedBatches(batches) if epoch == 1 else by_function(epoch, keys)

    with pytest.raises(ValueError, match="SharedBatches for every epoch or for none, which epoch 2 breaks"):
        run(data)


# A problem.


def test_a_problem_may_have_a_loader_whose_updates_the_stages_count():
    problem = Problem(loss_fn, Loader(examples=10))
    updates = Updates(problem.data, None, done=0, before=None)
    with pytest.warns(RuntimeWarning, match="dropped"):
        actual = final_bytes(updates.data)
    assert actual == final_bytes(Loader(examples=8))
    assert [updates.after(epoch) for epoch in range(3)] == [0, 2, 4]


def test_a_pass_without_an_end_is_rejected_before_the_memory_is_full(monkeypatch):
    class Endless:
        def __iter__(self):
            return endless()

    monkeypatch.setattr("jaxscape.training.batches._memory", lambda: 2**12)
    with pytest.raises(ValueError, match="data must give passes that end and fit into memory"):
        run(Endless())
