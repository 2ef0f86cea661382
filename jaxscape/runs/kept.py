"""Measurements of a landscape in a run folder: one folder each, with a record, arrays, and partial results.

values.npz    the arrays
record.json   settings, inputs and summary numbers; written last, so that its presence marks the arrays as complete
partial.npz   the results of an interrupted measurement; deleted at the end
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxscape.runs.arrays import load_arrays, save_arrays
from jaxscape.runs.folder import RunFolder
from jaxscape.trajectories.files import delete_unfinished, read_record, to_json, write_record

RECORD, VALUES, PARTIAL = "record.json", "values.npz", "partial.npz"
OBJECTIVE = "objective"  # the input that describes the measured loss
_INPUTS = "made_of"  # the entry of a record, and the array of a partial result, that hold the inputs


class Kept(NamedTuple):
    """A measurement as stored in a run folder."""

    record: dict[str, Any]
    values: dict[str, np.ndarray]


def kept_names(folder: Path) -> list[str]:
    """Return the names of the finished measurements in a folder such as RUN/surfaces, in alphabetical order."""
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))


def read_kept(folder: Path) -> Kept:
    """Read a finished measurement.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged.
    """
    return Kept(read_record(folder / RECORD), load_arrays(folder / VALUES))


def find_kept(folder: Path, inputs: Mapping[str, Any]) -> Kept | None:
    """Read a finished measurement; None if there is none, it is damaged, or its inputs differ."""
    try:
        measurement = read_kept(folder)
    except (OSError, ValueError):
        return None
    return measurement if _is_made_of(measurement.record, to_json(inputs)) else None


def says_objective(measurement: Kept) -> bool:
    """Return whether a measurement says which loss it measured, in which mode; those of version 0.1 do not."""
    return OBJECTIVE in measurement.record[_INPUTS]


def write_kept(folder: Path, values: Mapping[str, np.ndarray], inputs: Mapping[str, Any], **numbers: Any) -> None:
    """Write a finished measurement, and delete its partial results.

    Raises:
        OSError: if it cannot be written.
    """
    (folder / RECORD).unlink(missing_ok=True)
    save_arrays(folder / VALUES, values)
    write_record(folder / RECORD, {_INPUTS: to_json(inputs), **numbers})
    (folder / PARTIAL).unlink(missing_ok=True)
    delete_unfinished(folder)


def write_partial(folder: Path, values: Mapping[str, np.ndarray], inputs: Mapping[str, Any]) -> None:
    """Write the partial results of a measurement."""
    save_arrays(folder / PARTIAL, {**values, _INPUTS: np.array(_text(inputs))})


def read_partial(folder: Path, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read the partial results of an interrupted measurement; {} if there are none, or they are damaged or stale."""
    try:
        arrays = load_arrays(folder / PARTIAL)
    except (OSError, ValueError):
        return {}
    return arrays if str(arrays.pop(_INPUTS, "")) == _text(inputs) else {}


def damaged_measurements(run: RunFolder) -> dict[Path, str]:
    """Return the folders of measurements that cannot be read, each with the reason."""
    damaged = {}
    for folder in (run.surfaces, run.paths, run.curvature):
        for name in kept_names(folder):
            try:
                read_kept(folder / name)
            except (OSError, ValueError) as error:
                damaged[folder / name] = str(error)
    return damaged


def _is_made_of(record: Mapping[str, Any], inputs: Mapping[str, Any]) -> bool:
    """Return whether a record has these inputs, as far as a version that did not record the objective can tell."""
    stored = record.get(_INPUTS)
    if not isinstance(stored, dict) or OBJECTIVE in stored or OBJECTIVE not in inputs:
        return bool(stored == inputs)
    if record.get("statistics") == "batch" and inputs[OBJECTIVE]["mode"] != "train":
        return False
    return stored == {name: value for name, value in inputs.items() if name != OBJECTIVE}


def _text(inputs: Mapping[str, Any]) -> str:
    return json.dumps(to_json(inputs), sort_keys=True)
