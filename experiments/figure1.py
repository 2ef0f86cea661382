"""The paper's Fig. 1: the same retraining and an artificial tree, embedded by every method, with fidelity measures.

    python -m uv run python experiments/figure1.py --scale quick

The runs are those of figure2.py, and are not repeated. The figure shows the first seed's good minimum; numbers are
means over all minima of all kinds, and over trees of ten seeds. They go to figure1.json.
"""

import sys
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from command import start
from records import markdown_table
from rich.console import Console
from scales import Scale
from scipy.spatial.distance import pdist, squareform
from stages import Experiment

from jaxscape import Run, artificial_tree, demap, pairwise_distances, rank_correlation, successor_rank
from jaxscape.embedding.baselines import pca, random_plane, tsne, umap
from jaxscape.embedding.measures import successor_rank_of_distances
from jaxscape.embedding.phate import phate
from jaxscape.figures.panels import Panel
from jaxscape.figures.plots import methods_figure, save_figure
from jaxscape.runs.config import PRESETS
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json
from jaxscape.trajectories.files import make_folder

Records = list[dict[str, Any]]
Panels = dict[tuple[str, str], Panel]

METHODS: dict[str, Callable[[np.ndarray], Any]] = {
    "PHATE": phate,
    "PHATE, connected": partial(phate, knn="connect"),
    "PHATE, t 200": partial(phate, t=200),
    "t-SNE": tsne,
    "UMAP": umap,
    "PCA": pca,
    "random plane": partial(random_plane, key=jax.random.key(0)),
}
# Row by row, as in the paper.
ROWS = {
    "euclidean": ("PHATE", "PHATE, connected", "t-SNE", "UMAP", "PCA"),
    "cosine": ("PHATE", "PHATE, connected", "t-SNE", "UMAP", "random plane"),
    "tree": ("PHATE", "PHATE, t 200", "t-SNE", "UMAP", "PCA"),
}
NEIGHBOURS = 50
DRAWN_NOISE = 1.0  # noise of the tree in the figure


def methods_of(data: str, points: int) -> dict[str, Callable[[np.ndarray], Any]]:
    """Return the methods for this kind of data and number of points.

    PCA and the random plane need euclidean distances, and PHATE with t = 200 collapses a small number of points.
    """
    skipped = {"PCA", "random plane"} if data == "cosine" else set()
    skipped |= {"PHATE, t 200"} if points < 100 else set()
    return {method: embed for method, embed in METHODS.items() if method not in skipped}


def runs(folders: Iterable[Path], drawn: Path, console: Console) -> tuple[Records, Panels]:
    """Return the measures of every method on every run, and the panels of one run."""
    records, panels = [], {}
    for folder in folders:
        measured = Run(folder, quiet=True).measured()
        labels = {name: measured.labels[name] for name in ("seed", "step_size", "epoch", "member")}
        where = (labels["member"], labels["epoch"])
        for metric in ("euclidean", "cosine"):
            distances = pairwise_distances(measured.gram, metric=metric)
            records.append(_record(folder, metric, "the distances", successor_rank_of_distances(distances, *where)))
            for method, embed in methods_of(metric, len(distances)).items():
                picture = embed(distances).embedding
                neighbours = min(NEIGHBOURS, len(picture) - 1)
                numbers = {
                    "local": rank_correlation(distances, picture, neighbours=neighbours),
                    "global": rank_correlation(distances, picture),
                }
                records.append(_record(folder, metric, method, successor_rank(picture, *where)) | numbers)
                if folder == drawn:
                    row = "cosine" if method == "random plane" else metric
                    note = f"continuous {records[-1]['continuous']:.0%}, global {numbers['global']:.2f}"
                    panels[row, method] = Panel(title=method, embedding=picture, note=note, **labels)
        console.print(f"{folder}: every method done")
    return records, panels


