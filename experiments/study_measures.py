"""Measure the minima of a study: the trajectories of retrained copies, and the baselines.

Every measure uses the training data alone. All are oriented: a larger value is expected to go with a larger
generalisation gap (`MEASURES`), so that a positive rank correlation means that the expectation holds.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from study import Cell, Network, Probe, Study, key_of

from jaxscape import (
    IncrementGram,
    TrainState,
    concatenate_states,
    drift,
    filter_normalized_distance,
    gram,
    jump_grid,
    make_optimizer,
    norms,
    null_trajectories,
    pairwise_distances,
    sharpness,
    start_states,
    train,
    trajectory_geometry,
)
from jaxscape.tasks.data import Dataset
from jaxscape.trajectories.geometry import trajectory_rows
from jaxscape.trajectories.gram import inner_products, take_points

PyTree = Any

SURROGATES = 8  # exchange surrogates, whose mean is subtracted

# name -> kind of `jaxscape.sharpness` and its options
SHARPNESS_MEASURES: dict[str, tuple[str, dict[str, Any]]] = {
    "sharpness_filter": ("worst_case_filter", {"steps": 10}),
    "trace_filter": ("average_case_filter", {"draws": 10}),
    "pac_bayes": ("pac_bayes_adaptive", {"draws": 5}),
    "top_eigenvalue": ("top_eigenvalue", {"steps": 20}),
    "trace": ("trace", {"probes": 6}),
}


class Trajectories(NamedTuple):
    """The retrained copies of one minimum."""

    gram: IncrementGram  # rows record by record, copies within; the reference is the minimum
    losses: np.ndarray  # float64 [record, copy], on training images, with the statistics of the batch
    updates: np.ndarray  # int64 [record], number of updates
    step_size: np.ndarray  # float64 [copy], 0 for the unperturbed copies
    seed: np.ndarray  # int64 [copy], the number of the direction
    direction_return: np.ndarray  # float64 [record, copy]: filter-normalised distance from the minimum


_from_minimum = jax.jit(jax.vmap(filter_normalized_distance, (0, None)))


@cache  # the same object each time, so that `train` finds the compiled programs of another stack
def _optimizer(probe: Probe) -> optax.GradientTransformation:
    return make_optimizer("momentum", probe.learning_rate)


def probe_states(
    probe: Probe, cell: Cell, params: PyTree, state: PyTree, net: Network
) -> tuple[TrainState, np.ndarray, np.ndarray]:
    """Return the perturbed copies of a minimum as a stack, with their step sizes and seeds."""
    seeds = [cell.number * 100 + each for each in range(probe.directions)]  # directions that no other cell uses
    grid = jump_grid(params, seeds=seeds, step_sizes=probe.step_sizes, controls=probe.controls)
    not_cropped = {**state, "crops": jnp.asarray(False)}
    states = start_states(grid, _optimizer(probe), key=key_of(cell, "probe"), model_state=not_cropped)
    return states, np.asarray(grid.step_size), np.asarray(grid.seed)


def retrain_copies(
    probe: Probe, cells: Sequence[Cell], minima: Sequence[tuple[PyTree, PyTree]], net: Network, *, strategy: str
) -> list[Trajectories]:
    """Perturb and retrain the copies of several minima of one shape, all as one stack."""
    made = [probe_states(probe, cell, *minimum, net) for cell, minimum in zip(cells, minima, strict=True)]
    counts = [len(step_size) for _, step_size, _ in made]
    ends = np.cumsum(counts)
    references = [_flat(params) for params, _ in minima]
    points: list[np.ndarray] = []  # [record][copy, P]
    distances: list[np.ndarray] = []
    losses: list[np.ndarray] = []
    for epoch in train(
        net.problem.loss_fn,
        _optimizer(probe),
        concatenate_states([states for states, _, _ in made]),
        net.problem.data,
        epochs=probe.updates // probe.every,
        steps=probe.every,
        batch_size=probe.batch_size,
        evaluate=net.perturbed_loss,
        strategy=strategy,
    ):
        params = epoch.states.params
        points.append(np.concatenate([np.asarray(leaf).reshape(ends[-1], -1) for leaf in jax.tree.leaves(params)], 1))
        losses.append(np.asarray(epoch.metrics["loss"], np.float64))
        own = [
            np.asarray(_from_minimum(jax.tree.map(lambda leaf, a=end - count, b=end: leaf[a:b], params), minimum))
            for count, end, (minimum, _) in zip(counts, ends, minima, strict=True)
        ]
        distances.append(np.concatenate(own))
    updates = np.arange(len(points)) * probe.every
    found = []
    for count, end, reference, (_, step_size, seed) in zip(counts, ends, references, made, strict=True):
        rows = np.concatenate([record[end - count : end] for record in points])
        parents = np.arange(len(rows)) - count
        products = gram(rows, reference=reference, parents=np.where(parents < 0, -1, parents))
        own_losses, own_distances = (np.stack(values)[:, end - count : end] for values in (losses, distances))
        found.append(Trajectories(products, own_losses, updates, step_size, seed, own_distances))
    return found


def _flat(params: PyTree) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params)])


def trajectory_measures(copies: Trajectories, key: jax.Array) -> dict[str, np.ndarray]:
    """Return the eight statistics of each perturbed copy, float64 [copy]; NaN where one is undefined.

    Displacements are relative to the drift: the mean displacement of the unperturbed copies at the same time.

    inward: component of the displacement along the way back, in units of the jump. cosine: of the displacement with
    the way back, minus that of exchange surrogates. return_directions: 1 - final / initial filter-normalised distance
    from the minimum. return_drifted: 1 - distance from the mean end of the unperturbed copies / jump. travel and
    tortuosity: those of `trajectory_geometry`. halving: updates until the loss has halved, interpolated; the number of
    updates of the probe if it has not. end_spread: mean distance of an end from the ends of the other copies, in units
    of the mean distance of their starts.
    """
    perturbed = copies.step_size > 0
    inward, cosine = _towards_minimum(copies.gram, ~perturbed)
    exchanged = [
        _towards_minimum(null, ~perturbed)[1]
        for null in (
            null_trajectories(
                copies.gram, kind="exchange", key=each, alike=np.tile(copies.step_size, len(copies.updates))
            )
            for each in jax.random.split(key, SURROGATES)
        )
    ]
    summary = trajectory_geometry(copies.gram).summary()
    distances = copies.direction_return
    values = {
        "inward": inward,
        "cosine": cosine - np.mean(exchanged, axis=0),
        "return_directions": 1 - distances[-1, perturbed] / distances[0, perturbed],
        "return_drifted": drift(copies.gram, ~perturbed).returned[perturbed],
        "travel": summary["travel"][perturbed],
        "tortuosity": summary["tortuosity"][perturbed],
        "halving": _halving(copies.losses[:, perturbed], copies.updates),
        "end_spread": _spread(copies.gram, perturbed),
    }
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def _towards_minimum(gram: IncrementGram, unperturbed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inward component of the perturbed copies' displacement beyond the drift, and its cosine."""
    rows = trajectory_rows(gram)
    high, low = inner_products(gram, center="reference")
    products = high + low
    starts, ends = rows[0][~unperturbed], rows[-1][~unperturbed]
    drifted = rows[-1][unperturbed]  # the mean of these ends is the drift c
    start = products[starts, starts]
    mean_start = products[np.ix_(starts, drifted)].mean(axis=1)  # y_0 . c
    mean_end = products[np.ix_(ends, drifted)].mean(axis=1)  # y_T . c
    mean_square = products[np.ix_(drifted, drifted)].mean()  # c . c
    along = start - products[ends, starts] + mean_start  # (y_0 - y_T + c) . y_0
    squared = products[ends, ends] + start + mean_square - 2 * (products[ends, starts] + mean_end - mean_start)
    with np.errstate(divide="ignore", invalid="ignore"):
        return along / start, along / np.sqrt(squared * start)


