"""A run folder: where things stand in it, and the record of what was asked.

config.json     sections "train", "retrain" or "compare" (what was asked), "strategy" (how the copies ran together;
                "train_strategy": minima that were trained together on a GPU), "snapshots" (how many "compare" keeps
                after the first), "steps_per_epoch", "timings" (seconds by stage, over all calls) and "environment"
                (versions, device, commit)
checksums.json  what proves the tables whole (`jaxscape.app.tables`)
minimum/  trajectories/  resume/  metrics.csv  gram.npz  geometry.csv  embeddings/  report.json  figures/
"""

import hashlib
import json
import os
import platform
import struct
import subprocess
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from jaxscape.app.config import CompareConfig, RetrainConfig, TrainConfig, from_record
from jaxscape.app.processes import is_first
from jaxscape.trajectories.files import read_record, replacing, to_json, write_record

CONFIG = "config.json"
REPORT = "report.json"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "jaxscape-phate")
STAGES = {"train": TrainConfig, "retrain": RetrainConfig, "compare": CompareConfig}

# What zipfile and NumPy raise for a damaged .npz file.
_UNREADABLE = (ValueError, KeyError, EOFError, OSError, NotImplementedError, BadZipFile, zlib.error, struct.error)

# Settings that say where the data lie and how they are checked: they do not change what is computed.
_WHERE = ("data_dir", "data_unchecked")


def read_config(run: Path) -> dict[str, Any]:
    """Read the record of a run; {} where there is none yet.

    Raises:
        ValueError: where the file is damaged.
    """
    path = run / CONFIG
    return read_record(path) if path.exists() else {}


def read_section(run: Path, name: str, kind: type) -> Any:
    """Read a stage's configuration, a `kind`, from the run's record; None where it has none.

    Settings that an earlier version did not know have their defaults.

    Raises:
        ValueError: where the record is damaged, or was written by a later version.
    """
    record = read_config(run)
    if name not in record:
        return None
    try:
        return from_record(kind, record[name])
    except ValueError as error:
        raise ValueError(f"{run / CONFIG}, section {name!r}: {error}") from None


def require_record(run: Path) -> None:
    """Refuse a folder that holds results without the record of how they were made.

    Raises:
        FileNotFoundError: names the record.
    """
    results = [name for name in ("minimum", "trajectories", "embeddings") if (run / name).exists()]
    if results and not (run / CONFIG).exists():
        raise FileNotFoundError(
            f"{run / CONFIG} is missing, which says how {', '.join(results)} in {run} were made; restore it, or choose "
            "another run folder"
        )


def read_number(run: Path, name: str) -> int:
    """Read a whole number from the run's record.

    Raises:
        ValueError: where it has none.
    """
    value = read_config(run).get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{run / CONFIG} is damaged: {name} must be a whole number of at least 1, got {value!r}")
    return value


def read_strategy(run: Path, *, stage: str = "retrain") -> str | None:
    """Read how the members of a stage run together; None where nothing was chosen yet.

    Raises:
        ValueError: where the record is damaged.
    """
    name = _strategy_section(stage)
    record = read_config(run).get(name, {})
    if not isinstance(record, dict) or not isinstance(record.get("chosen", ""), str):
        raise ValueError(
            f'{run / CONFIG}, section {name!r}: must hold the name of a strategy as "chosen", got {record!r}'
        )
    return record.get("chosen")


def record_section(run: Path, name: str, config: Any, *, results: Sequence[str]) -> None:
    """Write what a stage was asked to do; refuse where kept results were made otherwise.

    More epochs extend a stage, unless something was already made from its end.

    Args:
        run: the run folder.
        name: "train", "retrain" or "compare".
        config: the stage's configuration.
        results: names in the run folder: what this stage makes, then what is made from it.

    Raises:
        ValueError: names the settings that differ and what to delete to start anew.
    """
    record, made = read_config(run), read_section(run, name, STAGES[name])
    kept = [str(run / result) for result in results if (run / result).exists()]
    anew = f"Choose another run folder, or start anew by deleting {', '.join(kept)}."
    if made is None and kept:
        raise ValueError(f"{run} holds results, but its {CONFIG} does not say how they were made. {anew}")
    if made is not None and kept:
        before, asked = (json.loads(json.dumps(asdict(each))) for each in (made, config))
        free = {*_WHERE} | ({"epochs"} if len(kept) == 1 and asked["epochs"] >= before["epochs"] else set())
        differing = [key for key in asked if asked[key] != before[key] and key not in free]
        if differing:
            changes = "; ".join(f"{key} is {before[key]!r}, asked for {asked[key]!r}" for key in differing)
            raise ValueError(f"{run} holds results of another configuration: {changes}. {anew}")
    if made != config or not kept:  # results keep the versions that they were made with
        _write(run / CONFIG, record | {name: asdict(config), "environment": environment()})


