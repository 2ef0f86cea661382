"""The command `demo`: the paper's Fig. 2 on a laptop, on real digits, from training to figures and numbers."""

import time
from pathlib import Path

from rich.console import Console

from jaxscape.runs.config import PRESETS, EmbedConfig, retrain_preset, train_preset
from jaxscape.runs.embed import embed_trajectories
from jaxscape.runs.folder import RunFolder, write_json
from jaxscape.runs.images import image_retrainings, image_training
from jaxscape.runs.measure import STATISTICS, accuracy_table, describe_drift, geometry_table
from jaxscape.runs.methods import BESIDE, NULLS
from jaxscape.runs.page import write_page
from jaxscape.runs.plot import plot_comparison
from jaxscape.runs.retrain import retrain_copies
from jaxscape.runs.train import find_minimum

# The default, which preserves distances best, and the paper's own method.
SETTINGS = (EmbedConfig(), EmbedConfig(method="phate"))


def run_demo(folder: Path, *, seed: int = 0, console: Console) -> None:
    """Find a good, a bad and a memorization minimum of the digits, retrain 20 copies of each, and draw them.

    Args:
        folder: receives one run folder per minimum, the figures that compare them, report.json and report.html.
        seed: seed of the minima and of the retraining; the seeds of the jumps are always 0 to 4.
        console: where to print.
    """
    started = time.monotonic()
    runs = {str(preset): RunFolder(folder / preset) for preset in PRESETS}
    for preset, run in runs.items():
        config = train_preset(preset, seed=seed)
        find_minimum(run, image_training(config), console=console)
        retrain_copies(image_retrainings({run: retrain_preset(config)}), console=console)
        for setting in SETTINGS:
            embed_trajectories(run, setting, console=console)
    with console.status("figures"):
        plot_comparison(list(runs.values()), folder / "figures")
        page = write_page(list(runs.values()), folder / "report.html", console=console)
    reports = {preset: run.read_report() for preset, run in runs.items()}
    write_json(folder / "report.json", reports)
    console.print(accuracy_table(reports), geometry_table(reports))
    for preset, report in reports.items():
        console.print(f"{preset}: {describe_drift(report)}")
    for statistic, meaning in STATISTICS.items():
        console.print(f"  {statistic}: {meaning}")
    for kind in dict.fromkeys(BESIDE.values()):
        console.print(f"  null, {kind}: keeps {NULLS[kind].keeps}")
    console.print(
        f"Done in {time.monotonic() - started:.0f} s. The pictures are in {folder / 'figures'}, the numbers in "
        f"{folder / 'report.json'}, all of it to explore in {page}.",
        highlight=False,
    )
