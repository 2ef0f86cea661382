"""Barriers between two minima on lines, after matching units, and on curves: WRN-10-1 and WRN-10-4, 400 digits.

Two networks are trained independently (different initial weights and batches) by 20 epochs of Adam. Measured are the
barriers of the loss on the straight line, on the straight line after weight matching, and on curves with one bend,
trained for 30 epochs with the defaults of `connect`, all with running statistics recalibrated at each position. The
barrier is the largest rise of the loss above the linear interpolation of its end values. Seconds include compilation.

    python -m uv run python benchmarks/paths.py --json benchmarks/results/paths.json
"""

import argparse
import time
from pathlib import Path
from typing import Any

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

import jax
import optax
from records import run_facts

import jaxscape
from jaxscape.runs.folder import write_json
from jaxscape.tasks.images import ImageTask, image_problem

PyTree = Any
HOW = {"epochs": 30, "batch_size": 50}


def main() -> None:
    """Measure, print a table and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--epochs", type=int, default=20, help="training epochs of the minima")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records = []
    for width in options.widths:
        records.append(measure(width, options.epochs))
        if options.json:
            write_json(options.json, records)


def measure(width: int, epochs: int) -> dict[str, Any]:
    """Measure all lines and curves between the two minima of one width."""
    problem = image_problem(ImageTask(train_size=400, widen_factor=width))
    (a, state), (b, other) = (minimum(problem, seed, epochs) for seed in (0, 1))
    start = time.perf_counter()
    axes = jaxscape.wide_resnet_axes(b, other)
    matching = jaxscape.match_units(a, b, axes, key=jax.random.key(0), model_state=other)
    record: dict[str, Any] = {
        "width": width,
        "matching_seconds": time.perf_counter() - start,
        "squared_distance": matching.squared_distance,
        "squared_distance_before": matching.squared_distance_before,
        "curves": [],
        **run_facts(("jax", "jaxlib", "numpy", "scipy")),
    }
    print(
        f"WRN-10-{width}: squared distance {matching.squared_distance_before:.1f}, matched "
        f"{matching.squared_distance:.1f} ({record['matching_seconds']:.1f} s)"
    )
    ends = {"as trained": b, "matched": matching.params}
    for name, kind in (("as trained", "bezier"), ("as trained", "polygon"), ("matched", "bezier")):
        start = time.perf_counter()
        path = jaxscape.connect(problem, a, ends[name], key=jax.random.key(5), kind=kind, model_state=state, **HOW)
        row: dict[str, Any] = {"b": name, "kind": kind, "seconds": time.perf_counter() - start}
        for split in ("train", "test"):
            profile = jaxscape.path_profile(problem, path, split=split, metric="loss")
            for line, barrier in profile._asdict().items():
                row[f"{line}_{split}_barrier"] = barrier.height
                row[f"{line}_{split}_accuracy"] = float(barrier.line.metrics["accuracy"].min())
            row["relative_length"] = profile.relative_length
        record["curves"].append(row)
        print(
            ", ".join(f"{key} {value:.4f}" if isinstance(value, float) else str(value) for key, value in row.items()),
            flush=True,
        )
    return record


def minimum(problem: jaxscape.Problem, seed: int, epochs: int) -> tuple[PyTree, PyTree]:
    """Train one network, and return its parameters and model state."""
    assert problem.init is not None
    params, model_state = jax.jit(problem.init)(jax.random.key(seed))
    optimizer = optax.adam(3e-3)
    keys = jax.random.split(jax.random.key(100 + seed), 1)
    stack = jax.tree.map(lambda leaf: leaf[None], params)
    states = jaxscape.init_states(stack, optimizer, keys=keys, model_state=model_state)
    *_, last = jaxscape.train(problem.loss_fn, optimizer, states, problem.data, epochs=epochs, batch_size=50)
    found = jax.tree.map(lambda leaf: leaf[0], (last.states.params, last.states.model_state))
    return found[0], found[1]


if __name__ == "__main__":
    main()
