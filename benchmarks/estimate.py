"""What a strategy's program takes of the memory, beside `estimate_memory`, which says so before it runs.

On a CPU: the largest resident size during an epoch over the size before it, after a first epoch in which everything
was compiled (Linux alone counts like that). Of the estimate that is the part `program`; states and data are there
already. Each case is a process of its own, and runs twice: with the C library's allocator as it is, which keeps much
of what the convolutions have given back, and told to return it to the system at once, so that what counts is what the
program holds.

    python -m uv run python benchmarks/estimate.py --json benchmarks/results/estimate.json

On an accelerator: the case "paper" of benchmarks/members.py, and what the device says was in use at most, beside the
whole of the estimate (states, data and program). Each case is a process of its own twice, with a compilation cache:
the first compiles, which takes memory to try algorithms in, the second finds the program and is the one that counts.
An epoch is as long as the arms' there, so that programs which that benchmark left in the cache are used:

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
# What glibc gives back, it gives back at once: blocks from 64 KiB are mappings of their own.
ALLOCATORS = {"as it is": {}, "returns at once": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}}


def measure(strategy: str, depth: int) -> Record:
    """Two epochs of two steps of a WRN-depth-1 on images of 28x28 pixels."""
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
    """Two epochs of the case "paper"; bytes in use at most, by the device's own account."""
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
    """Measure every strategy and put the records into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--case",
        nargs=2,
        metavar=("STRATEGY", "DEPTH"),
        help="this one alone, here; prints its record (on an accelerator with a dtype in place of the depth)",
    )
    parser.add_argument("--dtype", nargs="+", default=["float32"], help="of the activations, on an accelerator")
    parser.add_argument("--strategies", nargs="+", help="on an accelerator; by default some of each kind")
    parser.add_argument("--steps", type=int, default=39, help="of an epoch, on an accelerator")
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
