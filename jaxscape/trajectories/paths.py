"""Paths that orbax, etils and tensorstore all interpret in the same way.

Orbax interprets some characters of a path as a pattern, etils interprets some folders as cloud buckets, and tensorstore
interprets a backslash as a separator. They would then write elsewhere, or merge nothing, and report success.
"""

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

# Characters that orbax, etils and tensorstore pass on unchanged. Other paths are replaced by an alias.
_PLAIN = re.compile(r"[\w/ .,+=@%~#-]*")
_SCHEMES = re.compile(r"/*(gs|s3|az|hf)(/|$)")  # etils reads /gs/name as gs://name
LONGEST = 1024  # bytes; orbax and tensorstore append up to 200, and systems often limit a path to 4096


def plain_path(folder: Path) -> Path:
    """Return a path to the same folder that every library interprets in the same way.

    This is the path itself if it has plain characters only. Otherwise it is a symbolic link in a private folder for
    temporary files. The name of the link depends on the path alone, so all processes use the same one, and a killed
    process leaves nothing in the way of another. It can be used for saving and loading. Call this function before each
    use, since a system may clear its temporary files.

    Args:
        folder: absolute path, which should exist: nothing can be created under a dangling link.

    Raises:
        ValueError: if the path needs an alias and none can be made.
    """
    if _is_plain(folder):
        return folder
    target = os.fspath(folder)
    try:
        alias = _private_folder() / hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
        _link(alias, target)
    except OSError as error:
        raise ValueError(
            f"path={target!r} has characters that orbax interprets differently, and an alias cannot be made in "
            f"{tempfile.gettempdir()} ({error.strerror or error}); choose a folder with a plain name"
        ) from None
    return alias


def _is_plain(folder: Path) -> bool:
    text = folder.as_posix()
    return (
        _PLAIN.fullmatch(text.removeprefix(folder.drive)) is not None
        and _SCHEMES.match(text) is None
        and ".." not in folder.parts  # tensorstore resolves them by name, which is wrong after a symbolic link
        and not text.startswith("//")
        and len(os.fsencode(folder)) <= LONGEST
    )


def _private_folder() -> Path:
    """Return a folder for temporary files that no other user can write to."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()).absolute() / f"jaxscape-{user}"
    if not _is_plain(folder):
        raise OSError("its own path is not plain")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022:
        raise OSError(f"{folder} belongs to somebody else")
    return folder


def _link(alias: Path, target: str) -> None:
    try:
        alias.symlink_to(target, target_is_directory=True)
    except FileExistsError:
        if os.readlink(alias) != target:
            raise OSError(f"{alias} leads elsewhere") from None
