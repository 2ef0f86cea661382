"""The effects and verdicts of valley.py, from its record alone, by the rules that stand there."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from records import Record

from jaxscape import holm, mean_interval, mean_test

KINDS = ("bad", "good")  # in the order of the factor's levels
FACTORS = ("kind", "decay", "crops")
EFFECTS = tuple(names for size in (1, 2, 3) for names in itertools.combinations(FACTORS, size))
WAYS = {(0, 0): "neither", (0, 1): "crops", (1, 0): "decay", (1, 1): "decay + crops"}  # (decay, crops)
PAPER = (1, 1, 1), (0, 0, 0)  # good with decay and crops, bad with neither: (kind, decay, crops)


class Response(NamedTuple):
    """A number of a cell, with its meaning and the smallest difference that matters (rule 3)."""

    meaning: str
    margin: float


RESPONSES = {
    "return": Response("1 - d(end) / d(start), d the distance from the minimum", 0.01),
    "return_to_drifted": Response("the same, d from the mean of the step-0 copies at that epoch", 0.01),
    "return_of_directions": Response("the same as return, after every filter is rescaled to the minimum's norm", 0.01),
    "decay_part": Response("way back along the jump by weight decay / jump", 0.01),
    "gradient_part": Response("way back along the jump by the gradients / jump", 0.01),
    "gradient_beyond_exchange": Response("the same, minus that of the exchange surrogate", 0.01),
    "sideways_part": Response("return - decay part - gradient part: movement across the jump", 0.01),
    "cosine_beyond_exchange": Response("cosine of the gradient part with the way back, minus that of exchange", 0.02),
    "drift": Response("distance from the minimum to the mean end of the step-0 copies / norm of the minimum", 0.01),
}
SPLIT = ("return", "return_to_drifted", "return_of_directions")  # the contrasts that rules 5 and 6 split


class Estimate(NamedTuple):
    """An effect or a cell's number over the seeds."""

    values: np.ndarray  # [seed]
    mean: float
    low: float  # Student's 95 % interval of the mean
    high: float
    p: float  # of a mean of 0, two-sided, Student

    @property
    def text(self) -> str:
        """The mean with its interval, and how many seeds have its sign."""
        same = int((np.sign(self.values) == np.sign(self.mean)).sum())
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] {same}/{len(self.values)}"


def estimate(values: np.ndarray) -> Estimate:
    """Return the mean over seeds with its interval (rule 1)."""
    values = np.asarray(values, float)
    found = mean_interval(values)
    return Estimate(values, found.mean, found.low, found.high, mean_test(values, alternative="two-sided"))


def verdicts(estimates: Sequence[Estimate], margin: float) -> list[str]:
    """Return the verdict on each estimate of one table column (rule 4)."""
    corrected = holm([each.p for each in estimates])
    return [_verdict(each, p, margin) for each, p in zip(estimates, corrected, strict=True)]


def _verdict(found: Estimate, p: float, margin: float) -> str:
    if -margin < found.low and found.high < margin:
        return "negligible"
    if p < 0.05 and found.low > margin:
        return "more"
    if p < 0.05 and found.high < -margin:
        return "less"
    return "unclear"


def table_of(record: Record, name: str) -> np.ndarray:
    """Return a number of all cells, [seed, kind, decay, crops]; means over copies."""
    seeds = list(dict.fromkeys(cell["seed"] for cell in record["cells"]))
    table = np.full((len(seeds), 2, 2, 2), np.nan)
    for cell in record["cells"]:
        value = cell[name] if name in cell else np.mean(cell["copies"][name])
        table[seeds.index(cell["seed"]), cell["kind"], cell["decay"], cell["crops"]] = value
    return table


def effects(table: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
    """Return the main effects and interactions of each seed, [seed] (rule 2).

    The three main effects and the interaction of all three add up to the difference of the cells (1, 1, 1), (0, 0, 0).
    """
    level = np.array([-1, 1])
    signs = {"kind": level[:, None, None], "decay": level[None, :, None], "crops": level[None, None, :]}
    found = {}
    for names in EFFECTS:
        sign = math.prod((signs[name] for name in names), start=np.ones((2, 2, 2)))
        found[names] = (table * sign).sum(axis=(1, 2, 3)) / 4
    return found


def split_contrast(table: np.ndarray, by: int) -> dict[str, np.ndarray]:
    """Return the parts of the paper's contrast, [seed]: by the good minima (1) or by the bad ones (0) (rule 5)."""
    of_kind = table[:, by]  # [seed, decay, crops]
    way = 1 - by  # the retraining in which the kinds are compared: neither, or both
    return {
        "kind": table[:, 1, way, way] - table[:, 0, way, way],
        "decay": (of_kind[:, 1] - of_kind[:, 0]).mean(axis=1),
        "crops": (of_kind[:, :, 1] - of_kind[:, :, 0]).mean(axis=1),
    }


def larger_part(parts: Mapping[str, np.ndarray]) -> tuple[str, Estimate]:
    """Return which part of the contrast is larger, and the difference (rule 6)."""
    found = estimate(parts["decay"] + parts["crops"] - parts["kind"])
    if found.low > 0:
        return "retraining", found
    return ("the kind of minimum" if found.high < 0 else "undecided"), found


def column(record: Record, name: str) -> dict[tuple[str, ...], tuple[Estimate, str]]:
    """Return the effects on a response, each with its verdict."""
    estimates = {names: estimate(values) for names, values in effects(table_of(record, name)).items()}
    decided = verdicts(list(estimates.values()), RESPONSES[name].margin)
    return {names: (found, word) for (names, found), word in zip(estimates.items(), decided, strict=True)}


def by_cell(record: Record, name: str) -> dict[tuple[int, int, int], tuple[Estimate, str]]:
    """Return the response in each of the eight cells, each with its verdict against 0."""
    table = table_of(record, name)
    levels = list(itertools.product((0, 1), repeat=3))
    estimates = [estimate(table[:, *each]) for each in levels]
    decided = verdicts(estimates, RESPONSES[name].margin)
    return dict(zip(levels, zip(estimates, decided, strict=True), strict=True))


def kinds_compared(record: Record, name: str) -> dict[tuple[int, int], tuple[Estimate, str]]:
    """Return good minus bad in each of the four ways of retraining, each with its verdict."""
    table = table_of(record, name)
    estimates = [estimate(table[:, 1, *way] - table[:, 0, *way]) for way in WAYS]
    decided = verdicts(estimates, RESPONSES[name].margin)
    return dict(zip(WAYS, zip(estimates, decided, strict=True), strict=True))
