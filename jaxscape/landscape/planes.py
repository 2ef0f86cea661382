"""Lines and planes in parameter space: through networks, along filter-normalised directions, along principal axes.

A point of a plane is a weighted sum of a few pytrees (`Plane.vectors`). Its weights are a fixed matrix times (1, x) or
(1, x, y, x*y). A plane through three networks, a bilinear patch between four and a plane along two directions are
therefore the same kind of record and are evaluated in the same way.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64, Real
from numpy.typing import ArrayLike

from jaxscape.arguments import check_finite, check_same, count, whole_number
from jaxscape.jumps.directions import checked_grid, filter_normalize, random_direction
from jaxscape.landscape.networks import network_reader
from jaxscape.problem import FilterAxis, Where
from jaxscape.trajectories.arrays import describe_shape, differences, key_names
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.gram import IncrementGram, gram
from jaxscape.trajectories.sources import Members, Source, flatten_reference, open_source
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any
Origin = Literal["last", "mean", "reference"]

ORIGINS = ("last", "mean", "reference")
# The kinds of planes, and the meaning of their coordinates.
KINDS = {
    "segment": "from one network (0) to another (1)",
    "three points": "through three networks; coordinates are distances in parameter space",
    "four points": "bilinear between four networks at the corners of the unit square",
    "directions": "along filter-normalised random directions; 1 moves every filter by its own norm",
    "principal axes": "along principal axes of a trajectory; coordinates are distances in parameter space",
}
SMALLEST_ANGLE = 1e-3  # radians between two axes; below this the second axis would be mostly rounding errors
MAX_BYTES = 2**28  # memory for the points that are read at a time, as float32


class Plane(NamedTuple):
    """A line (one axis), a plane or a bilinear patch (two) of parameters."""

    vectors: tuple[PyTree, ...]  # networks, or a network and directions
    matrix: Float64[np.ndarray, "vectors terms"]  # weights of the point (x, y): matrix @ (1, x), or (1, x, y, x*y)
    kind: str  # a key of `KINDS`
    corners: Float64[np.ndarray, "networks axes"]  # coordinates of the networks on the plane, 0 rows if there are none
    axis_names: tuple[str, ...]
    shares: Float64[np.ndarray, " principal_axes"] | None = None  # of the variance; for the kind "principal axes"

    @property
    def num_axes(self) -> int:
        """The number of axes: 1 for a line, 2 for a plane."""
        return 1 if self.matrix.shape[1] == 2 else 2


def plane(a: PyTree, b: PyTree, c: PyTree | None = None, d: PyTree | None = None) -> Plane:
    """Return the line through two networks, the plane through three, or the bilinear patch between four.

    For two networks, x goes linearly from `a` (0) to `b` (1). For three, the axes are orthonormal (Garipov et al.
    2018): `a` is the origin, `b` lies on the x axis, `c` above it, and coordinates are euclidean distances in parameter
    space. For four, `a` is at (0, 0), `b` at (1, 0), `c` at (0, 1) and `d` at (1, 1), and the point (x, y) is
    (1-x)(1-y) a + x(1-y) b + (1-x)y c + xy d.

    Args:
        a: the parameters of the first network.
        b: the parameters of the second network.
        c: the parameters of the third network, if any.
        d: the parameters of the fourth network, if any.

    Raises:
        TypeError: if a leaf does not hold real floating-point numbers (names the leaf).
        ValueError: if networks differ in structure or shapes, are not finite, or are equal; or if three networks, or
            the first three of four, lie within 0.001 rad of one line (gives the angle).

    References:
        Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs", NeurIPS 2018, appendix A.1.
    """
    if c is None and d is not None:
        raise ValueError("d must be None if c is None: give two, three or four networks")
    networks = {name: tree for name, tree in zip("abcd", (a, b, c, d), strict=True) if tree is not None}
    for name, tree in networks.items():
        check_same(name, tree, "a", a)
        check_finite(name, tree)
        for other in networks:
            if other < name and not _products(_differences(tree, networks[other]))[0, 0]:
                raise ValueError(f"{other} and {name} must be different networks, but they are equal")
    vectors = tuple(networks.values())
    if len(vectors) == 2:
        matrix, corners = np.array([[1.0, -1], [0, 1]]), np.array([[0.0], [1]])
        return Plane(vectors, matrix, "segment", corners, ("interpolation coefficient",))
    products = _products(_differences(b, a), _differences(c, a))
    _refuse_dependent(products, "the vectors from a to b and from a to c")
    if len(vectors) == 4:
        bilinear = np.array([[1.0, -1, -1, 1], [0, 1, 0, -1], [0, 0, 1, -1], [0, 0, 0, 1]])
        corners = np.array([[0.0, 0], [1, 0], [0, 1], [1, 1]])
        names = ("interpolation coefficient, x", "interpolation coefficient, y")
        return Plane(vectors, bilinear, "four points", corners, names)
    length, along = math.sqrt(products[0, 0]), products[0, 1] / products[0, 0]
    height = _height(products)
    matrix = np.array(
        [
            [1, -1 / length, (along - 1) / height, 0],
            [0, 1 / length, -along / height, 0],
            [0, 0, 1 / height, 0],
        ]
    )
    corners = np.array([[0, 0], [length, 0], [along * length, height]])
    return Plane(vectors, matrix, "three points", corners, ("distance, x", "distance, y"))


def filter_plane(
    params: PyTree,
    *,
    seeds: Sequence[int] = (0, 1),
    filter_axis: FilterAxis = -1,
    ignore: bool = True,
    where: Where | None = None,
) -> Plane:
    """Return the plane or line through a network along filter-normalised random directions (Li et al. 2018).

    The direction of a seed is the one that `jump_grid` uses, so its copies lie on the axes, at their step sizes.

    Args:
        params: the parameters of one network, which is at (0, 0).
        seeds: two seeds for a plane, one for a line.
        filter_axis: see `filter_normalize`.
        ignore: leave biases and scales unperturbed; see `filter_normalize`.
        where: which leaves are perturbed; see `filter_normalize`.

    Raises:
        TypeError, ValueError: see `filter_normalize`; also for another number of seeds, and for params that are not
            finite or whose filters are all zero.

    Reference:
        Li et al., "Visualizing the Loss Landscape of Neural Nets", NeurIPS 2018.
    """
    numbers, _ = checked_grid(seeds, (1.0,))
    if len(numbers) > 2:
        raise ValueError(f"seeds must be one or two, one per direction, got {numbers}")
    check_finite("params", params)
    directions = [
        filter_normalize(
            random_direction(jax.random.key(seed), params), params, filter_axis=filter_axis, ignore=ignore, where=where
        )
        for seed in numbers
    ]
    products = _products(*([np.asarray(leaf) for leaf in jax.tree.leaves(each)] for each in directions))
    if not products[0, 0]:
        raise ValueError("params must have at least one nonzero filter that is perturbed, but there is none")
    if len(numbers) == 2:
        _refuse_dependent(products, f"the directions of the seeds {numbers[0]} and {numbers[1]}")
    names = tuple(f"direction of seed {seed}, in norms of the filters" for seed in numbers)
    return _along((params, *directions), "directions", names)


def trajectory_plane(
    points: TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    axes: Sequence[int] = (0, 1),
    origin: Origin | None = None,
    reference: PyTree | None = None,
    members: Members | None = None,
    like: PyTree | None = None,
    products: IncrementGram | None = None,
) -> Plane:
    """Return the plane or line along exact principal axes of the points of trajectories.

    The axes and their fractions of the variance are computed from the products of increments (`jaxscape.gram`), and are
    accurate even for nearly parallel points. The points are then read once more, in blocks, to express the axes as
    parameters. Random walks have leading principal axes too: compare with `random_walk_shares`, and with
    `principal_shares` of `null_trajectories`.

    Args:
        points: see `gram`; the principal axes are centred at the mean of all points.
        axes: indices of the two principal axes of the plane, or of the one axis of the line; 0 is the leading one.
        origin: the point through which the plane passes. "reference": that network. "last": the last point of a single
            trajectory. "mean": the mean, where the plane is closest to the points. By default the first of these that
            is available.
        reference: the parameters of one network, such as the minimum.
        members: members of a store; see `gram`.
        like: parameters in the structure that the plane shall have; by default that of the points, or nested
            dictionaries for a store.
        products: the `IncrementGram` of these points, if it is already computed.

    Returns:
        A plane with orthonormal axes (float64 NumPy arrays), each with its largest coordinate positive, and `shares`.

    Raises:
        ValueError: see `gram`; also for an unknown origin, a missing reference, the last point of several trajectories,
            or axes that the points do not span.
    """
    source = open_source(points, members, None)
    through = _checked_origin(origin, reference, source)
    products = gram(points, members=members) if products is None else products
    if products.num_points != source.num_rows:
        raise ValueError(f"products must be those of the {source.num_rows} points, got those of {products.num_points}")
    values, vectors = _principal_axes(products)
    chosen = [whole_number("axes", axis) for axis in axes]
    spanned = int(np.sum(values > 1e-12 * values[0])) if values[0] > 0 else 0
    if len(chosen) not in (1, 2) or len(set(chosen)) < len(chosen) or not all(0 <= axis < spanned for axis in chosen):
        raise ValueError(
            f"axes must be one or two distinct numbers of the {spanned} axes of these points, got {chosen}"
        )
    rows = (vectors[:, chosen] / np.sqrt(values[chosen])).T
    flat = _sums(source, np.vstack([rows, _origin_weights(through, source.num_rows)]))
    like = network_reader(points, members=members)(0) if like is None else like
    if through == "reference":
        flat[-1] = flatten_reference(reference, source)
    *flat_axes, flat_origin = (_unflatten(each, source, like) for each in flat)
    start = jax.tree.map(lambda leaf, value: value.astype(jnp.result_type(leaf)), like, flat_origin)
    shares = values / values.sum()
    names = tuple(f"principal axis {axis + 1} ({shares[axis]:.1%} of the variance)" for axis in chosen)
    return _along((start, *flat_axes), "principal axes", names)._replace(shares=shares[: source.num_rows - 1])


def principal_shares(
    points: IncrementGram | TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
) -> Float64[np.ndarray, " principal_axes"]:
    """Return the fraction of the variance of points on each principal axis (explained variance ratio), largest first.

    Args:
        points: an `IncrementGram`, such as the result of `null_trajectories`, or anything that `gram` takes.

    Returns:
        One fraction for each of points - 1 axes, with sum 1.

    Raises:
        ValueError: see `gram`; also if all points are equal.
    """
    values, _ = _principal_axes(points if isinstance(points, IncrementGram) else gram(points))
    if not values[0] > 0:
        raise ValueError("points must differ, but they are all the same")
    return (values / values.sum())[:-1]


def random_walk_shares(num_points: int) -> Float64[np.ndarray, " principal_axes"]:
    """Return the fraction of the variance on each principal axis of a high-dimensional random walk, largest first.

    The centred inner products of a walk of independent steps tend to the pseudo-inverse of the path graph's Laplacian,
    whose eigenvalues are known: fraction k is proportional to 1 / sin(pi k / (2 n))^2. For a long walk it is
    6 / (pi k)^2, that is 60.8 % on the first axis and 76.0 % on the first two. Large fractions alone are therefore no
    evidence that a trajectory is a curve in a plane.

    Args:
        num_points: n, including the start; it should be much smaller than the number of dimensions.

    Returns:
        One fraction for each of n - 1 axes, with sum 1.

    Raises:
        ValueError: for fewer than 2 points.

    Reference:
        Antognini and Sohl-Dickstein, "PCA of high dimensional random walks with comparison to neural network
        training", NeurIPS 2018.
    """
    points = count("num_points", num_points, least=2)
    values = 1 / np.sin(np.pi * np.arange(1, points) / (2 * points)) ** 2
    shares: Float64[np.ndarray, " principal_axes"] = values / values.sum()
    return shares


def plane_weights(plane: Plane, coordinates: ArrayLike) -> Float64[np.ndarray, "points vectors"]:
    """Return the weights of a plane's vectors at some points; if all are networks, these are barycentric coordinates.

    Args:
        plane: a plane.
        coordinates: numbers (points, axes).

    Raises:
        ValueError: for another shape.
    """
    points = np.asarray(coordinates, np.float64)
    if points.ndim != 2 or points.shape[1] != plane.num_axes:
        raise ValueError(f"coordinates must have shape (points, {plane.num_axes}), got {points.shape}")
    terms = [np.ones(len(points)), *points.T]
    if plane.num_axes == 2:
        terms.append(points[:, 0] * points[:, 1])
    weights: Float64[np.ndarray, "points vectors"] = np.stack(terms, axis=1) @ plane.matrix.T
    return weights


def plane_point(plane: Plane, coordinates: Sequence[float] | Real[np.ndarray, " axes"]) -> PyTree:
    """Return the parameters of a point of a plane, as NumPy arrays in the dtype of its first vector.

    Args:
        plane: a plane.
        coordinates: one number per axis.
    """
    (weights,) = plane_weights(plane, np.asarray(coordinates, np.float64)[None])

    def of_leaf(*leaves: Any) -> Float[np.ndarray, "..."]:
        wide = sum(weight * np.asarray(leaf, np.float64) for weight, leaf in zip(weights, leaves, strict=True))
        return np.asarray(wide).astype(jnp.result_type(leaves[0]))

    return jax.tree.map(of_leaf, *plane.vectors)


def distance(a: PyTree, b: PyTree) -> float:
    """Return the euclidean distance between two networks, summed in float64."""
    return math.sqrt(_products(_differences(b, a))[0, 0])


def is_bilinear(plane: Plane) -> bool:
    """Return whether a plane is a bilinear patch, onto which points cannot be projected."""
    return plane.num_axes == 2 and bool(np.any(plane.matrix[:, 3]))


def _along(vectors: tuple[PyTree, ...], kind: str, names: tuple[str, ...]) -> Plane:
    axes = len(vectors) - 1
    matrix = np.eye(axes + 1, 2 if axes == 1 else 4)
    return Plane(vectors, matrix, kind, np.zeros((0, axes)), names)


def _differences(tree: PyTree, other: PyTree) -> list[Float64[np.ndarray, "..."]]:
    """Return the leaves of the difference of two pytrees."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True)
    return [np.asarray(one, np.float64) - np.asarray(two, np.float64) for one, two in pairs]


