"""Summaries of a run's landscape measurements: one line each."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from jaxscape.runs.folder import RunFolder
from jaxscape.runs.kept import kept_names, read_kept
from jaxscape.runs.landscape_config import WAYS, describe_mode


class Measurement(NamedTuple):
    """A readable measurement of the landscape."""

    kind: str  # the command that makes it
    name: str  # the name of its folder
    words: str  # a summary of its numbers
    pictures: tuple[str, ...]  # names of its figures; the first that exists represents it


def measurements(run: Path) -> Iterator[Measurement]:
    """Yield the measurements of a run's landscape, without damaged ones."""
    run = RunFolder(run)
    for kind, folder, describe in (
        ("surface", run.surfaces, _surface),
        ("path", run.paths, _path),
        ("curvature", run.curvature, _curvature),
    ):
        for name in kept_names(folder):
            try:
                record = read_kept(folder / name).record
                mode = describe_mode(record)
                words = describe(record) + (f"; {mode}" if mode.startswith("training mode") else "")
            except (ValueError, OSError, LookupError, TypeError, AttributeError):
                continue
            stem = f"{kind}-{name}"
            yield Measurement(kind, name, words, (f"{stem}-trajectories", stem))


def _surface(record: dict[str, Any]) -> str:
    lowest, highest = record["lowest"], record["highest"]
    return ", ".join(f"{metric} {_number(lowest[metric])} to {_number(highest[metric])}" for metric in lowest)


def _path(record: dict[str, Any]) -> str:
    barriers = {
        WAYS[way]: ", ".join(f"{metric} {_number(barrier['height'])}" for metric, barrier in by_metric.items())
        for way, by_metric in record["barriers"].items()
    }
    return f"barriers: {'; '.join(f'{way} {heights}' for way, heights in barriers.items())}"


def _curvature(record: dict[str, Any]) -> str:
    largest = ", ".join(map(_number, record["eigenvalues"]))
    trace = f"trace {_number(record['trace'])} ± {record['trace_error']:.2g}"
    return f"largest eigenvalues {largest}; lowest {_number(record['lowest'][0])}; {trace}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
