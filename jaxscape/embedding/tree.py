"""An artificial tree with known geodesic distances, as in the paper's Fig. 1C, and counts of such points."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int

from jaxscape.embedding.arguments import Coordinates, check_whole, is_real, picture, require


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


def count_noise(
    log_rates: Coordinates, *, dispersion: float = 0.0, dropout: float = 0.0, library: float = 0.0, seed: int = 0
) -> Int[np.ndarray, "points size"]:
    """Return counts of points whose coordinates are the logarithms of expected counts, as in single-cell sequencing.

    With m = exp(log_rates), a count is zero with the probability `dropout`. Otherwise it is Poisson of mean L G m: L is
    lognormal of mean 1, one number per point (its library size), and G is gamma of mean 1 and variance `dispersion`,
    one number per count, which makes the counts negative binomial. With p = 1 - dropout:

        mean        p m
        variance    p m + p m^2 [(1 + dispersion) exp(library^2) - p]

    Args:
        log_rates: (n, size).
        dispersion: variance of G; 0 gives Poisson counts.
        dropout: probability of a zero whatever the rate, from 0 to below 1.
        library: standard deviation of log L.
        seed: seed of all of it.

    Returns:
        int64 (n, size).

    Raises:
        ValueError: for coordinates that are not finite or above 30, or an argument out of range.
    """
    rates = picture("log_rates", log_rates, fewest=1)
    require(bool((rates <= 30).all()), "log_rates", "at most 30", float(rates.max()))  # the counts must fit into int64
    for name, value in {"dispersion": dispersion, "library": library}.items():
        require(is_real(value) and 0 <= value < np.inf, name, "a finite number of at least 0", value)
    require(is_real(dropout) and 0 <= dropout < 1, "dropout", "a number from 0 to below 1", dropout)
    check_whole("seed", seed, 0)
    generator = np.random.default_rng(seed)
    means = np.exp(rates) * generator.lognormal(-(library**2) / 2, library, (len(rates), 1))
    if dispersion > 0:
        means = means * generator.gamma(1 / dispersion, dispersion, means.shape)
    return generator.poisson(means) * (generator.random(means.shape) >= dropout)
