"""Score the measures of a study: which of them says something about generalisation, and what it adds to the others.

The rules of this file were committed before any network of the studies was trained.

- The gap is the accuracy on the training images (with their noisy labels) minus that on the test images.
- Networks that did not reach the target loss are left out, and counted. Their scores stand beside, as a check.
- A measure is oriented (`DIRECTIONS`): larger values are expected to go with larger gaps. A score above 0 is the
  expected one; a measure whose sign is wrong does not hold, whatever its size.
- A statistic **predicts** the gap if (1) the 95 % interval of its granulated tau, by a bootstrap over cells, lies above
  0; (2) its rank correlation given all hyperparameters (`adjusted_tau`) is above 0 with p < 0.05, by permutations of
  the measure, after Holm's correction over the eight statistics; (3) it is reversed along no hyperparameter: for none
  of them the 99 % interval of the granulated tau along it lies below 0. A measure may be blind to a hyperparameter; it
  may not be wrong about it. (A robust sign error below 0.5, which Dziugaite et al. ask for, excludes blindness too; it
  is reported.)
- It **adds to the baselines** if it predicts the gap and the interval of its partial tau given the best baseline lies
  above 0. The best baseline is the one with the largest granulated tau in the same data, which favours the baseline.
- One seed chooses, the other confirms: of the statistics the one with the largest granulated tau on the first seed; it
  is confirmed if its `adjusted_tau` on the last seed alone has p < 0.05, one-sided.
- A statistic is **fragile** if its granulated tau changes its sign under another probe of the audit (`AUDIT`).
- A correlation is an **artefact of a factor** if plain tau is above 0 with its interval, and the statistic does not
  predict the gap.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxscape import (
    adjusted_tau,
    bootstrap,
    conditional_information,
    factor_cells,
    granulated_tau,
    hit_rate,
    holm,
    kendall_tau,
    partial_tau,
    permutation_test,
    regret,
    sign_error,
)

# The eight statistics of retrained copies: 1 if larger values are expected to go with larger gaps, -1 if smaller ones.
STATISTICS = {
    "inward": -1,
    "cosine": -1,
    "return_directions": -1,
    "return_drifted": -1,
    "travel": 1,
    "tortuosity": 1,
    "halving": 1,
    "end_spread": 1,
}
BASELINES = {
    "loss_rise": 1,
    "sharpness_filter": 1,
    "trace_filter": 1,
    "pac_bayes": -1,
    "top_eigenvalue": 1,
    "trace": 1,
    "distance": 1,
    "norm": 1,
    "spectral": 1,
    "margin": -1,
    "train_loss": 1,
    "updates": 1,
}
CONTROLS = {"random_1": 1, "random_2": 1}
DIRECTIONS = STATISTICS | BASELINES | CONTROLS

MEANINGS = {
    "inward": "inward share of the displacement beyond the drift of the minimum",
    "cosine": "cosine of that displacement with the way back, minus exchange surrogates",
    "return_directions": "return of the filters' directions",
    "return_drifted": "return to where the unperturbed copies went",
    "travel": "distance of start and end / jump",
    "tortuosity": "path length / distance of start and end",
    "halving": "updates until the loss has halved",
    "end_spread": "spread of the ends / spread of the starts",
    "loss_rise": "rise of the loss at the jump, statistics of the batch",
    "sharpness_filter": "worst case in a filter-wise ball",
    "trace_filter": "mean rise for filter-wise noise (filter-scaled trace)",
    "pac_bayes": "largest relative noise that raises the loss by 0.1",
    "top_eigenvalue": "largest Hessian eigenvalue",
    "trace": "Hessian trace",
    "distance": "distance from the initial parameters",
    "norm": "norm of the parameters",
    "spectral": "log product of spectral norms",
    "margin": "10th percentile of the normalised margins",
    "train_loss": "training loss",
    "updates": "number of updates",
    "random_1": "random numbers",
    "random_2": "random numbers",
}
# name -> (probe, part of its record, chosen directions, chosen step size)
AUDIT: dict[str, tuple[str, str, tuple[int, ...] | None, float | None]] = {
    "as designed": ("first", "statistics", None, None),
    "another learning rate": ("second", "statistics", None, None),
    "half the updates": ("first", "half", None, None),
    "one direction": ("first", "statistics", (0,), None),
    "two other directions": ("first", "statistics", (1, 2), None),
    "short jumps": ("first", "statistics", None, 0.5),
    "long jumps": ("first", "statistics", None, 1.0),
}


class Table(NamedTuple):
    """The networks of a study as columns."""

    factors: dict[str, np.ndarray]  # name -> level of each network
    seed: np.ndarray
    gap: np.ndarray
    measures: dict[str, np.ndarray]  # oriented
    reached: np.ndarray  # bool

    def rows(self, chosen: np.ndarray) -> "Table":
        """Return some of the networks."""
        factors, measures = (
            {name: values[chosen] for name, values in each.items()} for each in (self.factors, self.measures)
        )
        return Table(factors, self.seed[chosen], self.gap[chosen], measures, self.reached[chosen])


class Scores(NamedTuple):
    """The scores of one measure."""

    tau: float
    tau_interval: tuple[float, float]
    granulated: float
    granulated_interval: tuple[float, float]
    by_factor: dict[str, float]
    reversed_along: tuple[str, ...]  # hyperparameters along which the interval lies below 0
    adjusted: float
    p_value: float  # of the rank correlation; of the statistics after Holm's correction
    p_uncorrected: float
    sufficient: float  # a rank correlation this large has p < 0.05 after the strictest of Holm's corrections
    information: float
    partial: float  # given the best baseline
    partial_interval: tuple[float, float]
    mean_error: float
    worst_error: float
    worst_environment: str
    hits: float
    regret: float
    verdict: str


def table(networks: Sequence[Mapping[str, Any]], variation: str = "as designed") -> Table:
    """Return the records of a study as a table, with the statistics of one variation of the audit."""
    measures: dict[str, list[float]] = {name: [] for name in DIRECTIONS}
    for record in networks:
        values = {**record["baselines"], **_means(record, variation)}
        values |= {name: record["minimum"][name] for name in ("train_loss", "updates")}
        for name, direction in DIRECTIONS.items():
            measures[name].append(direction * values[name])
    minimum = [record["minimum"] for record in networks]
    return Table(
        {name: np.array([record["cell"][name] for record in networks]) for name in networks[0]["cell"]},
        np.array([record["seed"] for record in networks]),
        np.array([each["train_accuracy"] - each["test_accuracy"] for each in minimum]),
        {name: np.array(values, np.float64) for name, values in measures.items()},
        np.array([each["reached"] for each in minimum]),
    )


def _means(record: Mapping[str, Any], variation: str) -> dict[str, float]:
    """Return the means of the statistics, and of the rise of the loss, over the copies of a variation."""
    probe, part, directions, step_size = AUDIT[variation]
    copies = record["probes"][probe]
    chosen = np.ones(len(copies["step_size"]), bool)
    if directions is not None:
        chosen &= np.isin(copies["direction"], directions)
    if step_size is not None:
        chosen &= np.array(copies["step_size"]) == step_size
    values = {**copies[part], "loss_rise": copies["loss_rise"]}
    return {name: float(np.mean(np.array(each, np.float64)[chosen])) for name, each in values.items()}


class _ByFactor:
    """Granulated tau as a score, which notes the tau along each hyperparameter at every call."""

    def __init__(self) -> None:
        self.noted: list[dict[str, float]] = []

    def __call__(self, measure: np.ndarray, gap: np.ndarray, factors: Any) -> float:
        found = granulated_tau(measure, gap, factors)
        self.noted.append(found.by_factor)
        return found.value

    def reversed_along(self) -> tuple[str, ...]:
        """Return the hyperparameters whose 99 % interval lies below 0."""
        highest = {
            name: np.nanquantile([each[name] for each in self.noted[1:]], 0.995)  # the first is no draw
            for name in self.noted[0]
        }
        return tuple(name for name, high in highest.items() if high < 0)


def _granulated(measure: np.ndarray, gap: np.ndarray, factors: Any) -> float:
    return granulated_tau(measure, gap, factors).value


def best_baseline(data: Table) -> str:
    """Return the baseline with the largest granulated tau."""
    return max(BASELINES, key=lambda name: _granulated(data.measures[name], data.gap, data.factors))


def score(data: Table, *, test_images: int, draws: int = 1000, permutations: int = 9999) -> dict[str, Scores]:
    """Return the scores and verdicts of all measures."""
    cells = factor_cells(data.factors)
    best = data.measures[best_baseline(data)]
    tests = {
        name: permutation_test(adjusted_tau, values, data.gap, data.factors, draws=permutations)
        for name, values in data.measures.items()
    }
    p_values = {name: test.p_value for name, test in tests.items()}
    adjusted = dict(zip(STATISTICS, holm([p_values[name] for name in STATISTICS]), strict=True))
    found = {}
    for name, values in data.measures.items():
        plain = bootstrap(lambda x, y: kendall_tau(x, y), values, data.gap, clusters=cells, draws=draws)
        along = _ByFactor()
        interval = bootstrap(along, values, data.gap, data.factors, clusters=cells, draws=draws)
        both = np.stack([values, best], axis=1)
        partial = bootstrap(lambda x, y: partial_tau(x[:, 0], y, x[:, 1]), both, data.gap, clusters=cells, draws=draws)
        errors = sign_error(values, data.gap, data.factors, test_size=test_images)
        p_value = float(adjusted.get(name, p_values[name]))
        predicts = meets_conditions(interval.low, p_value, along.reversed_along())
        adds = predicts and partial.low > 0
        artefact = plain.low > 0 and not predicts
        verdict = "adds" if adds else "predicts" if predicts else "artefact" if artefact else "no"
        worst = errors.worst
        found[name] = Scores(
            tau=plain.value,
            tau_interval=(plain.low, plain.high),
            granulated=interval.value,
            granulated_interval=(interval.low, interval.high),
            by_factor=along.noted[0],
            reversed_along=along.reversed_along(),
            adjusted=tests[name].value,
            p_value=p_value,
            p_uncorrected=p_values[name],
            sufficient=float(np.quantile(tests[name].null, 1 - 0.05 / len(STATISTICS))),
            information=conditional_information(values, data.gap, data.factors).value,
            partial=partial.value,
            partial_interval=(partial.low, partial.high),
            mean_error=errors.mean,
            worst_error=errors.value,
            worst_environment="" if worst is None else worst.factor,
            hits=hit_rate(values, data.gap),
            regret=regret(values, data.gap).value,
            verdict=verdict,
        )
    return found


def meets_conditions(granulated_low: float, p_value: float, reversed_along: Sequence[str]) -> bool:
    """Return whether a measure meets the conditions of a prediction.

    Args:
        granulated_low: lower end of the interval of its granulated tau.
        p_value: of its adjusted tau.
        reversed_along: hyperparameters along which its sign is reversed.
    """
    return granulated_low > 0 and p_value < 0.05 and not reversed_along


class Confirmation(NamedTuple):
    """The statistic that the first seed chooses, and its scores on the last one."""

    name: str
    chosen_by: float  # its granulated tau on the first seed
    granulated: float  # on the last seed
    adjusted: float
    p_value: float


def confirm(data: Table, *, permutations: int = 9999) -> Confirmation | None:
    """Choose a statistic on the first seed and test it on the last; None for a study with one seed."""
    first, last = data.seed == data.seed.min(), data.seed == data.seed.max()
    if (first & last).any():
        return None
    one, other = data.rows(first), data.rows(last)
    granulated = {name: _granulated(one.measures[name], one.gap, one.factors) for name in STATISTICS}
    name = max(granulated, key=lambda each: granulated[each])
    values = other.measures[name]
    test = permutation_test(adjusted_tau, values, other.gap, other.factors, draws=permutations)
    return Confirmation(name, granulated[name], _granulated(values, other.gap, other.factors), test.value, test.p_value)


def audit(
    networks: Sequence[Mapping[str, Any]], chosen: np.ndarray, score: Callable[..., float] = _granulated
) -> dict[str, dict[str, float]]:
    """Return a score of each statistic, by default its granulated tau, under each variation of the probe."""
    scores: dict[str, dict[str, float]] = {name: {} for name in STATISTICS}
    for variation in AUDIT:
        data = table(networks, variation).rows(chosen)
        for name in STATISTICS:
            scores[name][variation] = score(data.measures[name], data.gap, data.factors)
    return scores


def is_fragile(scores: Mapping[str, float]) -> bool:
    """Return whether a statistic's granulated tau changes its sign under a variation of the audit."""
    signs = np.sign(list(scores.values()))
    return bool((signs != signs[0]).any())
