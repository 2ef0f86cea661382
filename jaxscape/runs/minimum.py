"""The minimum of a run folder on disk: its parameters, model state and metrics.

The parameters are an orbax checkpoint of nested dictionaries that any program can read. The metrics are written last,
with a checksum of the parameters.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxscape.arguments import is_prng_key
from jaxscape.lazy import jax, jnp
from jaxscape.runs.config import TrainSettings
from jaxscape.runs.folder import RunFolder
from jaxscape.trajectories.arrays import dictionaries, in_structure
from jaxscape.trajectories.files import read_record, write_record
from jaxscape.trajectories.paths import plain_path
from jaxscape.trajectories.snapshots import ending_context, reason

PyTree = Any

_CHECKSUM = "parameters"  # the entry of the metrics that holds the checksum of the parameters


class Minimum(NamedTuple):
    """A minimum as stored in a run folder."""

    settings: TrainSettings
    params: PyTree  # nested dictionaries, or in the requested structure
    model_state: PyTree
    metrics: dict[str, float]


def read_minimum(run: Path, *, like: tuple[PyTree, PyTree] | None = None) -> Minimum:
    """Read the minimum of a run folder.

    Args:
        run: the run folder.
        like: parameters and model state whose structure the result takes; nested dictionaries by default. Only the
            shapes and dtypes of their leaves are used.

    Raises:
        FileNotFoundError: if there is none yet; names the command that makes it.
        ValueError: if it is damaged (names the command that makes it again), or belongs to another network.
    """
    run = RunFolder(run)
    settings, metrics = read_accuracy(run)
    expected = _read_metrics(run).get(_CHECKSUM)
    try:
        stored = _load_parameters(run.parameters)
        if expected is not None and expected != checksum(stored):
            raise ValueError("they do not match their checksum")
    except Exception as error:  # orbax and tensorstore raise many types of errors for damaged files
        words = str(error).partition("\n")[0]
        raise ValueError(
            f"{run.parameters} is damaged; `jaxscape train {run}` makes it again ({words:.200})"
        ) from error
    params, model_state = stored["params"], stored["model_state"]
    if like is not None:
        params, model_state = (_restored(*pair) for pair in zip(like, (params, model_state), strict=True))
    return Minimum(settings, params, model_state, metrics)


def read_accuracy(run: Path) -> tuple[TrainSettings, dict[str, float]]:
    """Return the settings and the metrics of a run folder's minimum, without its parameters.

    Raises:
        FileNotFoundError: if there is none yet; names the command that makes it.
        ValueError: if the record of its metrics is damaged.
    """
    run = RunFolder(run)
    run.require_record()
    settings = run.settings("train")
    if settings is not None and run.parameters.exists() and not run.accuracy.exists():
        raise FileNotFoundError(
            f"{run.accuracy} is missing, so the minimum counts as unfinished; `jaxscape train {run}` makes it"
        )
    if settings is None or not is_finished(run, settings):
        raise FileNotFoundError(
            f"{run} has no finished minimum; `jaxscape train {run}` makes it, or Run.train or Run.set_minimum in Python"
        )
    return settings, {name: value for name, value in _read_metrics(run).items() if name not in ("epochs", _CHECKSUM)}


def describe_accuracy(metrics: Mapping[str, float]) -> str:
    """Describe the accuracy on the training and test sets, or else all metrics."""
    if {"train_accuracy", "test_accuracy"} <= metrics.keys():
        return f"accuracy {metrics['train_accuracy']:.1%} in training, {metrics['test_accuracy']:.1%} on the test set"
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())


def is_finished(run: RunFolder, settings: TrainSettings) -> bool:
    """Return whether the minimum was trained to the last requested epoch."""
    return run.accuracy.exists() and _read_metrics(run)["epochs"] == settings.epochs


def is_whole(run: RunFolder, settings: TrainSettings, console: Console) -> bool:
    """Return whether the minimum is finished and can be read; prints the reason if it is damaged."""
    try:
        if not is_finished(run, settings):
            return False
        read_minimum(run)
    except ValueError as error:
        console.print(f"{error}")
        return False
    return True


def _read_metrics(run: RunFolder) -> dict[str, Any]:
    """Read the metrics of the minimum, and its checksum.

    Raises:
        ValueError: if the record is damaged; names the command that makes it again.
    """
    try:
        record = read_record(run.accuracy)
        if not isinstance(record.get("epochs"), int):
            raise ValueError(f"{run.accuracy} is damaged: it has no number for epochs")
        wrong = [name for name, value in record.items() if name != _CHECKSUM and not _is_metric(value)]
        if wrong:
            raise ValueError(f"{run.accuracy} is damaged: it has no number for {', '.join(wrong)}")
    except ValueError as error:
        raise ValueError(f"{error}; `jaxscape train {run}` makes it again") from None
    return record


def _is_metric(value: Any) -> bool:
    """Return whether a JSON value is a number; NaN is written as null."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def write_minimum(
    run: RunFolder, params: PyTree, model_state: PyTree, *, epochs: int, metrics: Mapping[str, float]
) -> None:
    """Replace the minimum of a run folder; the caller holds its lock.

    Args:
        run: the run folder.
        params: parameters of one network.
        model_state: model state of the network.
        epochs: number of epochs that it was trained for.
        metrics: its losses, accuracies and so on.

    Raises:
        OSError: if it cannot be written, or differs when it is read back.
    """
    checksum = _save(run.parameters, plain(params, model_state))
    # Last: its presence marks the minimum as complete.
    write_record(run.accuracy, {"epochs": epochs} | dict(metrics) | {_CHECKSUM: checksum})


def plain(params: PyTree, model_state: PyTree) -> dict[str, Any]:
    """Return a minimum as it is stored on disk: NumPy arrays in nested dictionaries, PRNG keys as their raw data."""
    tree = {"params": dictionaries(params), "model_state": dictionaries({} if model_state is None else model_state)}
    return jax.tree.map(lambda leaf: np.asarray(jax.random.key_data(leaf) if is_prng_key(leaf) else leaf), tree)


def _save(path: Path, tree: dict[str, Any]) -> str:
    """Write an orbax checkpoint, verify it by reading it back, and return its checksum."""
    from orbax.checkpoint import v1 as ocp

    expected = checksum(tree)
    try:
        with ending_context():
            ocp.save(plain_path(path.parent.absolute()) / path.name, tree, overwrite=True)
        is_intact = checksum(_load_parameters(path)) == expected
    except Exception as error:  # orbax and tensorstore raise many types of errors for a full disk
        raise OSError(f"cannot write {path}: {reason(error)}") from error
    if not is_intact:
        raise OSError(f"cannot write {path}: what was read back differs from what was written")
    return expected


def _load_parameters(path: Path) -> dict[str, Any]:
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    if jax.process_count() > 1:  # each process reads on its own
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.active_processes = {jax.process_index()}
    with context:
        return jax.tree.map(np.asarray, ocp.load(plain_path(path.parent.absolute()) / path.name))


def checksum(tree: PyTree) -> str:
    """Return the SHA-256 of all arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _restored(like: PyTree, tree: dict[str, Any]) -> PyTree:
    """Return stored arrays in the structure of `like`, with PRNG keys as keys."""
    empty = {} if like is None else like

    def restore(leaf: Any, values: np.ndarray) -> Any:
        return jax.random.wrap_key_data(jnp.asarray(values)) if is_prng_key(leaf) else values

    return jax.tree.map(restore, empty, in_structure(empty, tree))
