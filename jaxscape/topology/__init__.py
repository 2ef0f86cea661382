"""The topology of losses: sublevel-set persistence and merge trees of a neighbour graph, a line or a grid.

Arrays come in and records go out. `domain` says which points are neighbours, `persistence` computes pairs of births and
deaths, `tree` the merge tree, and `null` compares a statistic with that of shuffled losses.

H. Edelsbrunner and J. Harer, "Computational Topology" (2010), chapter VII, for persistence; H. Carr, J. Snoeyink and
U. Axen, "Computing contour trees in all dimensions" (2003), for merge trees, which are called join trees there.
"""
