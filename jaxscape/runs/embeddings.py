"""The embeddings of a run folder: a folder for each setting, with coordinates and diagnostics."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxscape.runs.config import EmbedConfig, from_record
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.methods import METHODS
from jaxscape.runs.tables import Columns, check_table, read_table
from jaxscape.trajectories.files import read_record

COORDINATES, DIAGNOSTICS = "coordinates.csv", "diagnostics.json"


def embedding_folder(run: Path, setting: str) -> Path:
    """Return the folder of a setting."""
    return RunFolder(run).embeddings / setting


def embeddings(run: Path) -> list[str]:
    """Name the settings with which the present trajectories are embedded, those alone that can be read whole."""
    return [setting for setting, reason in _states(run) if not reason]


def damaged_embeddings(run: Path) -> dict[str, str]:
    """Name the settings whose embedding of the present trajectories is damaged, each with the reason."""
    return {setting: reason for setting, reason in _states(run) if reason}


def read_coordinates(run: Path, setting: str) -> Columns:
    """Read the coordinates of an embedding with their row labels."""
    return read_table(RunFolder(run), embedding_folder(run, setting) / COORDINATES)


def read_diagnostics(run: Path, setting: str) -> dict[str, Any]:
    """Read what was asked of an embedding and what it found."""
    return read_record(embedding_folder(run, setting) / DIAGNOSTICS)


def read_setting(run: Path, setting: str) -> EmbedConfig | None:
    """Return what was asked of an embedding, from its diagnostics or else the report; None where neither says."""
    for read in (lambda: read_diagnostics(run, setting), lambda: _reported(run)[setting]):
        try:
            return _without_unused(from_record(EmbedConfig, read()["setting"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def _without_unused(config: EmbedConfig) -> EmbedConfig:
    """Earlier versions took settings of PHATE's for any method, and did nothing with them."""
    if METHODS[config.method].has_kernel:
        return config
    return replace(config, knn=EmbedConfig.knn, decay=EmbedConfig.decay, t=EmbedConfig.t)


def summarize_embeddings(run: Path) -> dict[str, dict[str, Any]]:
    """Return what the embeddings of the present trajectories found, for the report.

    One that is damaged keeps its entry there, from which it can be made again.
    """
    before, found = _reported(run), {}
    for setting, reason in _states(run):
        if not reason:
            diagnostics = read_diagnostics(run, setting)
            found[setting] = {name: diagnostics[name] for name in diagnostics if name not in ("entropy", "fingerprint")}
        elif setting in before:
            found[setting] = before[setting]
    return found


def describe_trust(diagnostics: Mapping[str, Any]) -> str:
    """Return in a few words what an embedding keeps, and whether its surrogates draw the same; "" if it is unknown."""
    kept = diagnostics.get("fidelity")
    kept = kept if isinstance(kept, dict) else {}  # nothing is known of an embedding of version 0.1
    words = {"rank": "distances", "radius": "radii"}
    told = [f"{words[name]} {kept[name]:.2f}" for name in words if _is_number(kept.get(name))]
    return "; ".join(
        filter(
            None,
            (
                "degenerate" if diagnostics.get("degenerate") else "",
                f"rank correlation: {', '.join(told)}" if told else "",
                describe_surrogates(diagnostics),
            ),
        )
    )


def describe_surrogates(diagnostics: Mapping[str, Any]) -> str:
    """Return in a few words how the surrogates' picture differs; "" where it was not drawn."""
    found = diagnostics.get("surrogate")
    if not isinstance(found, dict) or not _is_number(found.get("disparity")) or not _is_number(found.get("movement")):
        return ""
    said = "surrogates draw the same" if found.get("same") else "surrogates"
    return f"{said}: disparity {found['disparity']:.2f}, movements {found['movement']:.2f}"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _states(run: Path) -> Iterator[tuple[str, str]]:
    """Each setting of the present trajectories, and why it cannot be read ("" where it can)."""
    run = RunFolder(run)
    source = run.fingerprint()
    for folder in sorted(run.embeddings.glob("*")):
        if not folder.is_dir():
            continue
        try:
            diagnostics = read_diagnostics(run, folder.name)
            if diagnostics.get("fingerprint", source) != source:
                continue  # of earlier trajectories
            _check_diagnostics(folder / DIAGNOSTICS, diagnostics)
            check_table(run, folder / COORDINATES)
        except FileNotFoundError:
            missing = [name for name in (DIAGNOSTICS, COORDINATES) if not (folder / name).exists()]
            if DIAGNOSTICS not in missing or folder.name in _reported(run):  # else a killed process left it unfinished
                yield folder.name, f"{folder} lacks {' and '.join(missing)}"
        except (OSError, ValueError) as error:
            yield folder.name, str(error)
        else:
            yield folder.name, ""


def _check_diagnostics(path: Path, diagnostics: dict[str, Any]) -> None:
    """Raise a ValueError where something is missing that readers need."""
    try:
        method = from_record(EmbedConfig, diagnostics.get("setting")).method
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    missing = [name for name in METHODS[method].numbers if not isinstance(diagnostics.get(name), int | float)]
    if missing or not isinstance(diagnostics.get("fingerprint"), str):
        raise ValueError(f"{path} is damaged: it lacks {', '.join(missing) or 'its fingerprint'}")


def _reported(run: Path) -> dict[str, Any]:
    """The embeddings of the present trajectories that the report knows."""
    try:
        report = RunFolder(run).read_report()
    except ValueError:
        return {}
    return report.get("embeddings") or {} if report.get("fingerprint") == RunFolder(run).fingerprint() else {}
