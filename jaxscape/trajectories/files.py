"""Atomic file replacement, and JSON records with checksums.

A process may be killed, or a disk may fill up, at any moment. A reader then finds either the old file or the new one. A
killed process leaves a temporary file behind, which the next writer of the folder deletes (`delete_unfinished`).
"""

import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from jaxscape.lazy import np

CHECKSUM = "sha256"  # the entry of a record that holds the checksum of the others

# Names of temporary files. They are random, so that nobody can put a symbolic link in their place beforehand.
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")


def make_folder(path: Path) -> None:
    """Make a folder and its parents.

    Raises:
        OSError: with the name of the folder and the reason.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(f"cannot make the folder {path}: {error.strerror}") from None


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that replaces `path` atomically once it is completely on disk.

    Raises:
        OSError: with the name of the file and the reason; the old file is unchanged.
    """
    make_folder(path.parent)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(unfinished, "xb") as file:  # "x" refuses existing files and symbolic links
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException as error:
        with suppress(OSError):
            unfinished.unlink()
        if isinstance(error, OSError):
            raise type(error)(f"cannot write {path}: {error.strerror or error}") from None
        raise


def delete_unfinished(folder: Path, *, older_than: float = 0.0) -> None:
    """Delete the temporary files that killed processes left in a folder.

    Args:
        folder: the folder; it need not exist.
        older_than: smallest age in seconds. 0 is for the only writer of the folder; others must spare files that may
            still be being written.
    """
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        with suppress(FileNotFoundError):
            if _UNFINISHED.fullmatch(path.name) and time.time() - path.lstat().st_mtime >= older_than:
                path.unlink()


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a JSON file by a record and its checksum; NaN and infinity become null.

    Raises:
        OSError: if it cannot be written.
    """
    plain = to_json(record)
    with replacing(path) as file:
        file.write((json.dumps(plain | {CHECKSUM: _checksum(plain)}, indent=1) + "\n").encode())


def read_record(path: Path, *, sealed: bool = False) -> dict[str, Any]:
    """Read a record and verify its checksum.

    Args:
        path: path of the file.
        sealed: whether a checksum is required. Otherwise a record without one, from an earlier version or edited by
            hand, is accepted.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if it is damaged; says how.
    """
    try:
        record = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # not JSON, not text, or nested too deeply
        raise ValueError(f"{path} is damaged: it is not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{path} is damaged: it must hold a JSON object, got {record!r:.50}")
    checksum = record.pop(CHECKSUM, None)
    if checksum is None and sealed:
        raise ValueError(f"{path} has no checksum: it is of an earlier version, or was edited")
    if checksum is not None and checksum != _checksum(record):
        raise ValueError(
            f"{path} is damaged, or was edited: it does not match its checksum. Restore it; if an edit was meant, "
            f'delete its entry "{CHECKSUM}"'
        )
    return record


def is_sealed(path: Path) -> bool:
    """Return whether a record file has a checksum."""
    return CHECKSUM in json.loads(path.read_bytes())


def to_json(value: Any) -> Any:
    """Convert mappings, arrays, NumPy scalars and other iterables to JSON values; NaN and infinity become None."""
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_json(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [to_json(entry) for entry in value]
    return value


def file_checksum(path: Path) -> str | None:
    """Return the SHA-256 of a file's bytes as hexadecimal digits; None if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def _checksum(record: dict[str, Any]) -> str:
    """Return the checksum of the values, independent of their order and layout in the file."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
