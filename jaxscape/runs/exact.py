"""What the exact views show of a run: distances and angles seen from its minimum, and the same of surrogates."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.figures.panels import ExactPanel, Surrogate
from jaxscape.runs import captions
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.measure import by_row, measure, perturbed
from jaxscape.runs.methods import NULLS
from jaxscape.runs.null import NULL_KIND, Nulls, nulls_of
from jaxscape.runs.progress import make_console
from jaxscape.trajectories.geometry import Geometry, trajectory_geometry
from jaxscape.trajectories.gram import Gram, unscaled


def exact_panel(run: Path) -> ExactPanel | None:
    """Return a run's copies that were perturbed, and their surrogates; None where there are none."""
    run = RunFolder(run)
    copies = perturbed(measure(run, console=make_console(silent=True)))
    products, geometry = copies.gram, trajectory_geometry(copies.gram)
    thrown = by_row(products, np.broadcast_to(geometry.distance[0], geometry.distance.shape)) > 0
    if not thrown.any():
        return None
    norm = unscaled(np.sqrt(products.products[0, 0]), products)

    def places(geometry: Geometry) -> dict[str, Any]:
        distance, petal = (by_row(products, values)[thrown] for values in (geometry.distance, geometry.petal))
        return {"distance": distance / norm, "angle": np.arccos(np.nan_to_num(petal))}

    labels: dict[str, Any] = {name: copies.labels[name][thrown] for name in ("seed", "epoch", "member", "step_size")}
    surrogates = _surrogates(nulls_of(run, products, copies.labels))
    return ExactPanel(
        title=captions.title(run),
        **places(geometry),
        **labels,
        surrogates=[Surrogate(name, **places(trajectory_geometry(found))) for name, found in surrogates.items()],
    )


def _surrogates(nulls: Nulls) -> dict[str, Gram]:
    """Weight decay alone, where there is some, and what tells whether the loss brings copies back."""
    decays = nulls.factors is not None and bool((nulls.factors != 1).any())
    kinds = [*(["decay"] if decays else []), "exchange" if nulls.has("exchange") else NULL_KIND]
    return {NULLS[kind].words: next(nulls.draws(kind)) for kind in kinds}
