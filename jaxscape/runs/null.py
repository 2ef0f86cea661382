"""The null trajectories of a run, and the draws that its statistics are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxscape.runs.config import RetrainConfig
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.keys import split_key_data
from jaxscape.runs.methods import BESIDE
from jaxscape.training.optimizers import named_decay_factors
from jaxscape.trajectories.gram import IncrementGram
from jaxscape.trajectories.null import NEED_FACTORS, null_trajectories

NULL_KIND = "rotated"
NULL_DRAWS = 8


class Nulls(NamedTuple):
    """Trajectories with everything needed to draw their nulls; the arrays are (n,), one value per row."""

    gram: IncrementGram
    alike: np.ndarray  # rows with equal values may exchange increments: step sizes, or groups
    factors: np.ndarray | None  # factor by which weight decay alone scales the start; None if unknown
    seed: int  # seed of the draws

    def draw(self, kind: str, key: np.ndarray) -> IncrementGram:
        """Draw null trajectories of a kind; `key` is the data of a PRNG key, uint32 (2,).

        Raises:
            ValueError: if the kind needs decay factors and those of this run are unknown.
        """
        if kind in NEED_FACTORS and self.factors is None:
            raise ValueError(
                f"null {kind} needs a weight decay that shrinks all parameters by the same factor, such as that of sgd "
                "and momentum for the built-in problem; this run's optimizer has none, or is not known"
            )
        if kind == "exchange":
            return null_trajectories(self.gram, kind=kind, key=key, factors=self.factors, alike=self.alike)
        return null_trajectories(self.gram, kind=kind, key=key, factors=self.factors if kind in NEED_FACTORS else None)

    def draws(self, kind: str = NULL_KIND) -> Iterator[IncrementGram]:
        """Yield the draws that statistics are compared with; tables and figures show the first."""
        for key in split_key_data(self.seed, 1 if kind == "decay" else NULL_DRAWS):
            yield self.draw(kind, key)

    @property
    def of_return(self) -> str:
        """The kind that distances from the minimum are compared with: exchange if it can be drawn, else rotated."""
        return BESIDE["return"] if self.has(BESIDE["return"]) else NULL_KIND

    def has(self, kind: str) -> bool:
        """Return whether a kind can be drawn: decay factors are known, or every member has one to exchange with."""
        if kind == "exchange":
            starts = self.alike[self.gram.parents[int(self.gram.has_reference) :] < int(self.gram.has_reference)]
            return bool((np.unique(starts, return_counts=True)[1] > 1).all())
        return kind not in NEED_FACTORS or self.factors is not None


def nulls_of(run: Path, gram: IncrementGram, labels: dict[str, np.ndarray], *, group: str = "") -> Nulls:
    """Return the nulls of all or some trajectories of a run.

    Args:
        run: the run folder.
        gram: the Gram matrix of the trajectories.
        labels: arrays (n,) by name, the labels of its rows.
        group: the label within which members exchange increments, if they have no step size.
    """
    run = RunFolder(run)
    settings = run.settings(run.kind.stage)
    alike = labels.get("step_size", labels.get(group, np.zeros(gram.num_points)))
    return Nulls(gram, alike, _factors(settings, labels["update"]), getattr(settings, "order_seed", 0))


def _factors(settings: object, updates: np.ndarray) -> np.ndarray | None:
    """Return the factor by which weight decay alone scales a start after each number of updates, from a fresh state."""
    if not isinstance(settings, RetrainConfig):
        return None
    numbers = settings.learning_rate, settings.weight_decay, int(updates.max())
    factors = named_decay_factors(settings.optimizer, *numbers)
    return None if factors is None else factors[updates]