def _products(*vectors: list[Float[np.ndarray, "..."]]) -> Float64[np.ndarray, "vectors vectors"]:
    """Return the inner products of vectors that are given as lists of leaves."""
    leaves = ([np.asarray(leaf, np.float64).ravel() for leaf in each] for each in zip(*vectors, strict=True))
    products = np.zeros((len(vectors),) * 2)
    for each in leaves:
        products += np.array([[one @ two for two in each] for one in each])
    return products


def _height(products: Float64[np.ndarray, "2 2"]) -> float:
    """Return the norm of the component of the second vector that is perpendicular to the first."""
    return math.sqrt(max(products[1, 1] - products[0, 1] ** 2 / products[0, 0], 0))


def _refuse_dependent(products: Float64[np.ndarray, "2 2"], description: str) -> None:
    sine = _height(products) / math.sqrt(products[1, 1])
    if sine < math.sin(SMALLEST_ANGLE):
        raise ValueError(
            f"a plane needs two independent axes, but {description} are {math.asin(min(sine, 1)):.2g} rad from one "
            f"line (allowed: {SMALLEST_ANGLE} or more)"
        )


def _checked_origin(origin: str | None, reference: PyTree | None, source: Source) -> str:
    is_one = source.parents is None or int(np.sum(source.parents < 0)) == 1
    if origin is None:
        return "reference" if reference is not None else "last" if is_one else "mean"
    if origin not in ORIGINS:
        raise ValueError(f"origin must be one of {', '.join(ORIGINS)}, or None, got {origin!r}")
    if origin == "reference" and reference is None:
        raise ValueError('origin "reference" needs a reference, the parameters of one network')
    if origin == "last" and not is_one:
        raise ValueError('origin "last" needs a single trajectory, but there are several; choose members, or "mean"')
    return origin


