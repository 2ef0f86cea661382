"""The embeddings of a run folder: one folder per combination of settings, with coordinates and diagnostics."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxscape.runs.config import EmbedConfig, from_record
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.methods import METHODS, null_words
from jaxscape.runs.tables import Columns, check_table, read_table
from jaxscape.trajectories.files import read_record

COORDINATES, DIAGNOSTICS = "coordinates.csv", "diagnostics.json"


def embedding_folder(run: Path, setting: str) -> Path:
    """Return the folder of an embedding by its name."""
    return RunFolder(run).embeddings / setting


def embeddings(run: Path) -> list[str]:
    """Return the names of the embeddings of the current trajectories that are complete."""
    return [setting for setting, reason in _states(run) if not reason]


def damaged_embeddings(run: Path) -> dict[str, str]:
    """Return the names of the damaged embeddings of the current trajectories, each with the reason."""
    return {setting: reason for setting, reason in _states(run) if reason}


def read_coordinates(run: Path, setting: str) -> Columns:
    """Read the coordinates of an embedding and the labels of its rows."""
    return read_table(RunFolder(run), embedding_folder(run, setting) / COORDINATES)


def read_diagnostics(run: Path, setting: str) -> dict[str, Any]:
    """Read the settings and diagnostics of an embedding."""
    return read_record(embedding_folder(run, setting) / DIAGNOSTICS)


def read_setting(run: Path, setting: str) -> EmbedConfig | None:
    """Return the settings of an embedding, from its diagnostics or else the report; None if neither has them."""
    for read in (lambda: read_diagnostics(run, setting), lambda: _reported(run)[setting]):
        try:
            return _without_unused(from_record(EmbedConfig, read()["setting"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _without_unused(config: EmbedConfig) -> EmbedConfig:
    """Reset the kernel settings of other methods, which earlier versions accepted and ignored."""
    if METHODS[config.method].has_kernel:
        return config
    return replace(config, knn=EmbedConfig.knn, decay=EmbedConfig.decay, t=EmbedConfig.t)


def summarize_embeddings(run: Path) -> dict[str, dict[str, Any]]:
    """Return the diagnostics of the embeddings of the current trajectories, for the report.

    A damaged embedding keeps its earlier entry, from which it can be recomputed.
    """
    before, summaries = _reported(run), {}
    for setting, reason in _states(run):
        if not reason:
            diagnostics = read_diagnostics(run, setting)
            omitted = ("entropy", "fingerprint")
            summaries[setting] = {name: diagnostics[name] for name in diagnostics if name not in omitted}
        elif setting in before:
            summaries[setting] = before[setting]
    return summaries


def describe_trust(diagnostics: Mapping[str, Any]) -> str:
    """Summarise the fidelity of an embedding, and whether its surrogates look the same; "" if neither is known."""
    fidelity = diagnostics.get("fidelity")
    fidelity = fidelity if isinstance(fidelity, dict) else {}  # embeddings of version 0.1 have none
    words = {"rank": "distances", "radius": "radii"}
    ranks = [f"{words[name]} {fidelity[name]:.2f}" for name in words if _is_number(fidelity.get(name))]
    return "; ".join(
        filter(
            None,
            (
                "degenerate" if diagnostics.get("degenerate") else "",
                f"rank correlation: {', '.join(ranks)}" if ranks else "",
                describe_surrogates(diagnostics),
            ),
        )
    )


def describe_surrogates(diagnostics: Mapping[str, Any]) -> str:
    """Summarise how the embedding of the surrogates differs; "" if they were not embedded."""
    numbers = diagnostics.get("surrogate")
    if not isinstance(numbers, dict) or not all(_is_number(numbers.get(name)) for name in ("disparity", "movement")):
        return ""
    null = null_words(numbers)
    subject = f"{null} draws the same" if numbers.get("same") else null
    return f"{subject}: disparity {numbers['disparity']:.2f}, movements {numbers['movement']:.2f}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _states(run: Path) -> Iterator[tuple[str, str]]:
    """Yield each embedding of the current trajectories, and why it cannot be read ("" if it can)."""
    run = RunFolder(run)
    current = run.fingerprint()
    for folder in sorted(run.embeddings.glob("*")):
        if not folder.is_dir():
            continue
        try:
            diagnostics = read_diagnostics(run, folder.name)
            if diagnostics.get("fingerprint", current) != current:
                continue  # of earlier trajectories
            _check_diagnostics(folder / DIAGNOSTICS, diagnostics)
            check_table(run, folder / COORDINATES)
        except FileNotFoundError:
            missing = [name for name in (DIAGNOSTICS, COORDINATES) if not (folder / name).exists()]
            if DIAGNOSTICS not in missing or folder.name in _reported(
                run
            ):  # otherwise a killed process left it unfinished
                yield folder.name, f"{folder} lacks {' and '.join(missing)}"
        except (OSError, ValueError) as error:
            yield folder.name, str(error)
        else:
            yield folder.name, ""


def _check_diagnostics(path: Path, diagnostics: dict[str, Any]) -> None:
    """Raise a ValueError if something is missing that readers need."""
    try:
        method = from_record(EmbedConfig, diagnostics.get("setting")).method
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    missing = [name for name in METHODS[method].numbers if not isinstance(diagnostics.get(name), int | float)]
    if missing or not isinstance(diagnostics.get("fingerprint"), str):
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing) or 'its fingerprint'}")


def _reported(run: Path) -> dict[str, Any]:
    """Return the report's entries for embeddings of the current trajectories."""
    try:
        report = RunFolder(run).read_report()
    except ValueError:
        return {}
    return report.get("embeddings") or {} if report.get("fingerprint") == RunFolder(run).fingerprint() else {}
