"""An Equinox model as a problem."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxscape.problem import Data, FilterAxis, Metrics, Problem, Score, check_function
from jaxscape.tasks.flax import LOSS, PREDICT
from jaxscape.tasks.trees import Layout, loss_and_metrics

PyTree = Any

# A count of steps after which a running mean shows nothing of where it began, and which still can be counted on from.
MANY_STEPS = 2**30

LOSS_WITH_STATE = "loss(model, state, batch, key) -> (loss, state) or (loss, (state, metrics))"


def equinox_problem(
    model: PyTree,
    data: Data,
    *,
    loss: Callable[..., Any],
    state: Any = None,
    evaluate: Callable[..., Metrics] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    describe: Mapping[str, Any] | None = None,
    version: str = "",
    filter_axis: FilterAxis = 0,
    predict: Callable[..., PyTree] | None = None,
    score: Score | None = None,
    test_data: PyTree | None = None,
) -> Problem:
    """Return the problem of an Equinox model.

    The floating-point arrays of the model (`eqx.is_inexact_array`) are trained; everything else stays as it is. If the
    model has an `eqx.nn.State` (batch norm), this is the model_state.

    Args:
        model: an Equinox module, or any pytree with arrays.
        data: as `Problem` takes it.
        loss: `(model, batch, key) -> loss or (loss, metrics)`; with a state
            `(model, state, batch, key) -> (loss, state) or (loss, (state, metrics))`. Equinox's layers take one
            example: the loss maps them over the batch (`jax.vmap`), and splits the key for dropout.
        state: the state of the model, from `eqx.nn.make_with_state`.
        evaluate: `model -> metrics`; with a state `(model, state) -> metrics`. The model is in inference mode
            (`eqx.nn.inference_mode`).
        optimizer: as in `Problem`.
        describe: captions, as in `Problem`.
        version: version of the problem, as in `Problem`.
        filter_axis: the output axis of the parameters, as in `Problem`; by default the first one, as in Equinox; for
            an embedding this means one row per token.
        predict: `(model, batch) -> outputs [example, ...]`; with a state `(model, state, batch) -> outputs`. The model
            is in inference mode.
        score: as in `Problem`.
        test_data: arrays like `data`, as in `Problem`.

    Returns:
        A problem whose `init` returns the model's own parameters and state for every key; both are nested dicts of
        arrays. `Run.set_minimum`, `Run.record`, `line`, `barrier`, `connect` and the measures of curvature take the
        model itself; for all other functions, `problem.split_model` splits it.
        `problem.loss_fn.merge(params, model_state)` returns the model, or `(model, state)`.

    Raises:
        ImportError: if Equinox is not installed.
        TypeError: for functions with other arguments, and as in `Problem`.
    """
    try:
        import equinox as eqx
    except ImportError as error:
        raise ImportError("equinox_problem needs Equinox; `pip install equinox` installs it") from error
    check_function("loss", loss, LOSS if state is None else LOSS_WITH_STATE, 3 if state is None else 4)
    if evaluate is not None:
        names = "model" if state is None else "model, state"
        check_function("evaluate", evaluate, f"evaluate({names}) -> metrics", 1 if state is None else 2)
    if predict is not None:
        protocol = PREDICT if state is None else "predict(model, state, batch) -> outputs [example, ...]"
        check_function("predict", predict, protocol, 2 if state is None else 3)
    trained, rest = eqx.partition(model, eqx.is_inexact_array)
    arrays, static = eqx.partition(state, eqx.is_array)
    of_model, of_state = Layout(trained), Layout(arrays)
    # Equinox allows a state to be used once, so only its arrays are kept.
    start = of_model.to_dicts(trained), of_state.to_dicts(arrays)

    def merge(params: PyTree, model_state: PyTree) -> Any:
        network = eqx.combine(of_model.from_dicts(params), rest)
        return network if state is None else (network, eqx.combine(of_state.from_dicts(model_state), static))

    def loss_fn(
        params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        if state is None:
            value, metrics = loss_and_metrics(loss(merge(params, model_state), batch, key))
            return value, (model_state, metrics)
        value, new, metrics = _with_state(loss(*merge(params, model_state), batch, key))
        return value, (of_state.to_dicts(eqx.filter(new, eqx.is_array)), metrics)

    def evaluate_one(params: PyTree, model_state: PyTree) -> Metrics:
        assert evaluate is not None
        network = eqx.nn.inference_mode(merge(params, model_state))
        return evaluate(network) if state is None else evaluate(*network)

    def predict_one(params: PyTree, model_state: PyTree, batch: PyTree) -> PyTree:
        assert predict is not None
        network = eqx.nn.inference_mode(merge(params, model_state))
        return predict(network, batch) if state is None else predict(*network, batch)

    norms = [
        leaf
        for leaf in jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, eqx.nn.BatchNorm))
        if isinstance(leaf, eqx.nn.BatchNorm) and leaf.batch_state_index is not None
    ]

    def debias(model_state: PyTree) -> PyTree:
        found = eqx.combine(of_state.from_dicts(model_state), static)
        for norm in norms:
            steps, sums = found.get(norm.batch_counter), found.get(norm.batch_state_index)
            share = jnp.where(steps == 0, 1, 1 - norm.momentum**steps)
            means = tuple((each / share[..., None]).astype(each.dtype) for each in sums)
            found = found.set(norm.batch_state_index, means)
            found = found.set(norm.batch_counter, jnp.full_like(steps, MANY_STEPS))
        return of_state.to_dicts(eqx.filter(found, eqx.is_array))

    def own_form(params: PyTree) -> tuple[PyTree, None]:
        if isinstance(params, list | tuple):
            return [own_form(each)[0] for each in params], None
        if isinstance(params, eqx.nn.State):
            return of_state.to_dicts(eqx.filter(params, eqx.is_array)), None
        if isinstance(params, eqx.Module):
            return of_model.to_dicts(eqx.filter(params, eqx.is_inexact_array)), None
        return params, None

    loss_fn.own_form = own_form  # type: ignore[attr-defined]
    loss_fn.merge = merge  # type: ignore[attr-defined]
    if norms:
        loss_fn.debias = debias  # type: ignore[attr-defined]
    return Problem(
        loss_fn,
        data,
        evaluate=evaluate_one if evaluate else None,
        init=lambda key: start,
        optimizer=optimizer,
        describe=describe or {},
        version=version,
        filter_axis=filter_axis,
        predict=predict_one if predict else None,
        score=score,
        test_data=test_data,
    )


def _with_state(result: Any) -> tuple[Any, Any, Metrics]:
    match result:
        case (loss, (state, metrics)):
            return loss, state, loss_and_metrics((loss, metrics))[1]
        case (loss, state):
            return loss, state, {"loss": loss}
        case _:
            raise TypeError(f"loss must be {LOSS_WITH_STATE}, got {result!r:.100}")
