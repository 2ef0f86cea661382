"""The interface between a user's model and everything else: `Problem`, and the signatures of its functions.

    loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))
    evaluate(params, model_state) -> metrics
    data(epoch, keys) -> batches, where data is neither a pytree of arrays nor an iterable of batches
    init(key) -> (params, model_state)
    optimizer.update(grads, opt_state, params, **extra) -> (updates, opt_state)
    predict(params, model_state, batch) -> outputs [example, ...]
    score(outputs, batch) -> {"loss": [example], ...}

The rest of the package sees a model only through these functions. `params` is any pytree of real floating-point arrays;
`model_state` is whatever else the model carries, such as the running statistics of batch norm; `metrics` is a dict of
scalars. `jaxscape.tasks` builds them for image classifiers and for Flax and Equinox modules.

A `loss_fn` may have an attribute `check_data(params, model_state, data)`, which raises an error for values that the
compiled step cannot reject, such as labels out of range. `train` calls it outside of the step, with the shapes of one
member's params and model_state and with the data: once if the data are arrays [example, ...], before each epoch if
they are batches [member, step, batch, ...] (those of one member if all members see the same batches).

The checks use structures, shapes and dtypes only, which are known at trace time, so they cost nothing in the compiled
step. Exceptions that these functions raise themselves propagate unchanged.
"""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import wraps
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxscape.arguments import is_prng_key, leaf_name

PyTree = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, tuple[PyTree, Metrics]]]
Evaluate = Callable[[PyTree, PyTree], Mapping[str, ArrayLike]]
Init = Callable[[jax.Array], tuple[PyTree, PyTree]]
Predict = Callable[[PyTree, PyTree, PyTree], PyTree]
Score = Callable[[PyTree, PyTree], Metrics]

# A pytree of arrays with one leading axis; a function (epoch, member keys) -> batches [member, step, batch, ...]; or an
# iterable or an iterator of batches [batch, ...].
Data = PyTree | Callable[[int, jax.Array], PyTree] | Iterable[PyTree]

# The output axis or axes of the leaves; or a function of a leaf's key path that returns one of these, or None or
# "ignore" for a leaf that is not perturbed.
FilterAxis = int | tuple[int, ...] | Callable[[tuple[Any, ...]], int | tuple[int, ...] | Literal["ignore"] | None]
# Which leaves are perturbed: a pytree of bools like the parameters, or a function of a leaf's key path.
Where = PyTree | Callable[[tuple[Any, ...]], bool]

LOSS = "loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))"
EVALUATE = "evaluate(params, model_state) -> metrics"
DATA = "data(epoch, keys) -> batches"
INIT = "init(key) -> (params, model_state)"
WHERE = "where(path) -> bool"
PREDICT = "predict(params, model_state, batch) -> outputs [example, ...]"
SCORE = 'score(outputs, batch) -> {"loss": [example], ...}'
_UPDATE = "optimizer.update(grads, opt_state, params, **extra) -> (updates, opt_state)"

# Extra arguments that optax optimisers may require, by the names of optax. The last is passed only to optimisers that
# name it: a line search accepts any keyword, forwards it to value_fn, and fails where value_fn does not take it.
_EXTRA = ("value", "grad", "value_fn", "grad_fn")


