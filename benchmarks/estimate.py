"""The memory of a strategy's program, compared with `estimate_memory`, which predicts it before the run.

On a CPU: the largest resident size during an epoch minus the size before it, after a first epoch in which everything is
compiled (on Linux only). It corresponds to the part `program` of the estimate, since states and data are already in
memory. Each case is a separate process and runs twice: with the C library's allocator unchanged, which keeps much of
the memory that convolutions free; and configured to return memory to the system at once, so that only the memory in
use is measured.

    python -m uv run python benchmarks/estimate.py --json benchmarks/results/estimate.json

On an accelerator: the case "paper" of benchmarks/members.py, with the device's peak memory compared with the whole
estimate (states, data and program). Each case runs twice in separate processes with a compilation cache: the first
compiles, which needs memory to try algorithms; the second loads the program from the cache and is the one that is
recorded. An epoch is as long as that of the arms there, so that programs which that benchmark cached are reused:

    JAX_COMPILATION_CACHE_DIR=/tmp/cache PYTHONPATH=. python benchmarks/estimate.py --dtype float32 bfloat16 \
        --json benchmarks/results/estimate.json
"""

import argparse
import ctypes
import gc
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
from records import Record, accelerator, replace_records, run_facts

from jaxscape import WideResNet, flax_loss, init_states, make_optimizer
from jaxscape.training.choice import estimate_memory, num_bytes
from jaxscape.training.members import epoch_runner
from jaxscape.training.train import member_update

MEMBERS, SIZE, BATCH = 4, 28, 128
STRATEGIES = ("loop", "threads", "vmap_grad:2", "vmap_grad", "grad_vmap:2")
ON_ACCELERATOR = ("loop", "vmap_grad:5", "grad_vmap:5", "vmap_grad", "grad_vmap")
# Make glibc return freed memory at once: blocks from 64 KiB are separate mappings.
ALLOCATORS = {"as it is": {}, "returns at once": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}}


def measure(strategy: str, depth: int) -> Record:
    """Run two epochs of two steps of a WRN-depth-1 on images of 28x28 pixels, and return the memory of the second."""
    module = WideResNet(depth, 1, 10)
    variables = dict(jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 1))))
    params = jax.tree.map(lambda leaf: jnp.stack([leaf] * MEMBERS), variables.pop("params"))
    optimizer = make_optimizer("momentum", 0.1)
    keys = jax.random.split(jax.random.key(0), MEMBERS)
    states = init_states(params, optimizer, keys=keys, model_state=variables)
    data = jnp.zeros((4 * BATCH, SIZE, SIZE, 1)), jnp.zeros(4 * BATCH, jnp.int32)
    rows = jnp.zeros((MEMBERS, 2, BATCH), jnp.int32)
    update = member_update(flax_loss(module), optimizer, from_arrays=True)
    estimate = estimate_memory(update, states, data, rows, strategy=strategy)
    run = epoch_runner(update, strategy=strategy)
    states, _ = run(states, data, rows, 1)
    jax.block_until_ready(states)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the largest size is counted from here on
    before = _size_mb("VmRSS")
    states, _ = run(states, data, rows, 2)
    jax.block_until_ready(states)
    taken = _size_mb("VmHWM") - before
    return {
        "strategy": strategy,
        "depth": depth,
        "members": MEMBERS,
        "estimate_mb": estimate.program / 1e6,
        "taken_mb": taken,
        "ratio": taken / (estimate.program / 1e6),
    }


def measure_on_accelerator(strategy: str, dtype: str, steps: int) -> Record:
    """Run two epochs of the case "paper", and return the peak memory reported by the device."""
    import members  # beside this file

    case = members.CASES["paper"]
    work = members.Work(case, case.members, 128, steps, dtype)
    estimate = estimate_memory(work.update, work.states, work.data, work.rows, strategy=strategy)
    run = epoch_runner(work.update, strategy=strategy)
    states, work.states = work.states, None
    held = num_bytes((states, work.data, work.rows)) / 1e6
    for epoch in (1, 2):
        states, _ = run(states, work.data, work.rows, epoch)
        jax.block_until_ready(states)
    taken = (jax.devices()[0].memory_stats() or {})["peak_bytes_in_use"] / 1e6
    return {
        "case": "paper",
        "strategy": strategy,
        "dtype": dtype,
        "members": case.members,
        "steps": steps,
        "states_and_data_mb": held,
        "estimate_mb": estimate.total / 1e6,
        "taken_mb": taken,
        "ratio": taken / (estimate.total / 1e6),
    }


def _main_on_accelerator(options: argparse.Namespace, device: str) -> None:
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        raise SystemExit("on an accelerator set JAX_COMPILATION_CACHE_DIR to a folder: each case is compiled once")
    facts = run_facts(("jax", "jaxlib", "flax", "optax", "numpy"), device=device)
    for dtype in options.dtype:
        for strategy in options.strategies or ON_ACCELERATOR:
            call = [sys.executable, __file__, "--json", str(options.json), "--case", strategy, dtype]
            call += ["--steps", str(options.steps)]
            subprocess.check_output(call)
            record = facts | json.loads(subprocess.check_output(call, text=True))
            print(
                json.dumps({name: record[name] for name in ("strategy", "dtype", "estimate_mb", "taken_mb")}),
                flush=True,
            )
            replace_records(options.json, [record], same=("case", "strategy", "dtype", "members", "device"))


def _size_mb(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    """Measure every strategy and write the records into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--case",
        nargs=2,
        metavar=("STRATEGY", "DEPTH"),
        help="run only this case in this process and print its record (on an accelerator: dtype instead of depth)",
    )
    parser.add_argument("--dtype", nargs="+", default=["float32"], help="dtypes of the activations, on an accelerator")
    parser.add_argument("--strategies", nargs="+", help="strategies on an accelerator; by default some of each kind")
    parser.add_argument("--steps", type=int, default=39, help="steps per epoch, on an accelerator")
    options = parser.parse_args()
    device = accelerator()
    if options.case and device:
        print(json.dumps(measure_on_accelerator(*options.case, options.steps)))
        return
    if options.case:
        print(json.dumps(measure(options.case[0], int(options.case[1]))))
        return
    if device:
        _main_on_accelerator(options, device)
        return
    facts = run_facts(("jax", "jaxlib", "flax", "optax", "numpy"))
    records = []
    for depth in (10, 16):
        for strategy in STRATEGIES:
            for allocator, settings in ALLOCATORS.items():
                call = [sys.executable, __file__, "--json", str(options.json), "--case", strategy, str(depth)]
                found = [
                    json.loads(subprocess.check_output(call, env=os.environ | settings, text=True))
                    for _ in range(options.repeats)
                ]
                record = found[0] | {"allocator": allocator}
                record |= {name: sorted(each[name] for each in found) for name in ("taken_mb", "ratio")}
                print(json.dumps(record), flush=True)
                records.append(facts | record)
    replace_records(options.json, records, same=("strategy", "depth", "members", "allocator", "device"))


if __name__ == "__main__":
    main()
