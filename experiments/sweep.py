"""A sweep of settings that produce the published star-shaped embedding; the paper has no such sweep.

    python -m uv run python experiments/sweep.py --scale quick

Copies of the same good and bad minima (those of figure2.py) are retrained with three learning rates and three batch
orders, and embedded by cosine distances from three centres, together with null trajectories. Numbers are written to
sweep.json, and as a table to sweep.md.
"""

import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from command import start
from records import Record, markdown_table, mean_and_spread, provenance, select
from sklearn.metrics import silhouette_score
from stages import Again, Experiment

from jaxscape.embedding.measures import radial_trend
from jaxscape.figures.panels import Panel
from jaxscape.figures.plots import methods_figure, save_figure
from jaxscape.jumps.retrain import DATA_ORDERS
from jaxscape.runs.embeddings import read_coordinates, read_diagnostics
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json, write_text
from jaxscape.runs.methods import CENTERS
from jaxscape.runs.plot import comparison_panels
from jaxscape.trajectories.files import make_folder

KINDS = ("good", "bad")
# An embedding is called a star if its directions are well separated and later epochs are closer to its centre.
LEAST_SILHOUETTE, LARGEST_TREND = 0.25, -0.5
SECONDS_PER_EMBEDDING = 1.0  # for some hundred points on 2 cores


def swept_run(experiment: Experiment, kind: str, seed: int, rate: float, order: str) -> Path:
    """Return the run folder of one setting of the sweep."""
    return experiment.folder / "sweep" / f"{kind}-{seed}-lr{rate:g}-{order}"


def settings(experiment: Experiment) -> list[tuple[str, int, float, str]]:
    """Return the kind, seed, learning rate and batch order of each run of the sweep."""
    scale = experiment.scale
    grid = [(rate, order) for rate in scale.learning_rates for order in DATA_ORDERS]
    return [(kind, seed, *each) for kind in KINDS for seed in scale.sweep_seeds for each in grid]


def plan_runs(experiment: Experiment) -> Again:
    """Return the runs of all settings, with the sources of their minima and their retraining settings."""
    minima = experiment.minima(KINDS)
    again: Again = {}
    for kind, seed, rate, order in settings(experiment):
        source = experiment.run_of(kind, seed)
        config = experiment.retraining(minima[source], **experiment.scale.sweep_retrain)
        run = swept_run(experiment, kind, seed, rate, order)
        again[run] = source, replace(config, learning_rate=rate, data_order=order)
    return again


def star(run: Path, setting: str) -> Record:
    """Measure how closely an embedding resembles the published star."""
    columns = read_coordinates(run, setting)
    picture = np.stack([columns["x"], columns["y"]], axis=1)
    return {
        "silhouette": float(silhouette_score(picture, columns["seed"])),
        "trend": float(np.nanmean(radial_trend(picture, columns["member"], columns["epoch"]))),
        "components": read_diagnostics(run, setting)["n_connected_components"],
    }


def measure_stars(experiment: Experiment) -> list[Record]:
    """Return one record per embedding of the sweep and of its null trajectories."""
    records = []
    for kind, seed, rate, order in settings(experiment):
        run = experiment.open(swept_run(experiment, kind, seed, rate, order))
        about = {"kind": kind, "seed": seed, "learning_rate": rate, "data_order": order}
        geometry = run.report()["geometry"]
        returned, null = (geometry[which]["return"]["mean"] for which in ("real", "null"))
        for center in CENTERS:
            for kind_of_null in (None, "rotated"):
                setting = run.embed(**vars(experiment.embedding(center=center, null=kind_of_null))).name
                labels = about | {"center": center, "null": kind_of_null is not None}
                records.append(labels | {"return": null if kind_of_null else returned} | star(run.folder, setting))
    return records


