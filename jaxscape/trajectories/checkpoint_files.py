"""Readers of checkpoint files that never execute code from them: orbax, NumPy, safetensors and PyTorch.

A file is opened for the names, shapes and dtypes of its arrays, which are then read by name. The claimed sizes are
compared with the size of the file before memory is allocated, since a few bytes may claim to be terabytes.
"""

import json
import math
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.trajectories.index import naming_what_is_read
from jaxscape.trajectories.snapshots import METADATA, orbax_silenced, reason

TREE_METADATA = "_METADATA"  # of each pytree that orbax writes
UNFINISHED = ".orbax-checkpoint-tmp"  # in the name of a folder that orbax is writing, or was writing when killed
DEFLATE_RATIO, ORBAX_RATIO = 1032, 2**16  # largest compression ratios: deflate's limit, and a bound for orbax's zstd
LONGEST_HEADER = 100_000_000  # bytes; the limit of the safetensors format
OLDEST_TORCH = (2, 6)  # before it, weights_only=True could run code (CVE-2025-32434)
SAFETENSORS_TYPES = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}


class Described(NamedTuple):
    """The shape and dtype of an array that has not been read yet."""

    shape: tuple[int, ...]
    dtype: str  # NumPy's name, or the format's own name if NumPy has none


class OpenedFile(NamedTuple):
    """The arrays of a checkpoint: their shapes and dtypes, and a function that reads them."""

    arrays: dict[str, Described]  # by key path
    others: dict[str, str]  # entries that are not arrays, with their types
    read: Callable[[Iterable[str]], dict[str, np.ndarray]]


def open_checkpoint(path: Path) -> OpenedFile:
    """Open a file by its suffix, or a folder by its contents.

    Raises:
        ValueError: if it is damaged, or of no known format.
        ImportError: for a PyTorch file if PyTorch is not installed; says what to install.
        OSError: if it cannot be read.
    """
    if UNFINISHED in path.name:
        raise ValueError(f"{path} was never finished: orbax renames a checkpoint when all of it is written")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with naming_what_is_read(path):
        opener = _open_orbax if path.is_dir() else _OPENERS.get(path.suffix.lower())
    if opener is None:
        raise ValueError(f"{path} is of no known format; allowed: {FORMATS}")
    with _naming(path):
        opened = opener(path)

    def read(names: Iterable[str]) -> dict[str, np.ndarray]:
        with _naming(path):
            return opened.read(names)

    return opened._replace(read=read)


def is_checkpoint(path: Path) -> bool:
    """Return whether a file or folder looks like a finished checkpoint, by its name or the names of its entries."""
    if UNFINISHED in path.name:
        return False
    return bool(_orbax_items(path)) if path.is_dir() else path.suffix.lower() in _OPENERS


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn any error that a damaged file causes into a one-line error that names the file."""
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise type(error)(f"cannot read {path}: {error.strerror}") from None
        raise ValueError(f"{path} cannot be read: {reason(error)}") from None


# NumPy


def _open_npz(path: Path) -> OpenedFile:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            if name in arrays:
                raise ValueError(f"it has two arrays of the name {name!r}")
            if entry.file_size > DEFLATE_RATIO * entry.compress_size + 1024:
                raise ValueError(f"{name!r} claims {entry.file_size} bytes, and has {entry.compress_size}")
            with archive.open(entry) as file:
                arrays[name] = _npy_header(file, name, entry.file_size)[0]

    def read(names: Iterable[str]) -> dict[str, np.ndarray]:
        with zipfile.ZipFile(path) as archive:
            return {name: _read_npy(archive, name) for name in names}

    return OpenedFile(arrays, {}, read)


def _npy_header(file: Any, name: str, size: int) -> tuple[Described, np.dtype[Any], bool]:
    """Read the header of an array; `size` is the number of bytes of the header and the array together."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name!r} has version {version} of NumPy's format; allowed: (1, 0) and (2, 0)")
    headers = np.lib.format
    reader = headers.read_array_header_1_0 if version == (1, 0) else headers.read_array_header_2_0
    shape, is_fortran, dtype = reader(file)
    if min(shape, default=0) < 0 or (not dtype.hasobject and math.prod(shape) * dtype.itemsize != size - file.tell()):
        raise ValueError(f"{name!r} is {dtype} {shape}, and has {size - file.tell()} bytes")
    return Described(shape, dtype.name), dtype, is_fortran


