"""The paper's Fig. 1: the same retraining and an artificial tree by every method, with numbers for what it shows.

    python -m uv run python benchmarks/demo.py --seeds 0 1 2 --folder demos --json benchmarks/results/demo.json
    python -m uv run python experiments/figure1.py demos/seed*/good demos/seed*/bad demos/seed*/memorization \
        --picture docs/figure1 --json benchmarks/results/figure1.json

The picture is of the first run; numbers are means over the runs, and over trees of ten seeds. Takes some ten minutes on
2 CPU cores, most of them UMAP's.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from scipy.spatial.distance import pdist, squareform

from jaxscape import artificial_tree, continuity, demap, pairwise_distances, rank_correlation
from jaxscape.app.folder import environment
from jaxscape.app.measure import measure
from jaxscape.embedding.baselines import pca, random_plane, tsne, umap
from jaxscape.embedding.measures import continuity_of_distances
from jaxscape.embedding.phate import phate
from jaxscape.figures.panels import Panel
from jaxscape.figures.plots import methods_figure, save_figure

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
NOISES, SEEDS = (0.0, 0.3, 1.0, 2.0, 4.0, 6.0), range(10)
NEIGHBOURS = 50


def runs(folders: list[Path]) -> tuple[list[dict[str, Any]], dict[tuple[str, str], Panel]]:
    """Numbers of every method on every run, and the panels of the first."""
    records, panels = [], {}
    for folder in folders:
        measured = measure(folder, console=Console(quiet=True))
        labels = {name: measured.labels[name] for name in ("seed", "step_size", "epoch", "member")}
        where = (labels["member"], labels["epoch"])
        for metric in ("euclidean", "cosine"):
            distances = pairwise_distances(measured.gram, metric=metric)
            records.append(_record(folder, metric, "the distances", continuity_of_distances(distances, *where)))
            for method, embed in METHODS.items():
                if method in ("PCA", "random plane") and metric == "cosine":
                    continue  # both are made of euclidean distances
                picture = embed(distances).embedding
                numbers = {
                    "local": rank_correlation(distances, picture, neighbours=NEIGHBOURS),
                    "global": rank_correlation(distances, picture),
                }
                records.append(_record(folder, metric, method, continuity(picture, *where)) | numbers)
                if folder == folders[0]:
                    row = "cosine" if method == "random plane" else metric
                    note = f"continuous {records[-1]['continuous']:.0%}, global {numbers['global']:.2f}"
                    panels[row, method] = Panel(title=method, embedding=picture, note=note, **labels)
            print(f"{folder}, {metric}: done", flush=True)
    return records, panels


def trees() -> tuple[list[dict[str, Any]], dict[tuple[str, str], Panel]]:
    """DeMAP of every method on trees of several seeds and noises, and the panels of one."""
    records, panels = [], {}
    for noise in NOISES:
        for seed in SEEDS:
            tree = artificial_tree(noise=noise, seed=seed)
            distances = squareform(pdist(tree.points))
            for method, embed in METHODS.items():
                picture = embed(distances).embedding
                record = {"data": "tree", "noise": noise, "seed": seed, "method": method}
                nearer = continuity(picture, tree.branch, tree.place)
                records.append(record | {"demap": demap(tree.geodesics, picture), "continuous": _share(nearer)})
                if (noise, seed) == (1.0, 0):
                    columns = {"seed": tree.branch, "step_size": np.ones(len(picture)), "epoch": tree.place}
                    note = f"DeMAP {records[-1]['demap']:.2f}"
                    columns |= {"member": tree.branch}
                    panels["tree", method] = Panel(title=method, embedding=picture, note=note, **columns)
        print(f"trees with noise {noise}: done", flush=True)
    return records, panels


def _record(folder: Path, metric: str, method: str, nearer: np.ndarray) -> dict[str, Any]:
    about = {"data": f"{folder.parent.name}/{folder.name}", "metric": metric, "method": method}
    return about | {"continuous": _share(nearer), "nearer": float(nearer.mean())}


def _share(nearer: np.ndarray) -> float:
    """The share of steps whose next point is one of the two nearest: the other may be the one before."""
    return float((nearer <= 1).mean())


def table(records: list[dict[str, Any]], by: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """Markdown: mean ± standard deviation over the records that agree in `by`."""
    lines = [f"| {' | '.join((*by, *columns, 'n'))} |", "|-" * (len(by) + len(columns) + 1) + "|"]
    for key in dict.fromkeys(tuple(record[name] for name in by) for record in records):
        some = [record for record in records if tuple(record[name] for name in by) == key]
        cells = []
        for column in columns:
            values = [record[column] for record in some if column in record]
            cells.append(f"{np.mean(values):.3f} ± {np.std(values):.3f}" if values else "")
        lines.append(f"| {' | '.join(map(str, (*key, *cells, len(some))))} |")
    return "\n".join(lines)


def main() -> None:
    """Embed, draw, print the tables, write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--picture", type=Path, help="its path without a suffix")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="the graph of")  # the tables say it
    of_runs, panels = runs(options.runs)
    of_trees, more = trees()
    panels |= more
    print(table(of_runs, ("metric", "method"), ("continuous", "nearer", "local", "global")))
    print(table(of_trees, ("noise", "method"), ("demap", "continuous")))
    if options.picture:
        rows = [[panels[row, method] for method in methods] for row, methods in ROWS.items()]
        left = ("A: euclidean distances", "B: cosine distances", "C: a tree of ten branches")
        note = (
            f"A and B: {options.runs[0].name} of the demo; "
            "continuous: steps whose next point is one of the two nearest; global: rank correlation of distances. "
            "The random plane is of the euclidean distances. "
            "C: noise 1; a diamond is where a branch begins, points are darker along it."
        )
        save_figure(methods_figure(rows, left=left, note=note), options.picture)
    if options.json:
        record = {"command": " ".join(["python", *sys.argv]), "environment": environment()}
        options.json.write_text(json.dumps(record | {"runs": of_runs, "trees": of_trees}, indent=1) + "\n")


if __name__ == "__main__":
    main()
