r"""The largest run in the manner of the paper that two CPU cores make in a few hours: a demonstration, not a test.

    python -m uv run python experiments/paperlike.py --scale real --publish \
        --set train.data_dir=/usr/share/datasets/fashion-mnist

The paper's learning rate of retraining is not known. At its training's 0.1, weight decay alone would leave
exp(-1.95) = 14 % of every jump (19,500 updates, decay 1e-4, momentum 0.9). Here a good and a bad minimum are retrained
at 0.1 with the same exponent, and each of them in two ways: with the weight decay and crops of the good minima, as the
paper does with good ones, and with neither, as it does with bad ones. Copies of step size 0 show where each minimum
itself drifts. There is one minimum of each kind, so that nothing here has an interval over minima: valley.py and
claims.py have them, on smaller runs.

`--publish` also writes docs/paperlike.md with its pictures and film, and benchmarks/results/paperlike.json.
"""

import itertools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from command import start
from records import ROOT, Record, about_runs, check_publishable, commit_text, markdown_table, publish, rounded
from stages import Again, Experiment, with_own_images
from valley import Cell, measure_cell, retrained, way_of
from valley_analysis import KINDS, RESPONSES, WAYS

from jaxscape import Run
from jaxscape.figures.film import save_film
from jaxscape.runs.config import TrainConfig
from jaxscape.runs.folder import write_json, write_text
from jaxscape.runs.null import nulls_of
from jaxscape.runs.plot import exact_panels, plot_comparison

_OPTIMIZERS = {"sgd": "SGD", "momentum": "SGD with momentum 0.9", "adam": "Adam"}
# In the page's tables: numbers of each copy, and numbers of the minimum or means over its copies with their digits.
_OF_COPIES = {
    name: RESPONSES[name].meaning
    for name in (
        *("return", "decay_part", "gradient_part", "sideways_part"),
        *("return_to_drifted", "return_of_directions", "cosine_beyond_exchange"),
    )
} | {"cosine": "cosine of the gradient part with the way back"}
_OF_MINIMUM = {
    "minimum_train_accuracy": 3,
    "minimum_test_accuracy": 3,
    "drift": 3,
    "drift_over_smallest_jump": 3,
    "train_loss": 4,
    "train_accuracy": 3,
    "test_accuracy": 3,
}


def cells(experiment: Experiment) -> list[Cell]:
    """Return the four cells: good before bad, each with decay and crops, then with neither."""
    seed = experiment.scale.paperlike_seed
    return [Cell(kind, both, both, seed) for kind in (1, 0) for both in (1, 0)]


def run_of(experiment: Experiment, cell: Cell) -> Path:
    """Return the run folder of a cell."""
    return experiment.folder / "paperlike" / f"{KINDS[cell.kind]}-{way_of(cell)}"


def minimum_of(experiment: Experiment, kind: int) -> Path:
    """Return the run folder in which a minimum is found."""
    return experiment.folder / "paperlike" / "minima" / KINDS[kind]


def plan_minima(experiment: Experiment) -> dict[Path, TrainConfig]:
    """Return both minima with their training, on the same images."""
    seed, found = experiment.scale.paperlike_seed, {}
    for kind, name in enumerate(KINDS):
        ((_, config),) = experiment.minima((name,), seeds=(seed,), **experiment.scale.paperlike_train).items()
        found[minimum_of(experiment, kind)] = with_own_images(config, seed)
    return found


def plan_runs(experiment: Experiment, minima: Mapping[Path, TrainConfig]) -> Again:
    """Return the cells' run folders, with the sources of their minima and the settings of their retraining."""
    again: Again = {}
    good = minima[minimum_of(experiment, 1)]
    for cell in cells(experiment):
        source = minimum_of(experiment, cell.kind)
        config = experiment.retraining(minima[source], **experiment.scale.paperlike_retrain)
        again[run_of(experiment, cell)] = (
            source,
            retrained(config, cell, good, experiment.scale.paperlike_directions),
        )
    return again


def measure(experiment: Experiment, minimum: TrainConfig, again: Again) -> Record:
    """Return the record of the four cells: the settings of the good minimum's paper-like run, and all numbers."""
    in_paper_way, *_ = cells(experiment)
    _, config = again[run_of(experiment, in_paper_way)]
    record = about_runs(minimum, config) | {
        "network": f"WRN-{minimum.depth}-{minimum.widen_factor}",
        "batch_size": config.batch_size,
        "optimizer": config.optimizer,
        "weight_decay": config.weight_decay,
        "augmentation": config.augmentation,
        "cells": [cell._asdict() | _measure(experiment.open(run_of(experiment, cell))) for cell in cells(experiment)],
    }
    return json.loads(json.dumps(record))