@dataclass(frozen=True, eq=False)
class Problem:
    """A training problem: the loss, the data, and what is known about both.

    Args:
        loss_fn: `(params, model_state, batch, key) -> (loss, (model_state, metrics))` of one network.
        data: a pytree of arrays [example, ...]; a function `(epoch, keys) -> batches` with leaves
            [member, step, batch, ...], for epochs counted from 1 and the members' keys; an iterable of batches, such as
            a DataLoader, one pass over which is an epoch; or an iterator of batches. See `jaxscape.train`.
        evaluate: `(params, model_state) -> metrics` of one network, recorded after every epoch.
        init: `key -> (params, model_state)`, a freshly initialised network; needed to train from scratch.
        optimizer: an optax transformation of one network's parameters, the default optimiser; or a dict of several by
            name, for networks that are trained side by side.
        describe: text for captions and reports, as JSON values: "name" is shown above a figure, "model" and "data"
            below it, and any other entry beside them.
        version: version of the problem, recorded in the run folder. Results of different versions are not mixed in one
            run folder. Change it when a function changes, since functions cannot be compared by what they compute.
        filter_axis: the output axis of the parameters' arrays; see `filter_normalize`.
        where: which of the parameters' arrays are perturbed; see `jump_grid`. All by default.
        predict: `(params, model_state, batch) -> outputs`, a pytree of arrays [example, ...]: the network in evaluation
            mode, without dropout or augmentation and with its running statistics. Together with `score` it is used for
            the loss over any data set in batches, for Gauss-Newton products and for margins; see
            `jaxscape.training.objective`.
        score: `(outputs, batch) -> metrics`, arrays [example]; "loss" is required, others such as "accuracy" are
            optional.
        test_data: a pytree of arrays like `data`, for surfaces and curvature of the test loss.

    Raises:
        TypeError: if a function does not take these arguments, data is of another kind, or describe holds anything but
            JSON values.
        ValueError: if only one of predict and score is given.
    """

    loss_fn: LossFn
    data: Data
    _: KW_ONLY
    evaluate: Evaluate | None = None
    init: Init | None = None
    optimizer: optax.GradientTransformation | Mapping[str, optax.GradientTransformation] | None = None
    describe: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    filter_axis: FilterAxis = -1
    where: Where | None = None
    predict: Predict | None = None
    score: Score | None = None
    test_data: PyTree | None = None

    def __post_init__(self) -> None:
        check_function("loss_fn", self.loss_fn, LOSS, 4)
        check_data(self.data)
        if (self.predict is None) != (self.score is None):
            raise ValueError("predict and score belong together: give both, or neither")
        if self.predict is not None:
            check_function("predict", self.predict, PREDICT, 3)
            check_function("score", self.score, SCORE, 2)
        if self.test_data is not None and not is_arrays(self.test_data):
            raise TypeError(f"test_data must be a pytree of arrays [example, ...], got {self.test_data!r:.100}")
        if self.evaluate is not None:
            check_function("evaluate", self.evaluate, EVALUATE, 2)
        if self.init is not None:
            check_function("init", self.init, INIT, 1)
        several = isinstance(self.optimizer, Mapping)
        for optimizer in self.optimizer.values() if isinstance(self.optimizer, Mapping) else [self.optimizer]:
            if several or optimizer is not None:
                check_optimizer(optimizer)
        # A mask in the form of an Equinox model may be callable too, but is no leaf (see `is_arrays`).
        if callable(self.where) and jax.tree_util.all_leaves([self.where]):
            check_function("where", self.where, WHERE, 1)
        if not isinstance(self.describe, Mapping) or not all(isinstance(name, str) for name in self.describe):
            raise TypeError(f"describe must be a dict from names to JSON values, got {self.describe!r:.100}")
        try:
            json.dumps(dict(self.describe), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"describe must hold finite JSON values, got {self.describe!r:.100} ({error})") from None
        if not isinstance(self.version, str):
            raise TypeError(f"version must be a text, got {self.version!r:.100}")

    def split_model(self, model: PyTree, model_state: PyTree = None) -> tuple[PyTree, PyTree]:
        """Return the parameters and the model state of a model in the form that `init` makes.

        A framework keeps them in classes of its own: a module, which may hold both, or a state. `nnx_problem` and
        `equinox_problem` know these classes (as `loss_fn.own_form`); other problems return the arguments unchanged.

        Args:
            model: a whole model, the state or the filtered model that holds its parameters, or parameters in the form
                of `init`; of one network or of a stack, or a list of these.
            model_state: the model state; None takes that of the model, if it holds one.

        Returns:
            Parameters and model state; None for the latter if it is neither given nor part of the model.
        """
        convert = getattr(self.loss_fn, "own_form", None)
        if convert is None:
            return model, model_state
        params, found = convert(model)
        return params, found if model_state is None else convert(model_state)[0]

    def __repr__(self) -> str:
        """Return the names of the functions that are given, and the shapes of the data."""
        shown = {"data": _shown(self.data)}
        if self.test_data is not None:
            shown["test_data"] = _shown(self.test_data)
        optional = ("evaluate", "init", "optimizer", "predict", "score")
        given = ", ".join(name for name in optional if getattr(self, name) is not None)
        shown |= {
            "describe": repr(dict(self.describe)),
            "version": repr(self.version),
            "given": given or "loss_fn alone",
        }
        return f"Problem({', '.join(f'{name}={words}' for name, words in shown.items())})"


