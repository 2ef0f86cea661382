"""Where PHATE preserves an artificial tree better than other methods, and where it does not (the paper's Sec. 4).

    python -m uv run python experiments/embedding_map.py --scale quick --no-plan --publish

Trees with known geodesic distances are embedded by PHATE and its rivals: t-SNE (initialised by PCA), UMAP, PCA and
metric MDS. The map goes over the kind of noise, its level, the number of points, the dimension, and the number and
length of branches. All methods get the same euclidean distances. A tree's coordinates are centred and divided by their
common standard deviation. Then noise is added (`gaussian`, its standard deviation is the level), or they are the
logarithms of expected counts, up to a constant: the level is the count expected at their mean. Counts are Poisson
(`poisson`), or negative binomial with dropout and library sizes (`single-cell`). As usual for such data, counts are
divided by their sum over the coordinates of a point, and the square root is taken.

Scores. `demap`: Spearman's correlation of embedded distances with geodesic ones, over all pairs. It favours methods
that preserve all distances (MDS, PCA): along a straight branch the geodesic distance is the euclidean one.
`continuous`: the share of steps along branches whose next point is one of the two nearest; it favours methods that
preserve neighbours (t-SNE, UMAP). `broken`: the share of steps with more points between them, by 5 % of all, than the
distances themselves have.

RULES, fixed before the first run on the seeds 100 to 109 (the history of this file shows it; the levels were chosen
with PHATE and PCA on single trees of seed 0):

1. In a cell PHATE wins if Student's 95 % interval, over trees, of its DeMAP minus that of the best rival lies above 0,
   and loses if it lies below 0. The best rival is the one with the largest mean over the trees of the cell. "PHATE" is
   PHATE with its defaults: knn 5 and t at the knee of the entropy. Other settings of PHATE are scored alike, and none
   is chosen after the fact. Where t is so large that all points fall together, the DeMAP counts as 0.
2. Cells are not corrected for their number: of 40 cells without a difference one is expected to win, and one to lose.
3. Claims are decided on trees of 10 branches of 20 points in 100 dimensions; a tree's value is its mean over the four
   levels. There is one claim of each sort for each kind of noise, and one family for Holm's correction:
   - "PHATE preserves global relationships better than any other method": DeMAP, minus that of the best rival, above 0;
     a difference of 0.02 does not matter. The same with `continuous` for trajectories.
   - "PCA is highly affected by noise": its DeMAP falls by more than 0.1 from the least to the most noise, and by more
     than PHATE's; a difference of 0.02 from PHATE does not matter.
   - "t-SNE (UMAP) shatters branches": more than 5 % of the steps are broken, and more than by PHATE; a difference of
     0.01 from PHATE does not matter.

Every cell is written when it is done, so that the same command resumes. `--publish` also writes
benchmarks/results/embedding_map.json, docs/embedding_map.png and the tables of docs/embedding.md.
"""

import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from claims_rules import interval_text, judge_record
from command import start
from matplotlib.figure import Figure
from records import ROOT, Record, markdown_table, publish, select
from scales import Scale
from scipy.spatial.distance import pdist, squareform
from stages import Experiment
from threadpoolctl import threadpool_limits

from jaxscape import artificial_tree, count_noise, demap, holm_verdicts, mds, successor_rank
from jaxscape.embedding.baselines import pca, tsne, umap
from jaxscape.embedding.fidelity import BROKEN
from jaxscape.embedding.phate import phate
from jaxscape.embedding.tree import Tree
from jaxscape.figures.layout import SMALL
from jaxscape.figures.palette import GREY, HUES, INK
from jaxscape.figures.plots import save_figure
from jaxscape.figures.style import own_style
from jaxscape.generalization.inference import MeanInterval, mean_interval
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json, write_text

MARKS = "<!-- embedding_map.py writes from here -->\n", "<!-- to here -->\n"

SINGLE_CELL = {"dispersion": 0.5, "dropout": 0.5, "library": 0.5}
# From the least to the most noise: standard deviations, or expected counts.
LEVELS = {"gaussian": (0.0, 0.5, 1.0, 2.0), "poisson": (3.0, 1.0, 0.3, 0.1), "single-cell": (10.0, 3.0, 1.0, 0.3)}
BRANCHES, SIZE = 10, 100
OTHER_LEVEL = 2  # the level at which other shapes of trees are tried

RIVALS: dict[str, Callable[[np.ndarray], Any]] = {"t-SNE": tsne, "UMAP": umap, "PCA": pca, "MDS": mds}
PHATES: dict[str, dict[str, Any]] = {
    "PHATE": {},
    "PHATE, t 10": {"t": 10},
    "PHATE, t 100": {"t": 100},
    "PHATE, connected": {"knn": "connect"},
}
SCORES = ("demap", "continuous", "broken")