def record_values(run: Path, **values: Any) -> None:
    """Put entries into the run's record, beside those that it has."""
    record = read_config(run)
    if record | values != record:
        _write(run / CONFIG, record | values)


def record_seconds(run: Path, stage: str, seconds: float) -> None:
    """Add to the time that a stage of this run has taken, over all its calls."""
    timings = read_timings(run)
    record_values(run, timings=timings | {stage: round(timings.get(stage, 0.0) + seconds, 3)})


def read_timings(run: Path) -> dict[str, float]:
    """Read the seconds that each stage has taken; {} where none is recorded."""
    timings = read_config(run).get("timings")
    return timings if isinstance(timings, dict) else {}


def record_strategy(run: Path, strategy: Mapping[str, Any], *, stage: str = "retrain") -> None:
    """Write how the members of a stage run together ("chosen"), and what was measured."""
    record_values(run, **{_strategy_section(stage): strategy})


def _strategy_section(stage: str) -> str:
    return "strategy" if stage == "retrain" else f"{stage}_strategy"


def fingerprint(run: Path, *, epochs: bool = True) -> str:
    """Name what the trajectories of a run follow from; what is made from them carries the name.

    Args:
        run: the run folder.
        epochs: count the number of epochs of retraining; without, the name stays when trajectories are extended.
    """
    record = read_config(run)
    stages = ("compare",) if "compare" in record else ("train", "retrain")
    settings: list[Any] = []
    for stage in stages:
        asked = read_section(run, stage, STAGES[stage])
        made = {} if asked is None else {name: value for name, value in asdict(asked).items() if name not in _WHERE}
        settings.append(made | {"data_dir": None})
    if not epochs:
        settings[-1].pop("epochs", None)
    settings.append(read_strategy(run))
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def read_report(run: Path, *, sealed: bool = False) -> dict[str, Any]:
    """Read the numbers of a run; {} where there are none yet.

    Args:
        run: the run folder.
        sealed: whether the report must prove itself by a checksum, as those of earlier versions do not.

    Raises:
        ValueError: where the file is damaged.
    """
    path = run / REPORT
    return read_record(path, sealed=sealed) if path.exists() else {}


def write_report(run: Path, report: Mapping[str, Any]) -> None:
    """Replace the numbers of a run."""
    _write(run / REPORT, report)


def _write(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a record. Of several processes the first one alone writes it."""
    if is_first():
        write_record(path, record)


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


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file that is for readers alone, and has no checksum; NaN becomes null."""
    write_text(path, json.dumps(to_json(value), indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole. Of several processes the first one alone writes it."""
    if is_first():
        with replacing(path) as file:
            file.write(text.encode())


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace an .npz file as a whole, uncompressed. Its CRCs tell when it is damaged."""
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file.

    Raises:
        ValueError: where it is damaged; says in which way.
        OSError: where it cannot be opened.
    """
    check_arrays(path)  # NumPy itself checks no CRC where an array's header says that it is short
    with path.open("rb") as file:
        try:
            with np.load(file) as opened:
                return dict(opened)
        except _UNREADABLE as error:
            raise ValueError(f"{path} is damaged: {error}") from None


def check_arrays(path: Path) -> None:
    """Hold an .npz file against its CRCs; keeps no array in memory.

    Raises:
        ValueError: where it is damaged; says in which way.
        OSError: where it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            with ZipFile(file) as archive:
                damaged = archive.testzip()
        except _UNREADABLE as error:
            raise ValueError(f"{path} is damaged: {error}") from None
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged} does not match its CRC")


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
