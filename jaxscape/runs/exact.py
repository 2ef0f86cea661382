"""What the exact views show of a run: distances and angles seen from its minimum, and the same of surrogates."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.figures.panels import ExactPanel, Surrogate
from jaxscape.runs import captions
from jaxscape.runs.config import RetrainConfig
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.measure import NULL_KIND, Measured, by_row, measure, null_draws
from jaxscape.runs.progress import make_console
from jaxscape.training.optimizers import decay_factors, make_optimizer
from jaxscape.trajectories.geometry import Geometry, trajectory_geometry
from jaxscape.trajectories.gram import Gram, unscaled
from jaxscape.trajectories.null import decay_trajectories


def exact_panel(run: Path) -> ExactPanel | None:
    """Return a run's copies that were perturbed, and their surrogates; None where there are none."""
    run = RunFolder(run)
    if not run.kind.has_minimum:
        return None
    measured = measure(run, console=make_console(silent=True))
    products, geometry = measured.gram, trajectory_geometry(measured.gram)
    thrown = by_row(products, np.broadcast_to(geometry.distance[0], geometry.distance.shape)) > 0
    if not thrown.any():
        return None
    norm = unscaled(np.sqrt(products.products[0, 0]), products)

    def places(geometry: Geometry) -> dict[str, Any]:
        distance, petal = (by_row(products, values)[thrown] for values in (geometry.distance, geometry.petal))
        return {"distance": distance / norm, "angle": np.arccos(np.nan_to_num(petal))}

    surrogates = {f"{NULL_KIND} null": next(null_draws(products, run.settings("retrain").order_seed))}
    if (decayed := _decayed(run, measured)) is not None:
        surrogates = {"weight decay alone": decayed} | surrogates
    labels: dict[str, Any] = {name: measured.labels[name][thrown] for name in ("seed", "epoch", "member", "step_size")}
    return ExactPanel(
        title=captions.title(run),
        **places(geometry),
        **labels,
        surrogates=[Surrogate(name, **places(trajectory_geometry(found))) for name, found in surrogates.items()],
    )


def _decayed(run: RunFolder, measured: Measured) -> Gram | None:
    """The copies with weight decay alone, where there is any that shrinks all parameters alike."""
    settings = run.settings("retrain")
    if not isinstance(settings, RetrainConfig) or not settings.weight_decay or settings.optimizer == "adam":
        return None
    optimizer = make_optimizer(settings.optimizer, settings.learning_rate, weight_decay=settings.weight_decay)
    updates = measured.labels["update"]
    return decay_trajectories(measured.gram, decay_factors(optimizer, int(updates.max()))[updates])
