"""Barriers between the minima of run folders by `jaxscape path`, and along curves trained at a constant learning rate.

The minima are those of experiments/figure2.py --scale quick or of benchmarks/reader.py --folder FOLDER: WRN-10-1 on 100
digits. Five pairs are good minima of two seeds. Memorization minima of two seeds have different random labels, thus
different losses; for the sixth pair the second minimum is trained here, on the labels of the first, with the initial
parameters and the batches of its own seed.

Each pair is measured by the stage `path` with its defaults: the straight line, the straight line to the second network
with units matched, and a curve between these two networks. The last column is the same curve trained by `connect` with
its defaults, Adam at a constant 0.003. The barrier is the largest rise of the training loss above the linear
interpolation of its end values. The run folders are not changed.

    python -m uv run python benchmarks/run_paths.py FOLDER --json benchmarks/results/run_paths.json

FOLDER holds the run folders good-10 to good-14 and memorization-10.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

import numpy as np
from records import run_facts

import jaxscape
from jaxscape.runs.folder import RunFolder, write_json
from jaxscape.runs.images import image_axes, image_landscape, image_training
from jaxscape.runs.kept import read_kept
from jaxscape.runs.keys import path_key
from jaxscape.runs.landscape_config import PathConfig
from jaxscape.runs.minimum import read_minimum
from jaxscape.runs.own import OwnProblem
from jaxscape.runs.path import measure_path
from jaxscape.runs.progress import make_console
from jaxscape.runs.train import copy_minimum, find_minimum

PAIRS = ((10, 11), (10, 12), (11, 13), (12, 14), (13, 14))  # seeds of two good minima each
LABELS = 10  # seed of the memorization minimum whose labels both minima of the last pair have


def copied(run: Path, folder: Path) -> RunFolder:
    """Copy the minimum of a run to another folder, unless it is there."""
    target = RunFolder(folder / run.name)
    if not target.exists():
        copy_minimum(run, target)
    return target


def same_labels(run: RunFolder, own: OwnProblem, *, seed: int) -> RunFolder:
    """Train the minimum of a run once more with another seed, but on the data of the run."""
    other = RunFolder(run.with_name(f"{run.name}-{seed}"))
    training = image_training(replace(run.settings("train"), seed=seed))
    find_minimum(other, training._replace(problem=own.problem), console=make_console())
    return other


def measure(run: RunFolder, other: RunFolder, own: OwnProblem, config: PathConfig) -> dict[str, Any]:
    """Return the barriers of the training loss, and the lowest training accuracy on the curve."""
    started = time.perf_counter()
    folder = measure_path(run, other, config, own, axes=image_axes, console=make_console())
    seconds, kept = time.perf_counter() - started, read_kept(folder)
    heights = {way: barrier["loss"]["height"] for way, barrier in kept.record["barriers"].items()}
    return {
        "minima": [run.name, other.name],
        "barriers": heights | {"constant": constant_rate(run, other, own, config)},
        "lowest_accuracy": float(np.min(kept.values["curve:accuracy"])),
        "seconds": seconds,
    }


def constant_rate(run: RunFolder, other: RunFolder, own: OwnProblem, config: PathConfig) -> float:
    """Return the barrier along the same curve, trained with the default optimiser of `connect`."""
    a, b = (read_minimum(each, like=own.structure) for each in (run, other))
    axes = image_axes(b.params, b.model_state)
    matched = jaxscape.match_units(a.params, b.params, axes, key=path_key(config.seed), model_state=b.model_state)
    curve = jaxscape.connect(
        own.problem,
        a.params,
        matched.params,
        key=path_key(config.seed),
        model_state=a.model_state,
        epochs=config.epochs,
        batch_size=a.settings.batch_size,
    )
    t = np.linspace(0, 1, config.points)
    profile = jaxscape.path_profile(own.problem, curve, t=t, model_state=a.model_state, split="train", metric="loss")
    return float(profile.curve.height)


def print_table(records: list[dict[str, Any]]) -> None:
    """Print the Markdown table of docs/paths.md."""
    print(
        "\n| minima | straight line | straight line, units matched | Bézier curve | the same, Adam at constant 0.003 |"
    )
    print("|-|-|-|-|-|")
    for record in records:
        cells = [f"{record['barriers'][way]:.3f}" for way in ("straight", "matched", "curve", "constant")]
        print(f"| {' and '.join(record['minima'])} | {' | '.join(cells)} |")


def main() -> None:
    """Measure all pairs, print the table and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the run folders good-10 to good-14 and memorization-10")
    parser.add_argument("--pairs", type=int, help="measure only this many pairs of good minima, and no other")
    parser.add_argument("--epochs", type=int, default=PathConfig.epochs, help="epochs of the curves")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    config, records = PathConfig(epochs=options.epochs), []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def record(run: RunFolder, other: RunFolder, own: OwnProblem) -> None:
            records.append(measure(run, other, own, config))
            if options.json:
                facts = {"epochs": config.epochs, **run_facts(("jax", "jaxlib", "numpy", "scipy"))}
                write_json(options.json, facts | {"pairs": records})

        for seeds in PAIRS[: options.pairs]:
            run, other = (copied(options.runs / f"good-{seed}", folder) for seed in seeds)
            record(run, other, image_landscape(run))
        if options.pairs is None:
            run = copied(options.runs / f"memorization-{LABELS}", folder)
            own = image_landscape(run)
            record(run, same_labels(run, own, seed=LABELS + 1), own)
    print_table(records)


if __name__ == "__main__":
    main()
