"""The command `info`: what a run folder holds, in words. It reads, and changes nothing."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from jaxscape.app.embeddings import damaged_embeddings, embeddings
from jaxscape.app.errors import describe
from jaxscape.app.folder import CONFIG, REPORT, STAGES, check_arrays, read_config, read_report, read_section
from jaxscape.app.measure import GEOMETRY, GRAM, accuracy_table, geometry_table, optimizers_table
from jaxscape.app.recording import METRICS
from jaxscape.app.tables import CHECKSUMS, read_table
from jaxscape.app.train import read_accuracy
from jaxscape.trajectories.files import read_record
from jaxscape.trajectories.store import TrajectoryStore

_TABLES = (METRICS, GEOMETRY)


def describe_run(run: Path, *, console: Console) -> None:
    """Print the stages of a run, its settings, its numbers, and a line for each file that is damaged.

    Raises:
        FileNotFoundError: where the folder is no run.
        ValueError: where its record is damaged.
    """
    config = read_config(run)
    if not config:
        raise FileNotFoundError(f"{run} is not a run folder: it has no {CONFIG}; `jaxscape train {run}` makes one")
    console.print(f"{run}: {_size(run) / 1e6:.1f} MB")
    for stage in ("compare",) if "compare" in config else ("train", "retrain"):
        console.print(f"{stage}: {_words(config.get(stage, {})) or 'not yet'}")
    console.print(f"stages done: {', '.join(_stages(run, config)) or 'none'}")
    for part in (_tables, _embeddings):
        try:
            for found in part(run):
                console.print(found)
        except (ValueError, OSError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # `_damage` says why
    for line in dict.fromkeys(_damage(run)):
        console.print(line)


def _stages(run: Path, config: dict[str, Any]) -> Iterator[str]:
    snapshots = sum(path.name.isdigit() for path in (run / "trajectories").glob("*"))
    if (run / "minimum" / "metrics.json").exists():
        yield "train"
    if snapshots and "compare" in config:
        yield f"compare ({snapshots - 1} of {config.get('snapshots', '?')} snapshots)"
    elif snapshots:
        retrain = config.get("retrain")
        asked = retrain.get("epochs", "?") if isinstance(retrain, dict) else "?"
        yield f"retrain ({snapshots - 1} of {asked} epochs)"
    if (run / GRAM).exists():
        yield "distances and geometry"
    for setting in _or_empty(embeddings, run):
        yield f"embed {setting}"
    if figures := len(list((run / "figures").glob("*.png"))):
        yield f"plot ({figures} figures)"


def _tables(run: Path) -> list[RenderableType]:
    report = read_report(run)
    if "geometry" not in report:
        return []
    if "by_optimizer" in report["geometry"]:
        return [optimizers_table(report)]
    return [accuracy_table({run.name: report}), geometry_table({run.name: report})]


def _embeddings(run: Path) -> list[RenderableType]:
    found = read_report(run).get("embeddings") or {}
    return [f"embedding {setting}: {_words(_short(numbers))}" for setting, numbers in found.items()]


def _short(numbers: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in numbers.items() if name not in ("setting", "warnings")}


def _damage(run: Path) -> Iterator[str]:
    """A line for each file that cannot be read as it was written. Of the store its records are read, not its rows."""
    checks: list[tuple[Path, Callable[[], Any]]] = [
        *((run / CONFIG, lambda name=name: read_section(run, name, STAGES[name])) for name in STAGES),
        (run / CHECKSUMS, lambda: read_record(run / CHECKSUMS)),
        (run / "minimum" / "metrics.json", lambda: _check_accuracy(run)),
        (run / "trajectories", lambda: TrajectoryStore.open(run / "trajectories")),
        *((run / name, lambda name=name: read_table(run, name)) for name in _TABLES),
        (run / GRAM, lambda: check_arrays(run / GRAM)),
        (run / REPORT, lambda: (_tables(run), _embeddings(run))),
    ]
    for path, check in checks:
        if path.exists() and (reason := _reason(path, check)):
            yield reason
    yield from _or_empty(damaged_embeddings, run).values()


def _reason(path: Path, check: Callable[[], Any]) -> str:
    """Why a check fails, "" where it does not."""
    try:
        check()
    except (ValueError, OSError) as error:
        text = describe(error).partition("\n")[0]
        return text if str(path) in text else f"{path} is damaged: {text}"
    except (LookupError, TypeError, AttributeError, RecursionError) as error:  # entries of other kinds than expected
        return f"{path} is damaged: {type(error).__name__}, {error}"
    return ""


def _check_accuracy(run: Path) -> None:
    with suppress(FileNotFoundError):  # no finished minimum is no damage
        read_accuracy(run)


def _or_empty(read: Callable[[Path], Any], run: Path) -> Any:
    """What is read, {} where the record of the run is damaged: that has a line of its own."""
    try:
        return read(run)
    except (ValueError, OSError):
        return {}


def _size(run: Path) -> int:
    return sum(path.lstat().st_size for path in run.rglob("*") if path.is_file())


def _words(settings: Any) -> str:
    if not isinstance(settings, dict):
        return _word(settings)
    return ", ".join(f"{name} {_word(value)}" for name, value in settings.items() if value is not None)


def _word(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