def check_loss(problem: Problem, params: PyTree, model_state: PyTree, *, batch_size: int) -> None:
    """Trace the loss of a problem once, on one batch of its data, before any work.

    Data given as a function or an iterable are skipped: their batches are checked when they arrive.

    Args:
        problem: the problem whose loss is checked.
        params: parameters of one network, or their shapes.
        model_state: model state of one network, or its shapes.
        batch_size: number of examples in the batch.

    Raises:
        TypeError, ValueError: if the loss does not return what it must; also whatever the loss itself raises.
    """
    if not is_arrays(problem.data):
        return
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch_size, *np.shape(leaf)[1:]), jnp.result_type(leaf)), problem.data
    )
    state = {} if model_state is None else model_state
    try:
        jax.eval_shape(checked_loss(problem.loss_fn), params, state, batch, jax.eval_shape(jax.random.key, 0))
    except Exception as error:
        error.add_note(
            "This is the loss of the problem, traced on one batch. The batch is a single argument, "
            f"{_shown(batch)}; the last argument is a PRNG key."
        )
        raise


def _shown(data: PyTree) -> str:
    """Return a pytree as text, with dtypes and shapes in place of arrays, such as "(float32[8, 3], int32[8])"."""

    class Shape(str):
        __slots__ = ()
        __repr__ = str.__str__

    def of_leaf(leaf: Any) -> Shape:
        return Shape(f"{jnp.result_type(leaf)}[{', '.join(map(str, np.shape(leaf)))}]")

    return repr(jax.tree.map(of_leaf, data)) if is_arrays(data) else f"{data!r:.100}"


def check_function(name: str, function: Any, protocol: str, arguments: int) -> None:
    """Raise an error if `function` cannot be called with this number of positional arguments.

    Raises:
        TypeError: with the expected signature.
    """
    if not callable(function):
        raise TypeError(f"{name} must be a function {protocol}, got {function!r:.100}")
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions, such as those written in C, have no signature
        return
    try:
        signature.bind(*range(arguments))
    except TypeError as error:
        raise TypeError(f"{name} must be a function {protocol}, but it takes {signature}: {error}") from None


def debiased(problem: Problem, model_state: PyTree) -> PyTree:
    """Return a model state that is the same in evaluation, with running statistics that need no bias correction.

    Equinox keeps sums that began at zero and divides them, in evaluation, by what the number of steps says. Such sums
    cannot be replaced by other means, or averaged with those of another network, before they have been divided.

    Args:
        problem: whose `loss_fn.debias` does it, `model_state -> model_state`; without it the statistics are taken as
            they are.
        model_state: of one network.
    """
    correct = getattr(problem.loss_fn, "debias", None)
    return model_state if correct is None else correct(model_state)