def _measure(run: Run) -> Record:
    """Return the numbers of a cell, with its updates and the share of a jump that weight decay alone would leave."""
    copies = run.measured()
    factors = nulls_of(run.folder, copies.gram, copies.labels).factors
    return measure_cell(run) | {
        "updates": run.store().updates[-1],
        "left_by_decay": rounded(np.nan if factors is None else factors[-1]),  # unknown for Adam
    }


# The page.


def page(record: Record) -> str:
    """Return the page, from the record alone."""
    lines = [
        "# A long retraining, in the manner of the paper",
        "",
        f"Generated by `{record['command']}`, not written by hand; "
        f"commit {commit_text(record['environment'])}, {record['environment']['device']}. {record['dataset']}, "
        f"{_images(record)} training images, "
        f"{record['network']}, batches of {record['batch_size']}. Retraining: {record['epochs']} epochs "
        f"({record['cells'][0]['updates']} updates) by {_OPTIMIZERS[record['optimizer']]} at a constant learning rate "
        f"of {record['learning_rate']:g}. Weight decay {record['weight_decay']:g}, augmentation "
        f"{record['augmentation']}.",
        "",
        *_INTRODUCTION,
        "",
        "![Distance from the minimum by epoch](paperlike-distance.png)",
        "",
        "![Polar view](paperlike-polar.png)",
        "",
        "![Parts of the return](paperlike-parts.png)",
        "",
        "![PHATE](paperlike-phate.png)",
        "",
        "The polar view as a film: [paperlike.gif](paperlike.gif).",
        "",
        "## What it shows",
        "",
        "Means over all perturbed copies [smallest, largest].",
        "",
        *(f"- {line}" for line in sentences(record)),
        "",
        "## Copies",
        "",
        "Mean over the directions [smallest, largest].",
        "",
        *_copies_table(record),
        "",
        *(f"- {name.replace('_', ' ')}: {meaning}." for name, meaning in _OF_COPIES.items()),
        "",
        "## Minima, and the ends of their copies",
        "",
        *_minima_table(record),
        "",
        "Drift is the distance from the minimum to the mean end of the copies of step size 0, as a share of the norm "
        "of the minimum and of the smallest jump. Losses and accuracies are means over the perturbed copies after the "
        "last epoch. Left by decay alone: the share of a jump that would be left without any gradient.",
        "",
    ]
    return "\n".join(lines)


_INTRODUCTION = (
    "This is the largest run of this kind that was made on two CPU cores: one good and one bad minimum, each retrained "
    "with weight decay and crops, and with neither. The paper retrains good minima in the first way, bad ones in the "
    "second. Its learning rate of retraining is not known; at 0.1, the rate of its training, weight decay alone would "
    "leave exp(-1.95) = 14 % of every jump. One minimum of each kind is a demonstration: intervals over minima are on "
    "the pages [valley or decay](valley.md) and [claims](claims.md).",
)


def sentences(record: Record) -> list[str]:
    """Return what the numbers say, without a verdict: there is one minimum of each kind."""
    returns, decay, beyond = (
        {(cell["kind"], cell["decay"]): _over(cell, name) for cell in record["cells"]}
        for name in ("return", "decay_part", "cosine_beyond_exchange")
    )
    good, bad = returns[1, 1], returns[0, 0]
    cosines = [beyond[cell["kind"], cell["decay"]] for cell in record["cells"]]
    drifts = [f"{cell['drift_over_smallest_jump']:.2f}" for cell in record["cells"]]
    fits = [f"{cell['train_accuracy']:.3f}, {cell['minimum_train_accuracy']:.3f}" for cell in record["cells"]]
    return [
        f"**As the paper retrains.** Copies of the good minimum (decay and crops) return by {good}, those of the bad "
        f"one (neither) by {bad} of their jump.",
        f"**Retrained alike.** With neither, copies of the good minimum return by {returns[1, 0]}; with decay and "
        f"crops, those of the bad one by {returns[0, 1]}.",
        f"**Decay.** Of the way back along the jump, weight decay makes {decay[1, 1]} around the good minimum and "
        f"{decay[0, 1]} around the bad one. Without any gradient it would leave "
        f"{_share_left(record['cells'][0])} of a jump.",
        "**Gradients.** Cosine of their displacement with the way back along the jump, minus that of exchanged copies "
        f"(positive: the loss itself draws a copy back): {_by_cell(record, cosines)}.",
        "**Drift.** Distance from the minimum to the mean end of the copies of step size 0, in smallest jumps: "
        f"{_by_cell(record, drifts)}.",
        f"**Fit.** Training accuracy of the copies after the last epoch, and of their minimum: "
        f"{_by_cell(record, fits)}.",
    ]


