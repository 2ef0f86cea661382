"""Margins of a classifier and norms of its parameters, which are baselines in studies of generalisation.

Reference:
    Jiang et al., "Fantastic generalization measures and where to find them", ICLR 2020 (arXiv 2019).
"""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Num

from jaxscape.arguments import check_parameters, leaf_name
from jaxscape.curvature.leaves import layout
from jaxscape.curvature.points import LossOptions, PerMember, Point
from jaxscape.curvature.products import gauss_newton_points
from jaxscape.jumps.filters import leaf_filters
from jaxscape.problem import FilterAxis, Problem

PyTree = Any


class Margins(NamedTuple):
    """Output margins of a classifier, or of each member of a stack."""

    values: Float64[np.ndarray, "*members examples"]  # the output of the true class minus the largest other output
    mean: PerMember
    percentile_10: PerMember
    spread: PerMember  # root-mean-square distance of the outputs from their mean over the examples
    normalized_mean: PerMember  # mean / spread
    normalized_percentile_10: PerMember  # percentile_10 / spread


class Norms(NamedTuple):
    """Norms of the parameters of one network, float64."""

    frobenius: float  # of all arrays together
    distance: float | None  # from the initial parameters; None if these are not given
    log_spectral_product: float  # sum of the logarithms of the largest singular values of all weight matrices
    spectral: dict[str, float]  # the largest singular value of each weight matrix


def margins(
    problem: Problem,
    params: PyTree,
    *,
    labels: Callable[[PyTree], Int[Array, " examples"]] | None = None,
    **loss_options: Unpack[LossOptions],
) -> Margins:
    """Return the output margins of a classifier on a data set.

    Normalised margins are divided by the spread of the outputs (their total variation, as in Jiang et al. 2019), which
    makes them invariant to a common scale of all outputs.

    Args:
        problem: a problem whose `predict` returns logits [example, class].
        params: the parameters at the point; see `hessian`.
        labels: batch -> the labels of its examples; by default the second entry of the batch.
        loss_options: the keyword arguments of `hessian`; the mode is "evaluate".

    Raises:
        TypeError, ValueError: see `hessian`; also for a problem without predict, or outputs of another shape.

    References:
        Jiang et al., "Predicting the generalization gap in deep networks with margin distributions", ICLR 2019. Jiang
        et al., "Fantastic generalization measures and where to find them", ICLR 2020: the 10th percentile.
    """
    at = gauss_newton_points(problem, params, loss_options)

    def measure(point: Point) -> Margins:
        return _margins(point, (lambda batch: batch[1]) if labels is None else labels)

    return at.map(measure)


def _margins(point: Point, labels: Callable[[PyTree], Int[Array, " examples"]]) -> Margins:
    """Return the margins of a group's members."""
    predict = point.over.predict
    assert predict is not None

    def of_one(
        flat: Float[Array, " parameters"], fixed: list[Float[Array, "..."]], model_state: PyTree, batch: PyTree
    ) -> tuple[Float[Array, " examples"], Float[Array, "examples classes"]]:
        outputs, classes = predict(point.layout.merge(flat, fixed), model_state, batch), labels(batch)
        if jnp.ndim(outputs) != 2 or jnp.shape(classes) != outputs.shape[:1] or outputs.shape[1] < 2:
            raise ValueError(
                "margins need outputs [example, class] of two classes or more and labels [example], got shapes "
                f"{jnp.shape(outputs)} and {jnp.shape(classes)}"
            )
        is_true_class = classes[:, None] == jnp.arange(outputs.shape[1])[None]
        others = jnp.where(is_true_class, -jnp.inf, outputs).max(axis=1)
        return jnp.where(is_true_class, outputs, 0).sum(axis=1) - others, outputs

    parts = list(point.by_batch("margins", of_one))
    values, outputs = (np.concatenate([np.asarray(part[i], np.float64) for part in parts], axis=1) for i in (0, 1))
    deviation = outputs - outputs.mean(axis=1, keepdims=True)
    spread = np.sqrt((deviation**2).sum(axis=2).mean(axis=1))
    mean, low = values.mean(axis=1), np.percentile(values, 10, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # the spread of constant outputs is 0
        return Margins(values, mean, low, spread, mean / spread, low / spread)


def norms(params: PyTree, *, initial: PyTree | None = None, filter_axis: FilterAxis = -1) -> Norms:
    """Return the norms of a network's parameters, and their distance from the initial parameters.

    Args:
        params: the parameters of one network: a pytree of real floating-point arrays.
        initial: the initial parameters, of the same structure and shapes.
        filter_axis: the output axis of the weights; see `filter_normalize`. A weight array (..., out) is taken as the
            matrix of its filters; biases and scales have no spectral norm. For a convolution this is not the norm of
            the convolution operator.

    Raises:
        TypeError: if a leaf is not a floating-point array (names the leaf).
        ValueError: if there are no leaves, or the initial parameters have another structure or shape (names the leaf).
    """
    check_parameters("params", params)
    form = layout(params, None, stacked=False)
    if initial is not None:
        check_parameters("initial", initial)
        form.check("initial", initial)
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(params)]
    distance = None
    if initial is not None:
        pairs = zip(leaves, jax.tree.leaves(initial), strict=True)
        distance = float(np.sqrt(sum(np.sum((one - np.asarray(other, np.float64)) ** 2) for one, other in pairs)))
    spectral = {}
    filters = leaf_filters(params, filter_axis, True, None)
    for name, leaf, within in zip(form.names, leaves, filters, strict=True):
        if within:
            outputs = [axis for axis in range(leaf.ndim) if axis not in within]
            rows = prod(leaf.shape[axis] for axis in outputs)
            spectral[name] = float(np.linalg.norm(leaf.transpose(*outputs, *within).reshape(rows, -1), 2))
    with np.errstate(divide="ignore"):
        product = float(np.log(list(spectral.values())).sum())
    return Norms(float(np.sqrt(sum(np.sum(leaf**2) for leaf in leaves))), distance, product, spectral)


