"""Labels of the rows of a run, in the form that figures take."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.runs.folder import COMPARED, RunFolder
from jaxscape.runs.measure import group_of


def row_labels(run: Path, columns: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, Any]:
    """Return the labels of selected rows as arguments of a panel.

    The entry `seed` sets the hue: the seed of the jump direction, or the group of the run, such as the optimizer.

    Args:
        run: a run folder.
        columns: arrays (n,) by name: member, epoch, update, and the labels of the run's members.
        rows: bool (n,), the rows to take.
    """
    run = RunFolder(run)
    labels: dict[str, Any] = {name: columns[name][rows] for name in ("epoch", "member")}
    kind, unit = run.kind, "epoch"
    if kind.has_minimum:
        labels |= {name: columns[name][rows] for name in ("seed", "step_size")}
        return labels | {"hue": "direction", "unit": unit}
    group = group_of(run.settings(kind.stage))
    labels["epoch"] = columns["update"][rows]
    if kind is COMPARED:  # snapshots may be more frequent than epochs; the axis is always in epochs
        labels["epoch"] = labels["epoch"] / run.number("steps_per_epoch")
    else:
        unit = "step"
    return labels | {"seed": columns[group][rows], "hue": group, "unit": unit}
