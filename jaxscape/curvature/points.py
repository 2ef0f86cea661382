"""The loss of a data set as a function of a network's chosen parameters, at one point or a stack of points.

Every measure of this package is written for a stack [member, ...] and applied to it in groups: one member at a time
("loop"), several in threads ("threads"), or several in one program ("vmap"). One network is a group of one.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Float, Float64

from jaxscape.arguments import check_finite, check_parameters
from jaxscape.curvature.leaves import Layout, Leaves, layout
from jaxscape.problem import Problem
from jaxscape.training.members import EVALUATIONS, num_members, num_workers, parse_strategy
from jaxscape.training.objective import Mode, Objective, Split, mean_metrics, objective, warn_of_fixed_key
from jaxscape.xla_cpu import compiler

PyTree = Any
T = TypeVar("T")
Precision = Literal["float32", "float64"]
# One number per member of a stack; of one network, a scalar.
PerMember = Float64[np.ndarray, " members"] | np.float64

PRECISIONS = ("float32", "float64")


class LossOptions(TypedDict, total=False):
    """Keyword arguments of every measure, which select the loss and the parameters; documented in `hessian`."""

    model_state: PyTree
    split: Split
    mode: Mode | None
    batch_size: int
    examples: int | None
    leaves: Leaves | None
    dtype: Precision
    strategy: str | None


class Point(NamedTuple):
    """A group of members, and the loss around each of them."""

    flat: Float[Array, "members parameters"]  # the chosen parameters
    fixed: list[Float[Array, "members ..."]]  # the other leaves
    model_state: PyTree  # [member, ...]
    layout: Layout
    over: Objective
    programs: dict[Any, Callable[..., Any]]  # compiled programs, shared by all groups of a measure

    @property
    def members(self) -> int:
        """The number of members."""
        return len(self.flat)

    def batch_loss(
        self, flat: Float[Array, " parameters"], fixed: list[Float[Array, "..."]], model_state: PyTree, batch: PyTree
    ) -> Float[Array, ""]:
        """Return the loss of one network on one batch."""
        return self.over.loss(self.layout.merge(flat, fixed), model_state, batch)

    def mean(
        self,
        name: str,
        function: Callable[..., Any],
        *vectors: Float[Array, "members ..."],
        flat: Float[Array, "members parameters"] | None = None,
    ) -> Any:
        """Return the mean of a function over the batches of the data set, weighted by their sizes, for each member.

        Args:
            name: name of the function; one program is compiled per name and number of members.
            function: pure function `(flat, fixed, model_state, batch, *vectors) -> pytree` of one network.
            vectors: the further arguments of the function.
            flat: parameters to use instead of those of the point.
        """
        parts = self.by_batch(name, function, *vectors, flat=flat)
        total = None
        for share, part in zip(self.over.shares, parts, strict=True):
            total = _weighted(part, share) if total is None else _add_weighted(total, part, share)
        return total

    def by_batch(
        self,
        name: str,
        function: Callable[..., Any],
        *vectors: Float[Array, "members ..."],
        flat: Float[Array, "members parameters"] | None = None,
    ) -> Iterator[Any]:
        """Yield the value of a function on each batch, for each member; the arguments are those of `mean`."""
        program = self._program((name, self.members == 1), function)
        at = (self.flat if flat is None else flat, self.fixed, self.model_state)
        return (program(*at, batch, *vectors) for batch in self.over.batches)

    def loss(self, flat: Float[Array, "members parameters"] | None = None) -> Float64[np.ndarray, " members"]:
        """Return the loss of each member, at the point or at other parameters."""
        return self.metric("loss", flat)

    def metric(
        self, metric: str, flat: Float[Array, "members parameters"] | None = None
    ) -> Float64[np.ndarray, " members"]:
        """Return a metric of each member, at the point or at other parameters."""

        def metrics(params: PyTree, model_state: PyTree, batch: PyTree) -> Any:
            return self.over.metrics(self.layout.merge(*params), model_state, batch)

        def of_one(
            flat: Float[Array, " parameters"], fixed: list[Float[Array, "..."]], model_state: PyTree, batch: PyTree
        ) -> Any:
            return metrics((flat, fixed), model_state, batch)

        program = self._program(("metrics", self.members == 1), of_one)
        at = self.flat if flat is None else flat
        means = mean_metrics(lambda p, s, batch: program(*p, s, batch), self.over, (at, self.fixed), self.model_state)
        if metric not in means:
            raise ValueError(f"metric must be one of {', '.join(sorted(means))}, got {metric!r}")
        return np.asarray(means[metric], np.float64)

    def gradient(self, flat: Float[Array, "members parameters"] | None = None) -> Float[Array, "members parameters"]:
        """Return the gradient of each member's loss, at the point or at other parameters."""
        return self.mean("gradient", jax.grad(self.batch_loss), flat=flat)

    def _program(self, name: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function applied to a stack [member, ...], compiled once per name."""
        if name not in self.programs:
            is_single = self.members == 1

            def of_stack(
                flat: Float[Array, "members parameters"],
                fixed: list[Float[Array, "members ..."]],
                model_state: PyTree,
                batch: PyTree,
                *vectors: Float[Array, "members ..."],
            ) -> Any:
                # By default, float32 matrix products on a GPU would be rounded to 10 bits (TF32).
                with jax.default_matmul_precision("highest"):
                    if is_single:  # drop the member axis, since stacked weights would give grouped convolutions
                        first = jax.tree.map(lambda leaf: leaf[0], (flat, fixed, model_state, *vectors))
                        result = function(*first[:3], batch, *first[3:])
                        return jax.tree.map(lambda leaf: leaf[None], result)
                    axes = (0, 0, 0, None, *(0 for _ in vectors))
                    return jax.vmap(function, in_axes=axes)(flat, fixed, model_state, batch, *vectors)

            self.programs[name] = compiler.jit(of_stack)
        return self.programs[name]


@jax.jit
def _weighted(part: PyTree, share: float | Float[Array, ""]) -> PyTree:
    return jax.tree.map(lambda value: share * value, part)


@jax.jit
def _add_weighted(total: PyTree, part: PyTree, share: float | Float[Array, ""]) -> PyTree:
    return jax.tree.map(lambda one, other: one + share * other, total, part)


class Points(NamedTuple):
    """A stack of points, divided into groups that are measured together; one network is a stack of one."""

    groups: list[Point]
    layout: Layout
    stacked: bool  # whether results keep the member axis
    dtype: Precision
    workers: int

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which programs are compiled and called: 64-bit mode for dtype "float64"."""
        return jax.enable_x64(True) if self.dtype == "float64" else nullcontext()

    def map(self, measure: Callable[..., T], *vectors: Any) -> T:
        """Apply `measure` to each group and concatenate along the member axis, which one network does not have.

        Args:
            measure: `(point, *vectors) -> pytree` of arrays [member, ...].
            vectors: pytrees of arrays [member, ...]; for one network without the axis.
        """
        sizes = [point.members for point in self.groups]
        starts = np.cumsum([0, *sizes])

        def of_group(number: int) -> T:
            with self.precision():
                rows = slice(starts[number], starts[number + 1])
                own = [
                    jax.tree.map(lambda leaf: leaf[rows] if self.stacked else jnp.asarray(leaf)[None], vector)
                    for vector in vectors
                ]
                result = measure(self.groups[number], *own)
                return result if self.workers == 1 else jax.block_until_ready(result)

        if self.workers == 1:
            parts = [of_group(number) for number in range(len(sizes))]
        else:
            with ThreadPoolExecutor(self.workers) as pool:
                parts = list(pool.map(of_group, range(len(sizes))))
        with self.precision():
            return jax.tree.map(self._joined, *parts)

    def _joined(self, *parts: Any) -> Any:
        """Concatenate the arrays of the groups; float64 ones in NumPy, since jax has them in 64-bit mode only."""
        if all(isinstance(part, jax.Array) and part.dtype != jnp.float64 for part in parts):
            return jnp.concatenate(parts) if self.stacked else parts[0][0]
        joined = np.concatenate([np.asarray(part) for part in parts])
        return joined if self.stacked else joined[0]


def points(problem: Problem, params: PyTree, options: LossOptions) -> Points:
    """Check the arguments of a measure and return its points.

    Args:
        problem: the problem whose loss is measured.
        params: the parameters of one network; with a strategy, of a stack [member, ...].
        options: see `hessian`.

    Raises:
        TypeError, ValueError: see `hessian`.
    """
    unknown = set(options) - LossOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(LossOptions.__annotations__)
        raise TypeError(f"unknown options {', '.join(sorted(unknown))}; the options of the loss are {known}")
    dtype, strategy = options.get("dtype", "float32"), options.get("strategy")
    if dtype not in PRECISIONS:
        raise ValueError(f"dtype must be one of {', '.join(PRECISIONS)}, got {dtype!r}")
    stacked = strategy is not None
    params, state = problem.split_model(params, options.get("model_state"))
    kind, number = ("loop", None) if strategy is None else parse_strategy(strategy, EVALUATIONS)
    members = num_members(params) if stacked else 1
    together = (number or members) if kind == "vmap" else 1
    workers = (number or num_workers(kind)) if kind == "threads" else 1
    check_parameters("params", params)
    chosen = layout(params, options.get("leaves"), stacked=stacked)
    if not chosen.dimension:
        raise ValueError("params must hold at least one number in the chosen leaves, got none")
    if not stacked:
        check_finite("params", params)
    state = {} if state is None else state
    if stacked and jax.tree.leaves(state) and num_members(state) != members:
        raise ValueError(f"model_state must be a stack of {members} members like params, got {num_members(state)}")
    settings: Any = {name: options.get(name) for name in ("split", "mode", "batch_size", "examples") if name in options}
    programs: dict[Any, Callable[..., Any]] = {}
    with jax.enable_x64(True) if dtype == "float64" else nullcontext():
        over = objective(problem, **settings)
        if options.get("mode") is None:
            one = jax.tree.map(lambda leaf: leaf[0], (params, state)) if stacked else (params, state)
            warn_of_fixed_key(problem, over, *one)
        if dtype == "float64":
            over = over._replace(batches=_to_float64(over.batches))
            params, state = _to_float64(params), _to_float64(state)
        if not stacked:
            params, state = (jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree) for tree in (params, state))

        def group_from(first: int) -> Point:
            rows = slice(first, min(first + together, members))
            own, own_state = (jax.tree.map(lambda leaf: leaf[rows], tree) for tree in (params, state))
            flat = chosen.flatten(own, leading_axes=1)
            fixed = [jnp.asarray(leaf) for leaf in chosen.fixed(own)]
            return Point(flat, fixed, jax.tree.map(jnp.asarray, own_state), chosen, over, programs)

        groups = [group_from(first) for first in range(0, members, together)]
        if dtype == "float64":
            _require_float64(groups[0])
    return Points(groups, chosen, stacked, dtype, workers)