def path_norm(
    network: Callable[[PyTree, PyTree, Num[Array, "examples ..."]], Any],
    params: PyTree,
    model_state: PyTree | None = None,
    *,
    inputs: Num[Array, "examples ..."] | Num[np.ndarray, "examples ..."],
    epsilon: float = 1e-5,
) -> float:
    """Return the path norm of a network: the square root of the sum over paths of the product of squared weights.

    It is computed as the network with squared parameters on an input of ones. This is valid for networks of linear
    layers with positively homogeneous activations (ReLU), which is not checked. Batch norm in evaluation mode is
    linear, scale / sqrt(var + epsilon), and is folded: its squared factor and squared total bias enter the sum.

    Args:
        network: `(params, model_state, inputs) -> outputs` in evaluation mode, without standardisation of the inputs;
            for a Flax module `lambda p, s, x: module.apply({"params": p, **s}, x)`.
        params: the parameters of one network.
        model_state: None, or {"batch_stats": ...} in Flax's format, with "mean" and "var" where params have "scale" and
            "bias".
        inputs: an array with the shape and dtype of the inputs; its values are not used. One example is enough.
        epsilon: the epsilon of batch norm.

    Raises:
        TypeError: if a leaf is not a floating-point array (names the leaf).
        ValueError: if model_state holds anything but such statistics (names the leaf).
    """
    check_parameters("params", params)
    with jax.enable_x64(True):
        squared = jax.tree.map(lambda leaf: jnp.square(jnp.asarray(leaf, jnp.float64)), params)
        folded = _folded(params, squared, model_state, epsilon)
        outputs = network(*folded, jnp.ones_like(inputs))
        # All examples have the same outputs, since all inputs are ones.
        return float(np.sqrt(sum(np.asarray(leaf, np.float64)[0].sum() for leaf in jax.tree.leaves(outputs))))


def _folded(params: PyTree, squared: PyTree, model_state: PyTree | None, epsilon: float) -> tuple[PyTree, PyTree]:
    """Return squared parameters, and statistics with which batch norm multiplies by its squared factor and adds b^2."""
    statistics = {} if model_state is None else model_state
    weights, known = (dict(jax.tree_util.tree_leaves_with_path(tree)) for tree in (params, statistics))
    key_of = jax.tree_util.DictKey
    biases, state = {}, {}
    for path in known:
        module, is_mean = path[1:-1], path[-1] == key_of("mean")
        mean, var, bias, scale = (
            (*parents, key_of(name))
            for parents, name in ((path[:-1], "mean"), (path[:-1], "var"), (module, "bias"), (module, "scale"))
        )
        if path[0] != key_of("batch_stats") or path not in (mean, var) or not {mean, var} <= set(known):
            raise ValueError(
                "model_state must hold the mean and var of batch norms in batch_stats and nothing else, got "
                f"{leaf_name(path)}; fold it into the parameters"
            )
        if bias not in weights:
            raise ValueError(f"batch norm at {leaf_name(path[:-1])} needs a bias, into which its mean is folded")
        shift, total = np.asarray(known[mean], np.float64), np.asarray(known[var], np.float64) + epsilon
        factor = np.asarray(weights.get(scale, 1), np.float64) / np.sqrt(total)
        # The network divides by sqrt(var + epsilon), but the squared network must divide by var + epsilon.
        state[path] = jnp.zeros(total.shape) if is_mean else jnp.asarray(total**2 - epsilon)
        biases[bias] = jnp.square(jnp.asarray(np.asarray(weights[bias], np.float64) - factor * shift))
    new = jax.tree_util.tree_map_with_path(lambda path, leaf: biases.get(path, leaf), squared)
    return new, jax.tree_util.tree_map_with_path(lambda path, leaf: state[path], statistics)
