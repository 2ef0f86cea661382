"""What a strategy's program takes of the memory, beside `estimate_memory`, which says so before it runs.

On a CPU: the largest resident size during an epoch over the size before it, after a first epoch in which everything
was compiled (Linux alone counts like that). Of the estimate that is the part `program`; states and data are there
already. Scratch memory that a library takes for itself is not in the compiler's account.

    python -m uv run python benchmarks/estimate.py --json benchmarks/results/estimate.json
"""

import argparse
import ctypes
import gc
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
from records import Record, replace_records, run_facts

from jaxscape import WideResNet, flax_loss, init_states, make_optimizer
from jaxscape.training.choice import estimate_memory
from jaxscape.training.members import epoch_runner
from jaxscape.training.train import member_update

MEMBERS, SIZE, BATCH = 4, 28, 128


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


def _size_mb(name: str) -> float:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def main() -> None:
    """Measure every strategy and put the records into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    facts = run_facts(("jax", "jaxlib", "flax", "optax", "numpy"))
    records = []
    for depth in (10, 16):
        for strategy in ("loop", "threads", "vmap_grad:2", "vmap_grad", "grad_vmap:2"):
            records.append(facts | measure(strategy, depth))
            shown = {name: value for name, value in records[-1].items() if name not in facts}
            print(json.dumps(shown), flush=True)
    replace_records(options.json, records, same=("strategy", "depth", "members", "device"))


if __name__ == "__main__":
    main()
