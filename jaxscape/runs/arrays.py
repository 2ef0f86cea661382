"""Arrays on disk as .npz files: they are replaced atomically, and their CRCs are checked when they are read."""

import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np

from jaxscape.trajectories.files import replacing

# The exceptions that zipfile and NumPy raise for a damaged .npz file.
_UNREADABLE = (ValueError, KeyError, EOFError, OSError, NotImplementedError, BadZipFile, zlib.error, struct.error)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Replace an .npz file atomically, uncompressed. Its CRCs reveal damage."""
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file.

    Raises:
        ValueError: if it is damaged; says how.
        OSError: if it cannot be opened.
    """
    check_arrays(path)  # NumPy skips the CRC if the array's header claims fewer bytes than there are
    with path.open("rb") as file:
        try:
            with np.load(file) as opened:
                return dict(opened)
        except _UNREADABLE as error:
            raise ValueError(f"{path} is damaged: {error}") from None


def check_arrays(path: Path) -> None:
    """Check the CRCs of an .npz file, without holding whole arrays in memory.

    Raises:
        ValueError: if it is damaged; says how.
        OSError: if it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            with ZipFile(file) as archive:
                damaged = archive.testzip()
        except _UNREADABLE as error:
            raise ValueError(f"{path} is damaged: {error}") from None
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged} does not match its CRC")
