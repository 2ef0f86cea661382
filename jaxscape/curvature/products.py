"""Products of the Hessian and of the Gauss-Newton matrix of a loss with vectors, over a whole data set in batches.

    H v = d/dt grad L(w + t v)            forward over reverse: the cost of about two gradients, without the matrix
    G v = J^T (d^2 l / d outputs^2) J v   the Hessian with the network linearised; positive semidefinite if the loss
                                          is convex in the outputs (Schraudolph 2002)

Each batch is one call of a program that is compiled once and used for every product. With chosen leaves the matrix is
their diagonal block: the other leaves are constants.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxscape.curvature.points import LossOptions, Point, Points, points
from jaxscape.problem import Problem

PyTree = Any
Kind = Literal["hessian", "gauss_newton"]

KINDS = ("hessian", "gauss_newton")
# Number of vectors in one program on an accelerator. They share the forward pass, but each needs activations of a
# batch. A CPU gains nothing: 8 products of WRN-10-1 took 0.9 s one by one, and 1.9, 0.7 and 1.2 s by two, four and
# eight.
TOGETHER = 4


class Operator(NamedTuple):
    """A symmetric matrix over P chosen parameters, represented by its products with vectors.

    Vectors are pytrees like the parameters. Leaves that are not chosen are ignored, and zero in the products. With a
    strategy everything has a leading member axis. Products are float32 jax arrays; with dtype "float64" they are NumPy
    arrays.
    """

    matvec: Callable[[PyTree], PyTree]  # a vector -> the product
    matvecs: Callable[[PyTree], PyTree]  # vectors [vector, ...], for a stack [member, vector, ...] -> the products
    dimension: int  # P, the number of chosen parameters


def hvp(problem: Problem, params: PyTree, vector: PyTree, **loss_options: Unpack[LossOptions]) -> PyTree:
    """Return the product of the Hessian with one vector; for several vectors use `hessian`, which compiles once.

    Args:
        problem: see `hessian`.
        params: the parameters at the point; see `hessian`.
        vector: a pytree like params.
        loss_options: the keyword arguments of `hessian`.

    Returns:
        A pytree like params.

    Raises:
        TypeError, ValueError: see `hessian`; also if the vector is not like params.
    """
    return hessian(problem, params, **loss_options).matvec(vector)


def hessian(problem: Problem, params: PyTree, **loss_options: Unpack[LossOptions]) -> Operator:
    """Return the Hessian of a problem's loss at a point, as an `Operator`.

    Args:
        problem: the problem whose loss is used (`jaxscape.training.objective`).
        params: a pytree of real floating-point arrays; with a strategy, a stack of them [member, ...].
        loss_options: the loss and how it is computed, for this and every other measure of `jaxscape.curvature`:
            - model_state: the model state of the network, or of the stack [member, ...]; None if there is none.
            - split: "train" (default) for `problem.data`, "test" for `problem.test_data`.
            - mode: "evaluate" for `predict` and `score` (running statistics of batch norm, no augmentation), "train"
              for `loss_fn` (statistics of each batch, a fixed key); by default the first that the problem supports.
            - batch_size: examples per batch, 1000 by default. With mode "train" and batch norm the loss depends on it.
            - examples: use only the first so many examples; None for all.
            - leaves: the arrays that vary, by name such as "head/kernel" or by patterns such as "group1*/*/kernel"; or
              a pytree of bools like params, or a function of a leaf's key path; None for all.
            - dtype: "float32" (default) or "float64", for which parameters, data and states are cast. Random numbers
              that a loss draws differ in float64.
            - strategy: None for one network. For a stack: "loop" (one member after the other), "threads" or "threads:4"
              (several in parallel, for a CPU), or "vmap" or "vmap:4" (all, or four, in one program, for a GPU).

    Raises:
        TypeError: if params are not floating-point arrays (names the leaf), or an option is unknown.
        ValueError: if params hold NaN or infinity (for one network); if dtype or strategy is unknown; if leaves match
            nothing; if a stack and its model_state differ in length; if a loss rounds float64 to a narrower dtype; see
            also `objective`.
    """
    return _operator(points(problem, params, loss_options), "hessian")


def gauss_newton(problem: Problem, params: PyTree, **loss_options: Unpack[LossOptions]) -> Operator:
    """Return the generalised Gauss-Newton matrix of a problem's loss at a point, as an `Operator`.

    Args:
        problem: a problem with `predict` and `score`.
        params: the parameters at the point; see `hessian`.
        loss_options: the keyword arguments of `hessian`; the mode is "evaluate".

    Raises:
        TypeError, ValueError: see `hessian`; also for a problem without predict and score, or mode "train".

    Reference:
        Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural Computation 2002.
    """
    return _operator(gauss_newton_points(problem, params, loss_options), "gauss_newton")


def gauss_newton_points(problem: Problem, params: PyTree, options: LossOptions) -> Points:
    """Return points at which the outputs of the network are available.

    Raises:
        ValueError: for a problem without outputs, or mode "train".
    """
    if options.get("mode") == "train":
        raise ValueError("the Gauss-Newton matrix needs mode 'evaluate', got 'train'")
    return points(problem, params, {**options, "mode": "evaluate"})


def kind_points(kind: str, problem: Problem, params: PyTree, options: LossOptions) -> Points:
    """Return the points for a measure of one kind of matrix.

    Raises:
        ValueError: for an unknown kind; see also `points`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return points(problem, params, options) if kind == "hessian" else gauss_newton_points(problem, params, options)


