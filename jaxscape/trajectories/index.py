"""The index of a store, store.json: the labels of its members and the arrays of each member."""

import json
import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from jaxscape.lazy import jax
from jaxscape.trajectories.files import delete_unfinished, make_folder, read_record, write_record

INDEX = "store.json"
FORMAT = "jaxscape trajectories"
VERSION, PACKED_VERSION = 1, 2  # packed stores have their own version, so that readers without support refuse them
_ABOUT = {
    VERSION: "One folder an epoch, an orbax checkpoint whose item 'state' holds the parameters stacked [member, ...]. ",
    PACKED_VERSION: "One folder for consecutive epochs, a pack, named by the first: an orbax checkpoint whose item "
    "'state' holds their parameters stacked [epoch, member, ...]. ",
}
_ABOUT_ENTRIES = (
    "labels: a record a member, in that order. leaves: the arrays of one member, in the order of the columns."
)
DTYPES = ("float32", "bfloat16", "float16")
# Temporary files that a killed process may leave: of this version, and of the first one.
_UNFINISHED = (f".{INDEX}.*.tmp", f"{INDEX}.tmp")


class Leaf(NamedTuple):
    """One array of the parameters of one member."""

    keys: tuple[str, ...]  # its key path in the nested dictionaries
    shape: tuple[int, ...]  # without the member axis
    dtype: str

    @property
    def name(self) -> str:
        """Return the key path as text, such as "group1/conv/kernel"."""
        return "/".join(self.keys)

    @property
    def size(self) -> int:
        """Return the number of parameters in one member's array."""
        return math.prod(self.shape)


@contextmanager
def naming_what_is_read(path: Path) -> Iterator[None]:
    """Name the file or folder that could not be read in any system error raised inside.

    Raises:
        OSError: of the type that the system reported.
    """
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise  # the message is our own
        raise type(error)(f"cannot read {path}: {error.strerror}") from None


def has_index(folder: Path) -> bool:
    """Return whether a folder is a store."""
    with naming_what_is_read(folder):
        return (folder / INDEX).is_file()


class Index(NamedTuple):
    """The contents of store.json."""

    labels: list[dict[str, Any]]  # one record per member
    leaves: list[Leaf]  # the arrays of one member
    packed: bool  # whether a folder holds several epochs


def make_store_folder(folder: Path, index: Index) -> None:
    """Make the folder of an empty store.

    Raises:
        FileExistsError: if the folder is not new or empty.
    """
    with naming_what_is_read(folder):
        taken = folder.exists() and not (folder.is_dir() and all(_is_unfinished(entry) for entry in folder.iterdir()))
    if taken:
        content = "a trajectory store" if has_index(folder) else "something"
        raise FileExistsError(f"path={folder} holds {content} already; open it, or choose a new or empty folder")
    make_folder(folder)
    write_index(folder, index)


def write_index(folder: Path, index: Index) -> None:
    """Replace the index atomically, so that a reader sees either the old or the new one.

    Raises:
        OSError: if it cannot be written.
    """
    delete_unfinished(folder)
    (folder / f"{INDEX}.tmp").unlink(missing_ok=True)
    version = PACKED_VERSION if index.packed else VERSION
    head = {"format": FORMAT, "version": version, "about": _ABOUT[version] + _ABOUT_ENTRIES}
    leaves = [leaf._asdict() for leaf in index.leaves]
    write_record(folder / INDEX, {**head, "labels": index.labels, "leaves": leaves})


def read_index(folder: Path) -> Index:
    """Read the index of a store.

    Raises:
        FileNotFoundError: if there is no folder.
        ValueError: if it is not a store, is of another version, or its index is damaged.
        OSError: if the index cannot be read.
    """
    path = folder / INDEX
    with naming_what_is_read(folder):
        if not folder.exists():
            raise FileNotFoundError(f"path={folder} does not exist; a trajectory store is a folder")
    if not has_index(folder):
        raise ValueError(
            f"path={folder} is not a trajectory store: it has no {INDEX}. If it was one, restore that file, which "
            f"says which member each row is"
        )
    with naming_what_is_read(path):
        index = read_record(path)
    version = (index.get("format"), index.get("version"))
    allowed = [(FORMAT, VERSION), (FORMAT, PACKED_VERSION)]
    if version not in allowed:
        raise ValueError(f"path={folder} has format and version {version}; allowed: {allowed[0]} and {allowed[1]}")
    labels, leaves = index.get("labels"), index.get("leaves")
    if not _are_labels(labels):
        raise ValueError(f"{path} is damaged: labels must be records with the same columns, got {reprlib.repr(labels)}")
    if not isinstance(leaves, list) or not all(_is_leaf(leaf) for leaf in leaves):
        raise ValueError(
            f"{path} is damaged: leaves must be records of keys, shape and dtype, got {reprlib.repr(leaves)}"
        )
    plain = [Leaf(tuple(leaf["keys"]), tuple(leaf["shape"]), leaf["dtype"]) for leaf in leaves]
    return Index(labels, plain, index["version"] == PACKED_VERSION)


def plain_records(labels: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the labels as JSON values.

    Raises:
        ValueError: if they are empty, differ in their columns, or hold anything but JSON values.
    """
    if not isinstance(labels, Sequence) or isinstance(labels, str) or not all(isinstance(r, Mapping) for r in labels):
        raise ValueError(f"labels={reprlib.repr(labels)} must be a sequence of mappings, one record per member")
    if len(labels) == 0:
        raise ValueError("labels=[] is empty; give one record a member")
    records = []
    for member, record in enumerate(labels):
        if record.keys() != labels[0].keys():
            columns, first = list(record), list(labels[0])
            raise ValueError(f"labels[{member}] has the columns {columns}; allowed: {first}, as in labels[0]")
        try:
            records.append(json.loads(json.dumps(dict(record), default=_scalar, allow_nan=False)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"labels[{member}]={reprlib.repr(record)} must hold finite JSON values: {error}") from None
    return records


def _is_unfinished(entry: Path) -> bool:
    return any(entry.match(pattern) for pattern in _UNFINISHED)


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray | jax.Array) and np.ndim(value) == 0:
        return value.item()
    raise TypeError(f"{value!r} is no JSON value")


def _are_labels(labels: Any) -> TypeGuard[list[dict[str, Any]]]:
    return (
        isinstance(labels, list)
        and bool(labels)
        and all(isinstance(record, dict) and record.keys() == labels[0].keys() for record in labels)
    )


def _is_leaf(leaf: Any) -> bool:
    return (
        isinstance(leaf, dict)
        and leaf.keys() == set(Leaf._fields)
        and isinstance(leaf["keys"], list)
        and bool(leaf["keys"])
        and all(isinstance(key, str) for key in leaf["keys"])
        and isinstance(leaf["shape"], list)
        and all(type(length) is int and length > 0 for length in leaf["shape"])
        and leaf["dtype"] in DTYPES
    )
