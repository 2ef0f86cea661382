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
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import ROOT, Again, Experiment, Record, publish, start
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jaxscape import (
    Run,
    drift,
    holm,
    mean_interval,
    mean_test,
    scale_free,
    split_displacements,
    trajectory_geometry,
)
from jaxscape.figures.layout import SMALL
from jaxscape.figures.palette import GREY, HUES, INK
from jaxscape.figures.plots import save_figure
from jaxscape.figures.style import own_style
from jaxscape.runs.config import TrainConfig
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json, write_text
from jaxscape.runs.null import nulls_of
from jaxscape.runs.recorded import read_metrics
from jaxscape.trajectories.geometry import trajectory_rows

KINDS = ("bad", "good")  # in the order of the factor's levels
FACTORS = ("kind", "decay", "crops")
EFFECTS = tuple(names for size in (1, 2, 3) for names in itertools.combinations(FACTORS, size))
WAYS = {(0, 0): "neither", (0, 1): "crops", (1, 0): "decay", (1, 1): "decay + crops"}  # (decay, crops)
PAPER = (1, 1, 1), (0, 0, 0)  # good with decay and crops, bad with neither: (kind, decay, crops)


class Response(NamedTuple):
    """A number of a cell, with its meaning and the smallest difference that matters (rule 3)."""

    meaning: str
    margin: float


RESPONSES = {
    "return": Response("1 - d(end) / d(start), d the distance from the minimum", 0.01),
    "return_to_drifted": Response("the same, d from the mean of the step-0 copies at that epoch", 0.01),
    "return_of_directions": Response("the same as return, after every filter is rescaled to the minimum's norm", 0.01),
    "decay_part": Response("way back along the jump by weight decay / jump", 0.01),
    "gradient_part": Response("way back along the jump by the gradients / jump", 0.01),
    "gradient_beyond_exchange": Response("the same, minus that of the exchange surrogate", 0.01),
    "sideways_part": Response("return - decay part - gradient part: movement across the jump", 0.01),
    "cosine_beyond_exchange": Response("cosine of the gradient part with the way back, minus that of exchange", 0.02),
    "drift": Response("distance from the minimum to the mean end of the step-0 copies / norm of the minimum", 0.01),
}
SPLIT = ("return", "return_to_drifted", "return_of_directions")  # the contrasts that rules 5 and 6 split


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


def run_of(experiment: Experiment, cell: Cell) -> Path:
    """Return the run folder of a cell."""
    way = f"{'decay' if cell.decay else 'no-decay'}-{'crops' if cell.crops else 'no-crops'}"
    return experiment.folder / "valley" / f"{KINDS[cell.kind]}-{cell.seed}-{way}"


def minimum_of(experiment: Experiment, cell: Cell) -> Path:
    """Return the run folder in which the cell's minimum is found."""
    return experiment.folder / "valley" / "minima" / f"{KINDS[cell.kind]}-{cell.seed}"


def plan_minima(experiment: Experiment) -> dict[Path, TrainConfig]:
    """Return the minima of all seeds, each seed with training images of its own."""
    found = {}
    for cell in cells(experiment):
        ((_, config),) = experiment.minima((KINDS[cell.kind],), seeds=(cell.seed,)).items()
        found[minimum_of(experiment, cell)] = replace(config, images_seed=cell.seed)
    return found


def plan_runs(experiment: Experiment, minima: Mapping[Path, TrainConfig]) -> Again:
    """Return the cells' run folders, with the sources of their minima and the settings of their retraining."""
    again: Again = {}
    for cell in cells(experiment):
        good = minima[minimum_of(experiment, cell._replace(kind=1))]
        source = minimum_of(experiment, cell)
        config = experiment.retraining(minima[source], **experiment.scale.valley_retrain)
        first = cell.seed * experiment.scale.valley_directions
        again[run_of(experiment, cell)] = (
            source,
            replace(
                config,
                seeds=tuple(range(first, first + experiment.scale.valley_directions)),
                weight_decay=good.weight_decay if cell.decay else 0.0,
                augmentation=good.augmentation if cell.crops else "none",
            ),
        )
    return again


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
        "copies": {name: _rounded(value) for name, value in values.items()},
        "drift": _rounded(drifted.distance / _norm(minimum.params)),
        "drift_over_smallest_jump": _rounded(drifted.distance / np.min(geometry.distance[0])),
        **{f"minimum_{name}": _rounded(minimum.metrics[name]) for name in ("train_accuracy", "test_accuracy")},
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
    return {name: _rounded(metrics[name][at_end].mean()) for name in names}


