"""The loss of a whole data set at a point, in batches: the function whose surfaces and curvature are computed.

For a problem with `predict` and `score` it is the loss of the network in evaluation mode, on training or test data.
For any other problem it is `loss_fn` as in training: with batch statistics, and augmented with a fixed key, so that it
is a function of the parameters alone.

An `Objective` is a mean over batches, and every batch runs as a program of its own: a loop inside one program would
make gradients of convolutions 60 times slower on a CPU.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.arguments import count
from jaxscape.problem import SCORE, Metrics, Problem, checked_loss, is_arrays, is_number
from jaxscape.training.batches import SharedBatches, data_function
from jaxscape.training.dependence import depends_on_first
from jaxscape.training.members import num_members

PyTree = Any
Mode = Literal["evaluate", "train"]
Split = Literal["train", "test"]

MODES = ("evaluate", "train")
SPLITS = ("train", "test")


class Objective(NamedTuple):
    """The metrics of a network as means over a data set, batch by batch.

    `metrics` is pure and not compiled: callers compile what they derive from it, such as gradients or a `vmap`.
    """

    metrics: Callable[[PyTree, PyTree, PyTree], Metrics]  # (params, model_state, batch) -> means over the batch
    batches: list[PyTree]  # on the device; (examples, key) in training mode
    shares: list[float]  # each batch's fraction of the examples; their sum is 1
    predict: Callable[[PyTree, PyTree, PyTree], PyTree] | None  # (params, model_state, batch) -> outputs [example, ...]
    score: Callable[[PyTree, PyTree], Metrics] | None  # (outputs, batch) -> metrics [example]

    def loss(self, params: PyTree, model_state: PyTree, batch: PyTree) -> jax.Array:
        """Return the mean loss of a batch."""
        return self.metrics(params, model_state, batch)["loss"]


def objective(
    problem: Problem,
    *,
    split: Split = "train",
    mode: Mode | None = None,
    batch_size: int = 1000,
    examples: int | None = None,
    key: jax.Array | None = None,
) -> Objective:
    """Return the loss of a problem over a whole data set.

    Args:
        problem: the problem; its `predict` and `score`, or its `loss_fn`, are used.
        split: "train" for `problem.data`, "test" for `problem.test_data`.
        mode: "evaluate" (`predict` and `score`) or "train" (`loss_fn`); by default the first that the problem has.
        batch_size: examples per batch, if data are arrays; the last batch may be smaller.
        examples: use only the first `examples` examples, if data are arrays.
        key: PRNG key of the augmentation and dropout of "train"; `jax.random.key(0)` by default.

    Raises:
        TypeError: for a count that is not a whole number.
        ValueError: for an unknown split or mode, a split or mode that the problem does not have, or data from an
            iterator, which a measurement would use up.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if mode not in (None, *MODES):
        raise ValueError(f"mode must be one of {', '.join(MODES)}, or None, got {mode!r}")
    if mode is None:
        mode = default_mode(problem)
    if mode == "evaluate" and problem.predict is None:
        raise ValueError("mode 'evaluate' needs a problem with predict and score; this one has none")
    if mode == "train" and split == "test":
        raise ValueError("split 'test' needs mode 'evaluate': a problem with predict and score")
    if split == "test" and problem.test_data is None:
        raise ValueError("split 'test' needs a problem with test_data; this one has none")
    data = problem.test_data if split == "test" else problem.data
    batches = _batches(data, count("batch_size", batch_size), examples)
    sizes = np.array([num_members(batch) for batch in batches], float)
    shares = [float(share) for share in sizes / sizes.sum()]
    if mode == "train":
        keys = jax.random.split(jax.random.key(0) if key is None else key, len(batches))
        return Objective(batch_metrics(problem, mode), list(zip(batches, keys, strict=True)), shares, None, None)
    return Objective(batch_metrics(problem, mode), batches, shares, problem.predict, problem.score)


def default_mode(problem: Problem) -> Mode:
    """Return the mode in which the loss of a problem is measured unless another one is requested."""
    return "train" if problem.predict is None else "evaluate"


def has_fixed_key(over: Objective, params: PyTree, model_state: PyTree) -> bool:
    """Return whether a loss is that of training and depends on its key, as with dropout or augmentation.

    Args:
        over: the objective; only the shapes of its first batch are used.
        params: parameters of one network, or their shapes.
        model_state: model state of one network, or its shapes.
    """
    if over.predict is not None:
        return False
    examples, key = over.batches[0]

    def loss(key: jax.Array, params: PyTree, model_state: PyTree, examples: PyTree) -> jax.Array:
        return over.loss(params, model_state, (examples, key))

    return depends_on_first(loss, key, params, model_state, examples)