def checked_loss(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `loss_fn` wrapped so that its result is checked whenever it is traced."""

    @wraps(loss_fn)
    def checked(params: PyTree, model_state: PyTree, batch: PyTree, key: jax.Array) -> Any:
        result = loss_fn(params, model_state, batch, key)
        match result:
            case (loss, (new_state, metrics)):
                pass
            case _:
                raise TypeError(f"loss_fn must be {LOSS}, got a result of {_outline(result)}")
        if not is_number(loss) or np.shape(loss) or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
            raise TypeError(f"loss_fn must be {LOSS}, where loss is one real number; got {_outline(loss)}")
        _check_model_state(model_state, new_state)
        _check_metrics("loss_fn", LOSS, metrics)
        return result

    return checked


def checked_evaluate(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """Return `evaluate` wrapped so that the metrics of every call are checked."""

    @wraps(evaluate)
    def checked(params: PyTree, model_state: PyTree) -> Any:
        metrics = evaluate(params, model_state)
        _check_metrics("evaluate", EVALUATE, metrics)
        if "finite" in metrics:
            raise ValueError('evaluate must not return a metric "finite": train records a metric of that name itself')
        return metrics

    return checked


def check_data(data: Any) -> None:
    """Raise an error if `data` is not a pytree of arrays of numbers, a function, or an iterable of batches.

    Raises:
        TypeError: for other objects, and for iterators inside a pytree (names the leaf).
    """
    if callable(data):
        check_function("data", data, DATA, 2)
        return
    if not is_arrays(data):
        return
    # Iterators are treated as leaves, since jax warns about them as nodes.
    for path, leaf in jax.tree_util.tree_leaves_with_path(data, is_leaf=lambda node: isinstance(node, Iterator)):
        if not (is_number(leaf) or is_prng_key(leaf)):
            raise TypeError(
                f"data must be a pytree of arrays [example, ...], a function {DATA}, or an iterable of batches, got "
                f"{_outline(leaf)} at {leaf_name(path)}"
            )


def is_arrays(data: Data) -> bool:
    """Return whether data is a pytree of arrays [example, ...] rather than a function, an iterable or an iterator."""
    if callable(data) or isinstance(data, Iterator):  # jax warns about iterators
        return False
    # all_leaves of a one-element list tells whether the element is itself a leaf rather than a container.
    leaf = jax.tree_util.all_leaves([data])
    is_array = hasattr(data, "dtype") or hasattr(data, "__array__")
    return not (leaf and isinstance(data, Iterable) and not isinstance(data, str | bytes) and not is_array)


def check_optimizer(optimizer: Any) -> None:
    """Raise an error if `optimizer` is not an optax transformation.

    Raises:
        TypeError: names the value.
    """
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r:.100}")


def check_update(optimizer: optax.GradientTransformation, params: PyTree, opt_state: PyTree) -> None:
    """Raise an error if the optimiser needs more than a step provides, or `opt_state` belongs to another optimiser.

    Args:
        optimizer: an optax transformation.
        params: parameters of one member, as arrays or shapes.
        opt_state: optimiser state of one member, as arrays or shapes.

    Raises:
        TypeError: if the optimiser needs arguments other than those of `extra_values`, or returns anything but
            (updates, state).
        ValueError: if the state is that of another optimiser or other parameters, or if the new updates or state
            differ in structure or shapes from the parameters or the old state.
    """
    fresh = jax.eval_shape(optimizer.init, params)
    if _shapes(fresh) != _shapes(opt_state):
        raise ValueError(
            "states must hold the state of this optimizer for these params, as from init_states(params, optimizer); "
            "their opt_state has another structure or other shapes"
        )
    names = extra_arguments(optimizer)

    def update(grads: PyTree, opt_state: PyTree, params: PyTree) -> PyTree:
        # The real loss needs a batch; any scalar function of the parameters has the same shapes.
        extra = extra_values(jnp.float32(0), grads, _any_number)
        return optimizer.update(grads, opt_state, params, **{name: extra[name] for name in names})

    try:
        result = jax.eval_shape(update, params, opt_state, params)
    except TypeError as error:
        if "argument" not in str(error) or isinstance(error, jax.errors.JAXTypeError):
            raise
        raise TypeError(
            f"optimizer must need no more than {_UPDATE}, where extra is {', '.join(_EXTRA)} ({error})"
        ) from error
    _check_updated(result, params, opt_state)


def _check_updated(result: Any, params: PyTree, opt_state: PyTree) -> None:
    """Raise an error if a step would broadcast the optimiser's result, or fail half-way."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"optimizer must be {_UPDATE}, got a result of {_outline(result)}")
    for name, now, was, like in (
        ("updates", result[0], params, "params"),
        ("opt_state", result[1], opt_state, "the last one"),
    ):
        if _shapes(now)[0] != _shapes(was)[0]:
            raise ValueError(
                f"optimizer must return {name} with the structure of {like}, {jax.tree.structure(was)}; "
                f"got {jax.tree.structure(now)}"
            )
        for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(was), jax.tree.leaves(now), strict=True):
            if np.shape(old) != np.shape(new):
                raise ValueError(
                    f"optimizer must return {name} with the shapes of {like}: {_outline(old)} at "
                    f"{leaf_name(path)} became {_outline(new)}"
                )


