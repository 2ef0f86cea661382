"""Scores of the measures of a study that decide nothing: they were chosen after its networks were trained and measured.

They answer what a reader asks of the scores in study_scores.py, whose rules were committed before.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from study_scores import BASELINES, CONTROLS, STATISTICS, Scores, Table, meets_conditions

from jaxscape import (
    adjusted_tau,
    bootstrap,
    factor_cells,
    granulated_tau,
    holm,
    leave_one_out,
    partial_tau,
    permutation_test,
    stratified_tau,
)

GROUPS = (tuple(STATISTICS), tuple(BASELINES), tuple(CONTROLS))


class Further(NamedTuple):
    """Further scores of one measure."""

    p_corrected: float  # of the rank correlation given all hyperparameters, after Holm's correction over its group
    meets: bool  # whether it meets the conditions of a prediction with this p-value
    meets_uncorrected: bool  # whether it does with the p-value that is not corrected
    second_order: float  # rank correlation given all hyperparameters and their pairs
    beside_rise: float  # partial tau given the rise of the loss at the jump
    beside_rise_interval: tuple[float, float]
    without_cell: tuple[float, float]  # smallest and largest granulated tau without one cell
    within: float  # tau of networks that differ in the seed alone; NaN if there is one seed
    within_pairs: int
    within_p: float  # by permutations within cells; NaN if there is one seed


def further(
    data: Table, scores: Mapping[str, Scores], *, draws: int = 1000, permutations: int = 9999
) -> dict[str, Further]:
    """Return the further scores of all measures."""
    cells = factor_cells(data.factors)
    corrected = {
        name: float(value)
        for names in GROUPS
        for name, value in zip(names, holm([scores[name].p_uncorrected for name in names]), strict=True)
    }
    rise = data.measures["loss_rise"]
    found = {}
    for name, values in data.measures.items():
        both = np.stack([values, rise], axis=1)
        beside = bootstrap(lambda x, y: partial_tau(x[:, 0], y, x[:, 1]), both, data.gap, clusters=cells, draws=draws)
        without = leave_one_out(granulated_tau, values, data.gap, data.factors, clusters=cells).without
        within = stratified_tau(values, data.gap, data.factors)
        within_p = np.nan
        if within.pairs:
            test = permutation_test(stratified_tau, values, data.gap, data.factors, within=cells, draws=permutations)
            within_p = test.p_value
        low, along = scores[name].granulated_interval[0], scores[name].reversed_along
        found[name] = Further(
            p_corrected=corrected[name],
            meets=meets_conditions(low, corrected[name], along),
            meets_uncorrected=meets_conditions(low, scores[name].p_uncorrected, along),
            second_order=adjusted_tau(values, data.gap, data.factors, order=2),
            beside_rise=beside.value,
            beside_rise_interval=(beside.low, beside.high),
            without_cell=(float(np.nanmin(without)), float(np.nanmax(without))),
            within=within.value,
            within_pairs=within.pairs,
            within_p=within_p,
        )
    return found