def draw(experiment: Experiment, stars: list[Record]) -> list[Path]:
    """Draw the first seed's embeddings for every learning rate and centre, real and null."""
    folder, scale = experiment.folder / "sweep" / "figures", experiment.scale
    make_folder(folder)
    files = []
    left = [f"learning rate {rate:g}" for rate in scale.learning_rates]
    for kind in KINDS:
        for null in (None, "rotated"):
            rows: list[list[Panel]] = []
            for rate in scale.learning_rates:
                run = swept_run(experiment, kind, scale.sweep_seeds[0], rate, "member")
                rows.append([])
                for center in CENTERS:
                    (panel,) = comparison_panels([run], experiment.embedding(center=center, null=null).name)
                    here = {"kind": kind, "seed": scale.sweep_seeds[0], "learning_rate": rate, "center": center}
                    (record,) = select(stars, **here, data_order="member", null=null is not None)
                    panel_note = f"silhouette {record['silhouette']:.2f}, trend {record['trend']:.2f}"
                    rows[-1].append(panel._replace(title=f"center {center}", note=panel_note))
            subject = "null trajectories, rotated, of" if null else "copies of"
            note = (
                f"PHATE, cosine distances, knn 5; {subject} {kind}-{scale.sweep_seeds[0]}, batch order by member. "
                "Silhouette: of directions; trend: rank correlation of epoch and distance from the picture's centre."
            )
            figure = methods_figure(rows, left=left, note=note)
            files += save_figure(figure, folder / f"{kind}{'-null' if null else ''}")
    return files


def markdown(experiment: Experiment, stars: list[Record]) -> str:
    """Return the page, with one table row per setting."""
    lines = [
        "# What makes the published star",
        "",
        f"{provenance()} {experiment.scale.dataset}; means over the minima of the seeds "
        f"{', '.join(map(str, experiment.scale.sweep_seeds))}, ± their standard deviation.",
        "",
        "Silhouette: silhouette score of the jump directions in the picture, 1 if they are well separated. Trend: rank "
        "correlation of the epoch with the distance from the picture's centre, -1 if every step goes inward. Stars: "
        f"number of pictures with a silhouette above {LEAST_SILHOUETTE} and a trend below {LARGEST_TREND}. "
        "Null: rotated null trajectories of the same runs. "
        "Return: 1 - d(end) / d(start) of the distance d from the minimum, which does not depend on the picture.",
        "",
    ]
    header = ("minimum", "learning rate", "batch order", "center", "silhouette", "null", "trend", "null", "stars")
    rows = []
    keys = ("kind", "learning_rate", "data_order", "center")
    for key in dict.fromkeys(tuple(star[name] for name in keys) for star in stars):
        pair = [select(stars, **dict(zip(keys, key, strict=True)), null=null) for null in (False, True)]
        cells = [f"{mean_and_spread(some, name)}" for name in ("silhouette", "trend") for some in pair]
        cells += [f"{sum(map(is_star, some))} of {len(some)}" for some in pair]
        cells.append(" ".join(str(each["components"]) for each in pair[0]))
        cells += [mean_and_spread(some, "return", 3) for some in pair]
        rows.append([*map(str, key), *cells])
    lines += markdown_table((*header, "null", "components", "return", "null"), rows)
    return "\n".join(lines) + "\n"


def is_star(record: Record) -> bool:
    """Return whether an embedding is a star, by the thresholds above."""
    return bool(record["silhouette"] > LEAST_SILHOUETTE and record["trend"] < LARGEST_TREND)


def main(experiment: Experiment) -> None:
    """Make missing runs, embed, draw, and write the numbers and the page."""
    console, folder = experiment.console, experiment.folder
    warnings.filterwarnings("ignore", message="the graph of")  # the table has the number of components
    pictures = 2 * len(CENTERS) * len(settings(experiment))
    minima = experiment.minima(KINDS, seeds=experiment.scale.sweep_seeds)
    experiment.run(minima, again=plan_runs(experiment), more_seconds=SECONDS_PER_EMBEDDING * pictures)
    started = time.monotonic()
    stars = measure_stars(experiment)
    record = {"command": " ".join(["python", *sys.argv]), "environment": environment()}
    write_json(folder / "sweep.json", record | {"stars": stars})
    figures = draw(experiment, stars)
    text = markdown(experiment, stars)
    write_text(folder / "sweep.md", text)
    console.print(text, markup=False, soft_wrap=True)
    console.print(f"Figures and numbers done in {(time.monotonic() - started) / 60:.1f} min.")
    for path in (*figures, folder / "sweep.md"):
        console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "sweep")
