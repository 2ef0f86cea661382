"""Trajectories projected onto a plane: their coordinates, the part outside of the plane, and the losses of both.

A picture of a trajectory on a surface shows the loss of each point's projection, which is not the loss of the point.
The picture should say how much the two differ, and how far the point is from the plane.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int, Int64

from jaxscape.landscape.networks import network_reader
from jaxscape.landscape.options import Options, split_of
from jaxscape.landscape.planes import MAX_BYTES, Plane, is_bilinear, plane_weights
from jaxscape.landscape.points import networks_evaluator, points_evaluator
from jaxscape.landscape.surfaces import check_plane
from jaxscape.problem import Problem
from jaxscape.trajectories.sources import Members, flatten_reference, integers, open_source
from jaxscape.trajectories.store import TrajectoryStore

PyTree = Any


class Projection(NamedTuple):
    """Orthogonal projections of points of trajectories onto a plane."""

    coordinates: Float64[np.ndarray, "points axes"]  # on the plane
    distance: Float64[np.ndarray, " points"]  # of the point from the origin of the plane, in parameter space
    outside: Float64[np.ndarray, " points"]  # distance from the plane divided by `distance`, 0 to 1


class TrajectoryOnPlane(NamedTuple):
    """Metrics of points of trajectories and of their projections onto a plane."""

    projection: Projection  # of all points
    rows: Int64[np.ndarray, " rows"]  # the points that were evaluated
    metrics: dict[str, Float64[np.ndarray, " rows"]]  # by name, of the points themselves
    plane_metrics: dict[str, Float64[np.ndarray, " rows"]]  # by name, of their projections
    statistics: str  # a key of `jaxscape.landscape.options.STATISTICS`
    split: str | None  # "train" or "test" data; None: the problem's own `evaluate`


def project_on_plane(
    plane: Plane,
    points: TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    members: Members | None = None,
) -> Projection:
    """Project the points of trajectories onto a plane, in float64, from their increments.

    The coordinates of a point are those of the previous point on its trajectory plus the projection of the step between
    them, which avoids cancellation if points are nearly parallel. The points are read once, in blocks.

    Args:
        plane: a plane whose axes need not be perpendicular, or a line.
        points: see `gram`; they have the same arrays as the plane's vectors.
        members: members of a store; see `gram`.

    Returns:
        One row per row of `gram`. `outside` is accurate to about 1e-8, and 0 for a point that equals the origin.

    Raises:
        TypeError: if plane is not a `Plane`.
        ValueError: for a bilinear patch, points that `gram` rejects, or arrays that differ from the plane's.
    """
    check_plane(plane)
    if is_bilinear(plane):
        raise ValueError("points cannot be projected onto a bilinear patch, which is not a plane; give three networks")
    source = open_source(points, members, None)
    before = np.arange(source.num_rows) - 1 if source.parents is None else source.parents
    vectors = np.stack([flatten_reference(vector, source) for vector in plane.vectors])
    origin, *axes = plane.matrix[:, : 1 + plane.num_axes].T @ vectors
    axes = np.stack(axes)
    # Products of the steps with the axes, and of the displacements from the origin, which give the part outside.
    along, whole = np.zeros((2, source.num_rows, len(axes)))
    squared, column = np.zeros(source.num_rows), 0
    for block in source.blocks(MAX_BYTES // 4):  # room for float64, and for the increments
        width = slice(column, column + block.shape[1])
        column += block.shape[1]
        displacement = block.astype(np.float64) - origin[width]
        squared += np.einsum("ij,ij->i", displacement, displacement)
        steps = np.where(before[:, None] >= 0, block - block[before].astype(np.float64), displacement)
        along += steps @ axes[:, width].T
        whole += displacement @ axes[:, width].T
    if not np.isfinite(squared).all():
        raise ValueError(f"points have NaN or infinity in rows {np.flatnonzero(~np.isfinite(squared))[:10].tolist()}")
    for row in np.flatnonzero(before >= 0):
        along[row] += along[before[row]]
    coordinates, feet = (np.linalg.solve(axes @ axes.T, each.T).T for each in (along, whole))
    inside = np.einsum("ij,ij->i", feet, whole)
    fraction = np.divide(inside, squared, out=np.ones_like(squared), where=squared > 0)
    outside = np.sqrt(np.clip(1 - fraction, 0, 1))
    return Projection(coordinates, np.sqrt(squared), outside)


def trajectory_on_plane(
    problem: Problem,
    plane: Plane,
    points: TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    rows: Sequence[int] | Int[np.ndarray, " rows"] | None = None,
    members: Members | None = None,
    projection: Projection | None = None,
    on_rows: Callable[[int, int], None] | None = None,
    **options: Unpack[Options],
) -> TrajectoryOnPlane:
    """Evaluate points of trajectories, and their projections onto a plane.

    Args:
        problem: the problem whose metrics are evaluated.
        plane: see `project_on_plane`.
        points: the points of trajectories, read one at a time; see `gram`.
        rows: the points to evaluate, all by default.
        members: members of a store; see `gram`.
        projection: the result of `project_on_plane` for these points, if it is already computed.
        on_rows: called with the number of evaluations so far and their total number.
        options: see `evaluate_points`; `model_states` cannot be given, since points of a trajectory are not corners.

    Raises:
        TypeError, ValueError: see `project_on_plane` and `evaluate_points`; also if a row does not exist.
    """
    projection = project_on_plane(plane, points, members=members) if projection is None else projection
    number = len(projection.distance)
    chosen = np.arange(number) if rows is None else integers(rows, f"rows must be numbers from 0 to {number - 1}")
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= number:
        raise ValueError(f"rows must be numbers from 0 to {number - 1}, got {chosen!s:.100}")
    read = network_reader(points, members=members, like=plane.vectors[0])
    point_evaluator = networks_evaluator(problem, plane.vectors[0], **options)
    plane_evaluator = points_evaluator(problem, plane.vectors, **options)

    def network_in_plane_dtype(index: int) -> PyTree:
        # A store has the dtype of training, and arrays may have any dtype: use that of the plane.
        network = read(int(chosen[index]))
        return jax.tree.map(
            lambda leaf, like: np.asarray(leaf).astype(jnp.result_type(like)), network, plane.vectors[0]
        )

    weights = plane_weights(plane, projection.coordinates[chosen])
    results: list[dict[str, Float64[np.ndarray, " rows"]]] = []
    for evaluator, inputs in ((point_evaluator, network_in_plane_dtype), (plane_evaluator, weights)):
        metrics: dict[str, Float64[np.ndarray, " rows"]] = {}
        for indices, values in evaluator.chunks(inputs, len(chosen)):
            for name, each in values.items():
                metrics.setdefault(name, np.full(len(chosen), np.nan))[indices] = each
            if on_rows is not None:
                on_rows(len(results) * len(chosen) + int(indices[-1]) + 1, 2 * len(chosen))
        results.append(metrics)
    split = split_of(problem, options.get("split"))
    own, projected = results
    return TrajectoryOnPlane(projection, chosen, own, projected, plane_evaluator.statistics, split)
