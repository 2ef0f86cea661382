"""Train the networks of a study to the same training loss, as stacks of networks of one shape."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from study import Cell, Network, Study, training_optimizer, training_states

from jaxscape import train
from jaxscape.tasks.data import Dataset
from jaxscape.training.members import map_members, num_workers

PyTree = Any


def train_to_target(
    study: Study,
    cells: Sequence[Cell],
    net: Network,
    data: Dataset,
    *,
    strategy: str,
    finished: Callable[[Cell, PyTree, dict[str, Any]], None],
) -> None:
    """Train networks of one shape until each has reached the target loss, or the largest number of updates.

    The training loss is evaluated every `check_every` updates. A network that has reached the target is handed over
    and leaves the stack once a quarter of the stack has; what it does until then does not count.

    Args:
        study: the study.
        cells: networks with the same shape.
        net: their functions.
        data: the data set of the study.
        strategy: how the networks run together.
        finished: called once for each network, as soon as it has reached an end, with its parameters and model state
            (one network) and its record.
    """
    states, remaining = training_states(list(cells), net, data), list(cells)
    checks, first = study.most_updates // study.check_every, 0
    optimizer = training_optimizer()  # one for all calls of `train`, which then share their compiled programs
    started = time.monotonic()
    while remaining:
        done: set[int] = set()
        epochs = train(
            net.problem.loss_fn,
            optimizer,
            states,
            net.problem.data,
            epochs=checks,
            steps=study.check_every,
            batch_size=cells[0].recipe.batch_size,
            evaluate=net.evaluate,
            first_epoch=first,
            strategy=strategy,
        )
        for epoch in epochs:
            states, first = epoch.states, epoch.epoch
            for place, cell in enumerate(remaining):
                loss = float(epoch.metrics["loss"][place])
                reached = loss <= study.target_loss
                at_end = first == checks or not epoch.metrics["finite"][place]
                if first and place not in done and (reached or at_end):
                    done.add(place)
                    record = {
                        "reached": reached,
                        "updates": first * study.check_every,
                        "target_loss": loss,
                        "seconds": time.monotonic() - started,  # since the start of its stack
                    }
                    finished(cell, *_take((states.params, states.model_state), place), record)
            if len(done) == len(remaining) or 4 * len(done) >= len(remaining):
                break
        epochs.close()
        stay = np.array([place for place in range(len(remaining)) if place not in done], int)
        remaining = [remaining[place] for place in stay]
        if remaining:
            states = _take(states, stay)


def _take(stack: PyTree, place: int | np.ndarray) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[place], stack)


def final_metrics(net: Network, params: PyTree, state: PyTree, strategy: str) -> dict[str, np.ndarray]:
    """Return the loss and accuracy of each network of a stack on all of its training images and the test images."""
    return dict(map_members(net.evaluate_all, params, state, workers=num_workers(strategy)))
