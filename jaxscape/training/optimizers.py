"""Optimisers and schedules by name: thin names over optax with PyTorch's semantics.

Weight decay is PyTorch's coupled L2: `weight_decay * params` joins the gradient before momentum or Adam's moments
see it, for every leaf, biases and batch norm included (the tests hold this against numbers recorded from PyTorch).
"""

from collections.abc import Sequence

import optax

from jaxscape.arguments import count, finite_number, number, whole_number

_MOST_UPDATES = 2**31 - 1  # optax counts them in 32 bits

OPTIMIZERS = ("sgd", "momentum", "adam")


def make_optimizer(
    name: str, learning_rate: float | optax.Schedule, *, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """The optimiser of that name.

    Args:
        name: "sgd" (plain), "momentum" (SGD with momentum 0.9) or "adam" (betas 0.9 and 0.999, epsilon 1e-8).
        learning_rate: a positive number, or an optax schedule over updates.
        weight_decay: coefficient of the L2 term, at least 0.

    Raises:
        TypeError: for a learning rate or a weight decay that is no number.
        ValueError: for an unknown name (lists the known ones), a learning rate that is not positive, or a negative
            weight decay.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(OPTIMIZERS)}")
    if not callable(learning_rate) and not 0 < number("learning_rate", learning_rate) < float("inf"):
        raise ValueError(f"learning_rate must be a positive number, got {learning_rate}")
    if not 0 <= number("weight_decay", weight_decay) < float("inf"):
        raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
    base = {
        "sgd": lambda: optax.sgd(learning_rate),
        "momentum": lambda: optax.sgd(learning_rate, momentum=0.9),
        "adam": lambda: optax.adam(learning_rate),
    }[name]()
    return optax.chain(optax.add_decayed_weights(weight_decay), base) if weight_decay else base


def step_decay(
    learning_rate: float, decay_epochs: Sequence[int], *, steps_per_epoch: int, factor: float = 0.1
) -> optax.Schedule:
    """A learning rate multiplied by `factor` at the start of each of `decay_epochs` (epochs counted from 0).

    Raises:
        TypeError: for numbers of another kind.
        ValueError: where the epochs are not increasing positive integers or lie beyond 2**31 updates, there is no step
            in an epoch, or a number is not finite.
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
