"""Geometry of copies retrained with float32 and with bfloat16 activations, around the same minima.

For each seed, a minimum is trained in float32 with the demo's protocol and its copies are retrained twice. The spread
is over seeds, that is over independent minima.

    python -m uv run python benchmarks/precision.py --seeds 0 1 2 --json benchmarks/results/precision.json
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.runs.config import PRECISIONS, PRESETS
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json
from jaxscape.runs.measure import STATISTICS
from jaxscape.trajectories.files import read_record

COMMAND = [sys.executable, "-c", "from jaxscape.cli.main import command; command()"]


def run_seed(preset: str, seed: int, folder: Path) -> dict[str, dict[str, float]]:
    """Return each statistic's mean over the copies, by precision."""
    minimum = folder / f"minimum{seed}"
    subprocess.run([*COMMAND, "train", str(minimum), "--preset", preset, "--seed", str(seed)], check=True)
    found = {}
    for precision in PRECISIONS:
        run = folder / f"{precision}{seed}"
        shutil.copytree(minimum, run)
        subprocess.run([*COMMAND, "retrain", str(run), "--precision", precision], check=True)
        report = read_record(run / "report.json")
        found[precision] = {name: report["geometry"]["real"][name]["mean"] for name in STATISTICS}
        found[precision]["seconds"] = report["timings"]["retrain"]
    return found


def main() -> None:
    """Run, print a table and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="good")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = {seed: run_seed(options.preset, seed, Path(folder)) for seed in options.seeds}
    names = [*STATISTICS, "seconds"]
    values: dict[str, Any] = {p: {n: [run[p][n] for run in runs.values()] for n in names} for p in PRECISIONS}
    for name in names:
        columns = [f"{np.mean(values[p][name]):8.4f} ± {np.std(values[p][name], ddof=1):.4f}" for p in PRECISIONS]
        apart = np.subtract(*(values[p][name] for p in PRECISIONS))
        print(f"{name:12} {'   '.join(columns)}   difference seed by seed {np.round(apart, 4).tolist()}")
    if options.json:
        record = {"environment": environment(), "preset": options.preset, "seeds": options.seeds, "values": values}
        write_json(options.json, record)


if __name__ == "__main__":
    main()
