"""The command `import`: turn the checkpoints of a finished training into a recorded run."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from jaxscape.runs.folder import RunFolder
from jaxscape.runs.joint import join_runs
from jaxscape.runs.measure import measure
from jaxscape.runs.progress import track
from jaxscape.runs.record import Recorder
from jaxscape.trajectories.arrays import differences
from jaxscape.trajectories.checkpoints import Checkpoints, import_checkpoints, some_names


def import_runs(run: Path, sources: Sequence[str], *, console: Console, **options: Any) -> None:
    """Import one training, or several named ones: NAME=SOURCE makes the run RUN/NAME, and RUN joins them.

    Args:
        run: the run folder.
        sources: paths, either all named or all unnamed; sources of the same name belong to one training.
        console: where to print.
        options: the options of `import_run`, for each training.

    Raises:
        ValueError: if only some of the sources are named; see also `import_run`.
        OSError, ImportError: see `import_run`.
    """
    named = [match.groups() for match in map(_NAMED.fullmatch, sources) if match and not Path(match[0]).exists()]
    if not named:
        import_run(run, [Path(source) for source in sources], console=console, **options)
        return
    if len(named) < len(sources):
        raise ValueError(f"sources must all be NAME=SOURCE, or none of them, got {' '.join(sources)}")
    trainings: dict[str, list[Path]] = {}
    for name, source in named:
        trainings.setdefault(name, []).append(Path(source))
    opened = {name: import_checkpoints(paths, **_reading_options(options)) for name, paths in trainings.items()}
    _require_same_arrays(opened)
    for name, checkpoints in opened.items():
        _record(run / name, checkpoints, options.get("label"), options.get("describe"), console)
    if len(trainings) > 1:
        join_runs([run / name for name in trainings], run)
        measure(run, console=console)


_NAMED = re.compile(r"([\w.+-]+)=(.+)", re.DOTALL)


def import_run(
    run: Path,
    sources: Sequence[Path],
    *,
    label: Mapping[str, Any] | None = None,
    describe: Mapping[str, Any] | None = None,
    key: str | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    console: Console,
) -> None:
    """Record the parameters in the checkpoints of a finished training, in the order of their steps, and measure them.

    A repeated call resumes after the last recorded step.

    Args:
        run: the run folder, a new or an existing one.
        sources: files and folders of checkpoints; see `jaxscape.import_checkpoints`.
        label: the labels of the training, such as {"seed": 0}; the name of the run folder by default.
        describe: the description of the training in captions.
        key: the location of the parameters in each file.
        include: patterns of the names of arrays to read; all by default.
        exclude: patterns of the names of arrays to leave out.
        console: where to print.

    Raises:
        ValueError: for files that are damaged, of an unknown format, or with different parameters.
        OSError: for missing files, or a run folder that cannot be written to.
        ImportError: for a PyTorch file without PyTorch.
    """
    _record(run, import_checkpoints(sources, key=key, include=include, exclude=exclude), label, describe, console)


def _reading_options(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in ("key", "include", "exclude")}


def _require_same_arrays(opened: Mapping[str, Checkpoints]) -> None:
    """Raise a ValueError if trainings differ in their arrays, before any of them is recorded."""
    (first, reference), *others = opened.items()
    for name, checkpoints in others:
        for array, now, then in differences(checkpoints.shapes, reference.shapes):
            raise ValueError(
                f"trainings must have the same arrays by name and shape: {array!r} is {then} in {first} and "
                f"{now} in {name}; {first} has {some_names(reference.shapes)}, "
                f"{name} has {some_names(checkpoints.shapes)}"
            )


def _first_five(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _record(
    run: Path,
    checkpoints: Checkpoints,
    label: Mapping[str, Any] | None,
    describe: Mapping[str, Any] | None,
    console: Console,
) -> None:
    """Record checkpoints, and measure them."""
    console.print(f"parameters: {_first_five(list(checkpoints.shapes))}")
    if checkpoints.unlikely:
        names = _first_five(checkpoints.unlikely)
        console.print(f"warning: {names} may be no parameters; --include and --exclude choose among the arrays")
    if checkpoints.left_out:
        console.print(f"left out: {_first_five([f'{name} ({why})' for name, why in checkpoints.left_out.items()])}")
    if checkpoints.rounded:
        first = checkpoints.rounded[0]
        console.print(f"rounded from float64 to float32: {len(checkpoints.rounded)} arrays, {first} first")
    folder = RunFolder(run)
    record = {"describe": dict(describe or {}), "version": ""}
    recorder = Recorder(folder, [{"run": folder.name} | dict(label)] if label else None, None, record)
    try:
        recorder.check_shapes(checkpoints.shapes)
        last, recorded = recorder.last_step, set(recorder.steps)
        new = [step for step in checkpoints.steps if step not in recorded]
        if last is not None and new and new[0] < last:
            raise ValueError(
                f"{folder} holds steps up to {last}, but not step {new[0]}; are these from another training?"
            )
        if not new:
            console.print(f"{folder}: all {len(checkpoints)} steps are recorded already")
        else:
            unrecorded = checkpoints.after(last)
            for step, params in track(
                unrecorded,
                title=f"{folder}: import",
                total=len(new),
                console=console,
                describe=lambda item: f"step {item[0]}",
                every=10,
            ):
                recorder.record(step, params, None)
    finally:
        recorder.close()
    measure(folder, console=console)
