"""An ablation of weight decay: does it make copies return? The paper has no such ablation.

    python -m uv run python experiments/decay.py --scale quick

Copies of the same good and bad minima (those of figure2.py) are retrained without weight decay, with that of the good
minima, and with ten times as much. Their distances from the minimum are measured in the parameters, and between the
directions of filters, which do not depend on the shrinking of filters by weight decay. Numbers are written to
decay.json, which claims.py reads, and as a table to decay.md.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from common import Again, Experiment, Record, mean_and_spread, provenance, select, start

from jaxscape import Run, filter_normalized_distance
from jaxscape.figures.panels import DistancePanel
from jaxscape.figures.plots import distance_figure, save_figure
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json, write_text
from jaxscape.runs.recorded import read_metrics
from jaxscape.runs.tables import read_table
from jaxscape.trajectories.files import make_folder

KINDS = ("good", "bad")
LEVELS = {"none": 0, "found": 1, "tenfold": 10}  # multiples of the good minima's weight decay


def decayed_run(experiment: Experiment, kind: str, seed: int, level: str) -> Path:
    """Return the run folder of a weight decay; it is that of figure2.py if the minimum was trained with this decay."""
    if level == ("found" if kind == "good" else "none"):
        return experiment.run_of(kind, seed)
    return experiment.folder / "decay" / f"{kind}-{seed}-decay-{level}"


def plan_runs(experiment: Experiment) -> Again:
    """Return the runs that figure2.py does not make, with the sources of their minima and their settings."""
    minima = experiment.minima(KINDS)
    decay = minima[experiment.run_of("good", experiment.scale.seeds[0])].weight_decay
    again: Again = {}
    for kind in KINDS:
        for seed in experiment.scale.seeds:
            source = experiment.run_of(kind, seed)
            for level, times in LEVELS.items():
                config = replace(experiment.retraining(minima[source]), weight_decay=times * decay)
                again[decayed_run(experiment, kind, seed, level)] = source, config
    return {run: entry for run, entry in again.items() if run not in minima}


def direction_distances(run: Run, members: Sequence[int]) -> np.ndarray:
    """Return distances from the minimum with every filter rescaled to the minimum's norm: float64 [epoch, member]."""
    store, minimum = run.store(), run.minimum().params
    snapshot_distances = jax.jit(jax.vmap(filter_normalized_distance, (0, None)))
    epochs = []
    for epoch in range(store.num_epochs):
        params = jax.tree.map(lambda leaf: leaf[0], store.read(epochs=epoch, members=members))
        epochs.append(np.asarray(snapshot_distances(params, minimum), np.float64))
    return np.stack(epochs)


def perturbed_rows(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the rows of the perturbed copies."""
    return {name: values[columns["step_size"] > 0] for name, values in columns.items()}


def measure_decays(experiment: Experiment) -> tuple[list[Record], dict[tuple[str, str], DistancePanel]]:
    """Return the records of all runs of the ablation, and the panels of the first seed."""
    records, panels = [], {}
    for kind in KINDS:
        for seed in experiment.scale.seeds:
            for level in LEVELS:
                run = experiment.open(decayed_run(experiment, kind, seed, level))
                report, losses = run.report()["geometry"], perturbed_rows(read_metrics(run.folder))
                decay = run.folder.settings("retrain").weight_decay
                columns = perturbed_rows(read_table(run.folder, run.folder.geometry))
                directions = direction_distances(run, np.unique(columns["member"]).tolist())  # without diverged copies
                directions /= directions[0]
                at_end = losses["epoch"] == losses["epoch"].max()
                records.append(
                    {
                        "kind": kind,
                        "seed": seed,
                        "decay": level,
                        "weight_decay": decay,
                        "return": report["real"]["return"]["mean"],
                        "null_return": report["null"]["return"]["mean"],
                        "return_of_directions": float(1 - directions[-1].mean()),
                        "outward": report["real"]["outward"]["mean"],
                        "outward_of_directions": float(directions.max(axis=0).mean() - 1),
                        "norm_change": report["real"]["norm_change"]["mean"],
                        "train_loss": float(np.nanmedian(losses["train_loss"][at_end])),
                        "test_accuracy": float(np.nanmedian(losses["test_accuracy"][at_end])),
                    }
                )
                if seed == experiment.scale.seeds[0]:
                    labels = {name: columns[name] for name in ("seed", "step_size", "epoch", "member")}
                    title = f"{kind}, weight decay {decay:g}"
                    panels[kind, level] = DistancePanel(
                        title, columns["distance_over_jump"], null=directions.ravel(), **labels
                    )
    return records, panels


def draw(experiment: Experiment, panels: dict[tuple[str, str], DistancePanel]) -> list[Path]:
    """Draw the first seed's distances by weight decay; the tenfold decay has its own scale."""
    folder, files = experiment.folder / "decay" / "figures", []
    make_folder(folder)
    note = "Dashed: the same with every filter rescaled to the norm of the minimum's, which leaves only directions."
    for name, levels in {"without-and-with": ("none", "found"), "tenfold": ("tenfold",)}.items():
        shown = [panels[kind, level] for kind in KINDS for level in levels]
        files += save_figure(distance_figure(shown, dashed="directions", note=note), folder / name)
    return files


def markdown(experiment: Experiment, decays: list[Record]) -> str:
    """Return the page, with one table row per minimum and weight decay."""
    lines = [
        "# What makes copies return",
        "",
        f"{provenance()} {experiment.scale.dataset}; means over the minima of the seeds "
        f"{', '.join(map(str, experiment.scale.seeds))}, ± their standard deviation.",
        "",
        "The same minima, retrained with three weight decays (the good minima were trained with the middle one). "
        '"Of directions": distances after every filter is rescaled to the norm of the minimum\'s filter.',
        "",
        "| minimum | weight decay | return | null | return of directions | outward | outward of directions | "
        "norm change | training loss at the end | test accuracy at the end |",
        "|" + "-|" * 10,
    ]
    columns = ("return", "null_return", "return_of_directions", "outward", "outward_of_directions", "norm_change")
    for key in dict.fromkeys((decay["kind"], decay["weight_decay"]) for decay in decays):
        some = select(decays, kind=key[0], weight_decay=key[1])
        cells = [mean_and_spread(some, name, 3) for name in columns]
        cells += [mean_and_spread(some, "train_loss", 4), mean_and_spread(some, "test_accuracy", 3)]
        lines.append(f"| {key[0]} | {key[1]:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(experiment: Experiment) -> None:
    """Make missing runs, measure, draw, and write the numbers and the page."""
    console, folder = experiment.console, experiment.folder
    experiment.run(experiment.minima(KINDS), again=plan_runs(experiment))
    started = time.monotonic()
    decays, panels = measure_decays(experiment)
    record = {"command": " ".join(["python", *sys.argv]), "environment": environment()}
    write_json(folder / "decay.json", record | {"decays": decays})
    figures = draw(experiment, panels)
    text = markdown(experiment, decays)
    write_text(folder / "decay.md", text)
    console.print(text, markup=False, soft_wrap=True)
    console.print(f"Figures and numbers done in {(time.monotonic() - started) / 60:.1f} min.")
    for path in (*figures, folder / "decay.md"):
        console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "decay")
