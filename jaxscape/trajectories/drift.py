"""The drift of the minimum itself, measured by unperturbed copies.

Retraining also moves a minimum, because of weight decay, other batches or another learning rate. A perturbed copy that
follows its minimum therefore moves away from the point from which its distance is measured. Copies of step size 0,
retrained like the others, show where the minimum went.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64

from jaxscape.trajectories.geometry import trajectory_rows
from jaxscape.trajectories.gram import IncrementGram, inner_products, require_gram, unscaled


class Drift(NamedTuple):
    """The drift of unperturbed copies, and the distances of all copies from them, in parameter space."""

    distance: float  # from the reference to the mean of the unperturbed copies' end points
    spread: float  # root mean square distance of those end points from their mean; NaN for one copy
    to_mean: Float64[np.ndarray, "epochs members"]  # distance from their mean at the same epoch, NaN after the end

    @property
    def returned(self) -> Float64[np.ndarray, " members"]:
        """Return 1 - d(end) / d(start) of each member.

        d is the distance from the mean of the unperturbed copies at the same epoch. These start at the reference, so
        d(start) is the jump.
        """
        ends = (~np.isnan(self.to_mean)).sum(axis=0) - 1
        with np.errstate(divide="ignore", invalid="ignore"):
            returned: np.ndarray = 1 - self.to_mean[ends, np.arange(len(ends))] / self.to_mean[0]
        return returned


def drift(gram: IncrementGram, unperturbed: Bool[np.ndarray, " members"]) -> Drift:
    """Return the drift of the minimum, measured by copies that start at it and are retrained like the others.

    Args:
        gram: trajectories around a reference, of any lengths.
        unperturbed: which trajectories, in the order of their starts, start at the reference.

    Raises:
        ValueError: if gram has no reference, unperturbed has another number of members or selects none, or trajectories
            branch.
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
    exists = rows >= 0
    ends = rows[exists.sum(axis=0) - 1, np.arange(rows.shape[1])]
    at = np.where(exists, rows, ends)  # a shorter trajectory stays at its end
    products = inner_products(gram, center="reference")[0]
    controls, squares = at[:, chosen], np.diag(products)[at]
    # |y - c|^2 = |y|^2 - 2 y . c + |c|^2 for the mean c of the unperturbed copies at each epoch.
    means = products[controls[:, :, None], controls[:, None, :]].mean(axis=(1, 2))
    with_mean = products[at[:, :, None], controls[:, None, :]].mean(axis=2)
    distances = unscaled(np.sqrt(np.maximum(squares - 2 * with_mean + means[:, None], 0)), gram)
    spread = np.sqrt((distances[-1, chosen] ** 2).mean()) if chosen.sum() > 1 else np.nan
    return Drift(
        distance=float(unscaled(np.sqrt(np.maximum(means[-1:], 0)), gram)[0]),
        spread=float(spread),
        to_mean=np.where(exists, distances, np.nan),
    )
