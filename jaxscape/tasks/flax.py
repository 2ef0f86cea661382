"""A module of Flax Linen as a problem."""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxscape.problem import Data, Evaluate, FilterAxis, LossFn, Metrics, Problem, check_data, check_function, is_arrays
from jaxscape.tasks.classification import dropout_key, flax_loss
from jaxscape.tasks.trees import loss_and_metrics

PyTree = Any
Model = Callable[..., Any]
Loss = Callable[[Model, PyTree, jax.Array], Any]

LOSS = "loss(model, batch, key) -> loss or (loss, metrics)"


def rows_of_embeddings(path: tuple[Any, ...]) -> int:
    """The filter axis of Flax's layers: the last of a kernel, and the first of an embedding, one row per token."""
    names = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    return 0 if names and names[-1] == "embedding" else -1


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
    filter_axis: FilterAxis = rows_of_embeddings,
) -> Problem:
    """Return the problem of a Flax Linen module.

    The collection "params" is what is trained; all others (the "batch_stats" of batch norm) are the model_state, and
    a step keeps what the module changes in them. The stream "dropout" follows from the step's key.

    Args:
        module: of Flax Linen.
        data: as `Problem` takes it.
        loss: `(model, batch, key) -> loss or (loss, metrics)`, where `model(*args, **kwargs)` calls the module, as in
            `model(images, train=True)`. By default the module is an image classifier, as `flax_loss` takes it: the
            batch is (images, labels), and `module(images, train=True)` gives logits.
        example: a batch, of any size, to initialize the module with; by default the first example of arrays.
        evaluate: `(params, model_state) -> metrics` of one network; from `flax_evaluate`, or your own with
            `module.apply({"params": params, **model_state}, ...)`.
        optimizer: as in `Problem`; likewise
        describe: captions,
        version: of the problem, and
        filter_axis: the output axis of the parameters. The kernel of an attention layer (in, heads, head_dim) has
            two, which a function of the path has to tell.

    Returns:
        A problem whose `init` calls the module once, as `loss` does, with the streams "params" and "dropout".

    Raises:
        TypeError: for what is no module, a loss of other arguments, or as `Problem` says.
        ValueError: for data that are no arrays without an example.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a module of flax.linen, such as Network(), got {module!r:.100}")
    if loss is not None:
        check_function("loss", loss, LOSS, 3)
    check_data(data)
    if example is None:
        if not is_arrays(data):
            raise ValueError("example must be a batch to initialize the module with, where data are no arrays")
        example = jax.tree.map(lambda array: array[:1], data)
    return Problem(
        flax_loss(module) if loss is None else _loss_fn(module, loss),
        data,
        evaluate=evaluate,
        init=_init(module, loss or _classify, example),
        optimizer=optimizer,
        describe=describe or {},
        version=version,
        filter_axis=filter_axis,
    )


def _classify(model: Model, batch: PyTree, key: jax.Array) -> Any:
    return model(batch[0], train=True)


def _loss_fn(module: nn.Module, loss: Loss) -> LossFn:
    def loss_fn(
        params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        changed = dict(model_state)

        def model(*args: Any, **kwargs: Any) -> Any:
            variables, rngs = {"params": params, **changed}, {"dropout": dropout_key(key)}
            outputs, own = module.apply(variables, *args, rngs=rngs, mutable=list(model_state), **kwargs)
            changed.update(own)
            return outputs

        found, metrics = loss_and_metrics(loss(model, batch, key))
        return found, (changed, metrics)

    return loss_fn


def _init(module: nn.Module, loss: Loss, example: PyTree) -> Callable[[jax.Array], tuple[PyTree, PyTree]]:
    def init(key: jax.Array) -> tuple[PyTree, PyTree]:
        variables: dict[str, Any] = {}

        def model(*args: Any, **kwargs: Any) -> Any:
            if variables:  # a loss may call its model several times
                return module.apply(variables, *args, rngs=rngs, mutable=list(variables), **kwargs)[0]
            outputs, found = module.init_with_output({"params": key} | rngs, *args, **kwargs)
            variables.update(found)
            return outputs

        rngs = {"dropout": dropout_key(key)}
        loss(model, example, key)
        if not variables:
            raise ValueError("loss must call its model, which initializes the module")
        params = variables.pop("params")
        return params, variables

    return init
