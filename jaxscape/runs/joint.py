"""The stage `joint`: several runs in one distance matrix, and so in one embedding."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jaxscape.runs.checks import check_embed
from jaxscape.runs.config import EmbedConfig, JointSettings
from jaxscape.runs.embed import embed_trajectories
from jaxscape.runs.folder import JOINT, RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.sources import read_sources, require_same_parameters


def join_runs(runs: Sequence[Path], into: Path, *, group: str = "run") -> RunFolder:
    """Create and return a joint run folder of several runs; `embed`, `plot` and `info` take it like any other.

    Distances are exact across runs. Trajectories may differ in length and in the steps that were stored.

    Args:
        runs: finished runs whose networks have the same parameters, by name and shape.
        into: the joint run folder, a new one or an earlier one of the same runs.
        group: the label that groups the members: "run", or a label of the runs' members.

    Raises:
        FileNotFoundError: if a run is missing or unfinished.
        ValueError: for fewer than two runs, a run that is itself joint, a label that no member has, or a folder that
            holds another kind of run.
        OSError: if the folder cannot be written to.
    """
    folders = [RunFolder(Path(run).expanduser().absolute()) for run in runs]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise ValueError(f"runs must name two or more runs, each once, got {' '.join(map(str, runs)) or 'none'}")
    if missing := [str(run) for run in folders if not run.exists()]:
        raise FileNotFoundError(f"{', '.join(missing)} does not exist")
    known, first = {"run"}, None
    for run in folders:
        if run.kind is JOINT:
            raise ValueError(f"{run} is itself a joint run; name the runs that it joins instead")
        _, [source] = read_sources(run)
        known |= source.store.labels[0].keys()
        first = first or source
        require_same_parameters(source, first)
    if group not in known:
        raise ValueError(f"group must be one of the labels {', '.join(sorted(known))}, got {group!r}")
    target, settings = RunFolder(into), JointSettings(tuple(map(str, folders)), group)
    with writing(target):
        if target.kind is not JOINT and (target.minimum.exists() or target.trajectories.exists()):
            raise ValueError(f"{target} holds a run that is not joint; choose another folder for the joint run")
        target.record_settings("joint", settings, results=())  # all results of a joint run can be recomputed
    return target


def embed_together(
    runs: Sequence[Path], into: Path, config: EmbedConfig, *, group: str = "run", console: Console
) -> Path:
    """Embed the trajectories of several runs together, and return the folder of the embedding.

    Raises:
        See `join_runs` and `embed_trajectories`.
    """
    check_embed(config)
    return embed_trajectories(join_runs(runs, into, group=group), config, console=console)
