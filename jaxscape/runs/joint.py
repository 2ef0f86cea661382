"""The stage `joint`: several runs in one distance matrix, and so in one picture."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from jaxscape.runs.config import EmbedConfig, JointSettings, check_embed
from jaxscape.runs.embed import embed_trajectories
from jaxscape.runs.folder import JOINT, RunFolder
from jaxscape.runs.lock import writing
from jaxscape.runs.sources import read_sources


def embed_together(
    runs: Sequence[Path], into: Path, config: EmbedConfig, *, group: str = "run", console: Console
) -> Path:
    """Embed the trajectories of several runs as one, and return the folder of the coordinates.

    Their distances are exact across runs. Trajectories may differ in their lengths and in the steps that they keep.

    Args:
        runs: finished runs of networks with the same parameters, by name and shape.
        into: the run folder of the whole, new or made from the same runs before.
        config: how to embed.
        group: the label whose values are told apart: "run", or one that the runs' members have.
        console: where to print.

    Raises:
        FileNotFoundError: where a run is missing or unfinished.
        ValueError: for fewer than two runs, one that is joint itself, networks that differ, or a folder that holds
            something else.
        OSError: where the folder cannot be written to.
    """
    check_embed(config)
    folders = [RunFolder(Path(run).expanduser().absolute()) for run in runs]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise ValueError(f"give two runs or more, each once, got {' '.join(map(str, runs))}")
    for run in folders:
        if run.kind is JOINT:
            raise ValueError(f"{run} joins other runs itself; name those instead")
        read_sources(run)
    target = RunFolder(into)
    settings = JointSettings(tuple(map(str, folders)), group)
    with writing(target):
        if target.kind is not JOINT and (target.minimum.exists() or target.trajectories.exists()):
            raise ValueError(f"{target} holds a run of its own; choose another folder to join runs in")
        target.record_settings("joint", settings, results=("embeddings", "gram.npz"))
    return embed_trajectories(target, config, console=console)
