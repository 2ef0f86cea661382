"""Retraining: which members share batches, and that a trajectory does not depend on the other members."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxscape.jumps.directions import JumpGrid, jump_grid
from jaxscape.jumps.retrain import DATA_ORDERS, retrain
from jaxscape.training.train import copy_states

KEY = jax.random.key(0)
SGD = optax.sgd(0.05, momentum=0.9)
DATA = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
MINIMUM = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), "bias": jnp.zeros(2)}


def regression_loss(params, model_state, batch, key):
    """A user's loss, without Flax."""
    loss = jnp.mean((batch @ params["kernel"] + params["bias"][None] - 1.0) ** 2)
    return loss, (model_state, {"loss": loss})


def noisy_loss(params, model_state, batch, key):
    noise = jax.random.bits(key, batch.shape).astype(jnp.float32) / 2.0**32
    return regression_loss(params, model_state, batch + noise, key)


def recording_loss(params, model_state, batch, key):
    """Train nothing; leave the last step's batch (rows of `np.arange`) and random bits in the state."""
    return 0 * params["kernel"].sum(), ({"rows": batch, "bits": jax.random.bits(key)}, {})


def final(start, *, loss_fn=regression_loss, data=DATA, **arguments):
    *_, last = retrain(loss_fn, SGD, start, data, **{"epochs": 2, "key": KEY, "batch_size": 4} | arguments)
    return last


def select(grid, members):
    return jax.tree.map(lambda leaf: leaf[np.array(members)], grid)


def as_bytes(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def grid():
    """Two seeds with two step sizes each: members 0 and 1 share a direction, 2 and 3 the other."""
    return jump_grid(MINIMUM, seeds=[0, 5], step_sizes=[0.5, 1.0])


def streams(start, data_order, **arguments):
    """Return the batch and random bits of each member's last step, as one byte string."""
    blank = {"rows": jnp.zeros(4, jnp.int32), "bits": jnp.uint32(0)}
    last = final(
        start, loss_fn=recording_loss, data=np.arange(20), model_state=blank, data_order=data_order, **arguments
    )
    seen = last.states.model_state
    members = zip(np.asarray(seen["rows"]), np.asarray(seen["bits"]), strict=True)
    return [rows.tobytes() + bits.tobytes() for rows, bits in members]


@pytest.fixture(scope="module")
def own_streams(grid):
    return streams(grid, "member")


# Who shares batches and augmentation.


def test_by_default_no_two_members_share_batches(own_streams):
    assert len(set(own_streams)) == 4


def test_by_seed_the_copies_along_one_direction_share_batches(grid):
    first, second, third, fourth = streams(grid, "seed")
    assert first == second != third == fourth


def test_shared_batches_are_shared_by_all(grid):
    assert len(set(streams(grid, "shared"))) == 1


def test_a_stacked_pytree_has_a_stream_for_each_place(grid):
    together = streams(grid.params, "member")
    assert len(set(together)) == 4
    assert streams(select(grid, [3, 1]).params, "member") == together[:2]


def test_streams_follow_from_the_key(grid, own_streams):
    assert not set(own_streams) & set(streams(grid, "member", key=jax.random.key(1)))


def test_a_legacy_key_gives_the_streams_of_the_typed_one(grid, own_streams):
    assert streams(grid, "member", key=jax.random.PRNGKey(0)) == own_streams


# A copy and its company.


@pytest.mark.parametrize("data_order", DATA_ORDERS)
def test_members_selected_from_a_grid_train_to_the_same_bytes(grid, data_order):
    together = final(grid, loss_fn=noisy_loss, data_order=data_order).states
    alone = final(select(grid, [2]), loss_fn=noisy_loss, data_order=data_order).states
    assert as_bytes(alone.params) == as_bytes(jax.tree.map(lambda leaf: leaf[2:3], together.params))
    assert as_bytes(alone.opt_state) == as_bytes(jax.tree.map(lambda leaf: leaf[2:3], together.opt_state))


def test_every_copy_starts_with_the_minimums_model_state_and_a_fresh_optimizer(grid):
    model_state = {"mean": jnp.array([1.0, 2.0])}
    first = next(retrain(regression_loss, SGD, grid, DATA, epochs=1, key=KEY, batch_size=4, model_state=model_state))
    assert first.epoch == 0
    np.testing.assert_array_equal(first.states.model_state["mean"], [[1, 2]] * 4)
    assert as_bytes(first.states.params) == as_bytes(grid.params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(first.states.opt_state))


def test_retraining_resumes_from_a_yielded_state_whatever_key_is_given(grid):
    run = retrain(noisy_loss, SGD, grid, DATA, epochs=3, key=KEY, batch_size=4)
    kept = [copy_states(epoch.states) for epoch in run]
    resumed = final(kept[1], loss_fn=noisy_loss, epochs=3, first_epoch=1, key=jax.random.key(9)).states
    assert as_bytes(resumed.params) == as_bytes(kept[3].params)
    assert as_bytes(resumed.opt_state) == as_bytes(kept[3].opt_state)


def test_a_loop_resumed_by_a_second_call_sees_every_epoch_once(grid):
    seen, state = [], grid
    for first, last in ((0, 1), (1, 1), (1, 3)):
        run = retrain(regression_loss, SGD, state, DATA, epochs=last, first_epoch=first, key=KEY, batch_size=4)
        for epoch, states, _ in run:
            seen.append(epoch)
            state = states
    assert seen == [0, 1, 2, 3]


def test_epochs_of_a_fixed_number_of_steps_end_in_the_same_state_as_whole_passes(grid):
    # A pass has two steps. The loss is without noise, which follows from the numbers of epoch and step.
    by_steps, in_passes = final(grid, epochs=4, steps=1), final(grid, epochs=2)
    assert as_bytes(by_steps.states.params) == as_bytes(in_passes.states.params)


def test_the_callers_grid_and_state_survive(grid):
    state = copy_states(final(grid).states)
    final(state, epochs=3, first_epoch=2)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((grid.params, state)))


