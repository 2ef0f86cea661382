"""Peak memory while copies are retrained, and while distances are computed from a store on disk.

Each question runs in a process of its own; the figure is the largest resident size of that process, beside that of
the same process before the work began (interpreter, jax and data). The C library's settings are those of the command
line (`jaxscape.app.memory`), and copies run in threads, as they do there on a CPU.

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

from jaxscape.app.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

import numpy as np

DEPTH, WIDEN = 28, 2  # 1,467,610 parameters


def write_store(members: int, epochs: int, folder: str) -> dict[str, Any]:
    """A store of members x epochs points of a WRN-28-2 around a minimum; gives its size."""
    import jax

    from jaxscape import TrajectoryStore

    minimum, generator = _minimum(), np.random.default_rng(1)
    with TrajectoryStore.create(Path(folder) / "store", [{"seed": m} for m in range(members)]) as store:
        for epoch in range(epochs):
            near = [
                leaf + generator.standard_normal((members, *leaf.shape), np.float32)
                for leaf in jax.tree.leaves(minimum)
            ]
            store.append(epoch, jax.tree.unflatten(jax.tree.structure(minimum), near))
        return {"points": members * epochs, "trajectory_mb": members * epochs * store.num_parameters * 4 / 1e6}


def distances(members: int, epochs: int, folder: str) -> dict[str, Any]:
    """Inner products and cosine distances of that store."""
    from jaxscape import TrajectoryStore, gram, pairwise_distances

    minimum, store = _minimum(), TrajectoryStore.open(Path(folder) / "store")
    before, started = _peak_mb(), time.monotonic()
    found = gram(store, reference=minimum)
    gram_seconds = time.monotonic() - started
    pairwise_distances(found, metric="cosine", center="mean")
    return {
        "points": members * epochs,
        "parameters": found.dimension,
        "gram_seconds": gram_seconds,
        "before_mb": before,
        "peak_mb": _peak_mb(),
    }


def retraining(members: int, epochs: int) -> dict[str, Any]:
    """Retraining jumped copies of a WRN-28-2 on 8x8 digits, two steps an epoch, every epoch kept in a store."""
    import jax

    from jaxscape import (
        TrajectoryStore,
        WideResNet,
        flax_loss,
        jump_grid,
        load_dataset,
        make_optimizer,
        retrain,
        take_training,
    )
    from jaxscape.training.objective import standardization

    data = take_training(load_dataset("digits"), 50)
    module = WideResNet(DEPTH, WIDEN, data.num_classes)
    variables = module.init(jax.random.key(0), np.zeros((1, 8, 8, 1), np.float32))
    grid = jump_grid(variables["params"], seeds=range(members // 4))
    loss_fn = flax_loss(module, preprocess=standardization(data.train_images))
    run = retrain(
        loss_fn,
        make_optimizer("momentum", 0.001),
        grid,
        (data.train_images, data.train_labels),
        epochs=epochs,
        key=jax.random.key(0),
        model_state={"batch_stats": variables["batch_stats"]},
        batch_size=25,
        strategy="threads",
    )
    peaks = []
    with tempfile.TemporaryDirectory() as folder, TrajectoryStore.create(Path(folder) / "store", grid.labels) as store:
        for epoch, states, _ in run:
            store.append(epoch, states.params)
            peaks.append(_peak_mb())
        parameters = store.num_parameters
    return {
        "members": members,
        "parameters": parameters,
        "epochs": epochs,
        "trajectory_mb": members * (epochs + 1) * parameters * 4 / 1e6,
        "state_mb": 2 * members * parameters * 4 / 1e6,
        "peak_mb_by_epoch": peaks,
    }


def _minimum() -> Any:
    """Parameters of a WRN-28-2, standard normal."""
    import jax

    from jaxscape import WideResNet

    module = WideResNet(DEPTH, WIDEN, 10)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape, np.float32), shapes)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def _in_own_process(question: Callable[..., dict[str, Any]], **sizes: Any) -> dict[str, Any]:
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
    with tempfile.TemporaryDirectory() as folder:
        records = [
            _in_own_process(write_store, members=20, epochs=10, folder=folder),
            _in_own_process(distances, members=20, epochs=10, folder=folder),
            _in_own_process(retraining, members=20, epochs=6),
        ]
    from jaxscape.app.folder import environment

    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({"environment": environment(), "records": records}, indent=1) + "\n")


if __name__ == "__main__":
    main()
