"""What a user's functions and optimiser must give, checked where they are traced or called.

    loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))
    evaluate(params, model_state) -> metrics
    data(epoch, keys) -> batches
    optimizer.update(grads, opt_state, params) -> (updates, opt_state)

The checks look at structures, shapes and dtypes, which are known while a function is traced: they cost nothing in the
compiled step. What these functions raise themselves passes through unchanged.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxscape.training.arguments import leaf_name

PyTree = Any

LOSS = "loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))"
EVALUATE = "evaluate(params, model_state) -> metrics"
DATA = "data(epoch, keys) -> batches"
_UPDATE = "optimizer.update(grads, opt_state, params) -> (updates, opt_state)"


def check_function(name: str, function: Any, protocol: str, arguments: int) -> None:
    """Raise an error where `function` cannot be called with so many positional arguments.

    Raises:
        TypeError: states the protocol.
    """
    if not callable(function):
        raise TypeError(f"{name} must be a function {protocol}, got {function!r:.100}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # a function of C, say, does not tell
        return
    try:
        signature.bind(*range(arguments))
    except TypeError as error:
        raise TypeError(f"{name} must be a function {protocol}, but it takes {signature}: {error}") from None


def checked_loss(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `loss_fn` with its result checked whenever it is traced."""

    @wraps(loss_fn)
    def checked(params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array) -> Any:
        result = loss_fn(params, model_state, batch, key)
        match result:
            case (loss, (new_state, metrics)):
                pass
            case _:
                raise TypeError(f"loss_fn must be {LOSS}, got a result of {_outline(result)}")
        if not _is_number(loss) or np.shape(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise TypeError(f"loss_fn must be {LOSS}, where loss is one real number; got {_outline(loss)}")
        _check_model_state(model_state, new_state)
        _check_metrics("loss_fn", LOSS, metrics)
        return result

    return checked


def checked_evaluate(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """Return `evaluate` with the metrics of every call checked."""

    @wraps(evaluate)
    def checked(params: PyTree, model_state: PyTree) -> Any:
        metrics = evaluate(params, model_state)
        _check_metrics("evaluate", EVALUATE, metrics)
        if "finite" in metrics:
            raise ValueError('evaluate must not give a metric "finite": train records one of this name itself')
        return metrics

    return checked


def check_data(data: Any) -> None:
    """Raise an error where `data` is neither a pytree of arrays of numbers nor a function.

    Raises:
        TypeError: for iterators and other objects (names the leaf).
    """
    if callable(data):
        check_function("data", data, DATA, 2)
        return
    # Named as leaves, since jax warns of iterators.
    for path, leaf in jax.tree_util.tree_leaves_with_path(data, is_leaf=lambda node: isinstance(node, Iterator)):
        if not (_is_number(leaf) or _is_key(leaf)):
            raise TypeError(
                f"data must be a pytree of arrays [example, ...] or a function {DATA}, got {_outline(leaf)} "
                f"at {leaf_name(path)}; for a generator or a loader, give a function that draws an epoch's batches"
            )


def check_optimizer(optimizer: Any) -> None:
    """Raise an error where `optimizer` is no optax transformation.

    Raises:
        TypeError: says what it is.
    """
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r:.100}")


def check_update(optimizer: optax.GradientTransformation, params: PyTree, opt_state: PyTree) -> None:
    """Raise an error where the optimiser needs more than gradients, or `opt_state` belongs to another one.

    Args:
        optimizer: an optax transformation.
        params: of one member, arrays or their shapes; likewise
        opt_state: its state.

    Raises:
        TypeError: for an optimiser that needs further arguments, such as the loss.
        ValueError: for a state of another optimiser or of other parameters.
    """
    fresh = jax.eval_shape(optimizer.init, params)
    if _shapes(fresh) != _shapes(opt_state):
        raise ValueError(
            "states must hold the state of this optimizer for these params, as from init_states(params, optimizer); "
            "their opt_state has another structure or other shapes"
        )
    try:
        jax.eval_shape(optimizer.update, params, opt_state, params)
    except TypeError as error:
        if "argument" not in str(error):
            raise
        raise TypeError(
            f"optimizer must need no more than {_UPDATE}; one that needs the loss or its function again, as "
            f"optax.lbfgs and optax.contrib.reduce_on_plateau, cannot be used here ({error})"
        ) from error


def _check_model_state(old: PyTree, new: PyTree) -> None:
    if _shapes(old)[0] != _shapes(new)[0]:
        raise ValueError(
            f"loss_fn must return a model_state of the structure that it was given, {jax.tree.structure(old)}; "
            f"got {jax.tree.structure(new)}"
        )
    for (path, was), now in zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True):
        if (np.shape(was), jnp.result_type(was)) != (np.shape(now), jnp.result_type(now)):
            raise ValueError(
                "loss_fn must return a model_state of the shapes and dtypes that it was given: "
                f"{_outline(was)} at {leaf_name(path)} became {_outline(now)}"
            )


def _check_metrics(name: str, protocol: str, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise TypeError(f"{name} must be {protocol}, where metrics is a dict; got {_outline(metrics)}")
    for key, value in metrics.items():
        if not isinstance(key, str) or not _is_number(value):
            raise TypeError(
                f"{name} must be {protocol}, where metrics is a dict from names to scalars; "
                f"got {_outline(value)} at {key!r}"
            )


def _is_number(value: Any) -> bool:
    """Whether a value is a number or an array of numbers, concrete or traced."""
    if isinstance(value, bool | int | float | complex):
        return True
    dtype = getattr(value, "dtype", None)
    return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_))


def _is_key(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _shapes(tree: PyTree) -> tuple[Any, list[tuple[int, ...]]]:
    return jax.tree.structure(tree), [np.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _outline(value: Any) -> str:
    """A value on one line: an array by its dtype and shape, a container by its entries' outlines."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_outline, value))})"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(repr, value)) or 'nothing'}"
    return repr(value) if value is None or isinstance(value, int | float | str) else f"a {type(value).__name__}"
