"""The command `import`: a finished training in checkpoints of any kind as a recorded run."""

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
    """Import one training, or several that are named: NAME=SOURCE gives the run RUN/NAME, and RUN joins them.

    Args:
        run: the run folder.
        sources: paths, all of them named or none; several of one name belong to one training.
        console: where to print.
        options: as `import_run` takes them, for each training.

    Raises:
        ValueError: for sources some of which are named, and as `import_run`.
        OSError, ImportError: as `import_run`.
    """
    named = [match.groups() for match in map(_NAMED.fullmatch, sources) if match and not Path(match[0]).exists()]
    if not named:
        import_run(run, [Path(source) for source in sources], console=console, **options)
        return
    if len(named) < len(sources):
        raise ValueError(f"sources must be NAME=SOURCE, all of them or none, got {' '.join(sources)}")
    trainings: dict[str, list[Path]] = {}
    for name, source in named:
        trainings.setdefault(name, []).append(Path(source))
    opened = {name: import_checkpoints(own, **_reading(options)) for name, own in trainings.items()}
    _require_alike(opened)
    for name, found in opened.items():
        _record(run / name, found, options.get("label"), options.get("describe"), console)
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

    Called again, it goes on after the last step that is there.

    Args:
        run: the run folder, new or one to go on with.
        sources: files and folders of checkpoints; see `jaxscape.import_checkpoints`.
        label: what the training is: seed, optimizer, ...; the name of the run folder by default.
        describe: what captions say of it.
        key: where the parameters stand in each file.
        include: patterns of the names to read; all by default.
        exclude: patterns of names to leave out.
        console: where to print.

    Raises:
        ValueError: for files that are damaged, of no known format, or differ in their parameters.
        OSError: for what is not there, or a run folder that cannot be written to.
        ImportError: for a PyTorch file without PyTorch.
    """
    _record(run, import_checkpoints(sources, key=key, include=include, exclude=exclude), label, describe, console)


def _reading(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name in ("key", "include", "exclude")}


def _require_alike(opened: Mapping[str, Checkpoints]) -> None:
    """Raise a ValueError where trainings differ in their arrays, before any of them is recorded."""
    (first, one), *others = opened.items()
    for name, found in others:
        for array, now, then in differences(found.shapes, one.shapes):
            raise ValueError(
                f"trainings must have the same arrays by name and shape: {array!r} is {then} in {first} and "
                f"{now} in {name}; {first} has {some_names(one.shapes)}, {name} has {some_names(found.shapes)}"
            )


def _record(
    run: Path,
    found: Checkpoints,
    label: Mapping[str, Any] | None,
    describe: Mapping[str, Any] | None,
    console: Console,
) -> None:
    """Record opened checkpoints, and measure them."""
    if found.left_out:
        names = [f"{name} ({why})" for name, why in found.left_out.items()]
        console.print(f"left out: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else ""))
    if found.rounded:
        console.print(f"rounded from float64 to float32: {len(found.rounded)} arrays, {found.rounded[0]} first")
    folder = RunFolder(run)
    record = {"describe": dict(describe or {}), "version": ""}
    recorder = Recorder(folder, [{"run": folder.name} | dict(label)] if label else None, None, record)
    try:
        recorder.check_shapes(found.shapes)
        last, there = recorder.last_step, set(recorder.steps)
        new = [step for step in found.steps if step not in there]
        if last is not None and new and new[0] < last:
            raise ValueError(
                f"{folder} holds steps up to {last}, but not step {new[0]}; are these of another training?"
            )
        if not new:
            console.print(f"{folder}: all {len(found)} steps are there")
        else:
            fresh = found.after(last)
            title = f"{folder}: import"
            for step, params in track(
                fresh, title=title, total=len(new), console=console, describe=lambda item: f"step {item[0]}", every=10
            ):
                recorder.record(step, params, None)
    finally:
        recorder.close()
    measure(folder, console=console)