def _norm(params: Any) -> float:
    return math.sqrt(sum(float(np.square(np.asarray(leaf, np.float64)).sum()) for leaf in jax.tree.leaves(params)))


def _rounded(value: Any) -> Any:
    """Return numbers with six significant digits."""
    return np.vectorize(lambda number: float(f"{number:.6g}"))(np.asarray(value, np.float64)).tolist()


# The analysis: from the record alone.


class Estimate(NamedTuple):
    """An effect or a cell's number over the seeds."""

    values: np.ndarray  # [seed]
    mean: float
    low: float  # Student's 95 % interval of the mean
    high: float
    p: float  # of a mean of 0, two-sided, Student

    @property
    def text(self) -> str:
        """The mean with its interval, and how many seeds have its sign."""
        same = int((np.sign(self.values) == np.sign(self.mean)).sum())
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}] {same}/{len(self.values)}"


def estimate(values: np.ndarray) -> Estimate:
    """Return the mean over seeds with its interval (rule 1)."""
    values = np.asarray(values, float)
    found = mean_interval(values)
    return Estimate(values, found.mean, found.low, found.high, mean_test(values, alternative="two-sided"))


def verdicts(estimates: Sequence[Estimate], margin: float) -> list[str]:
    """Return the verdict on each estimate of one table column (rule 4)."""
    corrected = holm([each.p for each in estimates])
    return [_verdict(each, p, margin) for each, p in zip(estimates, corrected, strict=True)]


def _verdict(found: Estimate, p: float, margin: float) -> str:
    if -margin < found.low and found.high < margin:
        return "negligible"
    if p < 0.05 and found.low > margin:
        return "more"
    if p < 0.05 and found.high < -margin:
        return "less"
    return "unclear"


def table_of(record: Record, name: str) -> np.ndarray:
    """Return a number of all cells, [seed, kind, decay, crops]; means over copies."""
    seeds = list(dict.fromkeys(cell["seed"] for cell in record["cells"]))
    table = np.full((len(seeds), 2, 2, 2), np.nan)
    for cell in record["cells"]:
        value = cell[name] if name in cell else np.mean(cell["copies"][name])
        table[seeds.index(cell["seed"]), cell["kind"], cell["decay"], cell["crops"]] = value
    return table


