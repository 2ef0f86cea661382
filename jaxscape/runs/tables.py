"""The tables of a run folder: CSV files, whose checksums are in checksums.json.

A truncated CSV file is still a valid table, so only a checksum can detect damage. The checksum of a new table is
recorded before the table is written, beside that of the file it replaces, so that a crash between the two writes does
no harm.
"""

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxscape.runs.folder import RunFolder
from jaxscape.runs.processes import is_first
from jaxscape.trajectories.files import file_checksum, read_record, replacing, write_record

Columns = dict[str, np.ndarray]


def write_table(run: RunFolder, path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Replace a table of a run folder atomically; with several processes, only the first one writes it.

    Args:
        run: the run folder; the caller holds its lock.
        path: path of the table, inside the run folder.
        columns: columns of equal length, by name.
    """
    if not is_first():
        return
    lines = [",".join(columns)]
    lines += [",".join(map(_cell, row)) for row in zip(*columns.values(), strict=True)]
    content = ("\n".join(lines) + "\n").encode()
    new, known, name = hashlib.sha256(content).hexdigest(), _checksums(run), _name(run, path)
    present = file_checksum(path)
    write_record(run.checksums, known | {name: [old for old in known.get(name, ()) if old == present] + [new]})
    with replacing(path) as file:
        file.write(content)


def read_table(run: RunFolder, path: Path) -> Columns:
    """Read the columns of a table of a run folder.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is damaged; says how.
    """
    _is_verified(run, path)
    return read_csv(path)


def check_table(run: RunFolder, path: Path) -> None:
    """Raise the error that `read_table` would raise; with a checksum, the numbers are not parsed."""
    if not _is_verified(run, path):
        read_csv(path)


def _is_verified(run: RunFolder, path: Path) -> bool:
    """Return whether a checksum verifies the table; False if none is known."""
    expected = _checksums(run).get(_name(run, path))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    if expected is not None and file_checksum(path) not in expected:
        raise ValueError(f"{path} is damaged, or was edited: it does not match its checksum in {run.checksums}")
    return expected is not None


def read_csv(path: Path) -> Columns:
    """Read the columns of a CSV file of numbers and names; columns of whole numbers become integers.

    Raises:
        ValueError: if it is not such a table.
    """
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file, strict=True)
        columns = zip(*rows, strict=True) if rows else [()] * len(header)
        return {name: _column(column) for name, column in zip(header, columns, strict=True)}
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: it is not a table of numbers and names ({error})") from None


def join_tables(tables: Sequence[Columns], names: Iterable[str] | None = None) -> Columns:
    """Concatenate the rows of metrics tables; a metric that a table lacks is NaN there.

    Args:
        tables: the tables; empty ones are skipped.
        names: names of the columns to return, in order; by default all, in the order of their first appearance.
    """
    tables = [table for table in tables if len(table.get("epoch", ()))]
    return {
        name: np.concatenate([table.get(name, np.full(len(table["epoch"]), np.nan)) for table in tables])
        for name in names or dict.fromkeys(name for table in tables for name in table)
    }


def _name(run: RunFolder, path: Path) -> str:
    return path.relative_to(run).as_posix()


def _checksums(run: RunFolder) -> dict[str, list[str]]:
    """Return the checksums of each table by name; {} if the file is missing or damaged: tables are then trusted."""
    try:
        record = read_record(run.checksums)
    except (FileNotFoundError, ValueError):
        return {}
    return {name: known for name, known in record.items() if isinstance(known, list)}


def _column(cells: Sequence[str]) -> np.ndarray:
    """Return a column of numbers, or of names if no cell is a number; a name among numbers is an error."""
    if cells and not any(map(_is_number, cells)):
        return np.array(cells)
    try:
        return np.array([int(cell) for cell in cells])
    except ValueError:
        return np.array([float(cell) for cell in cells])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return repr(float(value))
    text = str(value)
    quoted = text.replace('"', '""')
    return f'"{quoted}"' if any(mark in text for mark in ',"\r\n') else text
