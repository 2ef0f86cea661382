"""The drift of the minimum itself: where copies go that nobody perturbed.

Retraining moves a minimum too: weight decay, other batches, another learning rate. A perturbed copy that follows its
minimum so leaves the place from which its distance is measured. Copies of step size 0, retrained like the others, show
that place.
"""

from typing import NamedTuple

import numpy as np

from jaxscape.trajectories.geometry import trajectory_rows
from jaxscape.trajectories.gram import Gram, inner_products, require_gram, unscaled


class Drift(NamedTuple):
    """Where unperturbed copies end, and how far from there the others are; float64, lengths in parameters."""

    distance: float  # of the mean of their end points from the reference
    spread: float  # root mean square of the distances of their end points from that mean; NaN for one copy
    to_mean: np.ndarray  # [epoch, member]: distance of each point from that mean, NaN after the end of a trajectory

    @property
    def returned(self) -> np.ndarray:
        """1 - d(end) / d(start) of each member, d the distance from the mean end of the unperturbed copies."""
        ends = (~np.isnan(self.to_mean)).sum(axis=0) - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            found: np.ndarray = 1 - self.to_mean[ends, np.arange(len(ends))] / self.to_mean[0]
        return found


def drift(gram: Gram, unperturbed: np.ndarray) -> Drift:
    """Return where the minimum itself drifts, by copies that began at it.

    Args:
        gram: trajectories around a reference, of any lengths.
        unperturbed: bool (members,), which of the trajectories, in the order of their starts, began at the reference.

    Raises:
        ValueError: for a Gram without a reference, another number of members, none that is unperturbed, and
            trajectories that branch.
    """
    require_gram(gram)
    if not gram.has_reference:
        raise ValueError("gram must have a reference, from which the drift is measured")
    rows, chosen = trajectory_rows(gram), np.asarray(unperturbed)
    if chosen.shape != rows.shape[1:] or chosen.dtype != bool or not chosen.any():
        raise ValueError(
            f"unperturbed must be {rows.shape[1]} booleans, at least one of them true, got {chosen.dtype} of shape "
            f"{chosen.shape} with {np.count_nonzero(chosen)} true"
        )
    there = rows >= 0
    ends = rows[there.sum(axis=0) - 1, np.arange(rows.shape[1])][chosen]
    around = inner_products(gram, center="reference")[0]
    mean = around[np.ix_(ends, ends)].mean()  # |c|^2 of the mean end c
    squared = np.diag(around) - 2 * around[:, ends].mean(axis=1) + mean
    distances = unscaled(np.sqrt(np.maximum(squared, 0)), gram)
    spread = np.sqrt((distances[ends] ** 2).mean()) if len(ends) > 1 else np.nan
    return Drift(
        distance=float(unscaled(np.sqrt(np.maximum(mean, 0)), gram)),
        spread=float(spread),
        to_mean=np.where(there, distances[np.where(there, rows, 0)], np.nan),
    )
