"""The training step, epochs of steps, and training as an iterator over epochs.

jaxscape has a single training step. Finding a minimum trains a stack of one member; retraining trains the stack of
perturbed copies (`jaxscape.jumps.retrain`); comparing optimisers trains one stack per optimiser.

All randomness is a function of a member's key and of the epoch and step counts, never of a generator's state: a run
that resumes at epoch 17 draws the same numbers as an uninterrupted one.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxscape.arguments import check_parameters, count, typed_keys, whole_number
from jaxscape.problem import (
    EVALUATE,
    LOSS,
    Data,
    Evaluate,
    LossFn,
    Metrics,
    check_data,
    check_function,
    check_optimizer,
    check_update,
    checked_evaluate,
    checked_loss,
    extra_arguments,
    extra_values,
    is_arrays,
)
from jaxscape.training.batches import EpochBatches, EpochInputs, check_member_axis
from jaxscape.training.choice import choose_strategy
from jaxscape.training.devices import (
    BY_MEMBER,
    agree,
    gather,
    local_members,
    local_stacks,
    member_mesh,
    num_local_devices,
    per_device,
    shard_members,
)
from jaxscape.training.members import (
    EpochRunner,
    Update,
    epoch_runner,
    map_members,
    num_members,
    num_workers,
    parse_strategy,
)

PyTree = Any

# Folded into a member's key for its steps; `jaxscape.training.batches` has the constant for the batch order.
_LOSS = 1


class TrainState(NamedTuple):
    """The state that training carries from step to step; in a stack, every leaf has a leading member axis."""

    params: PyTree
    model_state: PyTree
    opt_state: optax.OptState
    key: jax.Array  # typed PRNG key of the member's batch order and augmentation; never changes


class Epoch(NamedTuple):
    """One element of what training yields: the number of an epoch, the states after it, and its metrics."""

    epoch: int
    states: TrainState  # valid until the next epoch is requested, which donates their buffers
    metrics: dict[str, np.ndarray]  # name -> [member]


# (update, states, data, batches) -> the name of a strategy.
Chooser = Callable[[Update, TrainState, PyTree, PyTree], str]


def copy_states(states: TrainState) -> TrainState:
    """Return the states in new buffers, which outlive the donation of the old ones."""
    # The explicit dtype drops weak types, which would change with the first step and compile it twice.
    return jax.tree.map(lambda leaf: jnp.array(leaf, dtype=jnp.result_type(leaf)), states)


def init_states(
    params: PyTree, optimizer: optax.GradientTransformation, *, keys: jax.Array, model_state: PyTree = None
) -> TrainState:
    """Return a stack of fresh states: new optimiser states, and the same `model_state` for every member.

    Args:
        params: stacked [member, ...]; copied, as are the keys, so that the caller's arrays outlive donation.
        optimizer: an optax transformation.
        keys: PRNG keys [member].
        model_state: the model state of one network, not stacked; None for a model without one.

    Raises:
        TypeError: for params that are not real floating-point numbers (the message names the leaf), keys that are not
            PRNG keys, or an optimizer that is not an optax transformation.
        ValueError: for leaves with different numbers of members, or a different number of keys.
    """
    check_optimizer(optimizer)
    members = num_members(params)
    check_parameters("params", params)
    keys = typed_keys(keys, members)
    params = jax.tree.map(jnp.asarray, params)
    model_state = jax.tree.map(lambda leaf: jnp.stack([jnp.asarray(leaf)] * members), model_state)
    opt_state = jax.vmap(optimizer.init)(params)
    return copy_states(TrainState(params, {} if model_state is None else model_state, opt_state, keys))


def concatenate_states(states: Sequence[TrainState]) -> TrainState:
    """Return several stacks as one, such as the members of several minima to be trained together.

    Raises:
        ValueError: for an empty sequence, or for stacks of different networks or optimisers.
    """
    if not states:
        raise ValueError("states must hold at least one stack, got none")
    shapes = [jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stack) for stack in states]
    for number, other in enumerate(shapes):
        if other != shapes[0]:
            raise ValueError(f"states[{number}] belongs to another network or optimiser than states[0]")
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *states)


def split_epoch(epoch: Epoch, counts: Sequence[int]) -> list[Epoch]:
    """Split an epoch of a concatenated stack into one epoch per stack, given their numbers of members in order."""
    if len(counts) == 1:
        return [epoch]
    ends = np.cumsum(counts)
    rows = [slice(end - count, end) for count, end in zip(counts, ends, strict=True)]
    return [Epoch(epoch.epoch, *jax.tree.map(lambda leaf, own=own: leaf[own], epoch[1:])) for own in rows]


Step = Callable[[TrainState, PyTree, jax.Array], tuple[TrainState, Metrics]]


def make_step(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Step:
    """Return the training step of one network: `step(state, batch, key) -> (state, metrics)`, pure, not compiled."""
    one_loss = checked_loss(loss_fn)
    gradient = jax.value_and_grad(one_loss, has_aux=True)
    update = _optimizer_update(one_loss, optimizer)

    def step(state: TrainState, batch: PyTree, key: jax.Array) -> tuple[TrainState, Metrics]:
        (loss, (model_state, metrics)), grads = gradient(state.params, state.model_state, batch, key)
        params, opt_state = update(grads, loss, state, batch, key)
        return TrainState(params, model_state, opt_state, state.key), metrics

    return step


def make_stacked_step(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Step:
    """Return the training step of a stack of networks, by the gradient of the sum of their losses.

    In exact arithmetic it equals `vmap(make_step(...))`, but compilers generate different convolutions for it.
    """
    one_loss = checked_loss(loss_fn)
    update = jax.vmap(_optimizer_update(one_loss, optimizer))

    def total(params: PyTree, model_state: PyTree, batches: PyTree, keys: jax.Array) -> tuple[jax.Array, Any]:
        losses, rest = jax.vmap(one_loss)(params, model_state, batches, keys)
        return losses.sum(), (losses, rest)

    def step(states: TrainState, batches: PyTree, keys: jax.Array) -> tuple[TrainState, Metrics]:
        gradient = jax.value_and_grad(total, has_aux=True)
        (_, (losses, rest)), grads = gradient(states.params, states.model_state, batches, keys)
        model_state, metrics = rest
        params, opt_state = update(grads, losses, states, batches, keys)
        return TrainState(params, model_state, opt_state, states.key), metrics

    return step


def _optimizer_update(loss_fn: LossFn, optimizer: optax.GradientTransformation) -> Callable[..., tuple[PyTree, PyTree]]:
    """Return the optimiser's part of a step of one network: (grads, loss, state, batch, key) -> (params, opt_state).

    An optimiser that takes more than gradients gets optax's "extra args". Those that it does not take are not even
    traced.
    """
    names = extra_arguments(optimizer)

    def update(
        grads: PyTree, loss: jax.Array, state: TrainState, batch: PyTree, key: jax.Array
    ) -> tuple[PyTree, PyTree]:
        def value_fn(params: PyTree) -> jax.Array:
            return loss_fn(params, state.model_state, batch, key)[0]

        extra = extra_values(loss, grads, value_fn)
        own = {name: extra[name] for name in names}
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, **own)
        return optax.apply_updates(state.params, updates), opt_state

    return update


def train(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    states: TrainState,
    data: Data,
    *,
    epochs: int,
    evaluate: Evaluate | None = None,
    batch_size: int = 128,
    steps: int | None = None,
    first_epoch: int = 0,
    strategy: str | Chooser = "loop",
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[Epoch]:
    """Train a stack of members, epoch by epoch.

    Args:
        loss_fn: `(params, model_state, batch, key) -> (loss, (model_state, metrics))` of one member. Pure, as for
            `jax.jit`: another call with the same function and optimizer reuses the compiled programs of this one.
        optimizer: an optax transformation of one member's parameters; docs/optimizers.md says which ones work.
        states: stacked, from `init_states` or yielded by an earlier call. Donated: gone after the first epoch.
        data: one of
            - a pytree of arrays [example, ...], reshuffled for each member and epoch (the last partial batch is
              dropped);
            - a function `(epoch, keys) -> batches` with leaves [member, step, batch, ...], for epochs counted from 1
              and the members' keys; `batches_for_each` makes one from one loader per member. It may also return
              `SharedBatches`, with leaves [step, batch, ...], which all members share;
            - an iterable of batches, such as a DataLoader: an epoch is one pass over it, and all members see the same
              batches. A last batch that is smaller than the others is dropped, with a warning. Batches are pytrees of
              whatever `np.asarray` takes. A resumed run gets the next pass, which may differ from the one that an
              uninterrupted run would have seen;
            - an iterator of batches, such as a generator: an epoch takes the next `steps` of them, for all members. It
              cannot be resumed, because its position is not known.
            The batches of one epoch are in memory at once. With several processes, each draws the batches itself, and
            all must get the same. A list of batches is a pytree of arrays: wrap it in a loader.
        epochs: the last epoch to reach, counted from epoch 0 (so a resumed run has the same `epochs`).
        evaluate: `(params, model_state) -> metrics` of one member, called after every epoch (from several threads
            with the strategy "threads" and on several devices).
        batch_size: examples per step; unused if data are not arrays.
        steps: steps per epoch. Batches still come from one pass over the data after another. By default an epoch is one
            pass. Required for an iterator; must be None for a function.
        first_epoch: the number of epochs that `states` has already been trained for.
        strategy: how the members run together; see `jaxscape.training.members`. "auto" measures for some seconds and
            takes the fastest; the choice may differ the next time, and with it the last bits of the results. A function
            `(update, states, data, batches) -> name` makes its own choice, perhaps with `choose_strategy`.
        devices: the devices that the members are sharded over, which all run the strategy at the same time; all by
            default. With several processes (`jax.distributed`), the devices of all of them: every process makes this
            call with the same arguments, sees all metrics, and holds the members of its own devices.

    Yields:
        `Epoch(epoch, states, metrics)` for epoch 0 (the start, before any step) and each epoch after it. If
        `first_epoch` is not 0, only for the epochs after it: an earlier call yielded the others. metrics are NumPy
        arrays [member]: those of `evaluate`; "finite", whether all parameters are finite; and, except for the start,
        the means over the epoch's steps of the metrics of `loss_fn`, as "epoch_" + name. A member that diverges
        continues with NaN and does not affect the others.

    Raises:
        TypeError: before any work, for functions that do not follow the protocol, an optimizer that needs more than
            gradients, the loss and its function, and for data or arguments of the wrong type.
        ValueError: before any work, for counts out of range, a batch larger than the data, leaves that disagree, a
            model_state that changes its structure, shapes or dtypes, states of another optimizer, data that
            `loss_fn.check_data` rejects, batches of a function without the member axis (as far as the loss shows it:
            see `check_member_axis`), or an iterator to be resumed; later, for data that end early.

    Warns:
        RuntimeWarning: once, if a metric with "loss" in its name is NaN for a member with finite parameters, and
            once, if the last batch of a pass over an iterable is dropped.
    """
    members = _check_states(states)
    states = states._replace(key=typed_keys(states.key, members))
    epochs, first_epoch, batch_size, steps = _check(epochs, first_epoch, batch_size, steps, data)
    _check_functions(loss_fn, evaluate, strategy)
    _check_optimizer(optimizer, states)
    mesh = member_mesh(members, devices)
    check_values = _values_check(loss_fn, states)
    states = shard_members(states, mesh)
    batches = EpochBatches(
        data, batch_size=batch_size, steps=steps, members=members, mesh=mesh, check_values=check_values
    )
    first = batches(states.key, first_epoch + 1) if first_epoch < epochs else None
    if first is not None:
        if first.data is None:
            check_member_axis(loss_fn, _first_shapes((states.params, states.model_state)), first.batches)
        update = member_update(loss_fn, optimizer, from_arrays=first.data is not None)
        _trace(update, states, *first)  # raises for functions that do not follow the protocol
    if is_arrays(data):
        check_values(data)
    if first is None:
        return iter(())
    if callable(strategy) or strategy == "auto":
        choose = strategy if callable(strategy) else _measured
        strategy = agree(choose(update, *(local_stacks(tree, mesh)[0] for tree in (states, *first))), mesh)
    run = epoch_runner(update, strategy=strategy, mesh=mesh)
    measure = partial(
        _measure,
        evaluate and checked_evaluate(evaluate),
        num_workers(strategy) if mesh is None else num_local_devices(mesh),
        mesh,
    )
    finish = partial(_finish, members, mesh)
    return _iterate(run, states, batches, first, range(first_epoch, epochs + 1), measure, finish)


def num_yielded(epochs: int, first_epoch: int) -> int:
    """Return how many epochs `train` yields: epoch 0 only if the call begins there."""
    return epochs - first_epoch + (first_epoch == 0)


def _check_states(states: TrainState) -> int:
    """Return the number of members of the states, after checking that they can be trained."""
    if not isinstance(states, TrainState):
        raise TypeError(f"states must be a TrainState, as from init_states, got a {type(states).__name__}")
    members = num_members(states)  # raises for leaves that disagree
    check_parameters("states.params", states.params)
    return members


def _check_functions(loss_fn: LossFn, evaluate: Evaluate | None, strategy: str | Chooser) -> None:
    check_function("loss_fn", loss_fn, LOSS, 4)
    if evaluate is not None:
        check_function("evaluate", evaluate, EVALUATE, 2)
    if not callable(strategy) and strategy != "auto":
        parse_strategy(strategy)


def _check_optimizer(optimizer: optax.GradientTransformation, states: TrainState) -> None:
    check_optimizer(optimizer)
    check_update(optimizer, *_first_shapes((states.params, states.opt_state)))


def _values_check(loss_fn: LossFn, states: TrainState) -> Callable[[PyTree], None]:
    """Return a check of the values of data, if `loss_fn` has one (see `flax_loss`)."""
    check = getattr(loss_fn, "check_data", None)
    if check is None:
        return lambda data: None
    return partial(check, *_first_shapes((states.params, states.model_state)))


def _trace(update: Update, states: TrainState, data: PyTree, batches: PyTree) -> None:
    """Trace one step of one member; JAX caches the result for the strategies that compile this step."""
    state, steps = _first_shapes((states, batches))
    jax.eval_shape(update.one, state, data, _first_shapes(steps), np.int32(0), np.int32(0))


def _first_shapes(stacked: PyTree) -> PyTree:
    """Return the shapes of the first element of a stack."""
    return jax.eval_shape(lambda stacked: jax.tree.map(lambda leaf: leaf[0], stacked), stacked)


def _measured(update: Update, states: TrainState, data: PyTree, batches: PyTree) -> str:
    return choose_strategy(update, states, data, batches).strategy


def _iterate(
    run: EpochRunner,
    states: TrainState,
    batches: EpochBatches,
    first: EpochInputs | None,
    epochs: range,
    measure: Callable[[TrainState], dict[str, np.ndarray]],
    finish: Callable[[Epoch], Epoch],
) -> Iterator[Epoch]:
    warned = False
    if epochs.start == 0:
        start = finish(Epoch(0, states, measure(states)))
        warned = _warn_of_nan(start)
        yield start
    for epoch in epochs[1:]:
        inputs, first = batches(states.key, epoch) if first is None else first, None
        states, metrics = run(states, *inputs, epoch)
        del inputs  # so that an epoch's batches are freed before the next ones are drawn
        means = {f"epoch_{name}": values for name, values in metrics.items()}
        result = finish(Epoch(epoch, states, measure(states) | means))
        warned = warned or _warn_of_nan(result)
        yield result


def _warn_of_nan(epoch: Epoch) -> bool:
    """Warn of losses that are NaN although the parameters are finite, which "finite" does not show."""
    finite = epoch.metrics["finite"]
    for name, values in epoch.metrics.items():
        bad = np.isnan(np.asarray(values, np.float64)).reshape(len(finite), -1).any(axis=1) & finite
        if "loss" in name and bad.any():
            members = ", ".join(map(str, np.flatnonzero(bad)[:10]))
            message = f"{name} is NaN in epoch {epoch.epoch} for members whose parameters are finite: {members}"
            warnings.warn(message, RuntimeWarning, stacklevel=3)
            return True
    return False


def _finish(members: int, mesh: Mesh | None, epoch: Epoch) -> Epoch:
    """Return an epoch with the metrics of all processes, without the copies that pad the mesh."""
    states, metrics = epoch.states, gather(epoch.metrics, mesh)
    if num_members(states) > members:
        states, metrics = jax.tree.map(lambda leaf: leaf[:members], (states, metrics))
    return Epoch(epoch.epoch, states, metrics)


def _measure(evaluate: Evaluate | None, workers: int, mesh: Mesh | None, states: TrainState) -> dict[str, np.ndarray]:
    members = (states.params, states.model_state)
    metrics = {} if evaluate is None else dict(map_members(evaluate, *members, workers=workers, mesh=mesh))
    return metrics | {"finite": local_members(_finite(states.params, mesh=mesh), mesh)}


@partial(jax.jit, static_argnames="mesh")
def _finite(params: PyTree, *, mesh: Mesh | None) -> jax.Array:
    def finite(params: PyTree) -> jax.Array:
        leaves = [jnp.isfinite(leaf).reshape(len(leaf), -1).all(axis=1) for leaf in jax.tree.leaves(params)]
        return jnp.stack(leaves).all(axis=0)

    return per_device(finite, mesh, (BY_MEMBER,), BY_MEMBER)(params)


def member_update(loss_fn: LossFn, optimizer: optax.GradientTransformation, *, from_arrays: bool) -> Update:
    """Return the step that members run: it indexes the batch on the device and folds the counts into the key.

    The same functions give the same step, so that another call of `train` finds the compiled programs of the last.
    """
    try:
        hash((loss_fn, optimizer))
    except TypeError:  # such as an object with a list among its fields
        return _member_update.__wrapped__(loss_fn, optimizer, from_arrays)
    return _member_update(loss_fn, optimizer, from_arrays)


@lru_cache(maxsize=4)
def _member_update(loss_fn: LossFn, optimizer: optax.GradientTransformation, from_arrays: bool) -> Update:
    one, stack = make_step(loss_fn, optimizer), make_stacked_step(loss_fn, optimizer)

    def pick(data: PyTree, batch: PyTree) -> PyTree:
        return jax.tree.map(lambda array: array[batch], data) if from_arrays else batch

    def step_key(key: jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, _LOSS), epoch), index)

    def update_one(
        state: TrainState, data: PyTree, batch: PyTree, epoch: jax.Array, index: jax.Array
    ) -> tuple[TrainState, Metrics]:
        return one(state, pick(data, batch), step_key(state.key, epoch, index))

    def update_stack(
        states: TrainState, data: PyTree, batches: PyTree, epoch: jax.Array, index: jax.Array
    ) -> tuple[TrainState, Metrics]:
        keys = jax.vmap(step_key, in_axes=(0, None, None))(states.key, epoch, index)
        return stack(states, pick(data, batches), keys)

    return Update(update_one, update_stack)


def _check(epochs: Any, first_epoch: Any, batch_size: Any, steps: Any, data: Data) -> tuple[int, int, int, int | None]:
    """Return the numbers as ints, checked against one another and the data."""
    epochs, batch_size = count("epochs", epochs), count("batch_size", batch_size)
    first_epoch = whole_number("first_epoch", first_epoch)
    if not 0 <= first_epoch <= epochs:
        raise ValueError(f"first_epoch must be between 0 and epochs = {epochs}, got {first_epoch}")
    check_data(data)
    steps = None if steps is None else whole_number("steps", steps)
    if steps is not None and (steps < 1 or callable(data)):
        raise ValueError(f"steps must be at least 1, and None if data is a function, got {steps}")
    if isinstance(data, Iterator) and steps is None:
        raise ValueError("steps must be given if data is an iterator: the number of batches per epoch")
    if isinstance(data, Iterator) and first_epoch:
        raise ValueError(
            f"first_epoch must be 0 if data is an iterator, which cannot be resumed, got {first_epoch}; give a "
            "function (epoch, keys) -> batches"
        )
    if is_arrays(data) and batch_size > num_members(data):
        raise ValueError(f"batch_size must be at most the number of examples, {num_members(data)}, got {batch_size}")
    return epochs, first_epoch, batch_size, steps