def _halving(losses: np.ndarray, updates: np.ndarray) -> np.ndarray:
    """Return the number of updates until each copy's loss is half of that after the jump, interpolated linearly."""
    half, found = losses[0] / 2, np.full(losses.shape[1], float(updates[-1]))
    for copy, below in enumerate((losses <= half).T):
        if below.any():
            after = int(np.argmax(below))
            high, low = losses[after - 1, copy], losses[after, copy]
            share = (high - half[copy]) / (high - low)
            found[copy] = updates[after - 1] + share * (updates[after] - updates[after - 1])
    return found


def _spread(gram: IncrementGram, chosen: np.ndarray) -> np.ndarray:
    rows = trajectory_rows(gram)[:, chosen] - 1
    distances = pairwise_distances(gram, metric="euclidean")
    starts, ends = (distances[np.ix_(each, each)] for each in (rows[0], rows[-1]))
    return ends.sum(axis=1) / starts.sum(axis=1)


def shortened(copies: Trajectories, records: int) -> Trajectories:
    """Return the first records of the trajectories, as if the probe had ended there."""
    count = len(copies.step_size)
    return copies._replace(
        gram=take_points(copies.gram, np.arange(records * count)),
        losses=copies.losses[:records],
        updates=copies.updates[:records],
        direction_return=copies.direction_return[:records],
    )


