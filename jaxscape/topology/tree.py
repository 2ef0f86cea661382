"""The merge tree of losses: which basin joins which, and at which saddle."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jaxscape.topology.domain import Domain, domain


class MergeTree(NamedTuple):
    """Minima, the saddles at which their basins meet, and what each is part of.

    Nodes are the minima, numbered from 0, and after them the saddles; both in ascending order of their values. The
    basins of all nodes with the same parent meet there: two, or more where several meet at one point.
    """

    minima: NDArray[np.int64]  # (m,) points, of a grid in row-major order
    saddles: NDArray[np.int64]  # (s,) points; none twice
    parent: NDArray[np.int64]  # (m + s,) the node in which a node's basin joins others; -1 for the last of a component
    value: NDArray[np.float64]  # (m + s,) of the nodes
    persistence: NDArray[np.float64]  # (m,) height of the saddle where a deeper minimum is met; infinity where none is
    components: int
    left_out: int  # points that are NaN or infinite, and so in no basin
    knn: int | None


def merge_tree(values: Any, distances: Any = None, *, knn: int | None = None) -> MergeTree:
    """Return the merge tree of losses on a neighbour graph, a line or a grid.

    Points enter in ascending order, equal losses by their index. A point without a lower neighbour is a minimum, and
    one whose lower neighbours are of several basins is a saddle. Of basins that meet at the height of their own minimum
    (a plateau) one is kept.

    Args:
        values: as `persistence`.
        distances: as `persistence`.
        knn: as `persistence`.

    Raises:
        TypeError: as `persistence`.
        ValueError: as `persistence`.
    """
    where = domain(values, distances, knn=knn)
    neighbours = _neighbours(len(where.values), where.edges)
    root = np.full(len(where.values), -1)  # of the union-find forest: the lowest point of each basin
    node_of: dict[int, int] = {}  # the newest node of the basin with this lowest point
    minimum_of: dict[int, int] = {}  # its first node
    nodes: list[tuple[bool, int]] = []  # whether a saddle, and the point
    parent: list[int] = []
    lifetime: dict[int, float] = {}

    def find(point: int) -> int:
        while root[point] != point:
            root[point] = root[root[point]]
            point = root[point]
        return point

    def add(point: int, *, saddle: bool) -> int:
        nodes.append((saddle, point))
        parent.append(-1)
        return len(nodes) - 1

    for point in np.argsort(where.rank)[: where.kept.sum()].tolist():
        height = where.values[point]
        lower = {find(each) for each in neighbours[point] if root[each] >= 0}
        if not lower:
            root[point] = point
            minimum_of[point] = node_of[point] = add(point, saddle=False)
            continue
        lowest, *others = sorted(lower, key=lambda each: where.rank[each])
        root[point] = lowest
        root[others] = lowest
        deep = [each for each in others if where.values[each] < height]
        for flat in set(others) - set(deep):  # at the height of its own minimum: no basin
            lifetime[minimum_of[flat]] = 0.0
        if deep:
            saddle = add(point, saddle=True)
            for each in (lowest, *deep):
                parent[node_of[each]] = saddle
            lifetime |= {minimum_of[each]: float(height - where.values[each]) for each in deep}
            node_of[lowest] = saddle
    return _sorted_tree(where, nodes, parent, lifetime)


def _sorted_tree(
    where: Domain, nodes: list[tuple[bool, int]], parent: list[int], lifetime: dict[int, float]
) -> MergeTree:
    # Nodes come in ascending order, minima and saddles mixed.
    minima = [node for node, (saddle, _) in enumerate(nodes) if not saddle and lifetime.get(node) != 0.0]
    order = minima + [node for node, (saddle, _) in enumerate(nodes) if saddle]
    place = {node: number for number, node in enumerate(order)} | {-1: -1}
    points = np.array([nodes[node][1] for node in order], np.int64)
    return MergeTree(
        minima=points[: len(minima)],
        saddles=points[len(minima) :],
        parent=np.array([place[parent[node]] for node in order], np.int64),
        value=where.values[points],
        persistence=np.array([lifetime.get(node, np.inf) for node in minima], np.float64),
        components=where.components,
        left_out=int((~where.kept).sum()),
        knn=where.knn,
    )


def _neighbours(points: int, edges: NDArray[np.int64]) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in range(points)]
    for one, other in edges.tolist():
        found[one].append(other)
        found[other].append(one)
    return found
