"""Safe reading of files from other sources: plain, gzip or tar, with a limit on the memory that they take.

`originals.py` names the files and their largest sizes. A few bytes of gzip or of a sparse tar can expand to terabytes,
so every byte is counted before it is kept, and a tar member that is too large is rejected by its header.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_CHUNK = 2**20
# Allowed in a tar besides the wanted members: headers, padding, a readme, names of classes.
_OVERHEAD = 2**20


class TooLarge(ValueError):
    """Raised if a file holds more bytes than allowed; the message names both."""


class _Rejected(ValueError):
    """Raised if a file is rejected; the message gives the reason."""


class _Bounded:
    """A stream of a file's content, decompressed if it is gzip, that raises once it exceeds `allowed` bytes."""

    def __init__(self, path: Path, stream: BinaryIO, allowed: int) -> None:
        self._path = path
        # Not by the name: browsers decompress a download and leave the .gz.
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        self._stream = gzip.GzipFile(fileobj=stream) if packed else stream
        self._allowed = self._left = allowed

    def allow(self, more: int) -> None:
        """Allow this many more bytes."""
        self._allowed += more
        self._left += more

    def read(self, size: int = _CHUNK) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises:
            ValueError: The file is not a complete gzip file, or holds more than is allowed.
        """
        try:
            chunk = self._stream.read(min(size, self._left + 1))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _Rejected(f"{self._path} is not a whole gzip file: {error}") from None
        self._left -= len(chunk)
        if self._left < 0:
            raise TooLarge(f"{self._path} holds more than {self._allowed:,} bytes")
        return chunk


def read_file(path: Path, *, most: int) -> bytearray:
    """Return the content of a file, decompressed if it is gzip.

    Args:
        path: the file.
        most: the largest size allowed, in bytes.

    Raises:
        TooLarge: The content is larger.
        ValueError: The file is gzip and damaged.
    """
    content = bytearray()
    with path.open("rb") as raw:
        stream = _Bounded(path, raw, most)
        while chunk := stream.read():
            content += chunk
    return content


def read_members(archive: Path, most: Mapping[str, int]) -> dict[str, bytes]:
    """Return the content of members of a tar file, gzip or plain, by their names without directories.

    Args:
        archive: the file, read once from start to end.
        most: the largest size allowed for each wanted name, in bytes.

    Raises:
        TooLarge: A member, or the rest of the archive, is larger.
        ValueError: The archive is damaged, lacks a member or has it twice, or has a link, a device or a sparse file.
    """
    contents: dict[str, bytes] = {}
    with archive.open("rb") as raw:
        stream = _Bounded(archive, raw, _OVERHEAD)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:  # type: ignore[call-overload]
                for member in tar:
                    name = _check_member(archive, member, most)
                    if name in contents:
                        raise _Rejected(f"{archive} contains {name} twice")
                    if name in most:
                        stream.allow(member.size)
                        contents[name] = _read_member(tar, member)
        except (TooLarge, _Rejected):
            raise
        # A forged header can raise any of these inside tarfile; a long chain of headers raises the last.
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{archive} is not a whole tar file: {error}") from None
        while stream.read():  # gzip's checksum comes at the end
            pass
    if absent := [name for name in most if name not in contents]:
        raise ValueError(f"{archive} does not contain {', '.join(absent)}")
    return contents


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_member(archive: Path, member: tarfile.TarInfo, most: Mapping[str, int]) -> str:
    """Return the name of a member without its directories, after checking in its header that it may be read."""
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise _Rejected(f"{archive} contains {member.name!r:.100}, which is a link, a device or a sparse file")
    name = PurePosixPath(member.name).name
    if member.size > most.get(name, _OVERHEAD):
        allowed = f"where at most {most[name]:,} are allowed" if name in most else "which does not belong to it"
        raise TooLarge(f"{archive} contains {member.name!r:.100} of {member.size:,} bytes, {allowed}")
    return name


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""  # a directory with that name has no content
