"""A Hessian-vector product and the five largest eigenpairs of WRN-10-1 on the digits, compared with PyTorch.

All arms are interleaved in one run; compilation is timed separately. The peer is a separate process with a Python that
has torch (benchmarks/peers/curvature.py): double backward, and torch.func's forward over reverse. Both sides take the
same number of Lanczos steps with full reorthogonalisation, and one more product per residual.

    python -m uv run python benchmarks/curvature.py --repeats 15 --json benchmarks/results/curvature.json \
        --peer /path/to/python-with-torch

peak_mb is the peak memory of the device, or on a CPU of the whole process (both arms).
The errors of float32 relative to float64 do not need a quiet machine:

    python -m uv run python benchmarks/curvature.py --error --steps 20 --examples 400 \
        --json benchmarks/results/float32.json
"""

import argparse
import resource
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

import jax
import jax.numpy as jnp
import numpy as np
from records import Record, Worker, devices, replace_records, run_facts

from jaxscape import Problem, hessian, hessian_spectrum
from jaxscape.curvature.points import PRECISIONS
from jaxscape.curvature.products import kind_points
from jaxscape.curvature.spectrum import measure_spectrum
from jaxscape.tasks.images import ImageTask, image_problem

PEER_ARMS = ("hvp reverse", "hvp forward", "eigenpairs reverse", "eigenpairs forward")
K = 5


def main() -> None:
    """Measure, print, and write the records into the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="Lanczos steps")
    parser.add_argument("--batch-size", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=1437, help="images of the digits, at most 1437")
    parser.add_argument("--peer", help="a Python with torch")
    parser.add_argument("--error", action="store_true", help="measure the errors of float32 instead of times")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    problem = image_problem(ImageTask())
    params, state = problem.init(jax.random.key(0))
    size = {"batch_size": options.batch_size, "examples": options.examples}
    loss_options: dict[str, Any] = {"model_state": state, **size}
    vector = jax.tree.map(
        lambda leaf: jnp.asarray(np.random.default_rng(leaf.size).standard_normal(leaf.shape), leaf.dtype), params
    )
    facts = run_facts(("jax", "jaxlib", "flax", "numpy"), device=devices()) | {"steps": options.steps, "k": K, **size}
    if options.error:
        found = [facts | record for record in float32_errors(problem, params, vector, options.steps, loss_options)]
        for record in found:
            print(f"{record['operation']}: {record['largest']:.1e}")
        if options.json:
            replace_records(options.json, found, same=("operation", "case", "device", "examples", "steps"))
        return
    records: dict[str, Record] = {}
    arms: dict[str, Callable[[], float]] = {}

    started = time.perf_counter()
    operator = hessian(problem, params, **loss_options)
    jax.block_until_ready(operator.matvec(vector))
    records["jaxscape hvp"] = {"compile_s": time.perf_counter() - started}  # including the first product
    arms["jaxscape hvp"] = lambda: seconds(lambda: operator.matvec(vector))

    # The work of one call after its product is compiled.
    at = kind_points("hessian", problem, params, loss_options)
    lanczos = partial(
        measure_spectrum,
        kind="hessian",
        k=K,
        lowest=0,
        steps=options.steps,
        probes=1,
        tolerance=10,
        key=jax.random.key(0),
    )
    arms["jaxscape eigenpairs"] = lambda: seconds(lambda: at.map(lanczos))
    records["jaxscape eigenpairs"] = {"compile_s": arms["jaxscape eigenpairs"]()}
    worker = start_peer(options) if options.peer else None
    turns: dict[str, list[float]] = defaultdict(list)
    try:
        for arm in PEER_ARMS if worker is not None else ():
            records[f"pytorch {arm}"] = {"compile_s": 0.0}
            arms[f"pytorch {arm}"] = peer_arm(worker, arm, records[f"pytorch {arm}"])
        for _ in range(options.repeats):
            for arm, run in arms.items():
                turns[arm].append(run())
    finally:
        if worker is not None:
            worker.close()
    for arm in ("jaxscape hvp", "jaxscape eigenpairs"):
        records[arm]["peak_mb"] = peak_mb()

    found = [
        facts
        | {"arm": arm, "seconds": statistics.median(turns[arm]), "fastest_s": min(turns[arm]), "turns": turns[arm]}
        | records[arm]
        for arm in arms
    ]
    for record in found:
        print(
            f"{record['arm']:28} median {record['seconds']:.3f} s, fastest {record['fastest_s']:.3f} s, "
            f"first call {record['compile_s']:.1f} s, peak {record['peak_mb']:.0f} MB"
        )
    if options.json:
        replace_records(options.json, found, same=("arm", "device", "batch_size", "examples", "steps"))


def float32_errors(problem: Problem, params: Any, vector: Any, steps: int, loss_options: Record) -> list[Record]:
    """Return errors relative to float64: of a product divided by its norm, of eigenvalues divided by the largest."""
    narrow, wide = (flatten(hessian(problem, params, dtype=each, **loss_options).matvec(vector)) for each in PRECISIONS)
    found = [{"operation": "Hessian-vector product", "largest": np.linalg.norm(narrow - wide) / np.linalg.norm(wide)}]
    # With a probe all steps are taken; the large tolerance avoids a warning about residuals.
    lanczos = {"k": K, "lowest": 0, "num_steps": steps, "probes": 1, "tolerance": 10}
    narrow, wide = (
        hessian_spectrum(problem, params, dtype=each, **lanczos, **loss_options).eigenvalues for each in PRECISIONS
    )
    found += [{"operation": "eigenvalues", "largest": np.abs(narrow - wide).max() / np.abs(wide).max()}]
    return [{"case": "digits", **record, "largest": float(record["largest"])} for record in found]


def seconds(work: Callable[[], Any]) -> float:
    """Return the seconds of some work, including its execution on the device."""
    started = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - started


def flatten(tree: Any) -> np.ndarray:
    """Return the leaves as one float64 vector."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def peak_mb() -> float:
    """Return the peak memory of the device, or of this process on a CPU."""
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def start_peer(options: argparse.Namespace) -> Worker:
    """Start the peer with the settings of our own arms."""
    work = {"examples": options.examples, "batch-size": options.batch_size, "steps": options.steps, "k": K}
    worker = Worker(options.peer, "curvature.py", work)
    print(f"peer: {worker.about}", file=sys.stderr)
    return worker


def peer_arm(worker: Worker, arm: str, record: Record) -> Callable[[], float]:
    """Return an arm of the peer, which gives its seconds; each turn updates the peak memory in the record."""

    def run() -> float:
        answer = worker.ask(arm)
        record.update(peak_mb=answer["peak_mb"], peer=worker.about)
        return float(answer["seconds"])

    return run


if __name__ == "__main__":
    main()
