"""Import of finished trainings from their checkpoints, step by step, whichever framework wrote them.

Orbax folders, `.npz`, `.safetensors`, and PyTorch's `.pt` and `.pth`. No code in a file is executed.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxscape.trajectories.arrays import differences, type_and_shape
from jaxscape.trajectories.checkpoint_files import FORMATS, Described, OpenedFile, is_checkpoint, open_checkpoint

KEPT = ("float32", "bfloat16", "float16")
ROUNDED = "float64"  # to float32
_LEFT_OUT = re.compile("bool|u?int(8|16|32|64)")  # counts and flags; smaller integers are packed weights
_INTEGER = re.compile("[0-9]+")
# The usual names of the parameters in a checkpoint, and of entries beside them that do not belong in a trajectory.
_PARAMETERS = ("params", "state_dict", "model_state_dict", "model_state", "model", "module", "net")
_BESIDE = re.compile(r"opt((im|_).*)?|.*scheduler.*|.*scaler.*|batch_stats|rng.*|key|step|epoch|loss|lr", re.IGNORECASE)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class _Source(NamedTuple):
    """The selection of arrays to import from one file, made before any array is read."""

    path: Path
    opened: OpenedFile
    key: str  # prefix of the names in the file
    shapes: dict[str, Described]  # by key path
    in_file: dict[str, str]  # key path -> the name in the file, after the key
    left_out: dict[str, str]


class Checkpoints:
    """The checkpoints of one training, in the order of their steps; iterate over them to read one at a time."""

    def __init__(self, steps: list[int], paths: list[Path], first: _Source, options: "_Options"):
        """Use `import_checkpoints` instead."""
        self.steps = steps
        self.paths = paths
        self._first = first
        self._options = options

    @property
    def key(self) -> str:
        """Return where the parameters are in each file, such as "model"; empty if they are at the top level."""
        return self._first.key

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each array that is read, by name."""
        return {name: described.shape for name, described in self._first.shapes.items()}

    @property
    def left_out(self) -> dict[str, str]:
        """Return the names in the first checkpoint that are not read, and why."""
        return dict(self._first.left_out)

    @property
    def unlikely(self) -> list[str]:
        """Return the names that are read, although names like theirs usually hold no parameters: moments and so on."""
        return [name for name in self._first.shapes if _BESIDE.fullmatch(name.split("/")[0])]

    @property
    def rounded(self) -> list[str]:
        """Return the names of the float64 arrays, which are rounded to float32."""
        return [name for name, described in self._first.shapes.items() if described.dtype == ROUNDED]

    def after(self, step: int | None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield the checkpoints after a step, as iteration does; None for all."""
        return self._read(step)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield the number of each step and its arrays (float32, bfloat16 or float16).

        Raises:
            ValueError: if a file is damaged, or its names, shapes or dtypes differ from the first.
            OSError: if a file cannot be read.
        """
        return self._read(None)

    def _read(self, after: int | None) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        for step, path in zip(self.steps, self.paths, strict=True):
            if after is not None and step <= after:
                continue
            source = self._first if path == self.paths[0] else _open(path, self._options)
            _require_same(source, self._first)
            yield step, _read(source)


class _Options(NamedTuple):
    key: str | None
    include: tuple[str, ...] | None
    exclude: tuple[str, ...]


def import_checkpoints(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    key: str | None = None,
    include: str | Sequence[str] | None = None,
    exclude: str | Sequence[str] = (),
) -> Checkpoints:
    """Open the checkpoints of a finished training; only the first file is opened, the others when they are read.

    Args:
        sources: one or several files (`.npz`, `.safetensors`, `.pt`, `.pth`), orbax folders of one step, or folders
            that hold any of these. The step number is the last integer in a name, without its suffix (`step10.npz`,
            `checkpoint_10`), and steps are sorted by it. If no name has a number the steps are 0, 1, 2, ...: sources in
            the given order, entries of a folder sorted by name.
        key: where the parameters are in a nested file, such as "model" or "state/params"; "" for the top level. By
            default the only entry with a usual name ("params", "model", "state_dict", ...), if everything beside it is
            optimiser state and the like, which is left out.
        include: shell patterns (`*`, `?`, `[ab]`) of the names to read, as they are in the file after `key`; all by
            default.
        exclude: patterns of names to leave out.

    Returns:
        The checkpoints, with their arrays by key path: `fc1.weight` in a file becomes fc1/weight, as in JAX. Integer
        and boolean arrays (`num_batches_tracked`), empty arrays and entries that are not arrays are left out, and
        float64 is rounded to float32; see `left_out` and `rounded`.

    Raises:
        ValueError: if there are no sources, step numbers are repeated or in some names only, a file is damaged or of no
            known format, an array has another dtype (float8, complex, quantised), or a pattern matches no name.
        ImportError: for a PyTorch file if PyTorch is not installed; says what to install.
        OSError: if a source does not exist or cannot be read.
    """
    options = _Options(key, None if include is None else _patterns("include", include), _patterns("exclude", exclude))
    if key is not None and not isinstance(key, str):
        raise ValueError(f"key={key!r} must be a text such as 'model', or None")
    paths = _expanded([sources] if isinstance(sources, str | os.PathLike) else sources)
    steps = _step_numbers(paths)
    order = sorted(range(len(paths)), key=steps.__getitem__)
    paths, steps = [paths[place] for place in order], [steps[place] for place in order]
    return Checkpoints(steps, paths, _open(paths[0], options), options)


def _patterns(argument: str, given: str | Sequence[str]) -> tuple[str, ...]:
    patterns = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{argument}={given!r} must be patterns such as 'layer1/*'")
    return patterns


def _expanded(sources: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Return the files and folders of single steps."""
    paths: list[Path] = []
    for source in sources:
        path = Path(source).expanduser().absolute()
        if path.is_dir() and not is_checkpoint(path):
            inside = sorted(filter(is_checkpoint, path.iterdir()))
            if not inside:
                raise ValueError(
                    f"sources: {path} is no orbax checkpoint, and holds no checkpoints; allowed: {FORMATS}"
                )
            paths += inside
        else:
            paths.append(path)
    if not paths:
        raise ValueError(f"sources={sources!r} is empty; give files or folders of checkpoints")
    return paths


def _step_numbers(paths: list[Path]) -> list[int]:
    names = [path.name if path.is_dir() else path.stem for path in paths]
    numbers = [_INTEGER.findall(name) for name in names]
    without = [path for path, integers in zip(paths, numbers, strict=True) if not integers]
    if len(without) == len(paths):
        return list(range(len(paths)))
    if without:
        raise ValueError(f"sources: {without[0].name} has no number of a step in its name, and others have")
    steps = [int(integers[-1]) for integers in numbers]
    first: dict[int, Path] = {}
    for step, path in zip(steps, paths, strict=True):
        if step in first:
            raise ValueError(f"sources: {first[step]} and {path} are both step {step}, the last integer in their names")
        if step >= 2**63:
            raise ValueError(f"sources: {path.name} has a number of a step beyond 2**63")
        first[step] = path
    return steps


def _open(path: Path, options: _Options) -> _Source:
    """Open a checkpoint, and select the arrays to read."""
    opened = open_checkpoint(path)
    names = [*opened.arrays, *opened.others]
    for name in names:
        if _CONTROL.search(name) or not set(name.split("/")).isdisjoint(("", ".", "..")):
            raise ValueError(f"{path}: the name {name!r} is not allowed: it is a path, or has control characters")
    key = _find_key(path, opened, options.key)
    start = f"{key}/" if key else ""
    left_out = {name: f"not in {key!r}" for name in names if not name.startswith(start)}
    left_out |= {name: kind for name, kind in opened.others.items() if name not in left_out}
    inside = {name.removeprefix(start): array for name, array in opened.arrays.items() if name.startswith(start)}
    _require_matches(path, inside, options)
    shapes = {}
    for name, described in inside.items():
        why = _why_left_out(path, name, described, options)
        if why:
            left_out[start + name] = why
        else:
            shapes[name] = described
    if not shapes:
        raise ValueError(f"{path} has no arrays of floating-point numbers to import; it has {some_names(names)}")
    in_file = _key_paths(shapes)
    return _Source(path, opened, key, {name: shapes[inside] for name, inside in in_file.items()}, in_file, left_out)


def _key_paths(names: Collection[str]) -> dict[str, str]:
    """Return the name in the file by key path; dots separate a name like slashes do, if that is unambiguous.

    `fc1.weight` of PyTorch thus becomes fc1/weight, as in JAX.
    """
    paths = {name.replace(".", "/"): name for name in names}
    above = {path.rsplit("/", parts)[0] for path in paths for parts in range(1, path.count("/") + 1)}
    if len(paths) < len(names) or not above.isdisjoint(paths) or not all(all(path.split("/")) for path in paths):
        return {name: name for name in names}
    return paths


def _find_key(path: Path, opened: OpenedFile, given: str | None) -> str:
    """Return where the parameters are; raise a ValueError that names the candidates if that is ambiguous."""
    if given is not None:
        key = given.strip("/")
        if key and not any(name.startswith(f"{key}/") for name in opened.arrays):
            allowed = some_names(_groups(opened.arrays)) or "'', since nothing in it is nested"
            dotted = any(name.startswith(f"{key}.") for name in opened.arrays)
            instead = f"; include={f'{key}.*'!r} chooses the names that begin with it" if dotted else ""
            raise ValueError(f"key={given!r} is not in {path}; allowed: {allowed}{instead}")
        return key
    groups = _groups(opened.arrays)
    usual = [group for group in groups if group in _PARAMETERS]
    beside = [group for group in groups if _BESIDE.fullmatch(group)]
    floats = (name for name, described in opened.arrays.items() if _is_float(described))
    alone = [name for name in floats if "/" not in name and not _BESIDE.fullmatch(name)]
    if len(usual) == 1 and len(groups) == 1 + len(beside) and not alone:
        return usual[0]
    if usual or beside:
        raise ValueError(f"{path} holds {some_names([*groups, *alone])}; give key= one of them, or '' for all")
    return ""


def _groups(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(name.split("/")[0] for name in names if "/" in name))


def _is_float(described: Described) -> bool:
    return described.dtype in (*KEPT, ROUNDED)


def _require_matches(path: Path, inside: Iterable[str], options: _Options) -> None:
    for argument, patterns in (("include", options.include or ()), ("exclude", options.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for name in inside):
                raise ValueError(f"{argument}={pattern!r} matches no array in {path}; it has {some_names(inside)}")


def _why_left_out(path: Path, name: str, described: Described, options: _Options) -> str | None:
    if options.include is not None and not any(fnmatchcase(name, pattern) for pattern in options.include):
        return "not in include"
    if any(fnmatchcase(name, pattern) for pattern in options.exclude):
        return "in exclude"
    if _LEFT_OUT.fullmatch(described.dtype):
        return described.dtype
    if not _is_float(described):
        allowed = ", ".join([*KEPT, ROUNDED])
        raise ValueError(f"{path}: {name!r} is {described.dtype}; allowed: {allowed}, or leave it out with exclude")
    return None if all(described.shape) else "empty"


def _require_same(source: _Source, first: _Source) -> None:
    for name, now, then in differences(source.shapes, first.shapes, type_and_shape):
        raise ValueError(f"{source.path}: {name!r} is {now}; allowed: {then}, as in {first.path.name}")


def _read(source: _Source) -> dict[str, np.ndarray]:
    start = f"{source.key}/" if source.key else ""
    values = source.opened.read([start + name for name in source.in_file.values()])
    arrays = {}
    for name, described in source.shapes.items():
        array = values[start + source.in_file[name]]
        if array.shape != described.shape or array.dtype.name != described.dtype:
            raise ValueError(f"{source.path}: {name!r} is {array.dtype} {array.shape}, and was said to be otherwise")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        arrays[name] = _rounded(source.path, name, array) if described.dtype == ROUNDED else array
    return arrays


def _rounded(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        rounded = array.astype(np.float32)
    if np.any(np.isfinite(array) & ~np.isfinite(rounded)):
        raise ValueError(f"{path}: {name!r} is float64 and has values beyond the range of float32, the store's dtype")
    return rounded


def some_names(names: Iterable[str]) -> str:
    """Return names as a text of moderate length."""
    known = list(names)
    return ", ".join(map(repr, known[:8])) + (f" and {len(known) - 8} more" if len(known) > 8 else "")
