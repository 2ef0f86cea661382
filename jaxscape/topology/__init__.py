"""Topology of loss values: sublevel-set persistence and merge trees on a neighbour graph, a line or a grid.

`domain` defines which points are neighbours, `persistence` computes pairs of births and deaths, `tree` the merge tree,
and `null` compares a statistic with its distribution over shuffled losses. All functions take arrays and return
records.

H. Edelsbrunner and J. Harer, "Computational Topology" (2010), chapter VII, for persistence; H. Carr, J. Snoeyink and
U. Axen, "Computing contour trees in all dimensions" (2003), for merge trees, which are called join trees there.
"""