def loss_rise(copies: Trajectories) -> np.ndarray:
    """Return the rise of the loss at the jump [copy], with the statistics of the batch."""
    perturbed = copies.step_size > 0
    return copies.losses[0, perturbed] - copies.losses[0, ~perturbed].mean()


def baselines(
    study: Study,
    cells: Sequence[Cell],
    minima: Sequence[tuple[PyTree, PyTree]],
    net: Network,
    data: Dataset,
    *,
    strategy: str,
) -> list[dict[str, float]]:
    """Return the sharpness, curvature, margin and norms of several minima of one shape, and two random numbers."""
    params, state = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *part) for part in zip(*minima, strict=True))
    options: dict[str, Any] = {
        "model_state": state,
        "mode": "evaluate",
        "examples": study.baseline_images,
        "batch_size": study.baseline_images,
        "strategy": strategy,
        "key": jax.random.key(0),  # the same random perturbations for every network
    }
    sharp = {
        name: sharpness(net.problem, params, kind=kind, **own, **options).value
        for name, (kind, own) in SHARPNESS_MEASURES.items()
    }
    found = []
    for place, (cell, (own, own_state)) in enumerate(zip(cells, minima, strict=True)):
        initial, _ = net.problem.init(key_of(cell, "init"))  # type: ignore[misc]
        size = norms(own, initial=initial)
        logits, labels = net.problem.predict(own, own_state, jnp.arange(cell.recipe.images))  # type: ignore[misc]
        margin = _margin(np.asarray(logits, np.float64), np.asarray(labels))
        random = jax.random.normal(key_of(cell, "random"), (2,))
        found.append(
            {name: float(values[place]) for name, values in sharp.items()}
            | {"norm": size.frobenius, "distance": float(size.distance or 0), "spectral": size.log_spectral_product}
            | {"margin": margin, "random_1": float(random[0]), "random_2": float(random[1])}
        )
    return found


def _margin(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the 10th percentile of the margins of the logits, divided by the spread of the logits."""
    true = logits[np.arange(len(labels)), labels]
    others = np.where(labels[:, None] == np.arange(logits.shape[1]), -np.inf, logits).max(axis=1)
    spread = np.sqrt(((logits - logits.mean(axis=0)) ** 2).sum(axis=1).mean())
    return float(np.percentile(true - others, 10) / spread)
