"""The figures of the page of the studies."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from study_page import TITLES, kind
from study_results import Result
from study_scores import DIRECTIONS, STATISTICS, best_baseline

from jaxscape.figures.palette import GREY, HUES, INK
from jaxscape.figures.plots import save_figure
from jaxscape.figures.style import own_style

COLORS = {"statistic": HUES[0], "baseline": GREY, "control": "#BBBBBB"}


@own_style()
def draw_scores(results: Mapping[str, Result], path: Path) -> list[Path]:
    """Draw the granulated tau of every measure, one panel per study."""
    figure = Figure(figsize=(3.4 * len(results) + 1.2, 4.6), layout="constrained")
    axes = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    names = list(DIRECTIONS)
    for ax, (name, result) in zip(axes, results.items(), strict=True):
        for place, measure in enumerate(names):
            scores, color = result.scores[measure], COLORS[kind(measure)]
            ax.plot(scores.granulated_interval, [-place, -place], color=color, linewidth=1.5, solid_capstyle="butt")
            ax.plot(scores.granulated, -place, "o", color=color, markersize=4)
            ax.plot(
                scores.adjusted, -place, "o", color=color, markersize=6, markerfacecolor="none", markeredgewidth=0.8
            )
        ax.axvline(0, color=INK, linewidth=0.6)
        ax.set(
            title=f"{TITLES.get(name, name)}, {len(result.data.gap)} networks", xlabel="rank correlation with the gap"
        )
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks([-place for place in range(len(names))], [name.replace("_", " ") for name in names])
    handles = [
        Line2D([], [], marker="o", color=INK, linewidth=1.5, markersize=4, label="granulated tau, 95 %"),
        Line2D(
            [],
            [],
            marker="o",
            color=INK,
            linewidth=0,
            markersize=6,
            markerfacecolor="none",
            label="given hyperparameters",
        ),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return save_figure(figure, path)


@own_style()
def draw_gaps(result: Result, path: Path) -> list[Path]:
    """Draw the gap against the best statistic, the best baseline and the rise of the loss at the jump."""
    data = result.data
    best = max(STATISTICS, key=lambda name: result.scores[name].granulated)
    chosen = list(dict.fromkeys([best, best_baseline(data), "loss_rise"]))
    factor = max(data.factors, key=lambda name: _effect(data.gap, data.factors[name]))
    levels, label = result.study.factors[factor], factor.replace("_", " ")
    figure = Figure(figsize=(2.4 * len(chosen), 2.4), layout="constrained")
    axes = figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, chosen, strict=True):
        for level, value in enumerate(levels):
            own = data.factors[factor] == level
            values = DIRECTIONS[name] * data.measures[name][own]
            ax.plot(values, data.gap[own], ".", color=HUES[level], markersize=4, label=f"{label} {value}")
        ax.set_xlabel(name.replace("_", " "))
        if (data.measures[name] * DIRECTIONS[name] > 0).all() and np.ptp(np.log(np.abs(data.measures[name]))) > 3:
            ax.set_xscale("log")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("generalisation gap")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(levels), frameon=False)
    return save_figure(figure, path)


def _effect(gap: np.ndarray, levels: np.ndarray) -> float:
    return float(np.ptp([gap[levels == level].mean() for level in np.unique(levels)]))
