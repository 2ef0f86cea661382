"""Sublevel-set persistence: the loss at which a basin appears, and the loss at which it joins a deeper one.

Points enter in ascending order of their loss. A component of the sublevel set (dimension 0) is born at a minimum; when
two components meet at a saddle, the one with the higher minimum dies. In dimension 1 a loop is born when a sublevel set
closes around a summit, and dies when the summit is filled. Computed by GUDHI.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from jaxscape.arguments import count
from jaxscape.topology.domain import Domain, domain


class Persistence(NamedTuple):
    """Pairs of births and deaths, sorted by dimension; essential classes come first, then the most persistent pairs.

    A class that never dies is essential. In dimension 0 there is one for each connected component of the domain.
    """

    dimension: Int64[np.ndarray, " pairs"]
    birth: Float64[np.ndarray, " pairs"]  # in the unit of the values
    death: Float64[np.ndarray, " pairs"]  # infinity for essential classes
    birth_index: Int64[np.ndarray, " pairs"]  # point of the birth (grids in row-major order): a minimum in dimension 0
    death_index: Int64[np.ndarray, " pairs"]  # point of the death: a saddle in dimension 0; -1 for essential classes
    total: dict[int, float]  # by dimension, the sum of death - birth over all pairs that are not essential
    components: int  # of the neighbour graph, or of the finite points of a line or a grid
    left_out: int  # points of a line or a grid that are NaN or infinite, and so in no sublevel set
    knn: int | None  # of the neighbour graph


def persistence(
    values: Any, distances: Any = None, *, knn: int | None = None, dimensions: Sequence[int] = (0, 1)
) -> Persistence:
    """Return the sublevel-set persistence of losses on a neighbour graph, a line or a grid.

    With distances the domain is the k-nearest-neighbour graph of the points, whose triangles are filled (its flag
    complex). Without them it is a line or a grid of samples, whose squares are filled (a cubical complex with the
    samples as vertices). An edge, a triangle or a square enters with its highest vertex. Equal losses are ordered by
    their index, and pairs with equal birth and death are left out.

    Args:
        values: losses (n,) if distances are given; otherwise (n,) along a line or (rows, columns) on a grid, where NaN
            and infinity are above every level.
        distances: (n, n) between the points, symmetric, 0 on the diagonal, such as `PhateResult.potential_distances`.
        knn: nearest neighbours of each point, 5 by default; None without distances.
        dimensions: which of 0 (components) and 1 (loops) to compute.

    Raises:
        ImportError: if GUDHI is not installed.
        TypeError: if knn or a dimension is not a whole number.
        ValueError: for values, distances, knn or dimensions out of range; see `neighbour_graph`. NaN and infinite
            values are rejected if distances are given.
    """
    numbers = [count("dimensions", each, least=0) for each in dimensions]
    if not numbers or max(numbers) > 1 or len(set(numbers)) < len(numbers):
        raise ValueError(f"dimensions must be one or both of 0 and 1, got {tuple(dimensions)}")
    return persistence_of(domain(values, distances, knn=knn), sorted(numbers))


def persistence_of(where: Domain, dimensions: Sequence[int] = (0,)) -> Persistence:
    """Return the persistence of losses whose domain is known; see `persistence`."""
    finite, essential = _on_graph(where, max(dimensions)) if where.shape is None else _on_grid(where, where.shape)
    rows = []
    for dimension in dimensions:
        pairs = finite[dimension] if dimension < len(finite) else np.empty((0, 2), np.int64)
        alone = essential[dimension] if dimension < len(essential) else np.empty(0, np.int64)
        for birth, death in np.reshape(pairs, (-1, 2)).tolist():
            # A class that dies at an excluded point is essential; those born there are dropped below.
            rows.append((dimension, birth, death if where.included[death] else -1))
        rows += [(dimension, birth, -1) for birth in np.ravel(alone).tolist()]
    table = np.array(rows, np.int64).reshape(-1, 3)
    table = table[where.included[table[:, 1]]]
    births = where.values[table[:, 1]]
    deaths = np.where(table[:, 2] < 0, np.inf, where.values[table[:, 2]])
    is_proper = deaths > births  # equal values are ordered by index, which makes pairs of length zero
    table, births, deaths = table[is_proper], births[is_proper], deaths[is_proper]
    order = np.lexsort((table[:, 1], births, births - deaths, table[:, 0]))
    table, births, deaths = table[order], births[order], deaths[order]
    lasting = np.where(np.isfinite(deaths), deaths - births, 0)
    return Persistence(
        dimension=table[:, 0],
        birth=births,
        death=deaths,
        birth_index=table[:, 1],
        death_index=table[:, 2],
        total={each: float(lasting[table[:, 0] == each].sum()) for each in dimensions},
        components=where.components,
        left_out=int((~where.included).sum()),
        knn=where.knn,
    )


def lifetimes(result: Persistence, dimension: int = 0) -> Float64[np.ndarray, " lifetimes"]:
    """Return death - birth of the pairs of a dimension that are not essential, the longest first."""
    rows = (result.dimension == dimension) & np.isfinite(result.death)
    return np.sort(result.death[rows] - result.birth[rows])[::-1]


def _on_graph(where: Domain, highest: int) -> tuple[list[Any], list[Any]]:
    """Return two lists by dimension: the pairs (birth, death) of points, and the points of essential births."""
    gudhi = _gudhi()
    tree, rank = gudhi.SimplexTree(), where.rank.astype(np.float64)
    # GUDHI 3.13 silently misreads an axis of stride 0, which [None] makes; both arrays are contiguous.
    tree.insert_batch(np.arange(len(rank), dtype=np.int32).reshape(1, -1), rank)
    tree.insert_batch(where.edges.T.astype(np.int32, order="C"), rank[where.edges].max(axis=1))
    tree.expansion(highest + 1)
    tree.compute_persistence(persistence_dim_max=True)  # without it the loops of a graph without triangles are missing
    finite, essential = tree.lower_star_persistence_generators()
    return list(finite), list(essential)


def _on_grid(where: Domain, shape: tuple[int, ...]) -> tuple[list[Any], list[Any]]:
    rank = np.where(where.included, where.rank, np.inf).reshape(shape)
    complex_ = _gudhi().CubicalComplex(vertices=rank)
    complex_.compute_persistence()
    # GUDHI numbers the points of a grid in column-major order.
    row_major = np.arange(rank.size).reshape(shape).ravel(order="F")
    finite, essential = complex_.vertices_of_persistence_pairs()
    return [row_major[each] for each in finite], [row_major[each] for each in essential]


def _gudhi() -> Any:
    try:
        import gudhi
    except ModuleNotFoundError as error:
        raise ImportError(
            f"persistence needs {error.name}, which is not installed: pip install 'jaxscape-phate[topology]'"
        ) from error
    return gudhi
