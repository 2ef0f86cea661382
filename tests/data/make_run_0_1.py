"""Make `run-0.1`, a run folder of version 0.1 with a network of 15 parameters, by that version's own code.

git worktree add ../version-0.1 fa1a856 && cd ../version-0.1
python -m uv sync && python -m uv run python THIS_FILE FOLDER
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from jaxscape.app.config import EmbedConfig, retrain_preset, train_preset
from jaxscape.app.embed import embed_trajectories
from jaxscape.app.folder import record_section
from jaxscape.app.progress import make_console
from orbax.checkpoint import v1 as ocp

from jaxscape.trajectories.store import TrajectoryStore

run, random = Path(sys.argv[1]), np.random.default_rng(0)
train = replace(train_preset("good"), epochs=2)
record_section(run, "train", train, results=())
retrain = replace(retrain_preset(train), seeds=(0, 1), step_sizes=(0.5, 1.0), epochs=3)
record_section(run, "retrain", retrain, results=())


def noise(leaf, scale):
    """Normal numbers of the shape of a leaf."""
    return random.standard_normal(leaf.shape).astype("f") * scale


minimum = {"stem": {"kernel": noise(np.empty((3, 4)), 1)}, "head": {"bias": np.zeros(3, "f")}}
(run / "minimum").mkdir()
state = {"batch_stats": {"norm": {"mean": np.zeros(3, "f")}}}
ocp.save((run / "minimum" / "parameters").absolute(), {"params": minimum, "model_state": state})
measured = {"train_accuracy": 0.75, "train_loss": 0.5, "test_accuracy": 0.5, "test_loss": 0.75}
(run / "minimum" / "metrics.json").write_text(json.dumps({"epochs": 2} | measured))

labels = [{"seed": seed, "step_size": size} for seed in (0, 1) for size in (0.5, 1.0)]
copies = [jax.tree.map(lambda leaf: leaf + noise(leaf, 0.3), minimum) for _ in labels]
rows = ["member,seed,step_size,epoch,update,finite,epoch_accuracy,epoch_loss,train_loss"]
with TrajectoryStore.create(run / "trajectories", labels) as store:
    for epoch in range(4):
        store.append(epoch, jax.tree.map(lambda *leaves: np.stack(leaves), *copies), update=4 * epoch)
        mean = 0.5 if epoch else float("nan")
        for member, label in enumerate(labels):
            row = (member, *label.values(), epoch, 4 * epoch, 1, mean, mean, 1 / (1 + epoch))
            rows.append(",".join(map(str, row)))
        copies = [
            jax.tree.map(lambda leaf, end: 0.8 * leaf + 0.2 * end + noise(leaf, 0.02), copy, minimum) for copy in copies
        ]
(run / "metrics.csv").write_text("\n".join(rows) + "\n")
embed_trajectories(run, EmbedConfig(knn=3), console=make_console())
