"""Arrays on disk, .npz files: replaced as a whole, and held against their CRCs before they are believed."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from jaxscape.trajectories.files import replacing

# What zipfile and NumPy raise for a damaged .npz file.
_UNREADABLE = (ValueError, KeyError, EOFError, OSError, NotImplementedError, BadZipFile, zlib.error, struct.error)


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