def product(point: Point, kind: str, vector: Float[Array, "members parameters"]) -> Float[Array, "members parameters"]:
    """Return the product of each member's matrix with its vector."""
    return point.mean(kind, _PRODUCTS[kind](point), vector)


def products(
    point: Point, kind: str, vectors: Float[Array, "members vectors parameters"]
) -> Float[Array, "members vectors parameters"]:
    """Return the products of each member's matrix with its vectors, in groups of vectors."""
    if jax.default_backend() == "cpu":
        return jnp.stack([product(point, kind, vector) for vector in jnp.moveaxis(vectors, 1, 0)], axis=1)
    return products_together(point, kind, vectors)


def products_together(
    point: Point, kind: str, vectors: Float[Array, "members vectors parameters"]
) -> Float[Array, "members vectors parameters"]:
    """Return the result of `products`, with several vectors in one program."""
    one = _PRODUCTS[kind](point)

    def several(*args: Any) -> Float[Array, "vectors parameters"]:
        return jax.vmap(partial(one, *args[:-1]))(args[-1])

    total = vectors.shape[1]
    parts = [
        point.mean(f"{kind} of {min(TOGETHER, total - first)}", several, vectors[:, first : first + TOGETHER])
        for first in range(0, total, TOGETHER)
    ]
    return jnp.concatenate(parts, axis=1)


def _hessian_product(point: Point) -> Callable[..., Float[Array, " parameters"]]:
    def of_batch(
        flat: Float[Array, " parameters"],
        fixed: list[Float[Array, "..."]],
        model_state: PyTree,
        batch: PyTree,
        vector: Float[Array, " parameters"],
    ) -> Float[Array, " parameters"]:
        gradient = jax.grad(lambda w: point.batch_loss(w, fixed, model_state, batch))
        return jax.jvp(gradient, (flat,), (vector,))[1]

    return of_batch


def _gauss_newton_product(point: Point) -> Callable[..., Float[Array, " parameters"]]:
    predict, score = point.over.predict, point.over.score
    assert predict is not None
    assert score is not None

    def of_batch(
        flat: Float[Array, " parameters"],
        fixed: list[Float[Array, "..."]],
        model_state: PyTree,
        batch: PyTree,
        vector: Float[Array, " parameters"],
    ) -> Float[Array, " parameters"]:
        def outputs_of(w: Float[Array, " parameters"]) -> PyTree:
            return predict(point.layout.merge(w, fixed), model_state, batch)

        def loss_of(outputs: PyTree) -> Float[Array, ""]:
            return jnp.mean(score(outputs, batch)["loss"])

        outputs, tangent = jax.jvp(outputs_of, (flat,), (vector,))
        cotangent = jax.jvp(jax.grad(loss_of), (outputs,), (tangent,))[1]
        return jax.vjp(outputs_of, flat)[1](cotangent)[0]

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
