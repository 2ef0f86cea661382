"""A Flax NNX module as a problem."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from jaxscape.arguments import is_prng_key
from jaxscape.problem import Data, FilterAxis, Metrics, Problem, Score, check_function
from jaxscape.tasks.flax import LOSS, PREDICT, OutputAxes
from jaxscape.tasks.trees import Layout, loss_and_metrics, path_names

PyTree = Any
Merge = Callable[..., Any]

EVALUATE = "evaluate(model) -> metrics"


def nnx_problem(
    model: nnx.Module,
    data: Data,
    *,
    loss: Callable[[Any, PyTree, jax.Array], Any],
    evaluate: Callable[[Any], Metrics] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    describe: Mapping[str, Any] | None = None,
    version: str = "",
    filter_axis: FilterAxis | None = None,
    predict: Callable[[Any, PyTree], PyTree] | None = None,
    score: Score | None = None,
    test_data: PyTree | None = None,
) -> Problem:
    """Return the problem of a Flax NNX module.

    Its `nnx.Param` are trained; other variables (such as the statistics of batch norm) are the model_state, and a step
    keeps the changes that the module makes in them. Its random streams (`nnx.RngState`) are not part of the state: in
    every step each stream starts from its initial count with its own key, folded with bits of the step's key. So
    dropout is a function of the member's key and the step, and a resumed run draws the same numbers as an
    uninterrupted one.

    Args:
        model: a Flax NNX module in training mode (`model.train()`); copied, and never changed.
        data: as `Problem` takes it.
        loss: `(model, batch, key) -> loss or (loss, metrics)`.
        evaluate: `model -> metrics`; the model is a copy in evaluation mode (`model.eval()`).
        optimizer: as in `Problem`.
        describe: captions, as in `Problem`.
        version: version of the problem, as in `Problem`.
        filter_axis: the output axis of the parameters, by default as in `flax_problem`.
        predict: `(model, batch) -> outputs [example, ...]`; the model is a copy in evaluation mode.
        score: as in `Problem`.
        test_data: arrays like `data`, as in `Problem`.

    Returns:
        A problem whose `init` returns the model's own parameters for every key; params and model_state are nested
        dicts of arrays. Functions that take params take them also as `nnx.state(model, nnx.Param)` or its pure dict;
        `Run.set_minimum`, `Run.record`, `line`, `barrier`, `connect` and the measures of curvature also the model
        itself. For all other functions, `problem.split_model` splits it.
        `problem.loss_fn.merge(params, model_state)` returns a model.

    Raises:
        TypeError: if model is not an NNX module, for functions with other arguments, and as in `Problem`.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model must be a module of flax.nnx, got {model!r:.100}")
    check_function("loss", loss, LOSS, 3)
    if evaluate is not None:
        check_function("evaluate", evaluate, EVALUATE, 1)
    if predict is not None:
        check_function("predict", predict, PREDICT, 2)
    _warn_of_evaluation_mode(model)
    params, model_state, merge = _split(model)

    def loss_fn(
        params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array
    ) -> tuple[jax.Array, tuple[PyTree, Metrics]]:
        network = merge(params, model_state, key)
        value, metrics = loss_and_metrics(loss(network, batch, key))
        return value, (_split(network)[1], metrics)

    def evaluate_one(params: PyTree, model_state: PyTree) -> Metrics:
        assert evaluate is not None
        network = merge(params, model_state)
        network.eval()
        return evaluate(network)

    def predict_one(params: PyTree, model_state: PyTree, batch: PyTree) -> PyTree:
        assert predict is not None
        network = merge(params, model_state)
        network.eval()
        return predict(network, batch)

    loss_fn.own_form = _own_form  # type: ignore[attr-defined]
    loss_fn.merge = merge  # type: ignore[attr-defined]
    return Problem(
        loss_fn,
        data,
        evaluate=evaluate_one if evaluate else None,
        init=lambda key: (params, model_state),
        optimizer=optimizer,
        describe=describe or {},
        version=version,
        filter_axis=OutputAxes(lambda: params) if filter_axis is None else filter_axis,
        predict=predict_one if predict else None,
        score=score,
        test_data=test_data,
    )


def _warn_of_evaluation_mode(model: nnx.Module) -> None:
    """Warn if all layers of a model that have an evaluation mode, such as dropout, are in it."""
    switches = [
        getattr(layer, name)
        for _, layer in nnx.iter_graph(model)
        if isinstance(layer, nnx.Module)
        for name in ("deterministic", "use_running_average")
        if isinstance(getattr(layer, name, None), bool)
    ]
    if switches and all(switches):
        warnings.warn(
            "model is in evaluation mode, so its loss is that of a network without dropout and with fixed running "
            "statistics; call model.train() before, unless that is meant",
            UserWarning,
            stacklevel=3,
        )


def _split(model: nnx.Module) -> tuple[PyTree, PyTree, Merge]:
    """Return params and model_state as nested dicts, and a function (params, model_state[, key]) -> model."""
    graph, *states = nnx.split(model, nnx.Param, nnx.RngState, ...)
    params, random, rest = states
    # Every variable is a node whose only leaf is its value.
    of_params, of_rest = Layout(params, leave_out=1), Layout(rest, leave_out=1)

    def merge(params: PyTree, model_state: PyTree, key: jax.Array | None = None) -> Any:
        streams = random if key is None else _reseed(random, key)
        parts = of_params.from_dicts(_dicts(params)), streams, of_rest.from_dicts(_dicts(model_state))
        return nnx.merge(graph, *parts, copy=True)

    return of_params.to_dicts(params), of_rest.to_dicts(rest), merge


def _own_form(params: PyTree) -> tuple[PyTree, PyTree | None]:
    """Return the parameters and the model state, if there is one, of a module, a state or a pure dict, or of a list.

    Pure dicts may have the indices of lists as keys, integers; checkpoints have them as strings.
    """
    if isinstance(params, list | tuple):
        return [_own_form(each)[0] for each in params], None
    if isinstance(params, nnx.Module):
        return _split(params)[:2]
    if not isinstance(params, nnx.State) or not any(isinstance(leaf, nnx.Variable) for leaf in _variables(params)):
        return _dicts(params), None
    own, _, rest = nnx.split_state(params, nnx.Param, nnx.RngState, ...)
    # A state of something else than parameters is a model state.
    return (_dicts(own), _dicts(rest) or None) if _dicts(own) else (_dicts(rest), None)


def _variables(state: PyTree) -> list[Any]:
    return jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, nnx.Variable))


def _dicts(tree: PyTree) -> PyTree:
    """Return a state or a pure dict as nested dicts with strings as keys; anything else is returned as it is."""
    if not isinstance(tree, Mapping):
        return tree
    dicts: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        # The value of a variable is its only leaf.
        is_value = isinstance(path[-1], jax.tree_util.GetAttrKey)
        *parents, last = path_names(path[:-1] if is_value else path)
        inner = dicts
        for name in parents:
            inner = inner.setdefault(name, {})
        inner[last] = leaf
    return dicts


def _reseed(random: PyTree, key: jax.Array) -> PyTree:
    """Return random streams whose keys are their own, folded with bits of a step's key."""
    bits = jax.random.bits(key)

    def reseed(leaf: Any) -> Any:
        if not is_prng_key(leaf):
            return leaf
        fold: Callable[[Any], Any] = partial(jax.random.fold_in, data=bits)
        for _ in range(np.ndim(leaf)):
            fold = jax.vmap(fold)
        return fold(leaf)

    return jax.tree.map(reseed, random)