def trees(scale: Scale, console: Console) -> tuple[Records, Panels]:
    """Return the DeMAP of every method on trees of several seeds and noises, and the panels of one tree."""
    records, panels = [], {}
    for noise in scale.noises:
        for seed in range(scale.trees):
            tree = artificial_tree(points=scale.tree_points, noise=noise, seed=seed)
            distances = squareform(pdist(tree.points))
            for method, embed in methods_of("tree", len(distances)).items():
                picture = embed(distances).embedding
                record = {"data": "tree", "noise": noise, "seed": seed, "method": method}
                nearer = successor_rank(picture, tree.branch, tree.place)
                records.append(record | {"demap": demap(tree.geodesics, picture), "continuous": _fraction(nearer)})
                if (noise, seed) == (DRAWN_NOISE, 0):
                    columns = {"seed": tree.branch, "step_size": np.ones(len(picture)), "epoch": tree.place}
                    note = f"DeMAP {records[-1]['demap']:.2f}"
                    columns |= {"member": tree.branch}
                    panels["tree", method] = Panel(title=method, embedding=picture, note=note, **columns)
        console.print(f"trees with noise {noise}: every method done")
    return records, panels


def _record(folder: Path, metric: str, method: str, nearer: np.ndarray) -> dict[str, Any]:
    about = {"data": f"{folder.parent.name}/{folder.name}", "metric": metric, "method": method}
    return about | {"continuous": _fraction(nearer), "nearer": float(nearer.mean())}


def _fraction(nearer: np.ndarray) -> float:
    """Return the fraction of steps whose next point is one of the two nearest (the other may be the previous one)."""
    return float((nearer <= 1).mean())


def table(records: Records, by: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """Return a Markdown table of mean ± standard deviation over the records with equal values of `by`."""
    rows = []
    for key in dict.fromkeys(tuple(record[name] for name in by) for record in records):
        some = [record for record in records if tuple(record[name] for name in by) == key]
        cells = []
        for column in columns:
            values = [record[column] for record in some if column in record]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "")
        rows.append(list(map(str, (*key, *cells, len(some)))))
    return "\n".join(markdown_table((*by, *columns, "n"), rows))


def estimate_seconds(experiment: Experiment, num_runs: int) -> float:
    """Estimate the time of all embeddings, from one run of every compiled method on trees of equally many points."""
    config = experiment.retraining(next(iter(experiment.minima(PRESETS).values())))
    run_points = len(config.seeds) * len(config.step_sizes) * (config.epochs + 1)
    tree_points = len(artificial_tree(points=experiment.scale.tree_points).points)
    work = [("tree", tree_points, len(experiment.scale.noises) * experiment.scale.trees)]
    work += [("euclidean", run_points, num_runs), ("cosine", run_points, num_runs)]
    seconds = 0.0
    for data, points, count in work:
        small, large = (artificial_tree(branches=5, points=max(n // 5, 4), noise=1.0) for n in (100, points))
        for embed in methods_of(data, points).values():
            embed(squareform(pdist(small.points)))
            started = time.monotonic()
            embed(squareform(pdist(large.points)))
            seconds += count * (time.monotonic() - started)
    return seconds


def main(experiment: Experiment) -> None:
    """Make missing runs, embed, draw, print the tables, and write the records."""
    console, folder, scale = experiment.console, experiment.folder, experiment.scale
    minima = experiment.minima(PRESETS)
    drawn = experiment.run_of("good", scale.seeds[0])
    warnings.filterwarnings("ignore", message="the graph of")  # disconnected graphs are visible in the tables
    experiment.run(minima, more_seconds=estimate_seconds(experiment, len(minima)))
    started = time.monotonic()
    run_records, panels = runs(minima, drawn, console)
    tree_records, more = trees(scale, console)
    panels |= more
    console.print(table(run_records, ("metric", "method"), ("continuous", "nearer", "local", "global")))
    console.print(table(tree_records, ("noise", "method"), ("demap", "continuous")))
    record = {"command": " ".join(["python", *sys.argv]), "environment": environment()}
    write_json(folder / "figure1.json", record | {"runs": run_records, "trees": tree_records})
    rows = [[panels[row, method] for method in methods] for row, methods in ROWS.items()]
    left = ("A: euclidean distances", "B: cosine distances", "C: a tree of ten branches")
    note = (
        f"A and B: {drawn.name}, {scale.dataset}; "
        "continuous: steps whose next point is one of the two nearest; global: rank correlation of distances. "
        "The random plane is that of the euclidean distances. "
        "C: noise 1; a diamond marks the start of a branch, along which points get darker."
    )
    make_folder(folder / "figure1")
    figures = save_figure(methods_figure(rows, left=left, note=note), folder / "figure1" / "figure1")
    console.print(f"Done in {(time.monotonic() - started) / 60:.1f} min.")
    for path in figures:
        console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "figure1")
