"""A run folder: where things stand in it, and the record of what was asked.

config.json   sections "train", "retrain" or "compare" (what was asked), "strategy" (how the copies ran together;
              "train_strategy": minima that were trained together on a GPU), "snapshots" (how many "compare" keeps
              after the first), "steps_per_epoch" and "environment" (versions, device, commit)
minimum/  trajectories/  resume/  metrics.csv  gram.npz  geometry.csv  embeddings/  report.json  figures/
"""

import csv
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxscape.app.config import from_record
from jaxscape.app.processes import is_first

CONFIG = "config.json"
REPORT = "report.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "jaxscape-phate")


def read_config(run: Path) -> dict[str, Any]:
    """The record of a run; {} where there is none yet.

    Raises:
        ValueError: where the file is not JSON.
    """
    path = run / CONFIG
    return read_json(path) if path.exists() else {}


def read_section(run: Path, name: str, kind: type) -> Any:
    """A stage's configuration as the run's record has it, a `kind`; None where it has none.

    Raises:
        ValueError: where the record is damaged, or was written by another version.
    """
    record = read_config(run).get(name)
    try:
        return None if record is None else from_record(kind, record)
    except ValueError as error:
        raise ValueError(f"{run / CONFIG}, section {name!r}: {error}") from None


def record_section(run: Path, name: str, config: Any, *, results: Sequence[str]) -> None:
    """Write what a stage was asked to do; refuse where kept results were made otherwise.

    More epochs extend a stage, unless something was already made from its end.

    Args:
        run: the run folder, made where it does not exist.
        name: "train", "retrain" or "compare".
        config: the stage's configuration.
        results: names in the run folder: what this stage makes, then what is made from it.

    Raises:
        ValueError: names the settings that differ and what to delete to start anew.
    """
    make_folder(run)
    record = read_config(run)
    asked = json.loads(json.dumps(asdict(config)))
    made = record.get(name)
    kept = [str(run / result) for result in results if (run / result).exists()]
    anew = f"Choose another run folder, or start anew by deleting {', '.join(kept)}."
    if made is None and kept:
        raise ValueError(f"{run} holds results, but its {CONFIG} does not say how they were made. {anew}")
    if made is not None and kept:
        free = {"data_dir"} | ({"epochs"} if len(kept) == 1 and asked["epochs"] >= made["epochs"] else set())
        differing = [key for key in asked if asked[key] != made.get(key) and key not in free]
        if differing:
            changes = "; ".join(f"{key} is {made.get(key)!r}, asked for {asked[key]!r}" for key in differing)
            raise ValueError(f"{run} holds results of another configuration: {changes}. {anew}")
    write_json(run / CONFIG, record | {name: asked, "environment": environment()})


def fingerprint(run: Path, *, epochs: bool = True) -> str:
    """A short name for what the trajectories of a run follow from; what is made from them carries it.

    Args:
        run: the run folder.
        epochs: count the number of epochs of retraining; without, the name stays when trajectories are extended.
    """
    record = read_config(run)
    stages = ("compare",) if "compare" in record else ("train", "retrain")
    settings = [record.get(stage, {}) | {"data_dir": None} for stage in stages]
    if not epochs:
        settings[-1].pop("epochs", None)
    settings.append(record.get("strategy", {}).get("chosen"))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def read_report(run: Path) -> dict[str, Any]:
    """The numbers of a run; {} where there are none yet.

    Raises:
        ValueError: where the file is not JSON.
    """
    path = run / REPORT
    return read_json(path) if path.exists() else {}


def update_report(run: Path, **sections: Any) -> None:
    """Put sections into report.json, beside those that it has."""
    write_json(run / REPORT, read_report(run) | sections)


def record_seconds(run: Path, stage: str, seconds: float) -> None:
    """Add to the time that a stage of this run has taken, over all its calls, in the report."""
    timings = read_report(run).get("timings", {})
    update_report(run, timings=timings | {stage: round(timings.get(stage, 0.0) + seconds, 3)})


def record_strategy(run: Path, strategy: Mapping[str, Any], *, stage: str = "retrain") -> None:
    """Write how the members of a stage run together ("chosen"), and what was measured."""
    name = "strategy" if stage == "retrain" else f"{stage}_strategy"
    write_json(run / CONFIG, read_config(run) | {name: strategy})


def cache_folder() -> Path | None:
    """Where jaxscape keeps what it need not do again for other runs; None where the home cannot be written to."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxscape"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return folder


def environment() -> dict[str, Any]:
    """Versions, device and commit, for the record."""
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in _PACKAGES},
        "device": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "cpu_cores": os.cpu_count(),
        "commit": _commit(),
    }


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OSError: says which folder could not be made, and why.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"cannot make the folder {path}: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The record in a JSON file.

    Raises:
        ValueError: where it is damaged.
    """
    try:
        record = json.loads(path.read_text())
    except ValueError as error:  # not JSON, or not text
        raise ValueError(f"{path} is damaged, it is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged, it holds no record but {record!r:.50}")
    return record


def write_json(path: Path, record: Any) -> None:
    """Replace a JSON file as a whole; NaN becomes null."""
    write_text(path, json.dumps(_plain(record), indent=1) + "\n")


def write_csv(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Replace a CSV file as a whole: a header, then a row for each entry of the columns."""
    lines = [",".join(columns)]
    lines += [",".join(map(_cell, row)) for row in zip(*columns.values(), strict=True)]
    write_text(path, "\n".join(lines) + "\n")


def read_csv(path: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV file of numbers and names of optimisers; whole numbers come back as they were written.

    Raises:
        ValueError: where it is damaged.
    """
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        columns = zip(*rows, strict=True) if rows else [()] * len(header)
        return {name: _column(name, column) for name, column in zip(header, columns, strict=True)}
    except ValueError as error:
        raise ValueError(f"{path} is damaged, it is not a table of numbers: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader, or a crash, meets the old one or the new one.

    Of several processes the first one alone writes it.
    """
    if is_first():
        with _replacing(path) as file:
            file.write(text.encode())


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace an .npz file in one step, uncompressed."""
    with _replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A new file, which takes the place of `path` when all of it is on disk."""
    make_folder(path.parent)
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error.strerror or error}") from None


def _column(name: str, cells: Iterable[str]) -> np.ndarray:
    if name == "optimizer":
        return np.array(list(cells))
    try:
        return np.array([int(cell) for cell in cells])
    except ValueError:
        return np.array([float(cell) for cell in cells])


def _cell(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value


def _version(package: str) -> str | None:
    """The version of an installed package, None where it runs from a folder that was not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this package runs from, None where there is none."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