def extra_arguments(optimizer: optax.GradientTransformation) -> tuple[str, ...]:
    """Return the names of `extra_values` that the optimiser's update takes; the first three if it takes any keyword."""
    try:
        parameters = inspect.signature(optimizer.update).parameters
    except ValueError:  # some functions, such as those written in C, have no signature
        return ()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return _EXTRA[:3]
    return tuple(name for name in _EXTRA if name in parameters)


def extra_values(loss: Any, grads: PyTree, value_fn: Callable[[PyTree], Any]) -> dict[str, Any]:
    """Return the extra arguments that an optimiser may require besides the gradients, by name.

    Args:
        loss: the loss of the step's batch.
        grads: the gradient of that loss.
        value_fn: params -> the loss of the same batch with the same key.
    """

    def grad_fn(params: PyTree, step: int = 0) -> PyTree:
        return jax.grad(value_fn)(params)

    return dict(zip(_EXTRA, (loss, grads, value_fn, grad_fn), strict=True))


def _any_number(params: PyTree) -> jax.Array:
    return sum((leaf.sum().astype(jnp.float32) for leaf in jax.tree.leaves(params)), jnp.float32(0))


def _check_model_state(old: PyTree, new: PyTree) -> None:
    if _shapes(old)[0] != _shapes(new)[0]:
        raise ValueError(
            f"loss_fn must return a model_state with the structure that it was given, {jax.tree.structure(old)}; "
            f"got {jax.tree.structure(new)}"
        )
    for (path, was), now in zip(jax.tree_util.tree_leaves_with_path(old), jax.tree.leaves(new), strict=True):
        if (np.shape(was), jnp.result_type(was)) != (np.shape(now), jnp.result_type(now)):
            raise ValueError(
                "loss_fn must return a model_state with the shapes and dtypes that it was given: "
                f"{_outline(was)} at {leaf_name(path)} became {_outline(now)}"
            )


def _check_metrics(name: str, protocol: str, metrics: Any) -> None:
    if not isinstance(metrics, Mapping):
        raise TypeError(f"{name} must be {protocol}, where metrics is a dict; got {_outline(metrics)}")
    for key, value in metrics.items():
        if not isinstance(key, str) or not is_number(value):
            raise TypeError(
                f"{name} must be {protocol}, where metrics is a dict from names to scalars; "
                f"got {_outline(value)} at {key!r}"
            )


def is_number(value: Any) -> bool:
    """Return whether a value is a number or an array of numbers, concrete or traced."""
    if isinstance(value, bool | int | float | complex):
        return True
    dtype = getattr(value, "dtype", None)
    try:
        return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_))
    except TypeError:  # a dtype of another framework
        return False


def _shapes(tree: PyTree) -> tuple[Any, list[tuple[int, ...]]]:
    return jax.tree.structure(tree), [np.shape(leaf) for leaf in jax.tree.leaves(tree)]


def _outline(value: Any) -> str:
    """Describe a value on one line: an array by its dtype and shape, a container by its entries' outlines."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_outline, value))})"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(repr, value)) or 'nothing'}"
    return repr(value) if value is None or isinstance(value, int | float | str) else f"a {type(value).__name__}"