class Cell(NamedTuple):
    """Trees of one shape with one kind and level of noise."""

    kind: str
    level: float
    branches: int
    points: int  # per branch
    size: int

    @property
    def file(self) -> str:
        """The name of its results."""
        return f"{self.kind}-{self.level:g}-{self.branches}x{self.points}-{self.size}.json"


def cells(scale: Scale) -> list[Cell]:
    """Return all cells, those of the claims first, then small trees before large ones."""
    first, *more = (
        [Cell(kind, level, BRANCHES, length, SIZE) for kind, levels in LEVELS.items() for level in levels]
        for length in scale.map_points
    )
    others = [Cell(kind, LEVELS[kind][OTHER_LEVEL], *shape) for shape in scale.map_shapes for kind in LEVELS]
    others += itertools.chain.from_iterable(more)
    return first + sorted(others, key=lambda cell: cell.branches * cell.points)


def make_tree(cell: Cell, seed: int) -> tuple[Tree, np.ndarray]:
    """Return the tree without noise, and its points with noise (n, size)."""
    tree = artificial_tree(branches=cell.branches, points=cell.points, size=cell.size, seed=seed)
    exact = tree.points - tree.points.mean(axis=0)
    exact /= exact.std()
    if cell.kind == "gaussian":
        # A stream of its own, independent of the tree's.
        generator = np.random.default_rng((seed, 1))
        return tree, exact + cell.level * generator.standard_normal(exact.shape)
    options = SINGLE_CELL if cell.kind == "single-cell" else {}
    counts = count_noise(exact + np.log(cell.level), seed=seed + 1_000_000, **options)
    return tree, normalize_counts(counts)


def normalize_counts(counts: np.ndarray) -> np.ndarray:
    """Return the square roots of counts (n, size), after every point has been scaled to the median sum of a point.

    A point without any count stays at 0.
    """
    sums = counts.sum(axis=1, keepdims=True)
    return np.sqrt(counts * (np.median(sums) / np.maximum(sums, 1)))


# The runs.


def measure(cell: Cell, seed: int) -> list[Record]:
    """Return the scores of every method on one tree; None where PHATE's t is too large."""
    tree, points = make_tree(cell, seed)
    distances = squareform(pdist(points))
    about = {**cell._asdict(), "seed": seed}
    truly = successor_rank(points, tree.branch, tree.place)
    records = [about | {"method": "the distances", **_scores(tree, points, truly)}]
    automatic = phate(distances)
    for method, settings in PHATES.items():
        found: Record = {"t": None, "components": None, **dict.fromkeys(SCORES)}
        try:
            result = phate(distances, previous=automatic, **settings)
        except ValueError as error:
            if "is too large" not in str(error):
                raise
        else:
            found = {"t": result.t, "components": result.n_connected_components}
            found |= _scores(tree, result.embedding, truly)
        records.append(about | {"method": method, **found})
    for method, embed in RIVALS.items():
        records.append(about | {"method": method, **_scores(tree, embed(distances).embedding, truly)})
    return records


def _scores(tree: Tree, picture: np.ndarray, truly: np.ndarray) -> Record:
    nearer = successor_rank(picture, tree.branch, tree.place)
    return {
        "demap": round(demap(tree.geodesics, picture), 5),
        "continuous": round(float((nearer <= 1).mean()), 5),
        "broken": round(float((nearer - truly > BROKEN * len(picture)).mean()), 5),
    }


def measure_all(experiment: Experiment) -> list[Record]:
    """Return the records of all cells; those that are on disk are not computed again."""
    folder, seeds = experiment.folder / "embedding_map", list(experiment.scale.map_seeds)
    todo, records = cells(experiment.scale), []
    for number, cell in enumerate(todo):
        path, started = folder / cell.file, time.monotonic()
        found = json.loads(path.read_text()) if path.exists() else []
        if {each["seed"] for each in found} != set(seeds):
            with threadpool_limits(1):  # at these sizes threads that wait for one another take most of the time
                found = [each for seed in seeds for each in measure(cell, seed)]
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, found)
            experiment.console.print(
                f"{number + 1} of {len(todo)}: {path.stem}, {time.monotonic() - started:.0f} s", markup=False
            )
        records += found
    return records


# The analysis: from the records alone.


def scores(records: list[Record], cell: Cell, method: str, name: str = "demap") -> np.ndarray:
    """Return a score of each tree of a cell; 0 where there is no embedding."""
    return np.array([each[name] or 0.0 for each in select(records, **cell._asdict(), method=method)])


