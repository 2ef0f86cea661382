"""Peak memory of retraining: the largest resident size of the process after each epoch.

The C library's settings are those of the command line (`jaxscape.xla_cpu.memory`), and copies run in threads, as they
do there on a CPU. For the peak memory of distances see `benchmarks/distances.py`.

    python -m uv run python benchmarks/memory.py --json benchmarks/results/memory.json
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from jaxscape.xla_cpu.memory import restart_with_kept_memory

if __name__ == "__main__":
    restart_with_kept_memory()

import numpy as np
from records import peak_mb

DEPTH, WIDEN = 28, 2  # 1,467,610 parameters


def retraining(members: int, epochs: int) -> dict[str, Any]:
    """Retrain perturbed copies of a WRN-28-2 on 8x8 digits, two steps per epoch, and store every epoch."""
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
    from jaxscape.tasks.classification import standardization

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
            peaks.append(peak_mb())
        parameters = store.num_parameters
    return {
        "members": members,
        "parameters": parameters,
        "epochs": epochs,
        "trajectory_mb": members * (epochs + 1) * parameters * 4 / 1e6,
        "state_mb": 2 * members * parameters * 4 / 1e6,
        "peak_mb_by_epoch": peaks,
    }


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file for the records")
    options = parser.parse_args()
    record = {"question": "retraining", **retraining(members=20, epochs=6)}
    print(json.dumps(record))
    from jaxscape.runs.environment import environment
    from jaxscape.runs.folder import write_json

    write_json(options.json, {"environment": environment(), "records": [record]})


if __name__ == "__main__":
    main()
