"""A loss surface: every strategy, a plain Python loop over a jitted loss, and PyTorch.

All arms are interleaved in one run, so that disturbances of a shared machine affect all of them; compilation is timed
separately. A turn is one row of the 51x51 grid around a network, in evaluation mode with its running statistics kept:
the mean loss over all images, in batches of 1,000. The peer is a separate process with a Python that has torch, with
the network in channels-last format (benchmarks/peers/surface.py).

    python -m uv run python benchmarks/landscape.py --case digits --repeats 5 --json benchmarks/results/landscape.json \
        --peer /path/to/python-with-torch

Seconds are per point; `grid_s` is the time of 51x51 points at the median rate. The errors of float32 relative to
float64 do not need a quiet machine:

    python -m uv run python benchmarks/landscape.py --error --json benchmarks/results/float32.json
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__" and "--default-memory" not in sys.argv:
    restart_with_kept_memory()

import jax
import jax.numpy as jnp
import numpy as np
import optax
from records import Record, Worker, devices, replace_records, run_facts

from jaxscape import Problem, WideResNet, filter_plane, flax_loss, plane_weights
from jaxscape.landscape.points import Evaluator, points_evaluator
from jaxscape.tasks.classification import classification_score, flax_predict


class Case(NamedTuple):
    """A network and its images."""

    depth: int
    widen_factor: int
    size: int
    images: int


CASES = {"digits": Case(10, 1, 8, 1437), "image28": Case(16, 1, 28, 1000)}
SIDE, BATCH, CLASSES = 51, 1000, 10
ERROR_POINTS = {"digits": 11, "image28": 3}  # points of a row whose errors are measured; float64 is slow
PACKAGES = ("jax", "jaxlib", "flax", "numpy")

Arm = Callable[[], tuple[float, float]]  # evaluates a row of the grid; returns the seconds per point and the mean loss


class Work(NamedTuple):
    """The work of all arms."""

    problem: Problem
    plane: Any
    model_state: Any
    weights: np.ndarray  # weights of the points of a row


def make_work(case: Case, dtype: Any = np.float32) -> Work:
    """Return a new network, random images and labels, and a row of the grid around it; dtype is that of activations."""
    generator = np.random.default_rng(0)
    images = generator.standard_normal((case.images, case.size, case.size, 1)).astype(np.float32).astype(dtype)
    labels = generator.integers(0, CLASSES, case.images).astype(np.int32)
    # With a dtype the logits are float32 whatever it is; None computes in that of images and parameters.
    module = WideResNet(case.depth, case.widen_factor, CLASSES, dtype=np.float32 if dtype == np.float32 else None)
    variables = dict(module.init(jax.random.key(0), jnp.asarray(images[:1])))
    params = variables.pop("params")
    problem = Problem(
        flax_loss(module),
        (jnp.asarray(images), jnp.asarray(labels)),
        predict=flax_predict(module),
        score=classification_score,
    )
    plane = filter_plane(params)
    x = np.linspace(-1, 1, SIDE)
    return Work(problem, plane, variables, plane_weights(plane, np.stack([x, np.full(SIDE, 0.5)], axis=1)))


def evaluator_of(work: Work, strategy: str, statistics: Any = "kept") -> Evaluator:
    """Return the evaluator that `surface` would use for this work."""
    return points_evaluator(
        work.problem,
        work.plane.vectors,
        model_state=work.model_state,
        statistics=statistics,
        split="train",
        metrics=("loss",),
        batch_size=BATCH,
        strategy=strategy,
    )


def ours(work: Work, strategy: str) -> Arm:
    """Return the arm of `surface` with a strategy."""
    evaluator = evaluator_of(work, strategy)

    def run() -> tuple[float, float]:
        started = time.perf_counter()
        losses = [values["loss"] for _, values in evaluator.chunks(work.weights, len(work.weights))]
        return (time.perf_counter() - started) / SIDE, float(np.concatenate(losses).mean())

    return run


def python_loop(work: Work) -> Arm:
    """Return the arm of a plain implementation: a jitted loss of all images, and a loop over the points."""
    images, labels = work.problem.data
    parts = [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(labels), BATCH)]
    predict = work.problem.predict

    @jax.jit
    def loss(params: Any, first: Any, second: Any, x: float, y: float) -> jax.Array:
        displaced = jax.tree.map(lambda w, d, e: w + x * d + y * e, params, first, second)
        total = 0.0
        for part in parts:
            logits = predict(displaced, work.model_state, part)
            total += optax.softmax_cross_entropy_with_integer_labels(logits, part[1]).sum()
        return total / len(labels)

    vectors = [jax.tree.map(jnp.asarray, vector) for vector in work.plane.vectors]

    def run() -> tuple[float, float]:
        started = time.perf_counter()
        losses = [float(loss(*vectors, x, y)) for _, x, y in work.weights]
        return (time.perf_counter() - started) / SIDE, float(np.mean(losses))

    return run


def float32_errors(case: str, statistics: str) -> Record:
    """Return the relative errors of the losses of points of the row, compared with float64."""
    narrow = make_work(CASES[case])
    points = np.linspace(0, SIDE - 1, ERROR_POINTS[case]).round().astype(int)
    with jax.enable_x64(True):
        wide = make_work(CASES[case], np.float64)
        # The same parameters, those of float32.
        vectors = tuple(jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), each) for each in narrow.plane.vectors)
        wide = wide._replace(plane=narrow.plane._replace(vectors=vectors))
        wide = wide._replace(model_state=jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), narrow.model_state))
        exact = losses_of(wide, statistics, points)
    errors = np.abs(losses_of(narrow, statistics, points) / exact - 1)
    of = {"operation": f"loss of a surface, statistics {statistics}", "case": case, "points": len(points)}
    return of | {"examples": CASES[case].images, "largest": float(errors.max()), "median": float(np.median(errors))}


def losses_of(work: Work, statistics: str, points: np.ndarray) -> np.ndarray:
    """Return the losses of some points of the row."""
    evaluator = evaluator_of(work, "loop", statistics)
    weights = work.weights[points]
    return np.concatenate([values["loss"] for _, values in evaluator.chunks(weights, len(weights))])


def measure_errors(options: argparse.Namespace) -> None:
    """Measure the errors of float32 in all cases, print and write them."""
    facts = run_facts(PACKAGES, device=devices())
    for case in CASES:
        for statistics in ("kept", "recalibrated"):
            record = float32_errors(case, statistics)
            print(", ".join(f"{name} {value}" for name, value in record.items()), flush=True)
            if options.json:
                replace_records(options.json, [facts | record], same=("operation", "case", "device"))


class Peer(Worker):
    """The worker process with PyTorch."""

    def __init__(self, python: str, case: Case):
        """Start the worker."""
        super().__init__(python, "surface.py", case._asdict())

    def __call__(self) -> tuple[float, float]:
        """Evaluate the row, and return the seconds per point and the mean loss."""
        answer = self.ask("turn")
        return answer["seconds"], answer["loss"]


def measure(arms: dict[str, Arm], repeats: int) -> list[Record]:
    """Return one record per arm: the first turn separately, then `repeats` interleaved turns of each."""
    records, times = {}, {name: [] for name in arms}
    for name, run in arms.items():
        started = time.perf_counter()
        _, loss = run()
        records[name] = {"arm": name, "first_s": time.perf_counter() - started, "loss": loss}
    for _ in range(repeats):
        for name, run in arms.items():
            time.sleep(0.3)  # until the threads of another arm no longer spin
            times[name].append(run()[0])
    for name, record in records.items():
        median = float(np.median(times[name]))
        record |= {"median_s": median, "min_s": min(times[name]), "grid_s": SIDE**2 * median, "seconds": times[name]}
    return list(records.values())


def main() -> None:
    """Measure one case, print and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="digits")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strategies", nargs="+", default=["loop", "threads", "vmap:4"])
    parser.add_argument(
        "--error", action="store_true", help="measure the errors of float32 instead of times, of all cases"
    )
    parser.add_argument("--peer", help="path of a Python that has torch")
    parser.add_argument("--default-memory", action="store_true", help="do not change the C library's settings")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.error:
        measure_errors(options)
        return
    case = CASES[options.case]
    work = make_work(case)
    arms: dict[str, Arm] = {"python loop": python_loop(work)}
    arms |= {name: ours(work, name) for name in options.strategies}
    peer = Peer(options.peer, case) if options.peer else None
    try:
        if peer is not None:
            arms["pytorch"] = peer
        found = measure(arms, options.repeats)
    finally:
        if peer is not None:
            peer.close()
    facts = run_facts(PACKAGES, device=devices()) | {"case": options.case, "images": case.images}
    facts |= {"peer": peer and peer.about}
    rivals = [record for record in found if record["arm"] in ("python loop", "pytorch")]
    for record in sorted(found, key=lambda record: record["median_s"]):
        ratios = [
            np.median([a / b for a, b in zip(record["seconds"], rival["seconds"], strict=True)]) for rival in rivals
        ]
        to = ", ".join(f"{ratio:.2f} of {rival['arm']}" for ratio, rival in zip(ratios, rivals, strict=True))
        print(
            f"{record['arm']:12} {1e3 * record['median_s']:8.1f} ms a point (least {1e3 * record['min_s']:.1f}), "
            f"51x51 {record['grid_s']:6.1f} s, first turn {record['first_s']:5.1f} s, loss {record['loss']:.4f}; {to}"
        )
    if options.json:
        replace_records(options.json, [facts | record for record in found], same=("case", "arm", "device"))


if __name__ == "__main__":
    main()
