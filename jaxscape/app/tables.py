"""The tables of a run folder: CSV files, each with its checksum in checksums.json.

A CSV file cannot tell whether it is whole: half of its rows are a table too. Its checksum is recorded before it is
written, beside that of the file which it replaces, so that a crash between the two writes does no harm.
"""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.app.processes import is_first
from jaxscape.trajectories.files import file_checksum, read_record, replacing, write_record

Columns = dict[str, np.ndarray]

CHECKSUMS = "checksums.json"


def write_table(run: Path, name: str, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Replace a table of a run folder as a whole; of several processes the first one alone writes it.

    Args:
        run: the run folder, whose lock the caller holds.
        name: path of the table within it, such as "metrics.csv".
        columns: all of one length.
    """
    if not is_first():
        return
    path = run / name
    lines = [",".join(columns)]
    lines += [",".join(map(_cell, row)) for row in zip(*columns.values(), strict=True)]
    content = ("\n".join(lines) + "\n").encode()
    new, known = hashlib.sha256(content).hexdigest(), _checksums(run)
    present = file_checksum(path)
    write_record(run / CHECKSUMS, known | {name: [old for old in known.get(name, ()) if old == present] + [new]})
    with replacing(path) as file:
        file.write(content)


def read_table(run: Path, name: str) -> Columns:
    """Read the columns of a table of a run folder.

    Raises:
        FileNotFoundError: where it is not there.
        ValueError: where it is damaged; says in which way.
    """
    _is_proven(run, name)
    return read_csv(run / name)


def check_table(run: Path, name: str) -> None:
    """Raise the error that `read_table` would raise; reads no numbers where a checksum proves them."""
    if not _is_proven(run, name):
        read_csv(run / name)


def _is_proven(run: Path, name: str) -> bool:
    """Return whether a checksum proves the table whole; False where none is known."""
    path, expected = run / name, _checksums(run).get(name)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    if expected is not None and file_checksum(path) not in expected:
        raise ValueError(f"{path} is damaged, or was edited: it does not match its checksum in {run / CHECKSUMS}")
    return expected is not None


def read_csv(path: Path) -> Columns:
    """Read the columns of a CSV file of numbers and names of optimisers; whole numbers come back as integers.

    Raises:
        ValueError: where it is no such table.
    """
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file)
        columns = zip(*rows, strict=True) if rows else [()] * len(header)
        return {name: _column(name, column) for name, column in zip(header, columns, strict=True)}
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: it is not a table of numbers ({error})") from None


def _checksums(run: Path) -> dict[str, list[str]]:
    """The checksums of each table, by name; without them, or where they are damaged, tables are believed."""
    try:
        record = read_record(run / CHECKSUMS)
    except (FileNotFoundError, ValueError):
        return {}
    return {name: known for name, known in record.items() if isinstance(known, list)}


def _column(name: str, cells: Iterable[str]) -> np.ndarray:
    if name == "optimizer":
        return np.array(list(cells))
    try:
        return np.array([int(cell) for cell in cells])
    except ValueError:
        return np.array([float(cell) for cell in cells])


def _cell(value: Any) -> str:
    return repr(float(value)) if isinstance(value, float | np.floating) else str(value)
