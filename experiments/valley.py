"""Valley or decay: what brings perturbed copies back to their minimum? The paper has no such experiment.

    python -m uv run python experiments/valley.py --scale quick --publish

The paper retrains copies of good minima with weight decay and crops, and those of bad minima with neither. Its contrast
of the two is therefore one of minima and of retraining at once. Here copies of both kinds of minimum are retrained in
all four ways: without and with the weight decay of the good minima, without and with their crops. Each seed has its own
training images, initial parameters and jump directions, which its good and its bad minimum share. Copies of step size
0 show where the minimum itself drifts.

Parts of the return. Along its own jump a copy goes back by a share of the jump that splits exactly into one of weight
decay and one of the gradients (`split_displacements`). What its distance loses by movement across the jump is the rest:

    return = decay + gradient + sideways,    sideways = -(d_end / d_start) (1 - cos(y_end, y_start)) <= 0

The exchange surrogate gives a copy the gradient part of a copy of another direction: its share of the way back is what
copies have in common, such as the drift of the minimum. What the gradient does beyond it is a pull along the copy's own
jump. Drift: how much larger the return is if it is measured to the mean end of the copies of step size 0.

RULES, fixed before the first run of this script (seeds 20 to 24; the history of this file shows it):

1. A cell's value is the mean over its copies; an effect has one value per seed, and its interval is Student's 95 %
   interval of the mean over seeds. With five seeds a sign-flip test cannot give a p below 1/16, so the intervals rest
   on normal differences; the number of seeds with the sign of the mean is given beside them.
2. Effects are those of a 2 x 2 x 2 factorial design: the mean of the cells with a factor at its second level, minus
   that of the others (bad to good, no decay to decay, no crops to crops). An interaction is half the difference between
   a factor's effects at the two levels of the other.
3. Margins, for the smallest difference that matters: 0.01 of the jump for returns and shares, 0.02 for cosines, 0.01 of
   the minimum's norm for its drift.
4. Verdicts: "more" or "less" if the whole interval lies beyond the margin on that side and Student's p, corrected by
   Holm over the effects (or cells) of the same table column, is below 0.05; "negligible" if the whole interval lies
   within the margin on both sides; "unclear" otherwise.
5. The paper's contrast (good with decay and crops, minus bad with neither) is split in two ways, and neither is
   neutral. "By the good minima": decay and crops are taken away from the good minima, and the kinds are compared
   without either. "By the bad minima": decay and crops are given to the bad minima, which never saw shifted images,
   and the kinds are compared with both. Decay and crops are averaged over the two orders, so that the parts add up
   exactly.
6. Valley or decay: by each split, "retraining" if the interval of (decay + crops) - kind lies above 0, "the kind of
   minimum" if it lies below 0, "undecided" otherwise.
7. "The gradients pull copies back along their own jump" in a cell if its cosine with the way back, minus that of the
   exchange surrogate, is "more" by rule 4 over the eight cells.

`--publish` also writes docs/valley.md, docs/valley.png and benchmarks/results/valley.json.
"""

import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from command import start
from records import ROOT, Record, about_runs, check_publishable, publish, rounded
from stages import Again, Experiment, with_own_images
from valley_analysis import KINDS
from valley_page import draw, page

from jaxscape import Run, drift, scale_free, split_displacements, trajectory_geometry
from jaxscape.figures.plots import save_figure
from jaxscape.runs.config import RetrainConfig, TrainConfig
from jaxscape.runs.folder import write_json, write_text
from jaxscape.runs.null import nulls_of
from jaxscape.runs.recorded import read_metrics
from jaxscape.trajectories.geometry import trajectory_rows

# The runs.


class Cell(NamedTuple):
    """One retraining of one minimum; factors are 0 or 1 (bad or good, no or yes)."""

    kind: int
    decay: int
    crops: int
    seed: int


def cells(experiment: Experiment) -> list[Cell]:
    """Return all cells, seed by seed."""
    return [
        Cell(*levels, seed) for seed in experiment.scale.valley_seeds for levels in itertools.product((0, 1), repeat=3)
    ]


def way_of(cell: Cell) -> str:
    """Return the name of a cell's retraining."""
    return f"{'decay' if cell.decay else 'no-decay'}-{'crops' if cell.crops else 'no-crops'}"


def run_of(experiment: Experiment, cell: Cell) -> Path:
    """Return the run folder of a cell."""
    return experiment.folder / "valley" / f"{KINDS[cell.kind]}-{cell.seed}-{way_of(cell)}"


def minimum_of(experiment: Experiment, cell: Cell) -> Path:
    """Return the run folder in which the cell's minimum is found."""
    return experiment.folder / "valley" / "minima" / f"{KINDS[cell.kind]}-{cell.seed}"


def plan_minima(experiment: Experiment) -> dict[Path, TrainConfig]:
    """Return the minima of all seeds, each seed with training images of its own."""
    found = {}
    for cell in cells(experiment):
        ((_, config),) = experiment.minima((KINDS[cell.kind],), seeds=(cell.seed,)).items()
        found[minimum_of(experiment, cell)] = with_own_images(config, cell.seed)
    return found


def plan_runs(experiment: Experiment, minima: Mapping[Path, TrainConfig]) -> Again:
    """Return the cells' run folders, with the sources of their minima and the settings of their retraining."""
    again: Again = {}
    for cell in cells(experiment):
        good = minima[minimum_of(experiment, cell._replace(kind=1))]
        source = minimum_of(experiment, cell)
        config = experiment.retraining(minima[source], **experiment.scale.valley_retrain)
        again[run_of(experiment, cell)] = source, retrained(config, cell, good, experiment.scale.valley_directions)
    return again