def effects(table: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
    """Return the main effects and interactions of each seed, [seed] (rule 2).

    The three main effects and the interaction of all three add up to the difference of the cells (1, 1, 1), (0, 0, 0).
    """
    level = np.array([-1, 1])
    signs = {"kind": level[:, None, None], "decay": level[None, :, None], "crops": level[None, None, :]}
    found = {}
    for names in EFFECTS:
        sign = math.prod((signs[name] for name in names), start=np.ones((2, 2, 2)))
        found[names] = (table * sign).sum(axis=(1, 2, 3)) / 4
    return found


def split_contrast(table: np.ndarray, by: int) -> dict[str, np.ndarray]:
    """Return the parts of the paper's contrast, [seed]: by the good minima (1) or by the bad ones (0) (rule 5)."""
    of_kind = table[:, by]  # [seed, decay, crops]
    way = 1 - by  # the retraining in which the kinds are compared: neither, or both
    return {
        "kind": table[:, 1, way, way] - table[:, 0, way, way],
        "decay": (of_kind[:, 1] - of_kind[:, 0]).mean(axis=1),
        "crops": (of_kind[:, :, 1] - of_kind[:, :, 0]).mean(axis=1),
    }


def larger_part(parts: Mapping[str, np.ndarray]) -> tuple[str, Estimate]:
    """Return which part of the contrast is larger, and the difference (rule 6)."""
    found = estimate(parts["decay"] + parts["crops"] - parts["kind"])
    if found.low > 0:
        return "retraining", found
    return ("the kind of minimum" if found.high < 0 else "undecided"), found


def column(record: Record, name: str) -> dict[tuple[str, ...], tuple[Estimate, str]]:
    """Return the effects on a response, each with its verdict."""
    estimates = {names: estimate(values) for names, values in effects(table_of(record, name)).items()}
    decided = verdicts(list(estimates.values()), RESPONSES[name].margin)
    return {names: (found, word) for (names, found), word in zip(estimates.items(), decided, strict=True)}


def by_cell(record: Record, name: str) -> dict[tuple[int, int, int], tuple[Estimate, str]]:
    """Return the response in each of the eight cells, each with its verdict against 0."""
    table = table_of(record, name)
    levels = list(itertools.product((0, 1), repeat=3))
    estimates = [estimate(table[:, *each]) for each in levels]
    decided = verdicts(estimates, RESPONSES[name].margin)
    return dict(zip(levels, zip(estimates, decided, strict=True), strict=True))


def kinds_compared(record: Record, name: str) -> dict[tuple[int, int], tuple[Estimate, str]]:
    """Return good minus bad in each of the four ways of retraining, each with its verdict."""
    table = table_of(record, name)
    estimates = [estimate(table[:, 1, *way] - table[:, 0, *way]) for way in WAYS]
    decided = verdicts(estimates, RESPONSES[name].margin)
    return dict(zip(WAYS, zip(estimates, decided, strict=True), strict=True))


# The page.


def sentences(record: Record) -> list[str]:
    """Return the answers, decided by the rules."""
    good, bad = PAPER
    returned, cosines = by_cell(record, "return"), by_cell(record, "cosine_beyond_exchange")
    decay_part, gradient_part = (table_of(record, name)[:, *good] for name in ("decay_part", "gradient_part"))
    apart = estimate(decay_part - gradient_part)
    larger = "more than" if apart.low > 0 else "less than" if apart.high < 0 else "not surely more or less than"
    decay, crops = (column(record, "return")[(name,)] for name in ("decay", "crops"))
    drifts = {cell: estimate(_drift_hides(record)[:, *cell]) for cell in PAPER}
    drift_words = verdicts(list(drifts.values()), RESPONSES["return"].margin)
    pulled = [cell for cell, (_, word) in cosines.items() if word == "more"]
    kind_cosine, kind_word = column(record, "cosine_beyond_exchange")[("kind",)]
    lines = [
        f"**The contrast.** Retrained as in the paper, copies of good minima return by {returned[good][0].text} of the "
        f"jump, those of bad minima by {returned[bad][0].text}.",
        f"**Decay.** Of the way back of the good minima's copies, weight decay makes {estimate(decay_part).mean:.3f} "
        f"and the gradients {estimate(gradient_part).mean:.3f}: decay makes {larger} the gradients (difference "
        f"{apart.text}). Over all cells decay changes the return by {decay[0].text}: {decay[1]}.",
        f"**Augmentation.** Over all cells crops change the return by {crops[0].text}: {crops[1]}. "
        + " ".join(_crops_of(record, kind) for kind in (1, 0)),
        f"**Drift.** Measured to where the step-0 copies end, the good minima's copies return by "
        f"{drifts[good].text} more ({drift_words[0]}), the bad minima's by {drifts[bad].text} more "
        f"({drift_words[1]}).",
        f"**Gradient.** The gradients pull copies back along their own jump, beyond what exchanged ones do, in "
        f"{len(pulled)} of 8 cells ({_cell_names(pulled)}). Good minima differ from bad ones in this by "
        f"{kind_cosine.text}: {kind_word}.",
    ]
    for name in SPLIT:
        lines.append(_kinds_sentence(record, name))
    lines += [_answer(record, name) for name in SPLIT]
    return lines


def _drift_hides(record: Record) -> np.ndarray:
    return table_of(record, "return_to_drifted") - table_of(record, "return")


def _crops_of(record: Record, kind: int) -> str:
    table = table_of(record, "return")[:, kind]
    found = estimate((table[:, :, 1] - table[:, :, 0]).mean(axis=1))
    return f"Around {KINDS[kind]} minima alone they change it by {found.text}."


def _cell_names(chosen: Iterable[tuple[int, int, int]]) -> str:
    return "; ".join(f"{KINDS[kind]}, {WAYS[decay, crops]}" for kind, decay, crops in chosen) or "none"


def _kinds_sentence(record: Record, name: str) -> str:
    compared = kinds_compared(record, name)
    parts = [f"{WAYS[way]} {found.text}, {word}" for way, (found, word) in compared.items()]
    return f"**Kind of minimum, {name.replace('_', ' ')}.** Good minus bad, retrained alike: {'; '.join(parts)}."


def _answer(record: Record, name: str) -> str:
    table = table_of(record, name)
    answers = []
    for by in (1, 0):
        parts = split_contrast(table, by)
        which, apart = larger_part(parts)
        shown = ", ".join(f"{part} {estimate(values).mean:.3f}" for part, values in parts.items())
        answers.append(f"by the {KINDS[by]} minima {shown}: {which} ({apart.text})")
    return f"**Valley or decay, {name.replace('_', ' ')}.** The paper's contrast splits {'; '.join(answers)}."


def page(record: Record) -> str:
    """Return the page, from the record alone."""
    seeds = list(dict.fromkeys(cell["seed"] for cell in record["cells"]))
    lines = [
        "# Valley or decay",
        "",
        f"Generated by `{record['command']}`, not written by hand; commit {record['environment']['commit']}, "
        f"{record['environment']['device']}. {record['dataset']}, {record['train_size']} training images drawn for "
        f"each of the seeds {', '.join(map(str, seeds))}; {record['copies']} perturbed copies and "
        f"{record['controls']} of step size 0 in each cell, {record['epochs']} epochs of retraining at learning rate "
        f"{record['learning_rate']:g}. Weight decay {record['weight_decay']:g}, augmentation {record['augmentation']}.",
        "",
        *_INTRODUCTION,
        "",
        "![Parts of the return in each cell](valley.png)",
        "",
        "## Answers",
        "",
        f"Each is decided by the rules of `experiments/valley.py`, which were committed before the runs. Each mean is "
        f"followed by Student's 95 % interval and the number of seeds with its sign. n = {len(seeds)} is small: the "
        "intervals rest on normal differences between seeds, since a sign-flip test of so few cannot give a small p.",
        "",
        *(f"- {line}" for line in sentences(record)),
        "",
        "## The cells",
        "",
        "Means over the seeds, ± their standard deviation.",
        "",
        *_cells_table(record),
        "",
        *(f"- {name.replace('_', ' ')}: {response.meaning}." for name, response in RESPONSES.items()),
        "",
        "## Effects",
        "",
        "Main effects and interactions over all eight cells: mean [95 % interval], seeds of that sign, verdict.",
        "",
        *_effects_table(record),
        "",
        "A main effect averages over cells that differ much if an interaction is large: then read the splits.",
        "",
        "## The paper's contrast in parts",
        "",
        "Good minima with decay and crops, minus bad minima with neither. Split by the good minima: decay and crops "
        "are taken away from these, and the kinds are compared without either. By the bad minima: decay and crops are "
        "given to these, which never saw shifted images, and the kinds are compared with both. Neither split is "
        "neutral. The larger part, of retraining (decay + crops) or of the kind, is named if the interval of the "
        "difference excludes 0.",
        "",
        *_splits_table(record),
        "",
    ]
    return "\n".join(lines)


_INTRODUCTION = (
    "The paper retrains copies of good minima with weight decay and crops, and those of bad minima with neither. Here "
    "copies of both are retrained in all four ways. Along its own jump a copy goes back by a share that splits exactly "
    "into one of weight decay and one of the gradients; movement across the jump takes the rest away.",
)


def _cells_table(record: Record) -> list[str]:
    names = [*RESPONSES, "train_loss", "train_accuracy", "test_accuracy"]
    lines = [
        f"| minimum | retrained with | {' | '.join(name.replace('_', ' ') for name in names)} |",
        "|" + "-|" * (len(names) + 2),
    ]
    tables = {name: table_of(record, name) for name in names}
    for kind in (1, 0):
        for way, words in WAYS.items():
            values = [tables[name][:, kind, *way] for name in names]
            digits = [4 if name == "train_loss" else 3 for name in names]
            cells = [
                f"{each.mean():.{places}f} ± {each.std(ddof=1):.{places}f}"
                for each, places in zip(values, digits, strict=True)
            ]
            lines.append(f"| {KINDS[kind]} | {words} | {' | '.join(cells)} |")
    return lines


def _effects_table(record: Record) -> list[str]:
    columns = {name: column(record, name) for name in RESPONSES}
    lines = [
        f"| effect | {' | '.join(name.replace('_', ' ') for name in RESPONSES)} |",
        "|" + "-|" * (len(RESPONSES) + 1),
    ]
    for names in EFFECTS:
        cells = [f"{found.text} **{word}**" for found, word in (each[names] for each in columns.values())]
        lines.append(f"| {' x '.join(names)} | {' | '.join(cells)} |")
    return lines


def _splits_table(record: Record) -> list[str]:
    lines = ["| of | split by | kind | decay | crops | sum | larger |", "|" + "-|" * 7]
    for name in SPLIT:
        for by in (1, 0):
            parts = split_contrast(table_of(record, name), by)
            cells = [estimate(values).text for values in (*parts.values(), sum(parts.values()))]
            which, _ = larger_part(parts)
            lines.append(f"| {name.replace('_', ' ')} | {KINDS[by]} minima | {' | '.join(cells)} | {which} |")
    return lines


# The figure.

# Copies of bad minima leave them if they are retrained with crops: these two cells have a scale of their own.
_PANELS = (
    ("good minima", 1, ((0, 0), (0, 1), (1, 0), (1, 1))),
    ("bad minima", 0, ((0, 0), (1, 0))),
    ("bad minima with crops\n(another scale)", 0, ((0, 1), (1, 1))),
)
_PARTS = {"decay_part": HUES[4], "gradient_part": HUES[0], "sideways_part": "#BBBBBB"}


@own_style()
def draw(record: Record) -> Figure:
    """Draw each cell's return as its parts, beside those of its exchange surrogate."""
    figure = Figure(figsize=(6.8, 3.4), layout="constrained")
    good, bad, leaving = figure.subplots(1, 3, width_ratios=[len(ways) for _, _, ways in _PANELS])
    bad.sharey(good)
    for ax, (title, kind, ways) in zip((good, bad, leaving), _PANELS, strict=True):
        for place, way in enumerate(ways):
            _draw_bars(ax, place, lambda name, way=way, kind=kind: table_of(record, name)[:, kind, *way])
        ax.axhline(0, color=INK, linewidth=0.6)
        ax.set_xticks(range(len(ways)), [WAYS[way].replace(" + ", "\n+ ") for way in ways])
        ax.set_title(title)
        ax.set_xlabel("retrained with")
        ax.spines[["top", "right"]].set_visible(False)
    good.set_ylabel("share of the jump, mean over seeds")
    handles = [Patch(color=color, label=name.replace("_part", "")) for name, color in _PARTS.items()]
    handles += [
        Patch(facecolor="white", edgecolor=GREY, hatch="////", label="exchange surrogate"),
        Line2D([], [], color=INK, marker="o", markersize=3.5, linestyle="", label="return (± SD)"),
        Line2D(
            [], [], color=INK, marker="D", markersize=3.5, fillstyle="none", linestyle="", label="to the drifted end"
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=SMALL)
    return figure


def _draw_bars(ax: Any, place: int, values: Callable[[str], np.ndarray]) -> None:
    real = {name: float(values(name).mean()) for name in _PARTS}
    gradient, returned = float(values("exchange_gradient_part").mean()), float(values("exchange_return").mean())
    null = {
        "decay_part": real["decay_part"],
        "gradient_part": gradient,
        "sideways_part": returned - real["decay_part"] - gradient,
    }
    for shift, parts, options in (
        (-0.19, real, {}),
        (0.19, null, {"alpha": 0.45, "hatch": "////", "edgecolor": "white", "linewidth": 0}),
    ):
        above, below = 0.0, 0.0
        for name, height in parts.items():
            ax.bar(place + shift, height, 0.34, bottom=above if height > 0 else below, color=_PARTS[name], **options)
            above, below = above + max(height, 0), below + min(height, 0)
    spread = values("return").std(ddof=1)
    ax.errorbar(place - 0.19, values("return").mean(), spread, color=INK, marker="o", markersize=3.5, linewidth=0.8)
    ax.plot(place - 0.19, values("return_to_drifted").mean(), color=INK, marker="D", markersize=3.5, fillstyle="none")
    ax.plot(place + 0.19, returned, color=INK, marker="o", markersize=3.5, alpha=0.6)


# The script.


def measure(experiment: Experiment, again: Again) -> Record:
    """Return the record of all cells."""
    _, config = next(iter(again.values()))
    decayed = max((settings for _, settings in again.values()), key=lambda each: each.weight_decay)
    cropped = next(settings for _, settings in again.values() if settings.augmentation != "none")
    minimum = next(iter(plan_minima(experiment).values()))
    record = {
        "command": " ".join(["python", *sys.argv]),
        "environment": environment(),
        "dataset": minimum.dataset,
        "train_size": minimum.train_size,
        "copies": config.num_copies - config.num_controls,
        "controls": config.num_controls,
        "epochs": config.epochs,
        "learning_rate": config.learning_rate,
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
