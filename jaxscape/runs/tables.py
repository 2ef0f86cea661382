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

from jaxscape.runs.folder import RunFolder
from jaxscape.runs.processes import is_first
from jaxscape.trajectories.files import file_checksum, read_record, replacing, write_record

Columns = dict[str, np.ndarray]


def write_table(run: RunFolder, path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray]) -> None:
    """Replace a table of a run folder as a whole; of several processes the first one alone writes it.

    Args:
        run: the run folder, whose lock the caller holds.
        path: of the table, in the run folder.
        columns: all of one length.
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
        FileNotFoundError: where it is not there.
        ValueError: where it is damaged; says in which way.
    """
    _is_proven(run, path)
    return read_csv(path)


def check_table(run: RunFolder, path: Path) -> None:
    """Raise the error that `read_table` would raise; reads no numbers where a checksum proves them."""
    if not _is_proven(run, path):
        read_csv(path)


def _is_proven(run: RunFolder, path: Path) -> bool:
    """Return whether a checksum proves the table whole; False where none is known."""
    expected = _checksums(run).get(_name(run, path))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    if expected is not None and file_checksum(path) not in expected:
        raise ValueError(f"{path} is damaged, or was edited: it does not match its checksum in {run.checksums}")
    return expected is not None


def read_csv(path: Path) -> Columns:
    """Read the columns of a CSV file of numbers and names; whole numbers come back as integers.

    Raises:
        ValueError: where it is no such table.
    """
    try:
        with path.open(newline="") as file:
            header, *rows = csv.reader(file, strict=True)
        columns = zip(*rows, strict=True) if rows else [()] * len(header)
        return {name: _column(column) for name, column in zip(header, columns, strict=True)}
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged: it is not a table of numbers and names ({error})") from None


def join_tables(tables: Sequence[Columns], names: Iterable[str] | None = None) -> Columns:
    """Return the rows of metrics tables, one table below another; a metric that a table lacks is NaN there.

    Args:
        tables: those without rows are left out.
        names: of the columns, in their order; by default all, in the order in which the tables have them.
    """
    tables = [table for table in tables if len(table.get("epoch", ()))]
    return {
        name: np.concatenate([table.get(name, np.full(len(table["epoch"]), np.nan)) for table in tables])
        for name in names or dict.fromkeys(name for table in tables for name in table)
    }


def _name(run: RunFolder, path: Path) -> str:
    return path.relative_to(run).as_posix()


def _checksums(run: RunFolder) -> dict[str, list[str]]:
    """The checksums of each table, by name; without them, or where they are damaged, tables are believed."""
    try:
        record = read_record(run.checksums)
    except (FileNotFoundError, ValueError):
        return {}
    return {name: known for name, known in record.items() if isinstance(known, list)}


def _column(cells: Sequence[str]) -> np.ndarray:
    """Numbers, or names where no cell is a number; a name among numbers is an error."""
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
