"""The merge tree of losses: which basins join, and at which saddle."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from jaxscape.topology.domain import Domain, domain


class MergeTree(NamedTuple):
    """Minima, the saddles at which their basins meet, and the parent of each node.

    Nodes are the minima, numbered from 0, followed by the saddles, both in ascending order of their values. The basins
    of all nodes with the same parent meet there: two, or more if several meet at one point.
    """

    minima: Int64[np.ndarray, " minima"]  # points, of a grid in row-major order
    saddles: Int64[np.ndarray, " saddles"]  # points, all distinct
    parent: Int64[np.ndarray, " nodes"]  # the saddle node at which a node's basin joins others; -1 for the root
    value: Float64[np.ndarray, " nodes"]  # loss at the nodes
    persistence: Float64[np.ndarray, " minima"]  # height of the saddle to a deeper one; infinity without one
    components: int
    left_out: int  # points that are NaN or infinite, and so in no basin
    knn: int | None


def merge_tree(values: Any, distances: Any = None, *, knn: int | None = None) -> MergeTree:
    """Return the merge tree of losses on a neighbour graph, a line or a grid.

    Points enter in ascending order, equal losses by their index. A point without a lower neighbour is a minimum. A
    point whose lower neighbours belong to several basins is a saddle. Of basins that meet at the height of their own
    minimum (a plateau), one is kept.

    Args:
        values: see `persistence`.
        distances: see `persistence`.
        knn: see `persistence`.

    Raises:
        TypeError: see `persistence`.
        ValueError: see `persistence`.
    """
    where = domain(values, distances, knn=knn)
    neighbours = _neighbours(len(where.values), where.edges)
    root = np.full(len(where.values), -1)  # union-find forest whose roots are the lowest points of the basins
    node_of: dict[int, int] = {}  # lowest point of a basin -> its newest node
    minimum_of: dict[int, int] = {}  # lowest point of a basin -> the node of its minimum
    nodes: list[tuple[bool, int]] = []  # (is it a saddle, its point)
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

    for point in np.argsort(where.rank)[: where.included.sum()].tolist():
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
        left_out=int((~where.included).sum()),
        knn=where.knn,
    )


def _neighbours(points: int, edges: Int64[np.ndarray, "edges 2"]) -> list[list[int]]:
    neighbours: list[list[int]] = [[] for _ in range(points)]
    for one, other in edges.tolist():
        neighbours[one].append(other)
        neighbours[other].append(one)
    return neighbours
