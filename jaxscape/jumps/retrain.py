"""The paper's experiment: retrain every perturbed copy and yield the states after each epoch.

A thin layer over `jaxscape.training.train` that gives each copy its own stream of batches.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape.arguments import typed_key
from jaxscape.jumps.directions import JumpGrid
from jaxscape.problem import Data, Evaluate, LossFn
from jaxscape.training.members import num_members
from jaxscape.training.train import Chooser, Epoch, TrainState, copy_states, init_states, train

PyTree = Any

DATA_ORDERS = ("member", "seed", "shared")


def retrain(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    start: JumpGrid | TrainState | PyTree,
    data: Data,
    *,
    epochs: int,
    key: jax.Array,
    model_state: PyTree = None,
    evaluate: Evaluate | None = None,
    batch_size: int = 128,
    data_order: str = "member",
    first_epoch: int = 0,
    strategy: str | Chooser = "loop",
    steps: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Iterator[Epoch]:
    """Retrain perturbed copies of a network, all with fresh optimiser states.

    Args:
        loss_fn: `(params, model_state, batch, key) -> (loss, (model_state, metrics))` of one network, augmentation
            included; from `flax_loss` or your own.
        optimizer: an optax transformation for one network.
        start: a `JumpGrid`; any pytree of stacked parameters [member, ...]; or a state yielded by an earlier call,
            which is resumed with its own keys and optimiser state (`key`, `model_state` and `data_order` are then
            unused).
        data: a pytree of arrays [example, ...]; a function `(epoch, member keys) -> batches` with leaves
            [member, step, batch, ...]; or an iterable or an iterator of batches that all copies see, whatever
            `data_order`. See `jaxscape.training.train`.
        epochs: the last epoch to reach, counted from epoch 0.
        key: a PRNG key that determines the batch order and augmentation of every member, but not the directions of
            the jumps.
        model_state: the model state of the minimum (one network); every copy starts with it.
        evaluate: `(params, model_state) -> metrics` of one network, recorded after every epoch.
        batch_size: examples per step; a last partial batch is dropped after shuffling.
        data_order: which members see the same batches and augmentation: "member", none of them; "seed", those perturbed
            along one direction (as in the paper's code); "shared", all of them. The stream of a member follows from
            its seed and step size (its index in the stack if it has none), so it does not depend on the other members.
        first_epoch: number of epochs that a yielded `start` has already been trained for.
        strategy: how the members run together; see `jaxscape.training.members`. "auto" or a function chooses as in
            `jaxscape.training.train`.
        steps: yield after this many steps, and count these as epochs; see `jaxscape.training.train`.
        devices: the devices over which the copies are sharded; all by default, including those of other processes
            (`jax.distributed`), as in `jaxscape.training.train`.

    Yields:
        `Epoch(epoch, states, metrics)`: first the start, unchanged, then one for each epoch; with `first_epoch` only
        the epochs after it. The buffers of the states are donated to the next epoch: copy what you keep.

    Raises:
        TypeError, ValueError: before any work, for arguments of another kind or out of range, and for leaves whose
            shapes do not match; see `jaxscape.training.train`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> def loss_fn(params, model_state, batch, key):
        ...     loss = jnp.mean((batch @ params - 1.0) ** 2)
        ...     return loss, (model_state, {"loss": loss})
        >>> start = jnp.zeros((3, 2))  # three copies of two parameters
        >>> data = jnp.eye(2)
        >>> for epoch, states, metrics in retrain(
        ...     loss_fn, optax.sgd(0.1), start, data, epochs=2, key=jax.random.key(0), batch_size=2
        ... ):
        ...     print(epoch, states.params.shape, metrics["finite"].all())
        0 (3, 2) True
        1 (3, 2) True
        2 (3, 2) True
    """
    _check_data_order(data_order)
    if isinstance(start, TrainState):
        # Donation would delete the caller's state, but a run must be able to start from it twice.
        states = copy_states(start)
    else:
        states = start_states(start, optimizer, key=key, model_state=model_state, data_order=data_order)
    return train(
        loss_fn,
        optimizer,
        states,
        data,
        epochs=epochs,
        evaluate=evaluate,
        batch_size=batch_size,
        steps=steps,
        first_epoch=first_epoch,
        strategy=strategy,
        devices=devices,
    )


def start_states(
    start: JumpGrid | PyTree,
    optimizer: optax.GradientTransformation,
    *,
    key: jax.Array,
    model_state: PyTree = None,
    data_order: str = "member",
) -> TrainState:
    """Return the states that `retrain` starts from, for example to join several with `concatenate_states`.

    Args:
        start: as in `retrain`, except for a yielded state; it is copied.
        optimizer: an optax transformation for one network.
        key: a PRNG key that determines the batch order and augmentation of every member.
        model_state: the model state of the minimum (one network).
        data_order: which members see the same batches; see `retrain`.

    Raises:
        TypeError: if key is not a PRNG key; see also `init_states`.
        ValueError: if data_order is unknown, or the shapes of leaves do not match.
    """
    _check_data_order(data_order)
    params = start.params if isinstance(start, JumpGrid) else start
    keys = _member_keys(typed_key(key), start, num_members(start), data_order)
    return init_states(params, optimizer, keys=keys, model_state=model_state)


def _check_data_order(data_order: str) -> None:
    if data_order not in DATA_ORDERS:
        raise ValueError(f"unknown data_order {data_order!r}; known: {', '.join(DATA_ORDERS)}")


def _member_keys(key: jax.Array, start: JumpGrid | PyTree, members: int, data_order: str) -> jax.Array:
    """Return one key per member, which depends on the member's labels and not on the other members."""
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, 0))
    keys = jnp.stack([key] * members)
    if data_order == "shared":
        return keys
    if not isinstance(start, JumpGrid):
        if data_order == "seed":
            raise ValueError('data_order "seed" needs a JumpGrid, whose members have seeds; got a stacked pytree')
        return fold(keys, np.arange(members, dtype=np.uint32))
    keys = fold(keys, np.asarray(start.seed, np.uint32))
    if data_order == "seed":
        return keys
    # fold_in takes integers: the bits of the float32 step size are one, distinct for distinct step sizes.
    return fold(keys, np.asarray(start.step_size, np.float32).view(np.uint32))
