"""A Flax Linen module as a problem."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from jaxscape.problem import (
    Data,
    Evaluate,
    FilterAxis,
    LossFn,
    Metrics,
    Predict,
    Problem,
    Score,
    check_data,
    check_function,
    is_arrays,
)
from jaxscape.tasks.classification import classification_score, dropout_key, flax_loss, flax_predict
from jaxscape.tasks.trees import loss_and_metrics, path_names

PyTree = Any
Model = Callable[..., Any]
Loss = Callable[[Model, PyTree, jax.Array], Any]

LOSS = "loss(model, batch, key) -> loss or (loss, metrics)"
PREDICT = "predict(model, batch) -> outputs [example, ...]"


class OutputAxes:
    """The filter axis of each parameter of Flax's layers, as a function of its path.

    For a kernel these are the axes that its bias has, or else the last one; for the query, key and value of an
    attention layer (in, heads, head_dim) the last two; for an embedding the first, one row per token.

    Args:
        params: returns the parameters, or their shapes; called at the first lookup.
    """

    def __init__(self, params: Callable[[], PyTree]):
        self._params = params
        self._shapes: dict[tuple[str, ...], tuple[int, ...]] | None = None

    def __call__(self, path: tuple[Any, ...]) -> int | tuple[int, ...]:
        """Return the output axes of the array at a key path."""
        if self._shapes is None:
            leaves = jax.tree_util.tree_leaves_with_path(self._params())
            self._shapes = {_names(of_leaf): jnp.shape(leaf) for of_leaf, leaf in leaves}
        *above, name = _names(path) or ("",)
        shape = self._shapes.get((*above, name), ())
        bias = self._shapes.get((*above, "bias"), ())
        if name == "embedding":
            return 0
        if name == "kernel" and 1 < len(bias) < len(shape) and shape[-len(bias) :] == bias:
            return tuple(range(-len(bias), 0))
        of_attention = len(shape) == 3 and above[-1:] in (["query"], ["key"], ["value"])
        return (-2, -1) if name == "kernel" and of_attention else -1


def flax_problem(
    module: nn.Module,
    data: Data,
    *,
    loss: Loss | None = None,
    example: PyTree = None,
    evaluate: Evaluate | None = None,
    optimizer: optax.GradientTransformation | None = None,
    describe: Mapping[str, Any] | None = None,
    version: str = "",
    filter_axis: FilterAxis | None = None,
    predict: Callable[[Model, PyTree], PyTree] | None = None,
    score: Score | None = None,
    test_data: PyTree | None = None,
) -> Problem:
    """Return the problem of a Flax Linen module.

    The collection "params" is trained; all others (such as the "batch_stats" of batch norm) are the model_state, and a
    step keeps the changes that the module makes in them. The key of the stream "dropout" is derived from the step's
    key.

    Args:
        module: a Flax Linen module.
        data: as `Problem` takes it.
        loss: `(model, batch, key) -> loss or (loss, metrics)`, where `model(*args, **kwargs)` calls the module, as in
            `model(images, train=True)`. By default the module is an image classifier, as `flax_loss` takes it: the
            batch is (images, labels), and `module(images, train=True)` returns logits.
        example: a batch, of any size, to initialize the module with; by default the first example, if data are arrays.
        evaluate: `(params, model_state) -> metrics` of one network; from `flax_evaluate`, or your own with
            `module.apply({"params": params, **model_state}, ...)`.
        optimizer: as in `Problem`.
        describe: captions, as in `Problem`.
        version: version of the problem, as in `Problem`.
        filter_axis: the output axis of the parameters, as in `Problem`; by default that of Flax's layers: for a kernel
            the axes that its bias has, or else the last one; for the query, key and value of an attention layer (in,
            heads, head_dim) the heads and their features; for an embedding the first, one row per token.
        predict: `(model, batch) -> outputs [example, ...]`, as in `model(batch[0], train=False)`; by default the logits
            of an image classifier.
        score: as in `Problem`; by default cross-entropy and accuracy of an image classifier.
        test_data: arrays like `data`, as in `Problem`.

    Returns:
        A problem whose `init` calls the module once, as `loss` does, with the streams "params" and "dropout".

    Raises:
        TypeError: if module is not a Flax Linen module, for a loss with other arguments, and as in `Problem`.
        ValueError: if data are not arrays and there is no example.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a module of flax.linen, such as Network(), got {module!r:.100}")
    if loss is not None:
        check_function("loss", loss, LOSS, 3)
    if predict is not None:
        check_function("predict", predict, PREDICT, 2)
    check_data(data)
    if example is None:
        if not is_arrays(data):
            raise ValueError("example must be a batch to initialize the module with if data are not arrays")
        example = jax.tree.map(lambda array: array[:1], data)
    init = _init(module, loss or _classify, example)
    of_params = _predict(module, predict) if predict is not None else None
    if loss is None and predict is None and score is None:
        of_params, score = flax_predict(module), classification_score
    return Problem(
        flax_loss(module) if loss is None else _loss_fn(module, loss),
        data,
        evaluate=evaluate,
        init=init,
        optimizer=optimizer,
        describe=describe or {},
        version=version,
        filter_axis=OutputAxes(lambda: jax.eval_shape(init, jax.random.key(0))[0])
        if filter_axis is None
        else filter_axis,
        predict=of_params,
        score=score,
        test_data=test_data,
    )


def _predict(module: nn.Module, predict: Callable[[Model, PyTree], PyTree]) -> Predict:
    def of_params(params: PyTree, model_state: PyTree, batch: PyTree) -> PyTree:
        return predict(partial(module.apply, {"params": params, **model_state}), batch)

    return of_params


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    names = path_names(path)
    return names[:-1] if names[-1:] == ("value",) else names  # Flax boxes arrays, as in Partitioned


def _classify(model: Model, batch: PyTree, key: jax.Array) -> Any:
    return model(batch[0], train=True)


def _loss_fn(module: nn.Module, loss: Loss) -> LossFn:
    def loss_fn(
        params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        changed = dict(model_state)

        def model(*args: Any, **kwargs: Any) -> Any:
            variables, rngs = {"params": params, **changed}, {"dropout": dropout_key(key)}
            outputs, updated = module.apply(variables, *args, rngs=rngs, mutable=list(model_state), **kwargs)
            changed.update(updated)
            return outputs

        value, metrics = loss_and_metrics(loss(model, batch, key))
        return value, (changed, metrics)

    return loss_fn


def _init(module: nn.Module, loss: Loss, example: PyTree) -> Callable[[jax.Array], tuple[PyTree, PyTree]]:
    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables: dict[str, Any] = {}

        def model(*args: Any, **kwargs: Any) -> Any:
            if variables:  # a loss may call its model several times
                return module.apply(variables, *args, rngs=rngs, mutable=list(variables), **kwargs)[0]
            outputs, initial = module.init_with_output({"params": key} | rngs, *args, **kwargs)
            variables.update(initial)
            return outputs

        rngs = {"dropout": dropout_key(key)}
        loss(model, example, key)
        if not variables:
            raise ValueError("loss must call its model, which initializes the module")
        params = variables.pop("params")
        return params, variables

    return init
