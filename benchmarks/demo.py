"""The demo over several seeds: accuracy of the minima, geometry with its null, and the time of each stage.

Each seed is one call of `jaxscape demo` in a separate process. The spread is the standard deviation over seeds, that is
over independent minima; within a seed the numbers are means over its 20 copies.

    python -m uv run python benchmarks/demo.py --seeds 0 1 2 --json benchmarks/results/demo.json

--runs reads existing runs that were made in the same way: FOLDER/PRESET-SEED, such as those of benchmarks/reader.py.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.runs.config import PRESETS
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import RunFolder, write_json
from jaxscape.runs.measure import STATISTICS, beside, measure
from jaxscape.runs.methods import BESIDE
from jaxscape.runs.progress import make_console
from jaxscape.trajectories.files import read_record

ACCURACIES = ("train_accuracy", "train_loss", "test_accuracy")


def run_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Run one demo; return its reports, the settings of its runs, and the seconds of the whole process."""
    started = time.monotonic()
    command = [
        sys.executable,
        "-c",
        "from jaxscape.cli.main import command; command()",
        "demo",
        str(folder),
        "--seed",
        str(seed),
    ]
    subprocess.run(command, check=True)
    seconds = time.monotonic() - started
    configs = {preset: RunFolder(folder / preset).read_config() for preset in PRESETS}
    settings = {preset: {stage: config[stage] for stage in ("train", "retrain")} for preset, config in configs.items()}
    return {"seed": seed, "seconds": seconds, "settings": settings, "reports": read_record(folder / "report.json")}


def read_seed(seed: int, folder: Path) -> dict[str, Any]:
    """Return the reports and settings of existing runs."""
    folders = {preset: RunFolder(folder / f"{preset}-{seed}") for preset in PRESETS}
    for run in folders.values():
        measure(run, console=make_console())
    configs = {preset: run.read_config() for preset, run in folders.items()}
    settings = {preset: {stage: config[stage] for stage in ("train", "retrain")} for preset, config in configs.items()}
    return {
        "seed": seed,
        "settings": settings,
        "reports": {preset: run.read_report() for preset, run in folders.items()},
    }


def spread(values: list[float]) -> dict[str, Any]:
    """Return the mean, the standard deviation (n - 1) and the values."""
    array = np.array(values, float)
    return {"mean": array.mean(), "std": array.std(ddof=1) if len(array) > 1 else None, "values": array.tolist()}


def summarize(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise every number of the reports over seeds."""
    summary: dict[str, Any] = {}
    for preset in PRESETS:
        reports = [run["reports"][preset] for run in runs]
        summary[preset] = {
            "accuracy": {name: spread([report["minimum"][name] for report in reports]) for name in ACCURACIES},
            "components": {
                setting: [report["embeddings"][setting]["n_connected_components"] for report in reports]
                for setting, found in reports[0]["embeddings"].items()
                if "n_connected_components" in found
            },
            "drift": {name: spread([report["drift"][name] for report in reports]) for name in reports[0]["drift"]},
            "seconds": {
                stage: spread([report["timings"][stage] for report in reports]) for stage in reports[0]["timings"]
            },
            "geometry": {name: _beside_null([report["geometry"] for report in reports], name) for name in STATISTICS},
        }
    return summary


def _beside_null(geometries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return a statistic of the copies, and of its null trajectories if there are any."""
    found: dict[str, Any] = {"real": spread([geometry["real"][name]["mean"] for geometry in geometries])}
    nulls = [beside(geometry, BESIDE.get(name, ""), name) for geometry in geometries]
    if all(nulls):
        found |= {"kind": BESIDE[name], "null": spread([null["mean"] for null in nulls if null])}
    return found


def print_tables(summary: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    """Print Markdown tables, as in docs/protocol.md."""
    print(f"\nn = {len(runs)} seeds; mean ± standard deviation over seeds\n")
    print("| minimum | training accuracy | training loss | test accuracy |\n|-|-|-|-|")
    for preset, found in summary.items():
        print(f"| {preset} | " + " | ".join(_cell(found["accuracy"][name], 4) for name in ACCURACIES) + " |")
    print("\n| statistic | null |" + "".join(f" {preset} | null |" for preset in summary))
    print("|-|-|" + "-|-|" * len(summary))
    for name in STATISTICS:
        numbers = [found["geometry"][name] for found in summary.values()]
        cells = [_cell(each[kind], 3) if kind in each else "" for each in numbers for kind in ("real", "null")]
        print(f"| {name} | {BESIDE.get(name, '')} | " + " | ".join(cells) + " |")
    if seconds := [run["seconds"] for run in runs if "seconds" in run]:
        print(f"\nseconds a demo: {', '.join(f'{each:.0f}' for each in seconds)}")
    for preset, found in summary.items():
        print(preset, {stage: round(float(seconds["mean"]), 1) for stage, seconds in found["seconds"].items()})


def _cell(number: dict[str, Any], digits: int) -> str:
    std = "" if number["std"] is None else f" ± {number['std']:.{digits}f}"
    return f"{number['mean']:.{digits}f}{std}"


def main() -> None:
    """Run the demos and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="folder of existing runs to read instead of running demos")
    parser.add_argument("--folder", type=Path, help="folder for the demos (a temporary folder by default)")
    parser.add_argument("--json", type=Path, required=True, help="file for the numbers")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.runs:
            runs = [read_seed(seed, options.runs) for seed in options.seeds]
        else:
            runs = [run_seed(seed, folder / f"seed{seed}") for seed in options.seeds]
    summary = summarize(runs)
    print_tables(summary, runs)
    record = {
        "environment": environment(),
        "seeds": options.seeds,
        "seconds": [run.get("seconds") for run in runs],
        "settings": runs[0]["settings"],
        "summary": summary,
    }
    write_json(options.json, record)


if __name__ == "__main__":
    main()