def _to_float64(tree: PyTree) -> PyTree:
    """Return a pytree with its floating-point leaves cast to float64."""

    def cast(leaf: Any) -> Any:
        return jnp.asarray(leaf, jnp.float64) if jnp.issubdtype(jnp.result_type(leaf), jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _require_float64(point: Point) -> None:
    """Raise an error if a loss with float64 parameters casts an intermediate result to lower precision.

    Raises:
        ValueError: says what to change in the model.
    """
    one = jax.tree.map(lambda leaf: leaf[0], (point.flat, point.fixed, point.model_state))
    program = jax.make_jaxpr(lambda flat: point.batch_loss(flat, one[1], one[2], point.over.batches[0]))(one[0])
    narrow = _narrowed(program.jaxpr, [True] * len(program.jaxpr.invars))[1]
    if narrow is None and program.out_avals[0].dtype != jnp.float64:
        narrow = str(program.out_avals[0].dtype)
    if narrow is not None:
        raise ValueError(
            f"dtype='float64' needs a loss that computes in the dtype of its parameters; this one rounds to {narrow} "
            "on the way. Let the model compute in the dtype of its parameters (dtype=None for a Flax module)"
        )


def _narrowed(jaxpr: core.Jaxpr, depends: Sequence[bool]) -> tuple[list[bool], str | None]:
    """Return which outputs depend on the marked inputs, and the first narrower dtype to which they are cast."""
    marked = {id(var) for var, mark in zip(jaxpr.invars, depends, strict=True) if mark}
    for equation in jaxpr.eqns:
        marks = [id(var) in marked for var in equation.invars]
        if not any(marks):
            continue
        if equation.primitive.name == "convert_element_type":
            old, new = (var.aval.dtype for var in (equation.invars[0], equation.outvars[0]))  # type: ignore[attr-defined]
            if old == jnp.float64 and jnp.issubdtype(new, jnp.floating) and new != jnp.float64:
                return [], str(new)
        for inner in core.jaxprs_in_params(equation.params):
            # A branch takes the inputs of its `cond` after the index.
            own = (
                marks[len(marks) - len(inner.invars) :]
                if len(inner.invars) <= len(marks)
                else [True] * len(inner.invars)
            )
            _, narrow = _narrowed(inner, own)
            if narrow is not None:
                return [], narrow
        marked |= {id(var) for var in equation.outvars}
    return [id(var) in marked for var in jaxpr.outvars], None
