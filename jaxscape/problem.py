"""The one seam between a user's model and everything else: what a network learns, and what its functions must give.

    loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))
    evaluate(params, model_state) -> metrics
    data(epoch, keys) -> batches, where data is no pytree of arrays and no iterable of batches
    init(key) -> (params, model_state)
    optimizer.update(grads, opt_state, params, **extra) -> (updates, opt_state)
    predict(params, model_state, batch) -> outputs [example, ...]
    score(outputs, batch) -> {"loss": [example], ...}

Everything after this file sees only these. `params` is any pytree of real floating-point arrays; `model_state` is
whatever the model carries besides (the running statistics of batch norm, say); `metrics` is a dict of scalars.
`jaxscape.tasks` makes them of image classifiers and of the modules of Flax and Equinox.

A `loss_fn` may have an attribute `check_data(params, model_state, data)`, which raises an error for values that the
compiled step could not refuse, such as labels out of range. `train` calls it outside of the step, with the shapes of
one member's params and model_state, and with the data: once where they are arrays [example, ...], before each epoch
where they are batches [member, step, batch, ...] (of one member where all see the same).

The checks look at structures, shapes and dtypes, which are known while a function is traced: they cost nothing in the
compiled step. What these functions raise themselves passes through unchanged.
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

from jaxscape.arguments import leaf_name

PyTree = Any
Metrics = dict[str, jax.Array]
LossFn = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, tuple[PyTree, Metrics]]]
Evaluate = Callable[[PyTree, PyTree], Metrics]
Init = Callable[[jax.Array], tuple[PyTree, PyTree]]
Predict = Callable[[PyTree, PyTree, PyTree], PyTree]
Score = Callable[[PyTree, PyTree], Metrics]

# A pytree of arrays with one leading axis; a function (epoch, member keys) -> batches [member, step, batch, ...]; or an
# iterable or an iterator of batches [batch, ...].
Data = PyTree | Callable[[int, jax.Array], PyTree] | Iterable[PyTree]

# The output axis of the leaves, or their axes; or a function of a leaf's key path that answers one of these, or None or
# "ignore" for a leaf that does not move.
FilterAxis = int | tuple[int, ...] | Callable[[tuple[Any, ...]], int | tuple[int, ...] | Literal["ignore"] | None]
# Which leaves are thrown: a pytree of bools like the parameters, or a function of a leaf's key path.
Where = PyTree | Callable[[tuple[Any, ...]], bool]

LOSS = "loss_fn(params, model_state, batch, key) -> (loss, (model_state, metrics))"
EVALUATE = "evaluate(params, model_state) -> metrics"
DATA = "data(epoch, keys) -> batches"
INIT = "init(key) -> (params, model_state)"
WHERE = "where(path) -> bool"
PREDICT = "predict(params, model_state, batch) -> outputs [example, ...]"
SCORE = 'score(outputs, batch) -> {"loss": [example], ...}'
_UPDATE = "optimizer.update(grads, opt_state, params, **extra) -> (updates, opt_state)"

# What optimisers of optax may ask for besides, by the names that optax gives these. The last one is for those that
# name it: a line search takes any name, and refuses what its value_fn does not take.
_EXTRA = ("value", "grad", "value_fn", "grad_fn")


@dataclass(frozen=True, eq=False)
class Problem:
    """What a network learns: its loss, its data, and what is to be known of both.

    Args:
        loss_fn: `(params, model_state, batch, key) -> (loss, (model_state, metrics))` of one network.
        data: a pytree of arrays [example, ...]; a function `(epoch, keys) -> batches` with leaves
            [member, step, batch, ...], for epochs counted from 1 and the members' keys; an iterable of batches, such as
            a DataLoader, each pass over which is an epoch; or an iterator of batches. See `jaxscape.train`.
        evaluate: `(params, model_state) -> metrics` of one network, recorded after every epoch.
        init: `key -> (params, model_state)`, a fresh network; needed to train from the start.
        optimizer: an optax transformation of one network's parameters, used where no other is given; or several by
            name, for networks that are trained side by side.
        describe: what captions and reports say: "name" stands over a picture, "model" and "data" under it, any other
            entry beside them. JSON values.
        version: of the problem, in a run folder's record: another one is another problem, whose results a run folder
            does not mix. For what functions compute cannot be compared.
        filter_axis: the output axis of the parameters' arrays, as `filter_normalize` takes it.
        where: which of the parameters' arrays are thrown, as `jump_grid` takes it; all by default.
        predict: `(params, model_state, batch) -> outputs`, a pytree of arrays [example, ...]: the network as it is
            evaluated, without dropout or augmentation and with its running statistics. With `score` it gives losses
            of any data set in batches, Gauss-Newton products and margins; see `jaxscape.training.objective`.
        score: `(outputs, batch) -> metrics`, arrays [example] of which "loss" is one, such as "loss" and "accuracy".
        test_data: a pytree of arrays like `data`, for surfaces and curvature of the test loss.

    Raises:
        TypeError: for functions that do not take these arguments, data of another kind, and
            descriptions that are no JSON values.
        ValueError: for predict without score or score without predict.
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
        # A mask in the form of an Equinox model may be callable too.
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