class Comparison(NamedTuple):
    """One setting of PHATE beside the best rival of a cell (rule 1)."""

    rival: str
    difference: MeanInterval
    outcome: str  # wins, loses, level


def compare(records: list[Record], cell: Cell, method: str = "PHATE") -> Comparison:
    """Return the difference from the best rival, and who wins."""
    rivals = {name: scores(records, cell, name) for name in RIVALS}
    rival = max(rivals, key=lambda name: float(rivals[name].mean()))
    found = mean_interval(scores(records, cell, method) - rivals[rival])
    outcome = "wins" if found.low > 0 else "loses" if found.high < 0 else "level"
    return Comparison(rival, found, outcome)


def claims(records: list[Record], points: int) -> list[Record]:
    """Return the claims of the paper's Sec. 4 with a value per tree (rule 3)."""
    found = []
    for kind in LEVELS:
        table = partial(_by_level, records, kind, points)
        for name, what in (("demap", "global relationships"), ("continuous", "trajectories")):
            rivals = {rival: table(rival, name).mean(axis=0) for rival in RIVALS}
            best = max(rivals, key=lambda rival: float(rivals[rival].mean()))
            found.append(
                _claim(
                    f"PHATE preserves {what} better than any other method, {kind} noise.",
                    f"{name}, PHATE - {best} (the best rival), mean over levels of noise",
                    table("PHATE", name).mean(axis=0) - rivals[best],
                    margin=0.02,
                )
            )
        fall = {method: (lambda by: by[0] - by[-1])(table(method, "demap")) for method in ("PCA", "PHATE")}
        found.append(
            _claim(
                f"PCA is highly affected by noise, {kind} noise.",
                "DeMAP of PCA at the least noise - at the most",
                fall["PCA"],
                {"PHATE": fall["PHATE"]},
                threshold=0.1,
                margin=0.02,
            )
        )
        for method in ("t-SNE", "UMAP"):
            found.append(
                _claim(
                    f"{method} shatters trajectories that should be connected, {kind} noise.",
                    f"share of steps that {method} breaks, mean over levels of noise",
                    table(method, "broken").mean(axis=0),
                    {"PHATE": table("PHATE", "broken").mean(axis=0)},
                    threshold=0.05,
                    margin=0.01,
                )
            )
    return found


def _by_level(records: list[Record], kind: str, points: int, method: str, name: str) -> np.ndarray:
    """Return a score, [level, tree]."""
    return np.array(
        [scores(records, Cell(kind, level, BRANCHES, points, SIZE), method, name) for level in LEVELS[kind]]
    )


def _claim(
    text: str,
    statistic: str,
    values: np.ndarray,
    surrogates: dict[str, np.ndarray] | None = None,
    *,
    threshold: float = 0.0,
    margin: float,
) -> Record:
    surrogates = surrogates or {}
    return {
        "source": "4",
        "text": text,
        "statistic": statistic,
        "values": values.round(6).tolist(),
        "surrogates": {name: each.round(6).tolist() for name, each in surrogates.items()},
        "threshold": threshold,
        "margin": margin,
        # A threshold above 0 is already the smallest size that matters.
        "threshold_margin": 0.0 if surrogates else margin,
        "above": True,
        "family": "embedding",
    }


def verdicts(found: list[Record]) -> list[tuple[MeanInterval, str]]:
    """Return the interval of every claim's value, and its verdict after Holm's correction."""
    judged = [judge_record(each) for each in found]
    return [(each.value, verdict) for each, verdict in zip(judged, holm_verdicts(judged), strict=True)]


# The page and the figure.


def page(records: list[Record], found: list[Record], grid: list[Cell]) -> str:
    """Return the tables of docs/embedding.md."""
    methods = (*PHATES, *RIVALS)
    lines = []
    for method in PHATES:
        outcomes = [compare(records, cell, method).outcome for cell in grid]
        counts = ", ".join(
            f"{sum(outcome == each for outcome in outcomes)} {word}"
            for each, word in (("wins", "won"), ("level", "level"), ("loses", "lost"))
        )
        lines.append(f"- {method}: of {len(grid)} cells {counts}.")
    rows = []
    for cell in sorted(grid, key=lambda cell: (list(LEVELS).index(cell.kind), LEVELS[cell.kind].index(cell.level))):
        means = [scores(records, cell, method).mean() for method in methods]
        shown = [f"**{mean:.2f}**" if round(mean, 2) == round(max(means), 2) else f"{mean:.2f}" for mean in means]
        result = compare(records, cell)
        text = f"{interval_text(result.difference)} {result.rival}, {result.outcome}"
        shape = f"{cell.branches} x {cell.points}, {cell.size}"
        rows.append([cell.kind, f"{cell.level:g}", shape, *shown, text])
    lines += ["", *markdown_table(["noise", "level", "tree", *methods, "PHATE - best rival"], rows)]
    rows = []
    for claim, (value, verdict) in zip(found, verdicts(found), strict=True):
        beside = "".join(f"; {name} {np.mean(each):.3f}" for name, each in claim["surrogates"].items())
        rows.append([claim["text"], f"{claim['statistic']}: {interval_text(value)}{beside}", f"**{verdict}**"])
    lines += ["", *markdown_table(["claim (Sec. 4)", "value", "verdict"], rows)]
    return "\n".join(lines) + "\n"


