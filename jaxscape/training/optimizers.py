"""Optimisers and schedules by name: optax with PyTorch's semantics.

Weight decay is PyTorch's coupled L2: `weight_decay * params` is added to the gradient before momentum or Adam's moments
are computed, for every leaf, including biases and batch norm (tested against numbers recorded from PyTorch).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxscape.arguments import count, finite_number, number, whole_number
from jaxscape.lazy import jax, jnp, optax

_MOST_UPDATES = 2**31 - 1  # optax counts them in 32 bits

OPTIMIZERS = ("sgd", "momentum", "adam")
_MOMENTUM = {"sgd": 0.0, "momentum": 0.9}  # of the optimisers whose weight decay shrinks all parameters alike


def make_optimizer(
    name: str, learning_rate: float | optax.Schedule, *, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Return the optimiser with this name.

    Args:
        name: "sgd" (plain), "momentum" (SGD with momentum 0.9) or "adam" (betas 0.9 and 0.999, epsilon 1e-8).
        learning_rate: a positive number, or an optax schedule over updates.
        weight_decay: coefficient of the L2 term, at least 0.

    Raises:
        TypeError: for a learning rate or a weight decay that is not a number.
        ValueError: for an unknown name (the message lists the known ones), a learning rate that is not positive, or a
            negative weight decay.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    if not callable(learning_rate) and not 0 < number("learning_rate", learning_rate) < float("inf"):
        raise ValueError(f"learning_rate must be a positive number, got {learning_rate}")
    if not 0 <= number("weight_decay", weight_decay) < float("inf"):
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    base = {
        "sgd": lambda: optax.sgd(learning_rate),
        "momentum": lambda: optax.sgd(learning_rate, momentum=_MOMENTUM["momentum"]),
        "adam": lambda: optax.adam(learning_rate),
    }[name]()
    return optax.chain(optax.add_decayed_weights(weight_decay), base) if weight_decay else base


def decay_factors(optimizer: optax.GradientTransformation, updates: int) -> np.ndarray:
    """Return the factor by which an optimiser's weight decay alone scales parameters, after each number of updates.

    The gradient of the loss is taken as zero. With SGD and momentum, weight decay then shrinks all parameters by the
    same factor; with Adam and similar optimisers it does not.

    Args:
        optimizer: an optax transformation with weight decay, in its initial state.
        updates: the number of updates.

    Returns:
        float64 (updates + 1,): the parameters after 0, 1, ... updates as a multiple of the initial ones; 1 at 0.

    Raises:
        TypeError: for a number of updates that is not a whole number.
        ValueError: if updates is negative, or parameters of different sizes do not shrink by the same factor.
    """
    with jax.enable_x64(True):
        first = jnp.array([1.0, -2.0, 1e-3, 1e3])

        def update(
            state: tuple[jax.Array, optax.OptState], _: None
        ) -> tuple[tuple[jax.Array, optax.OptState], jax.Array]:
            params, opt_state = state
            changes, opt_state = optimizer.update(jnp.zeros_like(params), opt_state, params)
            params = params + changes.astype(params.dtype)
            return (params, opt_state), params

        steps = count("updates", updates, least=0)
        _, after = jax.lax.scan(update, (first, optimizer.init(first)), length=steps)
        factors = np.concatenate([np.ones((1, 4)), np.asarray(after) / np.asarray(first)])
    if not np.allclose(factors, factors[:, :1], rtol=1e-6, atol=0):
        raise ValueError("optimizer must shrink all parameters by the same factor, as sgd does; this one does not")
    return factors[:, 0]


def named_decay_factors(name: str, learning_rate: float, weight_decay: float, updates: int) -> np.ndarray | None:
    """Return `decay_factors` of `make_optimizer(name, learning_rate, weight_decay=weight_decay)`, without jax or optax.

    Figures and surrogates of a finished run need them, and nothing else that would import jax. The last bits may
    differ from those of `decay_factors`, since XLA may round a multiplication and an addition only once.

    Args:
        name: an optimiser that `make_optimizer` knows.
        learning_rate: a number, the same for all updates.
        weight_decay: coefficient of the L2 term.
        updates: the number of updates.

    Returns:
        float64 (updates + 1,), or None if parameters of different sizes do not shrink by the same factor.
    """
    factors = np.ones(updates + 1)
    if not weight_decay:
        return factors
    if name not in _MOMENTUM:
        return None
    factor, velocity = 1.0, 0.0
    for update in range(updates):
        velocity = weight_decay * factor + _MOMENTUM[name] * velocity
        factor -= learning_rate * velocity
        factors[update + 1] = factor
    return factors


def step_decay(
    learning_rate: float, decay_epochs: Sequence[int], *, steps_per_epoch: int, factor: float = 0.1
) -> optax.Schedule:
    """Return a learning rate that is multiplied by `factor` at the start of each of `decay_epochs` (counted from 0).

    Raises:
        TypeError: for arguments of the wrong type.
        ValueError: if the epochs are not increasing positive integers or exceed 2**31 updates, an epoch has no step, or
            a number is not finite.
    """
    finite_number("learning_rate", learning_rate)
    finite_number("factor", factor)
    count("steps_per_epoch", steps_per_epoch)
    epochs = [whole_number("decay_epochs", epoch) for epoch in decay_epochs]
    if any(epoch < 1 for epoch in epochs) or sorted(set(epochs)) != epochs:
        raise ValueError(f"decay_epochs must be increasing and at least 1, got {epochs}")
    if epochs and epochs[-1] * steps_per_epoch > _MOST_UPDATES:
        raise ValueError(f"decay_epochs must be reached within {_MOST_UPDATES} updates, got {epochs}")
    return optax.piecewise_constant_schedule(learning_rate, {epoch * steps_per_epoch: factor for epoch in epochs})
