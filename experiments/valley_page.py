"""The page and the figure of valley.py, from its record alone."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from records import Record, commit_text, markdown_table
from valley_analysis import (
    EFFECTS,
    KINDS,
    PAPER,
    RESPONSES,
    SPLIT,
    WAYS,
    Estimate,
    by_cell,
    column,
    estimate,
    kinds_compared,
    larger_part,
    split_contrast,
    table_of,
    verdicts,
)

from jaxscape.figures.layout import SMALL
from jaxscape.figures.palette import GREY, HUES, INK
from jaxscape.figures.style import own_style


def sentences(record: Record) -> list[str]:
    """Return the answers, decided by the rules."""
    good, bad = PAPER
    returned, cosines = by_cell(record, "return"), by_cell(record, "cosine_beyond_exchange")
    decay_part, gradient_part = (table_of(record, name)[:, *good] for name in ("decay_part", "gradient_part"))
    apart = estimate(decay_part - gradient_part)
    larger = "more than" if apart.low > 0 else "less than" if apart.high < 0 else "not surely more or less than"
    decay, crops = (_changes(name, *column(record, "return")[(name,)]) for name in ("decay", "crops"))
    drifts = {cell: estimate(_drift_hides(record)[:, *cell]) for cell in PAPER}
    drift_words = verdicts(list(drifts.values()), RESPONSES["return"].margin)
    pulled = [cell for cell, (_, word) in cosines.items() if word == "more"]
    lines = [
        f"**The contrast.** Retrained as in the paper, copies of good minima return by {returned[good][0].text} of the "
        f"jump, those of bad minima by {returned[bad][0].text}.",
        f"**Decay.** Of the way back of the good minima's copies, weight decay makes {estimate(decay_part).mean:.3f} "
        f"and the gradients {estimate(gradient_part).mean:.3f}: decay makes {larger} the gradients (difference "
        f"{apart.text}). {decay}",
        f"**Augmentation.** {crops} " + " ".join(_crops_of(record, kind) for kind in (1, 0)),
        f"**Drift.** Measured to where the step-0 copies end, the good minima's copies return by "
        f"{drifts[good].text} more ({drift_words[0]}), the bad minima's by {drifts[bad].text} more "
        f"({drift_words[1]}).",
        f"**Gradient.** The gradients pull copies back along their own jump, beyond what exchanged ones do, in "
        f"{len(pulled)} of 8 cells ({_cell_names(pulled)}). {_cosines_compared(record)}",
    ]
    for name in SPLIT:
        lines.append(_kinds_sentence(record, name))
    lines += [_answer(record, name) for name in SPLIT]
    return lines


def _changes(factor: str, found: Estimate, word: str) -> str:
    """Return a sentence about the main effect of decay or crops on the return."""
    s = "" if factor.endswith("s") else "s"
    words = {
        "more": f"{factor} raise{s} the return",
        "less": f"{factor} lower{s} the return",
        "negligible": f"{factor} hardly change{s} the return",
        "unclear": f"it is unclear whether {factor} change{s} the return",
    }
    return f"Over all cells, {words[word]}: the change is {found.text} of the jump."


def _cosines_compared(record: Record) -> str:
    """Return how good and bad minima that are retrained alike differ in the pull of the gradients."""
    compared = kinds_compared(record, "cosine_beyond_exchange")
    parts = "; ".join(f"{WAYS[way]} {found.text}, {word}" for way, (found, word) in compared.items())
    alike = [way for way, (found, _) in compared.items() if found.low <= 0 <= found.high]
    without = alike == [way for way in WAYS if not way[1]]
    where = "without crops" if without else f"for {' and '.join(WAYS[way] for way in alike)}"
    shown = f" No difference is shown {where}: these intervals contain 0." if alike else ""
    return f"The pull is a cosine; good minus bad, retrained alike: {parts}.{shown}"


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
        kind, decay, crops = (f"{estimate(parts[part]).mean:.3f}" for part in ("kind", "decay", "crops"))
        larger = "it is undecided which part is larger" if which == "undecided" else f"{which} makes the larger part"
        answers.append(
            f"Split by the {KINDS[by]} minima: {kind} from the kind of minimum, {decay} from decay, {crops} from "
            f"crops; {larger} (retraining minus kind {apart.text})."
        )
    return f"**Valley or decay, {name.replace('_', ' ')}.** The paper's contrast. {' '.join(answers)}"


def page(record: Record) -> str:
    """Return the page, from the record alone."""
    seeds = list(dict.fromkeys(cell["seed"] for cell in record["cells"]))
    lines = [
        "# Valley or decay",
        "",
        f"Generated by `{record['command']}`, not written by hand; commit {commit_text(record['environment'])}, "
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
        f"followed by Student's 95 % interval and how many seeds have the sign of the mean. n = {len(seeds)} is small: "
        "the intervals rest on normal differences between seeds, since a sign-flip test of so few cannot give a small "
        "p.",
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
    rows = []
    tables = {name: table_of(record, name) for name in names}
    for kind in (1, 0):
        for way, words in WAYS.items():
            values = [tables[name][:, kind, *way] for name in names]
            digits = [4 if name == "train_loss" else 3 for name in names]
            cells = [
                f"{each.mean():.{places}f} ± {each.std(ddof=1):.{places}f}"
                for each, places in zip(values, digits, strict=True)
            ]
            rows.append([KINDS[kind], words, *cells])
    return markdown_table(["minimum", "retrained with", *(name.replace("_", " ") for name in names)], rows)


def _effects_table(record: Record) -> list[str]:
    columns = {name: column(record, name) for name in RESPONSES}
    rows = []
    for names in EFFECTS:
        cells = [f"{found.text} **{word}**" for found, word in (each[names] for each in columns.values())]
        rows.append([" x ".join(names), *cells])
    return markdown_table(["effect", *(name.replace("_", " ") for name in RESPONSES)], rows)


def _splits_table(record: Record) -> list[str]:
    rows = []
    for name in SPLIT:
        for by in (1, 0):
            parts = split_contrast(table_of(record, name), by)
            cells = [estimate(values).text for values in (*parts.values(), sum(parts.values()))]
            which, _ = larger_part(parts)
            rows.append([name.replace("_", " "), f"{KINDS[by]} minima", *cells, which])
    return markdown_table(("of", "split by", "kind", "decay", "crops", "sum", "larger"), rows)


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
