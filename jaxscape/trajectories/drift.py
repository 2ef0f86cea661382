"""The drift of the minimum itself: where copies go that nobody perturbed.

Retraining moves a minimum too: weight decay, other batches, another learning rate. A perturbed copy that follows its
minimum so leaves the place from which its distance is measured. Copies of step size 0, retrained like the others, show
that place.
"""

from typing import NamedTuple

import numpy as np

from jaxscape.trajectories.geometry import trajectory_rows
from jaxscape.trajectories.gram import IncrementGram, inner_products, require_gram, unscaled


class Drift(NamedTuple):
    """Where unperturbed copies go, and how far from them the others are; float64, lengths in parameters."""

    distance: float  # of the mean of their end points from the reference
    spread: float  # root mean square of the distances of their end points from that mean; NaN for one copy
    to_mean: np.ndarray  # [epoch, member]: distance from their mean at the same epoch, NaN after a trajectory's end

    @property
    def returned(self) -> np.ndarray:
        """1 - d(end) / d(start) of each member, d the distance from the mean of the unperturbed copies at that epoch.

        They begin at the reference, so that d(start) is the jump.
        """
        ends = (~np.isnan(self.to_mean)).sum(axis=0) - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            found: np.ndarray = 1 - self.to_mean[ends, np.arange(len(ends))] / self.to_mean[0]
        return found


def drift(gram: IncrementGram, unperturbed: np.ndarray) -> Drift:
    """Return where the minimum itself drifts, by copies that began at it and were retrained like the others.

    Args:
        gram: trajectories around a reference, of any lengths.
        unperturbed: bool (members,), which of the trajectories, in the order of their starts, began at the reference.

    Raises:
        ValueError: for an IncrementGram without a reference, another number of members, none that is unperturbed, and
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
    ends = rows[there.sum(axis=0) - 1, np.arange(rows.shape[1])]
    at = np.where(there, rows, ends)  # who has ended waits there
    around = inner_products(gram, center="reference")[0]
    their, own = at[:, chosen], np.diag(around)[at]
    means = around[their[:, :, None], their[:, None, :]].mean(axis=(1, 2))  # |c|^2 of their mean c at each epoch
    with_mean = around[at[:, :, None], their[:, None, :]].mean(axis=2)
    distances = unscaled(np.sqrt(np.maximum(own - 2 * with_mean + means[:, None], 0)), gram)
    spread = np.sqrt((distances[-1, chosen] ** 2).mean()) if chosen.sum() > 1 else np.nan
    return Drift(
        distance=float(unscaled(np.sqrt(np.maximum(means[-1], 0)), gram)),
        spread=float(spread),
        to_mean=np.where(there, distances, np.nan),
    )