def check_loss(problem: Problem, params: PyTree, model_state: PyTree, *, batch_size: int) -> None:
    """Trace the loss of a problem once, on one batch of its data, before any work; a function's batches come later.

    Args:
        problem: whose loss it is.
        params: of one network, or their shapes.
        model_state: likewise.
        batch_size: examples of the batch.

    Raises:
        TypeError, ValueError: for a loss that does not give what it must, and whatever the loss itself raises.
    """
    if not is_arrays(problem.data):
        return
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch_size, *np.shape(leaf)[1:]), jnp.result_type(leaf)), problem.data
    )
    state = {} if model_state is None else model_state
    jax.eval_shape(checked_loss(problem.loss_fn), params, state, batch, jax.eval_shape(jax.random.key, 0))


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
    """Return `loss_fn` with its result checked whenever it is traced."""

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
    """Raise an error where `data` is no pytree of arrays of numbers, no function and no iterable of batches.

    Raises:
        TypeError: for other objects, and iterators inside of a pytree (names the leaf).
    """
    if callable(data):
        check_function("data", data, DATA, 2)
        return
    if not is_arrays(data):
        return
    # Named as leaves, since jax warns of iterators.
    for path, leaf in jax.tree_util.tree_leaves_with_path(data, is_leaf=lambda node: isinstance(node, Iterator)):
        if not (is_number(leaf) or _is_key(leaf)):
            raise TypeError(
                f"data must be a pytree of arrays [example, ...], a function {DATA}, or an iterable of batches, got "
                f"{_outline(leaf)} at {leaf_name(path)}"
            )


def is_arrays(data: Data) -> bool:
    """Whether data is a pytree of arrays [example, ...] rather than a function, an iterable or an iterator."""
    if callable(data) or isinstance(data, Iterator):  # jax warns of iterators
        return False
    leaf = jax.tree_util.all_leaves([data])
    is_array = hasattr(data, "dtype") or hasattr(data, "__array__")
    return not (leaf and isinstance(data, Iterable) and not isinstance(data, str | bytes) and not is_array)


def check_optimizer(optimizer: Any) -> None:
    """Raise an error where `optimizer` is no optax transformation.

    Raises:
        TypeError: says what it is.
    """
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(f"optimizer must be an optax.GradientTransformation, got {optimizer!r:.100}")


