"""The minimum of a run folder on disk: its parameters and model state, and what was measured of it.

The parameters are an orbax checkpoint of nested dictionaries that anything can read; what was measured is written last
of all, and proves the parameters whole.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from jaxscape.lazy import jax, jnp
from jaxscape.runs.config import TrainSettings
from jaxscape.runs.folder import RunFolder
from jaxscape.trajectories.arrays import dictionaries, in_structure
from jaxscape.trajectories.files import read_record, write_record
from jaxscape.trajectories.paths import plain_path
from jaxscape.trajectories.snapshots import ending_context, reason

PyTree = Any

_CHECKSUM = "parameters"  # the entry of the metrics that proves the parameters whole


class Minimum(NamedTuple):
    """A minimum as the run folder keeps it."""

    settings: TrainSettings
    params: PyTree  # nested dictionaries, or in the structure that was asked for
    model_state: PyTree
    metrics: dict[str, float]


def read_minimum(run: Path, *, like: tuple[PyTree, PyTree] | None = None) -> Minimum:
    """Read the minimum of a run folder.

    Args:
        run: the run folder.
        like: parameters and model state in whose structure it comes back; nested dictionaries by default. Only shapes
            and dtypes of their leaves are looked at.

    Raises:
        FileNotFoundError: where there is none yet; says which command makes it.
        ValueError: where it is damaged (says which command makes it again), or is that of another network.
    """
    run = RunFolder(run)
    settings, metrics = read_accuracy(run)
    expected = _read_metrics(run).get(_CHECKSUM)
    try:
        kept = _load_parameters(run.parameters)
        if expected is not None and expected != checksum(kept):
            raise ValueError("they do not match their checksum")
    except Exception as error:  # whatever orbax and tensorstore make of damaged files
        words = str(error).partition("\n")[0]
        raise ValueError(
            f"{run.parameters} is damaged; `jaxscape train {run}` makes it again ({words:.200})"
        ) from error
    params, model_state = kept["params"], kept["model_state"]
    if like is not None:
        params, model_state = (_restored(*pair) for pair in zip(like, (params, model_state), strict=True))
    return Minimum(settings, params, model_state, metrics)


def read_accuracy(run: Path) -> tuple[TrainSettings, dict[str, float]]:
    """Return how the minimum of a run folder was found and how good it is, without its parameters.

    Raises:
        FileNotFoundError: where there is none yet; says which command makes it.
        ValueError: where the record of its accuracy is damaged.
    """
    run = RunFolder(run)
    run.require_record()
    settings = run.settings("train")
    if settings is not None and run.parameters.exists() and not run.accuracy.exists():
        raise FileNotFoundError(
            f"{run.accuracy} is missing, without which no minimum counts; `jaxscape train {run}` makes it"
        )
    if settings is None or not is_finished(run, settings):
        raise FileNotFoundError(f"{run} has no finished minimum; `jaxscape train {run}` makes it")
    return settings, {name: value for name, value in _read_metrics(run).items() if name not in ("epochs", _CHECKSUM)}


def describe_accuracy(metrics: Mapping[str, float]) -> str:
    """Accuracy on the training and test sets in words, or what else was measured."""
    if {"train_accuracy", "test_accuracy"} <= metrics.keys():
        return f"accuracy {metrics['train_accuracy']:.1%} in training, {metrics['test_accuracy']:.1%} on the test set"
    return ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())


def is_finished(run: RunFolder, settings: TrainSettings) -> bool:
    """Return whether the minimum was trained to the last epoch asked for."""
    return run.accuracy.exists() and _read_metrics(run)["epochs"] == settings.epochs


def is_whole(run: RunFolder, settings: TrainSettings, console: Console) -> bool:
    """Return whether the minimum is finished and can be read; says where it is damaged."""
    try:
        if not is_finished(run, settings):
            return False
        read_minimum(run)
    except ValueError as error:
        console.print(f"{error}")
        return False
    return True


def _read_metrics(run: RunFolder) -> dict[str, Any]:
    """Read the accuracy of the minimum, and its checksum.

    Raises:
        ValueError: where the record is damaged; says which command makes it again.
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
    """Whether JSON holds a number here; NaN is written as null."""
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def write_minimum(
    run: RunFolder, params: PyTree, model_state: PyTree, *, epochs: int, metrics: Mapping[str, float]
) -> None:
    """Replace the minimum of a run folder, whose lock the caller holds.

    Args:
        run: the run folder.
        params: of one network.
        model_state: likewise.
        epochs: that it was trained for.
        metrics: what was measured of it.

    Raises:
        OSError: where it cannot be written, or does not read back as it is.
    """
    checksum = _save(run.parameters, plain(params, model_state))
    # Last: it says that the rest is there.
    write_record(run.accuracy, {"epochs": epochs} | dict(metrics) | {_CHECKSUM: checksum})


def plain(params: PyTree, model_state: PyTree) -> dict[str, Any]:
    """Return a minimum as it lies on disk: NumPy arrays in nested dictionaries, PRNG keys as their numbers."""
    tree = {"params": dictionaries(params), "model_state": dictionaries({} if model_state is None else model_state)}
    return jax.tree.map(lambda leaf: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf), tree)


def _save(path: Path, kept: dict[str, Any]) -> str:
    """Write an orbax checkpoint and read it back; give its checksum."""
    from orbax.checkpoint import v1 as ocp

    found = checksum(kept)
    try:
        with ending_context():
            ocp.save(plain_path(path.parent.absolute()) / path.name, kept, overwrite=True)
        readable = checksum(_load_parameters(path)) == found
    except Exception as error:  # whatever orbax and tensorstore make of a full disk
        raise OSError(f"cannot write {path}: {reason(error)}") from error
    if not readable:
        raise OSError(f"cannot write {path}: what was written there reads back as something else")
    return found


def _load_parameters(path: Path) -> dict[str, Any]:
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    if jax.process_count() > 1:  # whoever reads does so by itself
        context.multiprocessing.primary_host = jax.process_index()
        context.multiprocessing.active_processes = {jax.process_index()}
    with context:
        return jax.tree.map(np.asarray, ocp.load(plain_path(path.parent.absolute()) / path.name))


def checksum(tree: PyTree) -> str:
    """The SHA-256 of all arrays with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for path, array in jax.tree_util.tree_leaves_with_path(tree):
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _restored(like: PyTree, tree: dict[str, Any]) -> PyTree:
    """What was kept in the structure of `like`, PRNG keys as keys."""
    empty = {} if like is None else like

    def restore(leaf: Any, values: np.ndarray) -> Any:
        return jax.random.wrap_key_data(jnp.asarray(values)) if _is_key(leaf) else values

    return jax.tree.map(restore, empty, in_structure(empty, tree))


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)