def _origin_weights(origin: str, points: int) -> Float64[np.ndarray, " points"]:
    return np.full(points, 1 / points) if origin == "mean" else np.eye(points)[-1]


def _principal_axes(
    products: IncrementGram,
) -> tuple[Float64[np.ndarray, " points"], Float64[np.ndarray, "points points"]]:
    """Return eigenvalues, clipped at 0, and unit eigenvectors of the centred Gram matrix as columns, largest first."""
    squared = pairwise_distances(products, metric="euclidean") ** 2
    row = squared.mean(axis=1)
    values, vectors = np.linalg.eigh(-(squared - row[:, None] - row + row.mean()) / 2)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    return values, vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(len(vectors))])


def _sums(source: Source, weights: Float64[np.ndarray, "sums points"]) -> Float64[np.ndarray, "sums parameters"]:
    """Return weighted sums of points, computed from blocks of columns."""
    sums, column = np.empty((len(weights), source.dimension)), 0
    for block in source.blocks(MAX_BYTES):
        sums[:, column : column + block.shape[1]] = weights @ block.astype(np.float64)
        column += block.shape[1]
    return sums


def _unflatten(flat: Float64[np.ndarray, " parameters"], source: Source, like: PyTree) -> PyTree:
    """Return one point as a pytree with the structure of `like`, with arrays matched by key path."""
    ends = np.cumsum([math.prod(shape) for shape in source.shapes.values()])[:-1]
    arrays = {
        name: part.reshape(shape)
        for (name, shape), part in zip(source.shapes.items(), np.split(flat, ends), strict=True)
    }
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = ["/".join(key_names(path)) for path, _ in leaves]
    shapes = {name: np.shape(leaf) for name, (_, leaf) in zip(names, leaves, strict=True)}
    if shapes != source.shapes:
        name, in_like, in_point = next(differences(shapes, source.shapes, describe_shape))
        raise ValueError(
            f"like must have the arrays of one point, but {name!r} is {in_like} there and {in_point} in a point"
        )
    return jax.tree.unflatten(treedef, [arrays[name] for name in names])
