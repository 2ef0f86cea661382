"""The stage `joint`: several runs in one distance matrix, and so in one picture."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jaxscape.runs.checks import check_embed
from jaxscape.runs.config import EmbedConfig, JointSettings
from jaxscape.runs.embed import embed_trajectories
from jaxscape.runs.folder import JOINT, RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.sources import read_sources, require_alike


def join_runs(runs: Sequence[Path], into: Path, *, group: str = "run") -> RunFolder:
    """Make a run folder of several runs, and return it; `embed`, `plot` and `info` take it like any other.

    Their distances are exact across runs. Trajectories may differ in their lengths and in the steps that they keep.

    Args:
        runs: finished runs of networks with the same parameters, by name and shape.
        into: the run folder of the whole, new or made from the same runs before.
        group: the label whose values are told apart: "run", or one that the runs' members have.

    Raises:
        FileNotFoundError: where a run is missing or unfinished.
        ValueError: for fewer than two runs, one that is joint itself, a label that nobody has, or a folder that holds
            something else.
        OSError: where the folder cannot be written to.
    """
    folders = [RunFolder(Path(run).expanduser().absolute()) for run in runs]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise ValueError(f"runs must be two or more, each once, got {' '.join(map(str, runs)) or 'none'}")
    if missing := [str(run) for run in folders if not run.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)} does not exist")
    known, first = {"run"}, None
    for run in folders:
        if run.kind is JOINT:
            raise ValueError(f"{run} joins other runs itself; name those instead")
        _, [source] = read_sources(run)
        known |= source.store.labels[0].keys()
        first = first or source
        require_alike(source, first)
    if group not in known:
        raise ValueError(f"group must be one of the labels {', '.join(sorted(known))}, got {group!r}")
    target, settings = RunFolder(into), JointSettings(tuple(map(str, folders)), group)
    with writing(target):
        if target.kind is not JOINT and (target.minimum.exists() or target.trajectories.exists()):
            raise ValueError(f"{target} holds a run of its own; choose another folder to join runs in")
        target.record_settings("joint", settings, results=())  # what is made from others is made again
    return target


def embed_together(
    runs: Sequence[Path], into: Path, config: EmbedConfig, *, group: str = "run", console: Console
) -> Path:
    """Embed the trajectories of several runs as one, and return the folder of the coordinates.

    Raises:
        As `join_runs` and `embed_trajectories`.
    """
    check_embed(config)
    return embed_trajectories(join_runs(runs, into, group=group), config, console=console)
