"""An artificial tree with known geodesic distances, as in the paper's Fig. 1C."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from jaxscape.embedding.arguments import check_whole, is_real, require


class Tree(NamedTuple):
    """Noisy points sampled along the branches of a tree."""

    points: Float64[np.ndarray, "points size"]  # with noise
    geodesics: Float64[np.ndarray, "points points"]  # along the tree, without noise
    branch: Int[np.ndarray, " points"]  # branch of each point
    place: Int[np.ndarray, " points"]  # position along the branch, from 0


def artificial_tree(
    *, branches: int = 10, points: int = 60, size: int = 100, noise: float = 0.0, seed: int = 0
) -> Tree:
    """Return points along straight branches in random directions, each of which starts on an earlier branch.

    Args:
        branches: number of branches.
        points: points per branch; neighbours are at distance 1.
        size: dimension of the space.
        noise: standard deviation of the Gaussian noise added to every coordinate.
        seed: seed of the tree and its noise.

    Raises:
        ValueError: if a count is not a whole number of at least 1, the seed is negative, or the noise is negative or
            infinite.
    """
    for name, value in {"branches": branches, "points": points, "size": size}.items():
        check_whole(name, value, 1)
    check_whole("seed", seed, 0)
    require(is_real(noise) and 0 <= noise < np.inf, "noise", "a finite number of at least 0", noise)
    generator = np.random.default_rng(seed)
    directions = generator.standard_normal((branches, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    total = branches * points
    places, geodesics = np.empty((total, size)), np.zeros((total, total))
    steps = np.arange(1, points + 1)
    for branch in range(branches):
        old, new = slice(branch * points), slice(branch * points, (branch + 1) * points)
        root = int(generator.integers(branch * points)) if branch else None
        places[new] = (0 if root is None else places[root]) + steps[:, None] * directions[branch]
        geodesics[new, new] = np.abs(steps[:, None] - steps)
        if root is not None:
            geodesics[new, old] = steps[:, None] + geodesics[root, old]
            geodesics[old, new] = geodesics[new, old].T
    numbers = np.arange(total)
    places += noise * generator.standard_normal(places.shape)
    return Tree(places, geodesics, numbers // points, numbers % points)