@pytest.mark.usefixtures("optimized")
def test_retraining_with_a_custom_optax_chain_equals_a_handwritten_loop_bit_for_bit(grid):
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_decayed_weights(1e-3, mask=lambda params: jax.tree.map(lambda leaf: jnp.ndim(leaf) > 1, params)),
        optax.scale_by_adam(),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.1, 6)),
    )
    # [epoch, member, step, batch, ...].
    batches = np.random.default_rng(1).normal(size=(2, 4, 3, 5, 3)).astype(np.float32)
    run = retrain(noisy_loss, optimizer, grid, lambda epoch, keys: batches[epoch - 1], epochs=2, key=KEY)
    *_, last = run

    @jax.jit
    def step(params, opt_state, batch, key):
        grads = jax.grad(lambda params: noisy_loss(params, {}, batch, key)[0])(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for member in range(4):
        params = jax.tree.map(lambda leaf, own=member: leaf[own], grid.params)
        opt_state = optimizer.init(params)
        for epoch, index in np.ndindex(2, 3):
            # The key of the member's steps, of the epoch (counted from 1) and of the step.
            key = jax.random.fold_in(jax.random.fold_in(last.states.key[member], 1), epoch + 1)
            batch = batches[epoch, member, index]
            params, opt_state = step(params, opt_state, batch, jax.random.fold_in(key, index))
        own = jax.tree.map(lambda leaf, own=member: leaf[own], (last.states.params, last.states.opt_state))
        assert as_bytes(own) == as_bytes((params, opt_state))


def test_retraining_lowers_the_loss_of_every_copy(grid):
    def evaluate(params, model_state):
        return {"loss": jnp.mean((DATA @ params["kernel"] + params["bias"][None] - 1.0) ** 2)}

    run = retrain(regression_loss, SGD, grid, DATA, epochs=10, key=KEY, batch_size=4, evaluate=evaluate)
    losses = [epoch.metrics["loss"] for epoch in run]
    assert (losses[-1] < 0.2 * losses[0]).all()


# What is refused, before any work.


def test_unknown_data_orders_list_the_known_ones(grid):
    with pytest.raises(ValueError, match="unknown data_order 'epoch'; known: member, seed, shared"):
        retrain(regression_loss, SGD, grid, DATA, epochs=1, key=KEY, data_order="epoch")


def test_the_order_by_seed_needs_seeds(grid):
    with pytest.raises(ValueError, match='data_order "seed" needs a JumpGrid, whose members have seeds'):
        retrain(regression_loss, SGD, grid.params, DATA, epochs=1, key=KEY, batch_size=4, data_order="seed")


def test_a_grid_whose_labels_do_not_match_its_parameters_is_refused(grid):
    broken = JumpGrid(grid.params, grid.seed[:2], grid.step_size)
    with pytest.raises(ValueError, match=r"\.params\['bias'\] of shape \(4, 2\) and \.seed of shape \(2,\)"):
        retrain(regression_loss, SGD, broken, DATA, epochs=1, key=KEY, batch_size=4)


def test_a_selection_of_no_members_is_refused(grid):
    with pytest.raises(ValueError, match="at least one member"):
        retrain(regression_loss, SGD, select(grid, np.array([], int)), DATA, epochs=1, key=KEY, batch_size=4)


def test_a_number_is_no_key(grid):
    with pytest.raises(TypeError, match="key must be a PRNG key"):
        retrain(regression_loss, SGD, grid, DATA, epochs=1, key=0, batch_size=4)


def test_a_batch_larger_than_the_data_is_refused(grid):
    with pytest.raises(ValueError, match="batch_size must be at most the number of examples, 10, got 128"):
        retrain(regression_loss, SGD, grid, DATA, epochs=1, key=KEY)
