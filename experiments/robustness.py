"""Robustness of a run's PHATE embedding: how much it depends on the settings.

    python -m uv run python experiments/robustness.py jaxscape-demo/good --picture docs/robustness \
        --json benchmarks/results/robustness.json

The Procrustes disparity of two embeddings is 0 if they are equal up to rotation, reflection and scale, and 1 if they
are unrelated. The last rows are from the `phate` package with its default solver and different seeds.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import phate as package
from matplotlib.figure import Figure

from jaxscape import Run, pairwise_distances, phate, procrustes_disparity
from jaxscape.figures.plots import save_figure
from jaxscape.figures.style import own_style
from jaxscape.runs.environment import environment
from jaxscape.runs.measure import Measured

SEEDS = range(3)


def pictures(measured: Measured) -> dict[str, np.ndarray]:
    """Return the coordinates of the trajectories for each setting; the first setting is the baseline."""
    raw = pairwise_distances(measured.gram)
    base = phate(raw)
    embeddings = {"vectors, knn 5": base.embedding}
    for knn in (3, 10, "connect"):
        result = phate(raw, knn=knn)
        embeddings[f"knn {knn}" if knn != "connect" else f"knn {result.knn} (connected)"] = result.embedding
    for t in (base.t // 2, 2 * base.t, 4 * base.t):
        embeddings[f"t {t}, not {base.t}"] = phate(raw, t=t, previous=base).embedding
    embeddings["potentials by cosine"] = phate(raw, potential_metric="cosine", previous=base).embedding
    embeddings["with the minimum"] = phate(pairwise_distances(measured.gram, include_reference=True)).embedding[1:]
    embeddings["euclidean distance"] = phate(pairwise_distances(measured.gram, metric="euclidean")).embedding
    for center, words in (("mean", "from the mean"), ("reference", "from the minimum")):
        embeddings[words] = phate(pairwise_distances(measured.gram, center=center)).embedding
    for seed in SEEDS:
        operator = package.PHATE(knn_dist="precomputed_distance", n_landmark=None, random_state=seed, verbose=0)
        embeddings[f"the package, seed {seed}"] = operator.fit_transform(raw.copy())
    return embeddings


@own_style()
def disparity_figure(names: list[str], disparities: np.ndarray, note: str) -> Figure:
    """Draw the disparities of all pairs as a table with grey levels."""
    fig = Figure(figsize=(7.5, 6.2), layout="constrained")
    ax = fig.subplots()
    ax.imshow(disparities, cmap="Greys", vmin=0, vmax=1.4)
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=7)
    ax.set_yticks(range(len(names)), names, fontsize=7)
    for (row, column), value in np.ndenumerate(disparities):
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7)
    ax.set_title(note)
    return fig


def main() -> None:
    """Embed, compare, draw, and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--picture", type=Path, help="path of the figure, without a suffix")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")  # about disconnected graphs, and from the package's solver
    embeddings = pictures(Run(options.run, quiet=True).measured())
    names = list(embeddings)
    disparities = np.array([[procrustes_disparity(embeddings[a], embeddings[b]) for b in names] for a in names])
    for name, value in zip(names, disparities[0], strict=True):
        print(f"{name:24} {value:.3f}")
    if options.picture:
        note = f"{options.run.name}: Procrustes disparity of pictures of the same trajectories"
        save_figure(disparity_figure(names, disparities, note), options.picture)
    if options.json:
        record = {"command": " ".join(["python", *sys.argv]), "environment": environment(), "settings": names}
        options.json.write_text(json.dumps(record | {"disparities": disparities.tolist()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
