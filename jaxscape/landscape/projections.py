"""A trajectory on a plane: where its points fall, how much of them lies outside, and the losses above and below.

A picture of a trajectory on a surface shows the loss of the plane under each point, which is not the loss of the point.
How far the two differ, and how far from the plane the point is, belongs in the picture.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

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
    """The points of trajectories on a plane, each at the foot of its perpendicular; n points."""

    coordinates: np.ndarray  # float64 (n, axes)
    distance: np.ndarray  # float64 (n,): from the origin of the plane, in the parameters
    outside: np.ndarray  # float64 (n,): the share of this distance that is perpendicular to the plane, 0 to 1


class TrajectoryOnPlane(NamedTuple):
    """Points of trajectories, and the plane under them; metrics are float64 (rows,) by name."""

    projection: Projection  # of all points
    rows: np.ndarray  # int64: the points whose metrics follow
    metrics: dict[str, np.ndarray]  # of the points themselves
    plane_metrics: dict[str, np.ndarray]  # of the plane under them
    statistics: str  # of `jaxscape.landscape.options.STATISTICS`
    split: str | None  # "train" or "test" data; None: what the problem's own `evaluate` measures


def project_on_plane(
    plane: Plane,
    points: TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    members: Members | None = None,
) -> Projection:
    """Project the points of trajectories on a plane, in float64, from their increments.

    The coordinates of a point are those of the point before it on its trajectory and the projection of the step
    between the two, which loses no digits where the points are nearly parallel. The points are read once, a part at a
    time.

    Args:
        plane: with straight axes, which need not be perpendicular; or a line.
        points: as `gram` takes them, with the arrays of the plane's vectors.
        members: of a store, as `gram` takes them.

    Returns:
        Rows as those of `gram`. A share outside is right to about 1e-8; it is 0 for a point that is the origin.

    Raises:
        TypeError: for what is no plane.
        ValueError: for a bilinear patch, points that `gram` refuses, or other arrays than the plane's.
    """
    check_plane(plane)
    if is_bilinear(plane):
        raise ValueError("points cannot be projected on a bilinear patch, which is no plane; give three networks")
    source = open_source(points, members, None)
    before = np.arange(source.num_rows) - 1 if source.parents is None else source.parents
    vectors = np.stack([flatten_reference(vector, source) for vector in plane.vectors])
    origin, *axes = plane.matrix[:, : 1 + plane.num_axes].T @ vectors
    axes = np.stack(axes)
    # Products of the steps with the axes, and those of the whole ways from the origin, which tell what lies outside.
    along, whole = np.zeros((2, source.num_rows, len(axes)))
    squared, column = np.zeros(source.num_rows), 0
    for block in source.blocks(MAX_BYTES // 4):  # float64, and the increments beside it
        width = slice(column, column + block.shape[1])
        column += block.shape[1]
        away = block.astype(np.float64) - origin[width]
        squared += np.einsum("ij,ij->i", away, away)
        steps = np.where(before[:, None] >= 0, block - block[before].astype(np.float64), away)
        along += steps @ axes[:, width].T
        whole += away @ axes[:, width].T
    if not np.isfinite(squared).all():
        raise ValueError(f"points have NaN or infinity in rows {np.flatnonzero(~np.isfinite(squared))[:10].tolist()}")
    for row in np.flatnonzero(before >= 0):
        along[row] += along[before[row]]
    coordinates, feet = (np.linalg.solve(axes @ axes.T, each.T).T for each in (along, whole))
    inside = np.einsum("ij,ij->i", feet, whole)
    share = np.divide(inside, squared, out=np.ones_like(squared), where=squared > 0)
    outside = np.sqrt(np.clip(1 - share, 0, 1))
    return Projection(coordinates, np.sqrt(squared), outside)


def trajectory_on_plane(
    problem: Problem,
    plane: Plane,
    points: TrajectoryStore | Sequence[TrajectoryStore] | PyTree,
    *,
    rows: Sequence[int] | np.ndarray | None = None,
    members: Members | None = None,
    projection: Projection | None = None,
    on_rows: Callable[[int, int], None] | None = None,
    **how: Unpack[Options],
) -> TrajectoryOnPlane:
    """Evaluate points of trajectories beside the plane under them.

    Args:
        problem: whose metrics they are.
        plane: as in `project_on_plane`; likewise
        points: of the trajectories, of which one at a time is read.
        rows: the points to evaluate, all by default.
        members: of a store, as `gram` takes them.
        projection: that of these points by `project_on_plane`, where it is known; the points are then not read for it.
        on_rows: called with the number of evaluations so far and their number in all.
        how: as in `evaluate_points`, but for `model_states`: points of a trajectory are no corners of a plane.

    Raises:
        TypeError, ValueError: as `project_on_plane` and `evaluate_points`; for rows that are not there.
    """
    projection = project_on_plane(plane, points, members=members) if projection is None else projection
    number = len(projection.distance)
    chosen = np.arange(number) if rows is None else integers(rows, f"rows must be numbers from 0 to {number - 1}")
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= number:
        raise ValueError(f"rows must be numbers from 0 to {number - 1}, got {chosen!s:.100}")
    read = network_reader(points, members=members, like=plane.vectors[0])
    of_points = networks_evaluator(problem, plane.vectors[0], **how)
    of_plane = points_evaluator(problem, plane.vectors, **how)

    def as_in_plane(place: int) -> PyTree:
        # The dtype of the plane, for a store keeps what training had, and arrays may be of any.
        network = read(int(chosen[place]))
        return jax.tree.map(
            lambda leaf, like: np.asarray(leaf).astype(jnp.result_type(like)), network, plane.vectors[0]
        )

    weights = plane_weights(plane, projection.coordinates[chosen])
    found: list[dict[str, np.ndarray]] = []
    for evaluator, made in ((of_points, as_in_plane), (of_plane, weights)):
        metrics: dict[str, np.ndarray] = {}
        for place, values in evaluator.chunks(made, len(chosen)):
            for name, each in values.items():
                metrics.setdefault(name, np.full(len(chosen), np.nan))[place] = each
            if on_rows is not None:
                on_rows(len(found) * len(chosen) + int(place[-1]) + 1, 2 * len(chosen))
        found.append(metrics)
    split = split_of(problem, how.get("split"))
    return TrajectoryOnPlane(projection, chosen, found[0], found[1], of_plane.statistics, split)
