"""Paths that mean the same to every library below us.

Orbax takes some characters of a path as a pattern, etils takes some folders as buckets in a cloud, and tensorstore
takes a backslash as a separator; each then writes elsewhere, or merges nothing, and reports success.
"""

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

# What orbax, etils and tensorstore pass on as it is. Everything else goes through an alias.
_PLAIN = re.compile(r"[\w/ .,+=@%~#-]*")
_SCHEMES = re.compile(r"/*(gs|s3|az|hf)(/|$)")  # etils reads /gs/name as gs://name
LONGEST = 1024  # bytes; orbax and tensorstore append up to 200 of theirs to what a system takes, often 4096


def plain_path(folder: Path) -> Path:
    """Return a path to the same folder that every library reads in the same way.

    That is the path itself where it has plain characters only. Otherwise it is a symbolic link in a private folder
    for temporary files, whose name follows from the path alone: all processes of a program have the same one, and a
    killed one leaves nothing that another would trip over. It may be used for saving and for loading; ask again
    before each use, for a system may clear its temporary files.

    Args:
        folder: absolute; should exist, for nothing can be made under a link that leads nowhere.

    Raises:
        ValueError: for a path that needs an alias where none can be made.
    """
    if _is_plain(folder):
        return folder
    target = os.fspath(folder)
    try:
        alias = _private_folder() / hashlib.sha256(os.fsencode(target)).hexdigest()[:32]
        _link(alias, target)
    except OSError as error:
        raise ValueError(
            f"path={target!r} has characters that orbax reads otherwise, and an alias cannot be made in "
            f"{tempfile.gettempdir()} ({error.strerror or error}); choose a folder with a plain name"
        ) from None
    return alias


def _is_plain(folder: Path) -> bool:
    text = folder.as_posix()
    return (
        _PLAIN.fullmatch(text.removeprefix(folder.drive)) is not None
        and _SCHEMES.match(text) is None
        and ".." not in folder.parts  # tensorstore drops them by name, which is wrong after a link
        and not text.startswith("//")
        and len(os.fsencode(folder)) <= LONGEST
    )


def _private_folder() -> Path:
    """A folder that nobody else can write to."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(tempfile.gettempdir()).absolute() / f"jaxscape-{user}"
    if not _is_plain(folder):
        raise OSError("its own path is not plain")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != user or found.st_mode & 0o022:
        raise OSError(f"{folder} belongs to somebody else")
    return folder


def _link(alias: Path, target: str) -> None:
    try:
        alias.symlink_to(target, target_is_directory=True)
    except FileExistsError:
        if os.readlink(alias) != target:
            raise OSError(f"{alias} leads elsewhere") from None