def _read_npy(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    known = archive.NameToInfo
    entry = known.get(f"{name}.npy") or known[name]
    with archive.open(entry) as file:
        described, dtype, is_fortran = _npy_header(file, name, entry.file_size)
        flat = np.frombuffer(file.read(), dtype)
    return flat.reshape(described.shape, order="F" if is_fortran else "C")


# safetensors


def _open_safetensors(path: Path) -> OpenedFile:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise ValueError(f"its header claims {length} bytes, and the file has {size}")
        header = json.loads(file.read(length).decode(), object_pairs_hook=_by_name)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    header.pop("__metadata__", None)
    arrays, places = {}, {}
    for name, entry in header.items():
        arrays[name], places[name] = _safetensors_entry(name, entry)
    stop = 0
    for start, end in sorted(places.values()):
        if start != stop:
            raise ValueError(f"its arrays overlap or leave a hole at byte {stop}")
        stop = end
    if stop != size - 8 - length:
        raise ValueError(f"its arrays have {stop} bytes, and the file {size - 8 - length}")

    def read(names: Iterable[str]) -> dict[str, np.ndarray]:
        values = {}
        with path.open("rb") as file:
            for name in names:
                file.seek(8 + length + places[name][0])
                content = file.read(places[name][1] - places[name][0])
                values[name] = np.frombuffer(content, _little_endian(arrays[name].dtype)).reshape(arrays[name].shape)
        return values

    return OpenedFile(arrays, {}, read)


def _safetensors_entry(name: str, entry: Any) -> tuple[Described, tuple[int, int]]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
    shape, offsets, own = entry["shape"], entry["data_offsets"], entry["dtype"]
    if not all(
        isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers) for numbers in (shape, offsets)
    ):
        raise ValueError(f"{name!r} has a shape or data_offsets that are no lists of numbers")
    if len(offsets) != 2 or offsets[0] > offsets[1] or not isinstance(own, str):
        raise ValueError(f"{name!r} has data_offsets {offsets} and the type {own!r}")
    dtype = SAFETENSORS_TYPES.get(own)
    if dtype and math.prod(shape) * jnp.dtype(dtype).itemsize != offsets[1] - offsets[0]:
        raise ValueError(f"{name!r} is {dtype} {tuple(shape)}, and has {offsets[1] - offsets[0]} bytes")
    return Described(tuple(shape), dtype or own), (offsets[0], offsets[1])


def _little_endian(name: str) -> np.dtype[Any]:
    return jnp.dtype(name).newbyteorder("<")


def _by_name(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"it has the name {name!r} twice")
        entries[name] = value
    return entries


# PyTorch


def _open_torch(path: Path) -> OpenedFile:
    try:
        import torch
    except ModuleNotFoundError:
        raise ImportError(
            f"{path} is a PyTorch file; reading it needs torch, which is not installed: pip install torch"
        ) from None
    installed = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if installed < OLDEST_TORCH:
        raise ImportError(f"torch {torch.__version__} may run code that is hidden in {path}; pip install 'torch>=2.6'")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old formats
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, MemoryError):
            raise
        except Exception:  # torch's own message advises to allow code execution
            raise ValueError(
                "it is damaged, or holds more than tensors (a whole module, a script), which could run code; save "
                "model.state_dict() instead"
            ) from None
    if isinstance(content, torch.Tensor):
        content = {"params": content}
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, and no state_dict")
    leaves = _by_name(_named_leaves(content))
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, torch.Tensor)}
    arrays = {name: _describe_tensor(name, tensor) for name, tensor in tensors.items()}
    others = {name: type(leaf).__name__ for name, leaf in leaves.items() if name not in tensors}

    def read(names: Iterable[str]) -> dict[str, np.ndarray]:
        return {name: _array_of_tensor(tensors[name]) for name in names}

    return OpenedFile(arrays, others, read)


def _describe_tensor(name: str, tensor: Any) -> Described:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_quantized or str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        return Described(tuple(tensor.shape), f"{kind}, {tensor.layout} on {tensor.device}")
    if tensor.numel() * tensor.element_size() > max(tensor.untyped_storage().nbytes(), tensor.element_size()):
        raise ValueError(f"{name!r} of shape {tuple(tensor.shape)} is larger than what is stored of it")
    return Described(tuple(tensor.shape), kind)


def _array_of_tensor(tensor: Any) -> np.ndarray:
    import torch

    plain = tensor.detach().resolve_neg().contiguous()
    if plain.dtype == torch.bfloat16:  # torch cannot convert bfloat16 to NumPy: pass its bits on as int16
        bits: np.ndarray = plain.view(torch.int16).numpy()
        return bits.view(jnp.bfloat16)
    array: np.ndarray = plain.numpy()
    return array


