"""The command `info`: it describes what a run folder contains. It only reads."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from jaxscape.cli.errors import describe
from jaxscape.runs.arrays import check_arrays
from jaxscape.runs.embeddings import damaged_embeddings, describe_surrogates, embeddings
from jaxscape.runs.folder import RECORDED, STAGES, RunFolder
from jaxscape.runs.kept import damaged_measurements, kept_names
from jaxscape.runs.landscapes import measurements
from jaxscape.runs.measure import accuracy_table, describe_drift, geometry_table, groups, groups_table
from jaxscape.runs.minimum import read_accuracy
from jaxscape.runs.tables import read_table
from jaxscape.trajectories.files import read_record
from jaxscape.trajectories.store import TrajectoryStore


def describe_run(run: Path, *, console: Console) -> None:
    """Print the stages of a run, its settings, its numbers, and one line per damaged file.

    Raises:
        FileNotFoundError: if the folder is not a run folder.
        ValueError: if its record is damaged.
    """
    run = RunFolder(run)
    config = run.read_config()
    if not config:
        raise FileNotFoundError(
            f"{run} is not a run folder: it has no {run.config.name}; `jaxscape train {run}` makes one"
        )
    console.print(f"{run}: {_size(run) / 1e6:.1f} MB")
    for stage in (*run.kind.before, run.kind.stage):
        console.print(f"{stage}: {_words(config.get(stage, {})) or 'not yet'}")
    console.print(f"stages done: {', '.join(_stages(run, config)) or 'none'}")
    for part in (_tables, _embeddings, _landscape):
        try:
            for line in part(run):
                console.print(line)
        except (ValueError, OSError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # `_damage` reports the reason
    for line in dict.fromkeys(_damage(run)):
        console.print(line)


def _stages(run: RunFolder, config: dict[str, Any]) -> Iterator[str]:
    snapshots, stage = _snapshots(run), run.kind.stage
    if run.accuracy.exists():
        yield "train"
    if snapshots and run.kind is RECORDED:
        yield f"record ({snapshots} steps)"
    elif snapshots:
        settings = config.get(stage)
        last = config.get("snapshots", settings.get("epochs", "?") if isinstance(settings, dict) else "?")
        yield f"{stage} ({snapshots - 1} of {last} {run.kind.unit.split()[0]})"
    if run.gram.exists():
        yield "distances and geometry"
    for setting in _or_empty(embeddings, run):
        yield f"embed {setting}"
    for kind, folder in (("surface", run.surfaces), ("path", run.paths), ("curvature", run.curvature)):
        for name in kept_names(folder):
            yield f"{kind} {name}"
    if figures := len(list(run.figures.glob("*.png"))):
        yield f"plot ({figures} figures)"
    if run.page.exists():
        yield run.page.name


def _snapshots(run: RunFolder) -> int:
    """Return the number of snapshots; for a damaged store, the number of their folders."""
    try:
        return TrajectoryStore.open(run.trajectories).num_epochs
    except (ValueError, OSError):
        return sum(path.name.isdigit() for path in run.trajectories.glob("*"))


def _tables(run: RunFolder) -> list[RenderableType]:
    report = run.read_report()
    if "geometry" not in report:
        return []
    if groups(report):
        return [groups_table(report)]
    tables = [accuracy_table({run.name: report}), geometry_table({run.name: report})]
    return [*tables, *filter(None, [describe_drift(report)])]


def _embeddings(run: RunFolder) -> list[RenderableType]:
    embedded = run.read_report().get("embeddings") or {}
    lines: list[RenderableType] = []
    for setting, numbers in embedded.items():
        lines.append(f"embedding {setting}: {_words(_short(numbers))}")
        fidelity = numbers.get("fidelity")
        lines += [f"  fidelity: {_words(fidelity)}"] if isinstance(fidelity, dict) and fidelity else []
        if surrogates := describe_surrogates(numbers):
            lines += [f"  {surrogates}; their fidelity: {_words(numbers['surrogate'].get('fidelity'))}"]
        lines += [f"  degenerate: {numbers['degenerate']}"] if numbers.get("degenerate") else []
    return lines


def _landscape(run: RunFolder) -> Iterator[str]:
    return (f"{each.kind} {each.name}: {each.words}" for each in measurements(run))


def _short(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name not in _LONG}


_LONG = ("setting", "warnings", "fidelity", "surrogate", "tried", "degenerate")


def _damage(run: RunFolder) -> Iterator[str]:
    """Yield one line per damaged file. Only the records of the trajectory store are checked, not its arrays."""
    checks: list[tuple[Path, Callable[[], Any]]] = [
        *((run.config, lambda stage=stage: run.settings(stage)) for stage in STAGES),
        (run.checksums, lambda: read_record(run.checksums)),
        (run.accuracy, lambda: _check_accuracy(run)),
        (run.trajectories, lambda: TrajectoryStore.open(run.trajectories)),
        *((path, lambda path=path: read_table(run, path)) for path in (run.metrics, run.geometry)),
        (run.gram, lambda: check_arrays(run.gram)),
        (run.report, lambda: (_tables(run), _embeddings(run))),
    ]
    for path, check in checks:
        if path.exists() and (reason := _reason(path, check)):
            yield reason
    derived = (run.gram, run.geometry, run.report)
    for path in derived if any(path.exists() for path in derived) else ():
        if not path.exists():
            yield f"{path} is missing; `jaxscape embed {run}` makes it again"
    yield from _or_empty(damaged_embeddings, run).values()
    for reason in damaged_measurements(run).values():
        yield f"{reason}; the same command makes it again"


def _reason(path: Path, check: Callable[[], Any]) -> str:
    """Return why a check fails, or "" if it passes."""
    try:
        check()
    except (ValueError, OSError) as error:
        text = describe(error).partition("\n")[0]
        return text if str(path) in text else f"{path} is damaged: {text}"
    except (LookupError, TypeError, AttributeError, RecursionError) as error:  # entries of unexpected types
        return f"{path} is damaged: {type(error).__name__}, {error}"
    return ""


def _check_accuracy(run: RunFolder) -> None:
    with suppress(FileNotFoundError):  # an unfinished minimum is not damage
        read_accuracy(run)


def _or_empty(read: Callable[[Path], Any], run: RunFolder) -> Any:
    """Return what is read, or {} if the record of the run is damaged, which is reported elsewhere."""
    try:
        return read(run)
    except (ValueError, OSError):
        return {}


def _size(run: RunFolder) -> int:
    return sum(path.lstat().st_size for path in run.rglob("*") if path.is_file())


def _words(settings: Any) -> str:
    if not isinstance(settings, dict):
        return _word(settings)
    return ", ".join(f"{name} {_word(value)}" for name, value in settings.items() if value is not None)


def _word(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