def retrained(config: RetrainConfig, cell: Cell, good: TrainConfig, directions: int) -> RetrainConfig:
    """Return the settings of a cell: jump directions of its seed, and decay and crops of the good minima or neither."""
    return replace(
        config,
        seeds=tuple(range(cell.seed * directions, (cell.seed + 1) * directions)),
        weight_decay=good.weight_decay if cell.decay else 0.0,
        augmentation=good.augmentation if cell.crops else "none",
    )


# The numbers of a cell.


def measure_cell(run: Run) -> Record:
    """Return the numbers of a run: lists with one entry per perturbed copy, and single numbers of its minimum."""
    everything, copies = run.measured(controls=True), run.measured()
    starts = trajectory_rows(everything.gram)[0] - 1
    steps = everything.labels["step_size"][starts]
    members = everything.labels["member"][starts]
    drifted, geometry = drift(everything.gram, steps == 0), trajectory_geometry(copies.gram)
    nulls = nulls_of(run.folder, copies.gram, copies.labels)
    split = split_displacements(copies.gram, nulls.factors)
    returned = geometry.summary()["return"]
    decay_part, gradient_part = split.decay[-1], split.gradient[-1]
    exchanged = _exchanged(nulls)
    store, minimum, chosen = run.store(), run.minimum(), members[steps > 0].tolist()
    first, last = (
        jax.tree.map(lambda leaf: leaf[0], store.read(epochs=epoch, members=chosen))
        for epoch in (0, store.num_epochs - 1)
    )
    distances = [scale_free(params, minimum.params, first).distance for params in (first, last)]
    values = {
        "step_size": steps[steps > 0],
        "return": returned,
        "return_to_drifted": drifted.returned[steps > 0],
        "return_of_directions": 1 - distances[1] / distances[0],
        "decay_part": decay_part,
        "gradient_part": gradient_part,
        "sideways_part": returned - decay_part - gradient_part,
        "cosine": split.cosine[-1],
        **exchanged,
        "gradient_beyond_exchange": gradient_part - exchanged["exchange_gradient_part"],
        "cosine_beyond_exchange": split.cosine[-1] - exchanged["exchange_cosine"],
    }
    return {
        "copies": {name: rounded(value) for name, value in values.items()},
        "drift": rounded(drifted.distance / _norm(minimum.params)),
        "drift_over_smallest_jump": rounded(drifted.distance / np.min(geometry.distance[0])),
        **{f"minimum_{name}": rounded(minimum.metrics[name]) for name in ("train_accuracy", "test_accuracy")},
        **_at_end(run.folder, chosen),
    }


def _exchanged(nulls: Any) -> dict[str, np.ndarray]:
    """Return the means over draws of the exchange surrogate, for each copy; NaN if a copy has no partner."""
    names = ("exchange_return", "exchange_gradient_part", "exchange_cosine")
    if not nulls.has("exchange"):
        count = int((trajectory_rows(nulls.gram)[0] >= 0).sum())
        return {name: np.full(count, np.nan) for name in names}
    drawn = []
    for each in nulls.draws("exchange"):
        split = split_displacements(each, nulls.factors)
        drawn.append((trajectory_geometry(each).summary()["return"], split.gradient[-1], split.cosine[-1]))
    return dict(zip(names, np.mean(drawn, axis=0), strict=True))


def _at_end(run: Path, members: Sequence[int]) -> dict[str, Any]:
    """Return the mean loss and accuracies of the perturbed copies after the last epoch."""
    metrics = read_metrics(run)
    at_end = (metrics["epoch"] == metrics["epoch"].max()) & np.isin(metrics["member"], members)
    names = ("train_loss", "train_accuracy", "test_accuracy")
    return {name: rounded(metrics[name][at_end].mean()) for name in names}


def _norm(params: Any) -> float:
    return math.sqrt(sum(float(np.square(np.asarray(leaf, np.float64)).sum()) for leaf in jax.tree.leaves(params)))


# The script.


def measure(experiment: Experiment, again: Again) -> Record:
    """Return the record of all cells."""
    _, config = next(iter(again.values()))
    decayed = max((settings for _, settings in again.values()), key=lambda each: each.weight_decay)
    cropped = next(settings for _, settings in again.values() if settings.augmentation != "none")
    minimum = next(iter(plan_minima(experiment).values()))
    record = about_runs(minimum, config) | {
        "weight_decay": decayed.weight_decay,
        "augmentation": cropped.augmentation,
        "cells": [
            cell._asdict() | measure_cell(experiment.open(run_of(experiment, cell))) for cell in cells(experiment)
        ],
    }
    return json.loads(json.dumps(record))


def main(experiment: Experiment) -> None:
    """Make missing runs, measure, draw, and write the numbers and the page."""
    console, folder = experiment.console, experiment.folder
    minima = plan_minima(experiment)
    if experiment.publish:
        check_publishable("valley", next(iter(minima.values())).dataset)
    again = plan_runs(experiment, minima)
    experiment.run(minima, again=again, retrain_minima=False)
    started = time.monotonic()
    record = measure(experiment, again)
    write_json(folder / "valley.json", record)
    write_text(folder / "valley.md", page(record))
    files = save_figure(draw(record), folder / "valley" / "figures" / "valley")
    console.print(page(record), markup=False, soft_wrap=True)
    if experiment.publish:
        publish("valley", record, {"valley": files})
        write_text(ROOT / "docs" / "valley.md", page(record))
    console.print(f"Figures and numbers done in {(time.monotonic() - started) / 60:.1f} min.")
    for path in (*files, folder / "valley.json", folder / "valley.md"):
        console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "valley")
