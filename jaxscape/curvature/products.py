"""Products of the Hessian and of the Gauss-Newton matrix of a loss with vectors, over a whole data set in batches.

    H v = d/dt grad L(w + t v)            forward over reverse: about two gradients, and no matrix
    G v = J^T (d^2 l / d outputs^2) J v   the part of the Hessian in which the network is linear; never negative
                                          where the loss is convex in the outputs (Schraudolph 2002)

Each batch is a program of its own, compiled once and used for every product. Of chosen leaves the products are those
of the diagonal block: the other leaves are constants.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxscape.curvature.points import LossOptions, Point, Points, points
from jaxscape.problem import Problem

PyTree = Any
Kind = Literal["hessian", "gauss_newton"]

KINDS = ("hessian", "gauss_newton")
# Vectors in one program on an accelerator: they share the forward pass, and each holds activations of a batch. A CPU
# gains nothing from it: 8 products of WRN-10-1 took 0.9 s one by one, 1.9, 0.7 and 1.2 s by two, four and eight.
TOGETHER = 4


class Operator(NamedTuple):
    """A symmetric matrix of P chosen parameters, known by its products with vectors.

    Vectors are pytrees like the parameters. What they hold in leaves that are not chosen is not read, and products
    are zero there. With a strategy everything has a leading member axis. Products are arrays of jax in float32; with
    dtype "float64" they are NumPy arrays.
    """

    matvec: Callable[[PyTree], PyTree]  # a vector -> the product
    matvecs: Callable[[PyTree], PyTree]  # vectors [vector, ...] (of a stack [member, vector, ...]) -> the products
    dimension: int  # P


def hvp(problem: Problem, params: PyTree, vector: PyTree, **of: Unpack[LossOptions]) -> PyTree:
    """Return the product of the Hessian with one vector; for several, `hessian` compiles once.

    Args:
        problem: as `hessian` takes it; likewise
        params: the point,
        vector: a pytree like params, and
        of: the keyword arguments of `hessian`.

    Returns:
        A pytree like params.

    Raises:
        TypeError, ValueError: as `hessian`, and for a vector that is not like params.
    """
    return hessian(problem, params, **of).matvec(vector)


def hessian(problem: Problem, params: PyTree, **of: Unpack[LossOptions]) -> Operator:
    """Return the Hessian of a problem's loss at a point, as an `Operator`.

    Args:
        problem: whose loss it is (`jaxscape.training.objective`).
        params: a pytree of real floating-point arrays; with a strategy a stack of them [member, ...].
        of: which loss, and how it is computed, for this and every other measure of `jaxscape.curvature`:
            - model_state: of the network, or of the stack [member, ...]; None where there is none.
            - split: "train" (default) for `problem.data`, "test" for `problem.test_data`.
            - mode: "evaluate" for `predict` and `score` (running statistics of batch norm, no augmentation), "train"
              for `loss_fn` (statistics of each batch, a fixed key); by default the first that the problem has.
            - batch_size: examples a batch, 1000 by default. With mode "train" and batch norm the loss depends on it.
            - examples: the first so many examples alone; None takes all.
            - leaves: the arrays that vary, by name such as "head/kernel" or by patterns such as "group1*/*/kernel"; or
              a pytree of bools like params, or a function of a leaf's key path; None is all.
            - dtype: "float32" (default) or "float64", for which parameters, data and states are widened. Random numbers
              that a loss draws are others in float64.
            - strategy: None for one network. For a stack "loop" (one member after the other), "threads" or "threads:4"
              (several side by side; for a CPU), or "vmap" or "vmap:4" (all, or four, in one program; for a GPU).

    Raises:
        TypeError: for params that are no floating-point arrays (names the leaf), and options that are unknown.
        ValueError: for params with NaN or infinity (one network's), an unknown dtype or strategy, leaves that match
            nothing, a stack of another length than its model_state, a loss that rounds float64 to less, and what
            `objective` refuses.
    """
    return _operator(points(problem, params, of), "hessian")


def gauss_newton(problem: Problem, params: PyTree, **of: Unpack[LossOptions]) -> Operator:
    """Return the generalised Gauss-Newton matrix of a problem's loss at a point, as an `Operator`.

    Args:
        problem: with `predict` and `score`; likewise
        params: the point, and
        of: the keyword arguments, as `hessian` takes them; the mode is "evaluate".

    Raises:
        TypeError, ValueError: as `hessian`, and for a problem without predict and score, or mode "train".

    Reference:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 2002.
    """
    return _operator(gauss_newton_points(problem, params, of), "gauss_newton")


def gauss_newton_points(problem: Problem, params: PyTree, of: LossOptions) -> Points:
    """Return points whose outputs are known.

    Raises:
        ValueError: for a problem or a mode that has none.
    """
    if of.get("mode") == "train":
        raise ValueError("the Gauss-Newton matrix needs mode 'evaluate', got 'train'")
    return points(problem, params, {**of, "mode": "evaluate"})


def kind_points(kind: str, problem: Problem, params: PyTree, of: LossOptions) -> Points:
    """Return the points of a measure of either matrix.

    Raises:
        ValueError: for another kind, and what the points refuse.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return points(problem, params, of) if kind == "hessian" else gauss_newton_points(problem, params, of)


def product(point: Point, kind: str, vector: jax.Array) -> jax.Array:
    """Return the product of each member's matrix with its vector [member, P]."""
    return point.mean(kind, _PRODUCTS[kind](point), vector)


def products(point: Point, kind: str, vectors: jax.Array) -> jax.Array:
    """Return the products of each member's matrix with its vectors [member, vector, P], some at a time."""
    if jax.default_backend() == "cpu":
        return jnp.stack([product(point, kind, vector) for vector in jnp.moveaxis(vectors, 1, 0)], axis=1)
    return products_together(point, kind, vectors)


def products_together(point: Point, kind: str, vectors: jax.Array) -> jax.Array:
    """Return what `products` does, several vectors in one program."""
    one = _PRODUCTS[kind](point)

    def of_several(*args: Any) -> jax.Array:
        return jax.vmap(partial(one, *args[:-1]))(args[-1])

    total = vectors.shape[1]
    parts = [
        point.mean(f"{kind} of {min(TOGETHER, total - first)}", of_several, vectors[:, first : first + TOGETHER])
        for first in range(0, total, TOGETHER)
    ]
    return jnp.concatenate(parts, axis=1)


def _hessian_product(point: Point) -> Callable[..., jax.Array]:
    def of_batch(
        flat: jax.Array, fixed: list[jax.Array], model_state: PyTree, batch: PyTree, vector: jax.Array
    ) -> jax.Array:
        gradient = jax.grad(lambda w: point.batch_loss(w, fixed, model_state, batch))
        return jax.jvp(gradient, (flat,), (vector,))[1]

    return of_batch


def _gauss_newton_product(point: Point) -> Callable[..., jax.Array]:
    predict, score = point.over.predict, point.over.score
    assert predict is not None
    assert score is not None

    def of_batch(
        flat: jax.Array, fixed: list[jax.Array], model_state: PyTree, batch: PyTree, vector: jax.Array
    ) -> jax.Array:
        def outputs_of(w: jax.Array) -> PyTree:
            return predict(point.layout.merge(w, fixed), model_state, batch)

        def loss_of(outputs: PyTree) -> jax.Array:
            return jnp.mean(score(outputs, batch)["loss"])

        outputs, moved = jax.jvp(outputs_of, (flat,), (vector,))
        bent = jax.jvp(jax.grad(loss_of), (outputs,), (moved,))[1]
        return jax.vjp(outputs_of, flat)[1](bent)[0]

    return of_batch


_PRODUCTS = {"hessian": _hessian_product, "gauss_newton": _gauss_newton_product}


def _operator(at: Points, kind: str) -> Operator:
    members = sum(point.members for point in at.groups)
    leading = (members,) if at.stacked else ()

    def matvec(vector: PyTree) -> PyTree:
        at.layout.check("vector", vector, leading=leading)
        return at.map(
            lambda point, own: at.layout.unflatten(product(point, kind, at.layout.flatten(own, leading_axes=1))), vector
        )

    def matvecs(vectors: PyTree) -> PyTree:
        at.layout.check("vectors", vectors, leading=(*leading, -1))
        return at.map(
            lambda point, own: at.layout.unflatten(products(point, kind, at.layout.flatten(own, leading_axes=2))),
            vectors,
        )

    return Operator(matvec, matvecs, at.layout.dimension)