def _by_cell(record: Record, values: Sequence[str]) -> str:
    """Return a phrase with a value for each cell."""
    named = [
        f"{value} ({KINDS[cell['kind']]}, {WAYS[cell['decay'], cell['crops']]})"
        for cell, value in zip(record["cells"], values, strict=True)
    ]
    return "; ".join(named)


def _over(cell: Record, name: str, step_size: float | None = None) -> str:
    """Return the mean of a number over a cell's copies, with the smallest and the largest."""
    values = np.array(cell["copies"][name], float)
    if step_size is not None:
        values = values[np.array(cell["copies"]["step_size"]) == step_size]
    return f"{values.mean():.3f} [{values.min():.3f}, {values.max():.3f}]"


def _share_left(cell: Record) -> str:
    return "an unknown share" if cell["left_by_decay"] is None else f"{cell['left_by_decay']:.1%}"


def _images(record: Record) -> str:
    return "all" if record["train_size"] is None else f"{record['train_size']:,}"


def _copies_table(record: Record) -> list[str]:
    names = [name.replace("_", " ") for name in _OF_COPIES]
    rows = []
    for cell in record["cells"]:
        for step_size in dict.fromkeys(cell["copies"]["step_size"]):
            values = [_over(cell, name, step_size) for name in _OF_COPIES]
            rows.append([KINDS[cell["kind"]], WAYS[cell["decay"], cell["crops"]], f"{step_size:g}", *values])
    return markdown_table(["minimum", "retrained with", "step size", *names], rows)


def _minima_table(record: Record) -> list[str]:
    names = [name.replace("_", " ") for name in _OF_MINIMUM]
    rows = []
    for cell in record["cells"]:
        values = [f"{cell[name]:.{digits}f}" for name, digits in _OF_MINIMUM.items()]
        about = [KINDS[cell["kind"]], WAYS[cell["decay"], cell["crops"]]]
        rows.append([*about, *values, _share_left(cell)])
    return markdown_table(["minimum", "retrained with", *names, "left by decay alone"], rows)


# The script.


def draw(experiment: Experiment, shown: Sequence[Path]) -> dict[str, list[Path]]:
    """Draw all figures and the film; return the files that the page shows, by the names that they have there."""
    folder = experiment.folder / "paperlike" / "figures"
    files = plot_comparison(shown, folder)
    setting = experiment.settings[0].name
    wanted = {"distance": "distance", "polar": "polar", "parts": "parts", "phate": setting}
    found = {f"paperlike-{name}": [path for path in files if path.stem == stem] for name, stem in wanted.items()}
    return found | {"paperlike": save_film(exact_panels(shown), folder / "polar-film")}


def main(experiment: Experiment) -> None:
    """Make missing runs, measure, draw, and write the numbers and the page."""
    console, folder = experiment.console, experiment.folder
    minima = plan_minima(experiment)
    if experiment.publish:
        check_publishable("paperlike", next(iter(minima.values())).dataset)
    again = plan_runs(experiment, minima)
    experiment.run(minima, again=again, retrain_minima=False, pictures=list(again))
    started = time.monotonic()
    record = measure(experiment, minima[minimum_of(experiment, 1)], again)
    write_json(folder / "paperlike.json", record)
    write_text(folder / "paperlike.md", page(record))
    figures = draw(experiment, list(again))
    console.print(page(record), markup=False, soft_wrap=True)
    if experiment.publish:
        film = next(path for path in figures.pop("paperlike") if path.suffix == ".gif")
        shutil.copy(film, ROOT / "docs" / "paperlike.gif")
        publish("paperlike", record, figures)
        write_text(ROOT / "docs" / "paperlike.md", page(record))
    console.print(f"Figures and numbers done in {(time.monotonic() - started) / 60:.1f} min.")
    for path in (*itertools.chain(*figures.values()), folder / "paperlike.json", folder / "paperlike.md"):
        console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "paperlike")