def check_update(optimizer: optax.GradientTransformation, params: PyTree, opt_state: PyTree) -> None:
    """Raise an error where the optimiser needs what a step does not have, or `opt_state` belongs to another one.

    Args:
        optimizer: an optax transformation.
        params: of one member, arrays or their shapes; likewise
        opt_state: its state.

    Raises:
        TypeError: for an optimiser that needs arguments besides those of `extra_values`, or gives something else than
            updates and a state.
        ValueError: for a state of another optimiser or of other parameters, and for updates or a state that are not of
            the structure and shapes of what they stand for.
    """
    fresh = jax.eval_shape(optimizer.init, params)
    if _shapes(fresh) != _shapes(opt_state):
        raise ValueError(
            "states must hold the state of this optimizer for these params, as from init_states(params, optimizer); "
            "their opt_state has another structure or other shapes"
        )
    names = extra_arguments(optimizer)

    def update(grads: PyTree, opt_state: PyTree, params: PyTree) -> PyTree:
        # The loss itself needs a batch; any number stands for it.
        extra = extra_values(jnp.float32(0), grads, _any_number)
        return optimizer.update(grads, opt_state, params, **{name: extra[name] for name in names})

    try:
        found = jax.eval_shape(update, params, opt_state, params)
    except TypeError as error:
        if "argument" not in str(error) or isinstance(error, jax.errors.JAXTypeError):
            raise
        raise TypeError(
            f"optimizer must need no more than {_UPDATE}, where extra is {', '.join(_EXTRA)} ({error})"
        ) from error
    _check_updated(found, params, opt_state)


def _check_updated(found: Any, params: PyTree, opt_state: PyTree) -> None:
    """Raise an error where a step would broadcast what an optimiser gives, or end in the middle."""
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"optimizer must be {_UPDATE}, got a result of {_outline(found)}")
    for name, now, was, like in (
        ("updates", found[0], params, "params"),
        ("opt_state", found[1], opt_state, "the last one"),
    ):
        if _shapes(now)[0] != _shapes(was)[0]:
            raise ValueError(
                f"optimizer must give {name} of the structure of {like}, {jax.tree.structure(was)}; "
                f"got {jax.tree.structure(now)}"
            )
        for (path, old), new in zip(jax.tree_util.tree_leaves_with_path(was), jax.tree.leaves(now), strict=True):
            if np.shape(old) != np.shape(new):
                raise ValueError(
                    f"optimizer must give {name} of the shapes of {like}: {_outline(old)} at "
                    f"{leaf_name(path)} became {_outline(new)}"
                )


def extra_arguments(optimizer: optax.GradientTransformation) -> tuple[str, ...]:
    """The names of `extra_values` that the optimiser's update takes: the first three where it takes any."""
    try:
        parameters = inspect.signature(optimizer.update).parameters
    except ValueError:  # a function of C, say, does not tell
        return ()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return _EXTRA[:3]
    return tuple(name for name in _EXTRA if name in parameters)


def extra_values(loss: Any, grads: PyTree, value_fn: Callable[[PyTree], Any]) -> dict[str, Any]:
    """What an optimiser may ask for besides the gradients, by name.

    Args:
        loss: of the step's batch.
        grads: its gradient.
        value_fn: params -> the loss of the same batch, with the same key.
    """

    def grad_fn(params: PyTree, step: int = 0) -> PyTree:
        return jax.grad(value_fn)(params)

    return dict(zip(_EXTRA, (loss, grads, value_fn, grad_fn), strict=True))


def _any_number(params: PyTree) -> jax.Array:
    return sum((leaf.sum().astype(jnp.float32) for leaf in jax.tree.leaves(params)), jnp.float32(0))


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
        if not isinstance(key, str) or not is_number(value):
            raise TypeError(
                f"{name} must be {protocol}, where metrics is a dict from names to scalars; "
                f"got {_outline(value)} at {key!r}"
            )


def is_number(value: Any) -> bool:
    """Whether a value is a number or an array of numbers, concrete or traced."""
    if isinstance(value, bool | int | float | complex):
        return True
    dtype = getattr(value, "dtype", None)
    try:
        return dtype is not None and any(jnp.issubdtype(dtype, kind) for kind in (jnp.number, jnp.bool_))
    except TypeError:  # a dtype of another framework
        return False


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