def _named_leaves(node: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings and lists by key path."""
    entries = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in entries:
        name = f"{above}{key}"
        if isinstance(value, Mapping | list | tuple):
            yield from _named_leaves(value, f"{name}/")
        else:
            yield name, value


# orbax


def _orbax_items(folder: Path) -> dict[str, Path]:
    """Return the pytrees of a checkpoint by name; the name is empty if the folder itself is the pytree."""
    with naming_what_is_read(folder):
        if (folder / TREE_METADATA).is_file():
            return {"": folder}
        if not (folder / METADATA).is_file():  # a folder of steps, perhaps
            return {}
        return {entry.name: entry for entry in sorted(folder.iterdir()) if (entry / TREE_METADATA).is_file()}


def _open_orbax(folder: Path) -> OpenedFile:
    items = _orbax_items(folder)
    if not items:
        raise ValueError("it is no orbax checkpoint of a pytree")
    if _is_pack(folder):
        raise ValueError("it is a pack of a jaxscape store, with many steps; open the store with TrajectoryStore.open")
    trees = {name: _orbax_tree(path) for name, path in items.items()}
    single = len(items) == 1
    named = _by_name(
        (name if single else f"{item}/{name}", (item, name, leaf))
        for item, tree in trees.items()
        for name, leaf in _named_tree(tree)
    )
    arrays = {name: described for name, (_, _, leaf) in named.items() if (described := _describe_leaf(leaf))}
    others = {name: "no array" for name in named if name not in arrays}
    on_disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())

    def read(names: Iterable[str]) -> dict[str, np.ndarray]:
        requested = list(names)
        claimed = sum(math.prod(arrays[name].shape) * jnp.dtype(arrays[name].dtype).itemsize for name in requested)
        if claimed > ORBAX_RATIO * on_disk:
            raise ValueError(f"its arrays claim {claimed} bytes, and the folder has {on_disk}")
        restored: dict[str, np.ndarray] = {}
        for item, tree in trees.items():
            chosen = {named[name][1]: name for name in requested if named[name][0] == item}
            values = _restore(items[item], tree, set(chosen))
            restored |= {chosen[name]: np.asarray(value) for name, value in values.items()}
        return {name: restored[name] for name in requested}

    return OpenedFile(arrays, others, read)


def _is_pack(folder: Path) -> bool:
    content = json.loads((folder / METADATA).read_bytes()) if (folder / METADATA).is_file() else {}
    return "updates" in (content.get("custom_metadata") or {})


def _orbax_tree(folder: Path) -> Any:
    import orbax.checkpoint as ocp

    with orbax_silenced():
        return ocp.PyTreeCheckpointHandler().metadata(folder).tree


def _named_tree(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/") or "params", leaf) for path, leaf in leaves]


def _describe_leaf(leaf: Any) -> Described | None:
    import orbax.checkpoint as ocp

    is_array = isinstance(leaf, ocp.metadata.ArrayMetadata) and not isinstance(leaf, ocp.metadata.ScalarMetadata)
    return Described(tuple(leaf.shape), jnp.dtype(leaf.dtype).name) if is_array else None


def _restore(folder: Path, tree: Any, names: set[str]) -> dict[str, Any]:
    """Read some arrays of a pytree; the others are not read."""
    import orbax.checkpoint as ocp

    if not names:
        return {}
    leaves, structure = jax.tree_util.tree_flatten(tree)
    keys = [name for name, _ in _named_tree(tree)]
    item = jax.tree.unflatten(structure, [0 if name in names else ocp.PLACEHOLDER for name in keys])
    arguments = jax.tree.unflatten(structure, [ocp.RestoreArgs(restore_type=np.ndarray)] * len(leaves))
    with orbax_silenced():
        restored = ocp.PyTreeCheckpointHandler().restore(
            folder, args=ocp.args.PyTreeRestore(item=item, restore_args=arguments)
        )
    return {name: value for name, value in _named_tree(restored) if name in names}


_OPENERS: dict[str, Callable[[Path], OpenedFile]] = {
    ".npz": _open_npz,
    ".safetensors": _open_safetensors,
    ".pt": _open_torch,
    ".pth": _open_torch,
}
FORMATS = f"orbax folders, and files {', '.join(_OPENERS)}"  # what can be read, for messages
