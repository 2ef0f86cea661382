"""The choice of the digits protocol: which minima fit and differ, and at which learning rate copies move.

The choice uses development seeds (100, 101, 102) and two criteria only: minima fit their data as intended, and copies
move (median path length of at least a tenth of the jump). No figure or geometry is used. Reported results use other
seeds. The table and the choice are in docs/protocol.md.

    python -m uv run python benchmarks/protocol.py --json benchmarks/results/protocol.json
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.jumps.directions import jump_grid
from jaxscape.jumps.retrain import retrain
from jaxscape.problem import Problem
from jaxscape.runs.config import TrainConfig, train_preset
from jaxscape.runs.environment import environment
from jaxscape.runs.folder import write_json
from jaxscape.runs.images import image_training
from jaxscape.runs.keys import init_key, train_key
from jaxscape.runs.train import steps_per_epoch
from jaxscape.training.members import map_members, stack_members, take_member
from jaxscape.training.optimizers import make_optimizer
from jaxscape.training.train import TrainState, init_states, train

DEVELOPMENT_SEEDS = (100, 101, 102)
TRAIN_SIZES = (50, 100, 200)
GOOD = ({"weight_decay": 1e-4}, {"weight_decay": 1e-3}, {"weight_decay": 5e-3}, {"weight_decay": 1e-4, "padding": 2})
LEARNING_RATES = (0.001, 0.01, 0.05, 0.1)
JUMP_SEEDS = (10, 11)  # directions that are not used in reported runs


def find_minima(config: TrainConfig) -> tuple[Problem, TrainState, dict[str, np.ndarray]]:
    """Train one minimum per development seed, all together; random labels are those of the first seed."""
    _, problem, optimizer = image_training(replace(config, seed=DEVELOPMENT_SEEDS[0]))
    starts = [problem.init(init_key(seed)) for seed in DEVELOPMENT_SEEDS]
    keys = jnp.stack([train_key(seed) for seed in DEVELOPMENT_SEEDS])
    states = init_states(
        stack_members([params for params, _ in starts]), optimizer, keys=keys, model_state=starts[0][1]
    )
    epochs = train(problem.loss_fn, optimizer, states, problem.data, epochs=config.epochs, batch_size=config.batch_size)
    *_, (_, states, _) = epochs
    return problem, states, map_members(problem.evaluate, states.params, states.model_state)


def minima_records() -> Iterator[dict[str, Any]]:
    """Measure the accuracy of bad, good and memorization minima by training set size and regularisation."""
    for size in TRAIN_SIZES:
        variants = [("bad", {}), *(("good", change) for change in GOOD), ("memorization", {})]
        for preset, change in variants:
            config = replace(train_preset(preset, protocol="digits"), train_size=size, **change)
            _, _, metrics = find_minima(config)
            yield {
                "question": "minima",
                "preset": preset,
                "train_size": size,
                "weight_decay": config.weight_decay,
                "padding": config.padding if config.augmentation != "none" else None,
                "epochs": config.epochs,
                "updates": config.epochs * (size // config.batch_size),
                **{name: metrics[name].tolist() for name in ("train_accuracy", "train_loss", "test_accuracy")},
            }


def movement_records() -> Iterator[dict[str, Any]]:
    """Measure the path length relative to the jump, by learning rate of the retraining."""
    for preset in ("good", "bad", "memorization"):
        config = train_preset(preset, protocol="digits")
        problem, minima, _ = find_minima(config)
        for learning_rate in LEARNING_RATES:
            optimizer = make_optimizer("momentum", learning_rate, weight_decay=config.weight_decay)
            paths = [
                _path_lengths(problem, take_member(minima, m), optimizer, config) for m in range(len(DEVELOPMENT_SEEDS))
            ]
            yield {
                "question": "movement",
                "preset": preset,
                "learning_rate": learning_rate,
                "weight_decay": config.weight_decay,
                "updates": 50 * steps_per_epoch(problem, config.batch_size),
                "median_path_over_jump": [float(np.median(path)) for path in paths],
                "smallest_path_over_jump": [float(path.min()) for path in paths],
            }


def _path_lengths(problem: Problem, minimum: TrainState, optimizer: Any, config: TrainConfig) -> np.ndarray:
    grid = jump_grid(minimum.params, seeds=JUMP_SEEDS)
    before = _flat(grid.params)
    jump = np.linalg.norm(before - _flat(jax.tree.map(lambda leaf: leaf[None], minimum.params)), axis=1)
    path = np.zeros(len(jump))
    for _, states, _ in retrain(
        problem.loss_fn,
        optimizer,
        grid,
        problem.data,
        epochs=50,
        key=jax.random.key(DEVELOPMENT_SEEDS[0]),
        model_state=minimum.model_state,
        batch_size=config.batch_size,
    ):
        now = _flat(states.params)
        path += np.linalg.norm(now - before, axis=1)
        before = now
    return path / jump


def _flat(params: Any) -> np.ndarray:
    return np.concatenate([np.asarray(leaf, np.float64).reshape(len(leaf), -1) for leaf in jax.tree.leaves(params)], 1)


def main() -> None:
    """Run both parts and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file for the records")
    options = parser.parse_args()
    started = time.monotonic()
    records = []
    for record in chain(minima_records(), movement_records()):
        print(json.dumps(record), flush=True)
        records.append(record)
    result = {"environment": environment(), "seconds": round(time.monotonic() - started), "records": records}
    write_json(options.json, result)


if __name__ == "__main__":
    main()
