"""Measurements of a landscape in a run folder: a folder each, with a record, its arrays, and what is there so far.

values.npz    the arrays
record.json   what was asked, what it is made from, and numbers; written last: it says that the arrays are there
partial.npz   what an interrupted measurement had; deleted at the end
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
_MADE_OF = "made_of"  # the entry of a record, and the array of a part, that say what follows from what


class Kept(NamedTuple):
    """A measurement as a run folder keeps it."""

    record: dict[str, Any]
    values: dict[str, np.ndarray]


def kept_names(folder: Path) -> list[str]:
    """Name the finished measurements in a folder of a run, such as RUN/surfaces, in alphabetical order."""
    return sorted(path.parent.name for path in folder.glob(f"*/{RECORD}"))


def read_kept(folder: Path) -> Kept:
    """Read a finished measurement.

    Raises:
        FileNotFoundError: where there is none.
        ValueError: where it is damaged.
    """
    return Kept(read_record(folder / RECORD), load_arrays(folder / VALUES))


def find_kept(folder: Path, made_of: Mapping[str, Any]) -> Kept | None:
    """Read a measurement of this kind; None where there is none, it is damaged or it was made from something else."""
    try:
        found = read_kept(folder)
    except (OSError, ValueError):
        return None
    return found if found.record.get(_MADE_OF) == to_json(made_of) else None


def write_kept(folder: Path, values: Mapping[str, np.ndarray], made_of: Mapping[str, Any], **numbers: Any) -> None:
    """Write a finished measurement, and delete its parts.

    Raises:
        OSError: where it cannot be written.
    """
    (folder / RECORD).unlink(missing_ok=True)
    save_arrays(folder / VALUES, values)
    write_record(folder / RECORD, {_MADE_OF: to_json(made_of), **numbers})
    (folder / PARTIAL).unlink(missing_ok=True)
    delete_unfinished(folder)


def write_partial(folder: Path, values: Mapping[str, np.ndarray], made_of: Mapping[str, Any]) -> None:
    """Write what a measurement has so far."""
    save_arrays(folder / PARTIAL, {**values, _MADE_OF: np.array(_text(made_of))})


def read_partial(folder: Path, made_of: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Read what an interrupted measurement had; {} where there is nothing, or it is damaged or of something else."""
    try:
        found = load_arrays(folder / PARTIAL)
    except (OSError, ValueError):
        return {}
    return found if str(found.pop(_MADE_OF, "")) == _text(made_of) else {}


def damaged_measurements(run: RunFolder) -> dict[Path, str]:
    """Return the measurements of a run that cannot be read, each with the reason."""
    found = {}
    for folder in (run.surfaces, run.paths, run.curvature):
        for name in kept_names(folder):
            try:
                read_kept(folder / name)
            except (OSError, ValueError) as error:
                found[folder / name] = str(error)
    return found


def _text(made_of: Mapping[str, Any]) -> str:
    return json.dumps(to_json(made_of), sort_keys=True)
