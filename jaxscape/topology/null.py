"""A permutation null for persistence: its distribution if losses are independent of the positions of the points."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float64, Key

from jaxscape.arguments import count, typed_key
from jaxscape.topology.domain import Domain, domain, ranks
from jaxscape.topology.persistence import Persistence, lifetimes, persistence_of

type Alternative = Literal["less", "greater", "two-sided"]
type Statistic = Callable[[Persistence], float]

ALTERNATIVES = ("less", "greater", "two-sided")


class NamedStatistic(NamedTuple):
    """A statistic of the pairs in dimension 0, and its name in words."""

    of: Statistic
    words: str


STATISTICS: dict[str, NamedStatistic] = {
    "total": NamedStatistic(lambda result: result.total[0], "total persistence"),
    "largest": NamedStatistic(lambda result: float(lifetimes(result).max(initial=0.0)), "largest persistence"),
    "basins": NamedStatistic(lambda result: float((result.dimension == 0).sum()), "number of basins"),
}


class PersistenceNull(NamedTuple):
    """A statistic of persistence with its distribution over shuffled losses."""

    statistic: str  # in words
    observed: float
    null: Float64[np.ndarray, " draws"]
    p_value: float  # (1 + draws at least as extreme) / (1 + draws)
    alternative: Alternative
    lifetimes: Float64[np.ndarray, " pairs"]  # observed death - birth in dimension 0, the longest first
    null_lifetimes: Float64[np.ndarray, "draws most"]  # of each draw, padded with 0 to the most of any or the observed


def persistence_null(
    values: Any,
    distances: Any = None,
    *,
    knn: int | None = None,
    draws: int = 99,
    key: jax.Array | None = None,
    statistic: str | Statistic = "total",
    alternative: Alternative = "less",
) -> PersistenceNull:
    """Return a statistic of the persistence in dimension 0 and its permutation distribution over shuffled losses.

    The domain and the set of losses stay the same; the assignment of losses to points is shuffled. Losses that vary
    little between neighbours have fewer and shallower basins than shuffled ones, so the default alternative is "less".
    A small p value says that neighbours have similar losses, which is true of any trajectory of small steps.

    Args:
        values: see `persistence`; on a line or a grid only the finite values are shuffled.
        distances: see `persistence`.
        knn: see `persistence`.
        draws: number of shuffles, at least 1; the smallest p value is 1 / (1 + draws).
        key: PRNG key of the shuffles, `jax.random.key(0)` by default.
        statistic: "total" (total persistence), "largest" (largest persistence that is not essential), "basins" (number
            of minima), or a function of a `Persistence` of dimension 0 that returns a finite number.
        alternative: whether the observed statistic is "less" or "greater" than under the null, or "two-sided": twice
            the smaller of both p values, at most 1.

    Raises:
        ImportError: if GUDHI is not installed.
        TypeError: if key is not a PRNG key, or draws is not a whole number.
        ValueError: for an unknown statistic or alternative, draws below 1, or a function whose result is not a finite
            number; see also `persistence`.
    """
    of, words = _statistic(statistic)
    if alternative not in ALTERNATIVES:
        raise ValueError(f"alternative must be one of {', '.join(ALTERNATIVES)}, got {alternative!r}")
    keys = jax.random.split(typed_key(jax.random.key(0) if key is None else key), count("draws", draws))
    where = domain(values, distances, knn=knn)
    results = [persistence_of(where), *(persistence_of(_shuffled(where, each)) for each in keys)]
    observed, *null = (_finite(of(each)) for each in results)
    lengths = [lifetimes(each) for each in results]
    most = max(map(len, lengths))
    return PersistenceNull(
        statistic=words,
        observed=observed,
        null=np.array(null),
        p_value=p_value(observed, np.array(null), alternative),
        alternative=alternative,
        lifetimes=lengths[0],
        null_lifetimes=np.stack([np.pad(each, (0, most - len(each))) for each in lengths[1:]]),
    )


def p_value(observed: float, null: Float64[np.ndarray, " draws"], alternative: Alternative) -> float:
    """Return (1 + draws at least as extreme) / (1 + draws) of a statistic and its null distribution."""
    # Sums of the same numbers in another order differ by rounding; they count as equal.
    margin = 1e-9 * max(abs(observed), float(np.abs(null).max()))
    less = (1 + int((null <= observed + margin).sum())) / (1 + len(null))
    greater = (1 + int((null >= observed - margin).sum())) / (1 + len(null))
    return {"less": less, "greater": greater, "two-sided": min(1.0, 2 * min(less, greater))}[alternative]


def _shuffled(where: Domain, key: Key[Array, ""]) -> Domain:
    rows = np.flatnonzero(where.included)
    values = where.values.copy()
    values[rows] = where.values[rows[np.asarray(jax.random.permutation(key, len(rows)))]]
    return where._replace(values=values, rank=ranks(values))


def _statistic(statistic: Any) -> tuple[Statistic, str]:
    if callable(statistic):
        return statistic, getattr(statistic, "__name__", "statistic")
    if not isinstance(statistic, str) or statistic not in STATISTICS:
        raise ValueError(f"statistic must be one of {', '.join(STATISTICS)}, or a function, got {statistic!r}")
    return STATISTICS[statistic]


def _finite(value: Any) -> float:
    if not np.isfinite(value):
        raise ValueError(f"statistic must return a finite number, got {value}")
    return float(value)
