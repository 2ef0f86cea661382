"""Cost and accuracy of computing batch norm's variance in two passes, E[(x - E[x])^2].

Flax's default is E[x^2] - E[x]^2, which needs one pass over the activations and suffers from cancellation. Both forms
are timed alternately on the same training step (gradients and update of plain SGD), as jaxscape compiles it. The error
is that of one update relative to the norm of the update in float64, for several random initial weights; images have
mean 0 and standard deviation 1. A few seeds have an error 100 to 1,000 times that of the others, in either form. A
possible cause, which was not tested, are activations that rounding moves across the kink of ReLU, which changes a
gradient by far more than rounding itself.

    python -m uv run python benchmarks/batch_norm.py --json benchmarks/results/batch_norm.json
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

import jax
import jax.numpy as jnp
import numpy as np
from records import run_facts

from jaxscape import WideResNet, flax_loss
from jaxscape.runs.folder import write_json
from jaxscape.xla_cpu import compiler

# Depth, widen_factor, image size, batch size.
CASES = [(10, 1, 8, 128), (10, 1, 28, 128), (16, 4, 8, 128)]
FORMS = {"fast": True, "two_pass": False}


def main() -> None:
    """Measure, print a table and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of one form's steps in a turn")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    records = []
    for case in CASES:
        records.append(measure(case, options.turns, options.seeds, options.seconds))
        if options.json:
            write_json(options.json, records)


def measure(case: tuple[int, int, int, int], turns: int, seeds: int, seconds: float) -> dict[str, Any]:
    """Return the times and errors of both forms in one case."""
    depth, widen_factor, size, batch_size = case
    networks = [draw(case, seed) for seed in range(seeds)]
    modules = {form: WideResNet(depth, widen_factor, 10, fast_variance=fast) for form, fast in FORMS.items()}
    steps = {form: compiler.jit(partial(update, module)) for form, module in modules.items()}
    ours = {form: [step(*network) for network in networks] for form, step in steps.items()}  # compiles
    times = take_turns(steps, networks[0], turns, seconds)
    ratios = np.divide(times["two_pass"], times["fast"])
    exact = [exact_update(case, network) for network in networks]
    record = {
        "network": f"WRN-{depth}-{widen_factor}",
        "image": size,
        "batch_size": batch_size,
        "turns": turns,
        "seeds": seeds,
        "median_s": {form: float(np.median(found)) for form, found in times.items()},
        "ratio": {name: float(np.quantile(ratios, q)) for name, q in (("median", 0.5), ("q25", 0.25), ("q75", 0.75))},
        "update_error": {form: list(map(relative_error, found, exact)) for form, found in ours.items()},
    }
    errors = {form: np.median(found) for form, found in record["update_error"].items()}
    print(
        f"{record['network']} at {size}x{size}: {1e3 * record['median_s']['fast']:.2f} ms a step, two passes times "
        f"{record['ratio']['median']:.3f} ({record['ratio']['q25']:.3f} to {record['ratio']['q75']:.3f}); error of an "
        f"update {errors['fast']:.1e}, two passes {errors['two_pass']:.1e}",
        flush=True,
    )
    return record | run_facts(("jax", "jaxlib", "flax"), device=jax.devices()[0].device_kind)


def draw(case: tuple[int, int, int, int], seed: int) -> tuple[Any, Any, Any]:
    """Return initial parameters, their model state and a batch for one seed."""
    depth, widen_factor, size, batch_size = case
    generator = np.random.default_rng(seed)
    images = generator.standard_normal((batch_size, size, size, 1)).astype(np.float32)
    labels = generator.integers(10, size=batch_size).astype(np.int32)
    model_state = dict(WideResNet(depth, widen_factor, 10).init(jax.random.key(seed), images[:1]))
    return model_state.pop("params"), model_state, (images, labels)


def update(module: WideResNet, params: Any, model_state: Any, batch: Any) -> Any:
    """Return the update of one step of SGD."""
    grads, _ = jax.grad(flax_loss(module), has_aux=True)(params, model_state, batch, jax.random.key(0))
    return jax.tree.map(lambda grad: -0.1 * grad, grads)


def exact_update(case: tuple[int, int, int, int], network: tuple[Any, Any, Any]) -> Any:
    """Return the update in float64, with the variance in two passes."""
    depth, widen_factor, *_ = case
    with jax.enable_x64(True):
        module = WideResNet(depth, widen_factor, 10, dtype=jnp.float64, fast_variance=False)
        wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64) if leaf.dtype == np.float32 else leaf, network)
        return jax.device_get(jax.jit(partial(update, module))(*wide))


def take_turns(steps: dict[str, Any], network: Any, turns: int, seconds: float) -> dict[str, list[float]]:
    """Return the seconds per step in each turn; the order of the forms alternates."""
    counts = {form: max(3, int(seconds / timed(step, network, 3))) for form, step in steps.items()}
    times: dict[str, list[float]] = {form: [] for form in steps}
    for turn in range(turns):
        for form in list(steps)[:: 1 if turn % 2 else -1]:
            times[form].append(timed(steps[form], network, min(counts.values())))
    return times


def timed(step: Any, network: Any, count: int) -> float:
    """Return the seconds per step over `count` steps."""
    started = time.perf_counter()
    for _ in range(count):
        result = step(*network)
    jax.block_until_ready(result)
    return (time.perf_counter() - started) / count


def relative_error(ours: Any, exact: Any) -> float:
    """Return the norm of the difference divided by the norm of the exact update."""
    squares = [
        (np.sum(np.square(np.asarray(a, np.float64) - b)), np.sum(np.square(b)))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True)
    ]
    difference, norm = np.sum(squares, axis=0)
    return float(np.sqrt(difference / norm))


if __name__ == "__main__":
    main()