@own_style()
def draw(records: list[Record], points: Iterable[int]) -> Figure:
    """Return the figure: differences from the best rival over noise x points, and every method over noise."""
    lengths = sorted(points)
    figure = Figure(figsize=(6.8, 5.6), layout="constrained")
    axes = figure.subplots(3, len(LEVELS), height_ratios=[1, 1, 1.5])
    for row, method in enumerate(("PHATE", "PHATE, t 100")):
        for column, (kind, levels) in enumerate(LEVELS.items()):
            ax = axes[row, column]
            results = [
                [compare(records, Cell(kind, level, BRANCHES, length, SIZE), method) for level in levels]
                for length in lengths
            ]
            values = np.array([[each.difference.mean for each in line] for line in results])
            image = ax.imshow(values, cmap="RdBu", vmin=-0.4, vmax=0.4, aspect="auto", origin="lower")
            for (y, x), value in np.ndenumerate(values):
                mark = {"wins": "+", "loses": "\N{MINUS SIGN}", "level": "="}[results[y][x].outcome]
                color = "white" if abs(value) > 0.25 else INK
                ax.text(x, y, f"{value:.2f}\n{mark}", ha="center", va="center", fontsize=SMALL, color=color)
            ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
            ax.set_yticks(range(len(lengths)), [str(BRANCHES * length) for length in lengths])
            ax.set_title(f"{method}: {kind}")
            if column == 0:
                ax.set_ylabel("points")
    figure.colorbar(image, ax=axes[:2], label="DeMAP minus that of the best rival", shrink=0.8)
    first = next(iter(points))
    for column, (kind, levels) in enumerate(LEVELS.items()):
        ax = axes[2, column]
        # On connected graphs, as nearly all are, PHATE and PHATE, connected are the same line.
        drawn = (*RIVALS, *(method for method in PHATES if PHATES[method].get("knn") != "connect"))
        for number, method in enumerate(drawn):
            means = [scores(records, Cell(kind, level, BRANCHES, first, SIZE), method).mean() for level in levels]
            style = "--" if method in PHATES and method != "PHATE" else "-"
            ax.plot(means, style, marker=".", color=HUES[number], label=method, lw=2 if method == "PHATE" else 1)
        means = [scores(records, Cell(kind, level, BRANCHES, first, SIZE), "the distances").mean() for level in levels]
        ax.plot(means, ":", color=GREY, label="the distances")
        ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels])
        ax.set_xlabel("standard deviation" if kind == "gaussian" else "expected count")
        ax.set_ylim(0, 1)
        ax.set_title(f"{BRANCHES * first} points: {kind}")
    axes[2, 0].set_ylabel("DeMAP")
    figure.legend(*axes[2, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=SMALL)
    return figure


def write_tables(text: str) -> None:
    """Write the tables into docs/embedding.md."""
    target = ROOT / "docs" / "embedding.md"
    before, _, rest = target.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    write_text(target, before + MARKS[0] + "\n" + text + "\n" + MARKS[1] + after)


def main(experiment: Experiment) -> None:
    """Embed all trees, decide, draw, and write the records."""
    warnings.filterwarnings("ignore", message="the graph of")
    warnings.filterwarnings("ignore", message="the picture is degenerate")
    points, folder = experiment.scale.map_points, experiment.folder
    records = measure_all(experiment)
    found = claims(records, points[0])
    text = page(records, found, cells(experiment.scale))
    record = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "seeds": list(experiment.scale.map_seeds),
        "claims": found,
        "trees": records,
    }
    write_json(folder / "embedding_map.json", record)
    write_text(folder / "embedding_map.md", text)
    figures = save_figure(draw(records, points), folder / "embedding_map" / "embedding_map")
    experiment.console.print(text, markup=False, soft_wrap=True)
    if experiment.publish:
        publish("embedding_map", record, {"embedding_map": figures})
        write_tables(text)
    for path in figures:
        experiment.console.print(f"{path}")


if __name__ == "__main__":
    start(main, __doc__, "embedding_map")
