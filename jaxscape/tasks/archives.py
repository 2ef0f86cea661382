"""Content of files that somebody else made: plain, gzip or tar, never more of it in memory than is allowed.

`originals.py` says which files, and how large they may be. A few bytes of gzip or of a sparse tar can stand for
terabytes, so that every byte counts before it is kept, and a member of a tar is refused by its header.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO

_CHUNK = 2**20
# What a tar may hold besides the wanted members: headers, padding, a readme, names of classes.
_OVERHEAD = 2**20


class TooLarge(ValueError):
    """Says which file holds more than is allowed, and how much that is."""


class _Refused(ValueError):
    """Says which file is refused, and why."""


class _Bounded:
    """A stream of a file's content, unpacked if it is gzip, which raises as soon as it exceeds `allowed` bytes."""

    def __init__(self, path: Path, stream: BinaryIO, allowed: int) -> None:
        self._path = path
        # Not by the name: browsers unpack a download and leave the .gz.
        packed = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        self._stream = gzip.GzipFile(fileobj=stream) if packed else stream
        self._allowed = self._left = allowed

    def allow(self, more: int) -> None:
        """Allow more bytes than before."""
        self._allowed += more
        self._left += more

    def read(self, size: int = _CHUNK) -> bytes:
        """Return the next bytes, b"" at the end.

        Raises:
            ValueError: The file is not a whole gzip file, or holds more than is allowed.
        """
        try:
            chunk = self._stream.read(min(size, self._left + 1))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _Refused(f"{self._path} is not a whole gzip file: {error}") from None
        self._left -= len(chunk)
        if self._left < 0:
            raise TooLarge(f"{self._path} holds more than {self._allowed:,} bytes")
        return chunk


def read_file(path: Path, *, most: int) -> bytearray:
    """Return the content of a file, unpacked if it is gzip.

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
    """Return the content of members of a tar file, gzip or plain, by their names without folders.

    Args:
        archive: the file, read once from the start to its end.
        most: for each wanted name, the largest size allowed, in bytes.

    Raises:
        TooLarge: A member, or what the archive holds besides, is larger.
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
                        raise _Refused(f"{archive} contains {name} twice")
                    if name in most:
                        stream.allow(member.size)
                        contents[name] = _read_member(tar, member)
        except (TooLarge, _Refused):
            raise
        # A made-up header can end in any of these inside of tarfile, a long row of headers in the last.
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
    """Return the name of a member without its folders, once its header has shown that it may be read."""
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise _Refused(f"{archive} contains {member.name!r:.100}, which is a link, a device or a sparse file")
    name = PurePosixPath(member.name).name
    if member.size > most.get(name, _OVERHEAD):
        allowed = f"where at most {most[name]:,} are allowed" if name in most else "which does not belong to it"
        raise TooLarge(f"{archive} contains {member.name!r:.100} of {member.size:,} bytes, {allowed}")
    return name


def _read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""  # a folder of that name has no content
