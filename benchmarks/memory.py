"""Peak memory while copies are retrained, and while distances are computed from a store on disk.

Each question runs in a process of its own; the figure is the largest resident size of that process, beside that of
the same process before the work began (interpreter, jax and data).

    python -m uv run python benchmarks/memory.py --json benchmarks/results/memory.json
"""

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

DEPTH, WIDEN = 28, 2  # 1,467,610 parameters


def distances(members: int, epochs: int) -> dict[str, Any]:
    """Euclidean and cosine distances of members x epochs points of a WRN-28-2 in a store."""
    import jax

    from jaxscape import TrajectoryStore, WideResNet, gram, pairwise_distances

    module = WideResNet(DEPTH, WIDEN, 10)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    generator = np.random.default_rng(0)
    minimum = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), shapes)
    with tempfile.TemporaryDirectory() as folder:
        with TrajectoryStore.create(Path(folder) / "store", [{"seed": m} for m in range(members)]) as store:
            for epoch in range(epochs):
                store.append(epoch, _snapshot(minimum, members, generator))
        store = TrajectoryStore.open(Path(folder) / "store")
        before, started = _peak_mb(), time.monotonic()
        found = gram(store, reference=minimum)
        gram_seconds = time.monotonic() - started
        pairwise_distances(found, metric="cosine", center="mean")
    return {
        "points": members * epochs,
        "parameters": found.dimension,
        "trajectory_mb": members * epochs * found.dimension * 4 / 1e6,
        "gram_seconds": gram_seconds,
        "before_mb": before,
        "peak_mb": _peak_mb(),
    }


def retraining(members: int, epochs: int) -> dict[str, Any]:
    """Retraining the digits' WRN-10-1 and keeping every epoch, as the demo does."""
    from jaxscape.app.config import RetrainConfig, train_preset
    from jaxscape.app.progress import make_console
    from jaxscape.app.retrain import retrain_copies
    from jaxscape.app.train import find_minimum

    with tempfile.TemporaryDirectory() as folder:
        run, console = Path(folder) / "run", make_console()
        console.quiet = True
        find_minimum(run, train_preset("good"), console=console)
        before = _peak_mb()
        seeds = tuple(range(members // 4))
        config = RetrainConfig(seeds=seeds, epochs=epochs, learning_rate=0.05, batch_size=25)
        store = retrain_copies(run, config, console=console)
    return {
        "members": store.num_members,
        "parameters": store.num_parameters,
        "epochs": epochs,
        "trajectory_mb": store.num_members * (epochs + 1) * store.num_parameters * 4 / 1e6,
        "before_mb": before,
        "peak_mb": _peak_mb(),
    }


def _snapshot(minimum: Any, members: int, generator: np.random.Generator) -> Any:
    import jax

    def near(leaf: np.ndarray) -> np.ndarray:
        return leaf + generator.standard_normal((members, *leaf.shape), np.float32)

    return jax.tree.map(near, minimum)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _in_own_process(question: Callable[..., dict[str, Any]], **sizes: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        record = {"question": question.__name__, **pool.apply(question, kwds=sizes)}
    print(json.dumps(record), flush=True)
    return record


def main() -> None:
    """Ask each question in a process of its own and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where to write the records")
    options = parser.parse_args()
    records = [
        _in_own_process(distances, members=20, epochs=10),
        _in_own_process(retraining, members=20, epochs=10),
        _in_own_process(retraining, members=20, epochs=50),
    ]
    from jaxscape.app.folder import environment

    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"environment": environment(), "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