def warn_of_fixed_key(problem: Problem, over: Objective, params: PyTree, model_state: PyTree) -> None:
    """Warn if the loss of a problem is measured in training mode, for want of another, and depends on its key."""
    if problem.predict is None and has_fixed_key(over, params, model_state):
        warnings.warn(
            "the problem has no predict and score, so its loss is measured in training mode with one fixed PRNG key: "
            "dropout and augmentation are drawn once, and the results are those of this one draw. Give the problem "
            "predict and score to measure the loss in evaluation mode",
            UserWarning,
            stacklevel=2,  # a line of this package, so that the default filter shows it once
        )


def batch_metrics(problem: Problem, mode: Mode) -> Callable[[PyTree, PyTree, PyTree], Metrics]:
    """Return `Objective.metrics` of a problem that has this mode; its data are not touched."""
    if mode == "train":
        return _training(problem)
    assert problem.predict is not None
    assert problem.score is not None
    return _evaluation(problem.predict, problem.score)


def mean_metrics(
    metrics: Callable[[PyTree, PyTree, PyTree], Metrics], over: Objective, params: PyTree, model_state: PyTree
) -> Metrics:
    """Return the means over all batches of the metrics of one network, or of a stack.

    Args:
        metrics: `(params, model_state, batch) -> metrics`, compiled: `compiler.jit(over.metrics)`, or a `vmap` of it.
        over: the objective with the batches.
        params: of one network, or of a stack.
        model_state: likewise.
    """
    parts = [metrics(params, model_state, batch) for batch in over.batches]
    # Python floats as weights, so that every metric keeps its dtype.
    return jax.tree.map(lambda *values: sum(s * v for s, v in zip(over.shares, values, strict=True)), *parts)


def _evaluation(
    predict: Callable[..., PyTree], score: Callable[..., Metrics]
) -> Callable[[PyTree, PyTree, PyTree], Metrics]:
    def metrics(params: PyTree, model_state: PyTree, batch: PyTree) -> Metrics:
        scores = score(predict(params, model_state, batch), batch)
        check_score(scores, num_members(batch))
        return {name: jnp.mean(values) for name, values in scores.items()}

    return metrics


def _training(problem: Problem) -> Callable[[PyTree, PyTree, PyTree], Metrics]:
    loss_fn = checked_loss(problem.loss_fn)

    def metrics(params: PyTree, model_state: PyTree, batch: PyTree) -> Metrics:
        loss, (_, others) = loss_fn(params, model_state, *batch)
        return {**others, "loss": loss}

    return metrics


def check_score(scores: Any, examples: int) -> None:
    """Raise an error if `score` returned anything but a dict of arrays [example] that holds "loss".

    Raises:
        TypeError: the message states the protocol.
    """
    if not isinstance(scores, dict) or "loss" not in scores:
        raise TypeError(f"score must be {SCORE}, got {scores!r:.100}")
    for name, values in scores.items():
        if not is_number(values) or np.shape(values) != (examples,):
            raise TypeError(f"score must be {SCORE}, got shape {np.shape(values)} at {name!r} for {examples} examples")


def _batches(data: Any, batch_size: int, examples: int | None) -> list[PyTree]:
    if is_arrays(data):
        total = num_members(data)
        if examples is not None:
            total = min(total, count("examples", examples))
        starts = range(0, total, batch_size)
        return [
            jax.tree.map(lambda leaf, a=first: jnp.asarray(leaf[a : min(a + batch_size, total)]), data)
            for first in starts
        ]
    if examples is not None:
        raise ValueError(f"examples must be None if data are not arrays, got {examples}")
    if isinstance(data, Iterator):
        raise ValueError("data must be arrays, a function or an iterable that can be passed again, got an iterator")
    drawn = data_function(data)(1, jax.random.split(jax.random.key(0), 1))
    steps = drawn.batches if isinstance(drawn, SharedBatches) else jax.tree.map(lambda leaf: leaf[0], drawn)
    return [jax.tree.map(lambda leaf, i=index: jnp.asarray(leaf[i]), steps) for index in range(num_members(steps))]
