"""Files and time per recorded step: snapshots of a small model in a plain and in a packed store.

Each snapshot is one member with 10 arrays, about 100,000 parameters. `flat out` appends as fast as the store accepts
them: the time of a step is that of the background writing, for which the loop waits. `paced` leaves some milliseconds
between two steps, like training: the time within `append` is the overhead for training. The plain store is measured
over fewer steps, since every step costs the same. The written data are read once by `blocks`.

`layouts` are the layouts of a pack that were tried, all written by orbax: one chunk per row of the larger arrays, which
is the layout of packs; one chunk per array; and one array of all parameters, with one chunk per row.

    python -m uv run python benchmarks/recording.py --json benchmarks/results/recording.json
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp
from records import peak_mb

from jaxscape.trajectories import snapshots
from jaxscape.trajectories.store import TrajectoryStore

SHAPES = {
    "conv1/kernel": (3, 3, 3, 16),
    "conv1/bias": (16,),
    "conv2/kernel": (3, 3, 16, 32),
    "conv2/bias": (32,),
    "conv3/kernel": (3, 3, 32, 64),
    "conv3/bias": (64,),
    "dense1/kernel": (576, 125),
    "dense1/bias": (125,),
    "dense2/kernel": (125, 25),
    "dense2/bias": (25,),
}


def record_steps(path: Path, packed: bool, steps: int, pause: float) -> dict[str, Any]:
    """Append snapshots, and return the cost of a step."""
    params = {name: jax.random.normal(jax.random.key(0), (1, *shape)) for name, shape in SHAPES.items()}
    advance = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + jnp.float32(1e-3), tree))
    within = []
    with TrajectoryStore.create(path, [{"seed": 0}], packed=packed) as store:
        store.append(0, params, update=0)
        store.wait()  # imports, and other costs of the first snapshot only
        started, cpu = time.perf_counter(), time.process_time()
        for step in range(1, steps):
            params = jax.block_until_ready(advance(params))
            time.sleep(pause)
            before = time.perf_counter()
            store.append(step, params, update=step)
            within.append(time.perf_counter() - before)
        store.wait()
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    milliseconds = 1e3 * np.array(within)
    files = sum(file.is_file() for file in path.rglob("*"))
    return {
        "packed": packed,
        "steps": steps,
        "parameters": store.num_parameters,
        "pause_ms": 1e3 * pause,
        "files": files,
        "files_for_10000_steps": round(files / steps * 10_000),
        "mb": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6,
        "wall_ms_per_step": 1e3 * wall / (steps - 1),
        "cpu_ms_per_step": 1e3 * cpu / (steps - 1),
        "append_ms": {
            "mean": milliseconds.mean(),
            "median": np.median(milliseconds),
            "99th percentile": np.percentile(milliseconds, 99),
            "largest": milliseconds.max(),
        },
        "peak_mb": peak_mb(),
        "load_average": os.getloadavg()[0],  # times are not reliable if other work was running
    }


def read_blocks(path: Path, max_bytes: int) -> dict[str, Any]:
    """Read everything once, like the computation of distances."""
    started = time.perf_counter()
    store = TrajectoryStore.open(path)
    opened = time.perf_counter()
    for block in store.blocks(max_bytes):
        assert np.isfinite(block[0, 0])
    read = time.perf_counter()
    return {
        "open_s": opened - started,
        "blocks_s": read - opened,
        "block_mb": max_bytes / 1e6,
        "peak_mb_after": peak_mb(),
    }


def write_layouts(steps: int, repeats: int) -> list[dict[str, Any]]:
    """Time the layouts of a pack in turns; the first round is a warm-up."""
    arrays = {
        name.replace("/", "."): np.random.default_rng(0).random((steps, 1, *s), np.float32)
        for name, s in SHAPES.items()
    }
    flat = {"params": np.concatenate([array.reshape(steps, 1, -1) for array in arrays.values()], axis=2)}
    layouts = {
        "a chunk for each row": (arrays, (0, 1)),
        "a chunk for each array": (arrays, ()),
        "one array, a chunk for each row": (flat, (0, 1)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in layouts}
    files = {}
    for _ in range(repeats + 1):
        for name, (state, axes) in layouts.items():
            with tempfile.TemporaryDirectory() as folder, snapshots.saving_context(axes):
                before = time.perf_counter()
                ocp.save(Path(folder) / "0", state)
                seconds[name].append(time.perf_counter() - before)
                files[name] = sum(file.is_file() for file in Path(folder).rglob("*"))
    return [
        {
            "layout": name,
            "steps": steps,
            "files": files[name],
            "ms_per_step": [1e3 * s / steps for s in seconds[name][1:]],
        }
        for name in layouts
    ]


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file for the records")
    parser.add_argument("--steps", type=int, default=10_000, help="steps of the packed store, flat out")
    parser.add_argument("--plain-steps", type=int, default=300, help="steps of the plain store, and of the paced runs")
    parser.add_argument("--pause-ms", type=float, default=20.0, help="pause between two steps of the paced runs")
    parser.add_argument("--block-mb", type=int, default=128, help="size of a block when reading")
    options = parser.parse_args()
    layouts = write_layouts(160, 5)
    print(json.dumps(layouts))
    records = []
    for packed, steps, pause in (
        (False, options.plain_steps, 0.0),
        (True, options.steps, 0.0),
        (False, options.plain_steps, options.pause_ms / 1e3),
        (True, 5 * options.plain_steps, options.pause_ms / 1e3),
    ):
        with tempfile.TemporaryDirectory() as folder:
            record = record_steps(Path(folder) / "store", packed, steps, pause)
            if pause == 0:
                record["reading"] = read_blocks(Path(folder) / "store", options.block_mb * 2**20)
        print(json.dumps(record))
        records.append(record)
    from jaxscape.runs.environment import environment
    from jaxscape.runs.folder import write_json

    write_json(options.json, {"environment": environment(), "layouts": layouts, "records": records})


if __name__ == "__main__":
    main()
