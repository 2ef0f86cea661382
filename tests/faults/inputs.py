"""Invalid command lines: each option of each command with each bad value, and paths that are not run folders.

A rejected command prints one line (or its usage, with code 2), does not change the run folder, and never prints a
traceback. An accepted command is stopped after a moment; whether it should be accepted is left to the unit tests.
"""

import random
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from cases import Cases, argv
from figures import Figures, shorten
from server import HANG, Command, Server

NAME = "inputs"
_SECONDS = 3.0  # time limit of an accepted command
VALUES = ("", " ", "nan", "inf", "-inf", "-1", "0", "1.5", "1e400", "9" * 30, "text", "TRUE", "None", "None,1")
VALUES += ("Ünï\u202ecode", "\ud800", "a\0b", "{}", "[0]", "-", "--", "/dev/null", "/missing/folder", "FILE")
RUNS = (
    "",
    " ",
    "FILE",
    "FILE/below",
    "/dev/null",
    "/proc/nothing",
    "a\0b",
    "x" * 300,
    "x/" * 3000,
    "\ud800",
    "-",
    "EMPTY",
)
BASES = {"train": None, "retrain": "train", "compare": None, "import": None}
BASES |= {"embed": "retrain", "plot": "retrain", "info": "train"}
_POSITIONAL = {"run", "runs", "sources", "config"}


def plan(seed: int) -> Iterator[tuple[str, list[str]]]:
    """Yield commands and their arguments in a random order, endlessly."""
    from jaxscape.cli.commands import Embed, Import, Own
    from jaxscape.runs.config import CompareConfig, EmbedConfig, RetrainConfig, TrainConfig
    from jaxscape.runs.processes import Cluster

    kinds: dict[str, tuple[type, ...]] = {
        "train": (TrainConfig, Own),
        "retrain": (RetrainConfig, Cluster, Own),
        "compare": (CompareConfig, Own),
        "import": (Import,),
        "embed": (EmbedConfig, Embed),
    }
    lines: list[tuple[str, list[str]]] = []
    for command, records in kinds.items():
        options = {field.name for record in records for field in fields(record)} - _POSITIONAL | {"seed_list"}
        names = sorted(name.replace("_", "-") for name in options)
        positional = ["RUN", "FILE"] if command == "import" else ["RUN"]
        lines += [(command, [*positional, f"--{name}", value]) for name in names for value in VALUES]
        lines += [(command, [*positional, f"--{name}"]) for name in names]
    for command in BASES:
        lines += [(command, [run]) for run in RUNS]
        lines += [(command, ["RUN", value]) for value in ("--unknown", "--seeds=", "RUN", "--", "\0", "--help=1")]
    lines += [(value, []) for value in VALUES]
    chance = random.Random(seed)
    while True:
        chance.shuffle(lines)
        yield from lines


def try_line(
    cases: Cases, server: Server, figures: Figures, command: str, words: list[str], base: str | None = None
) -> None:
    """Run a command line, and check that a rejection is one line and changes nothing."""
    run = cases.fresh(base)
    file, empty = run.parent / "file", run.parent / "empty"
    file.write_text("text")
    empty.mkdir()
    paths = {"RUN": str(run), "FILE": str(file), "FILE/below": str(file / "below"), "EMPTY": str(empty)}
    rest = [paths.get(word, word) for word in words]
    if command in ("train", "compare") and words[:1] == ["RUN"]:  # the last of two values for an option counts
        line = (*argv(command, run, cases.images), *rest[1:])
    else:
        line = (command, *rest)
    before = _listing(run)
    [outcome] = server.run(Command(line, folder=str(run.parent), kill_after=_SECONDS))
    figures.count(NAME, "lines")
    again = {"command": command, "words": words}
    if outcome.killed or outcome.code in (0, HANG):
        figures.count(NAME, "accepted")
    elif outcome.code == 2 and "Traceback" not in outcome.err:
        figures.count(NAME, "refused with the usage")
    elif outcome.broken:
        figures.fail(NAME, f"{command}: traceback or several lines", [outcome.code, shorten(outcome.err)], **again)
    else:
        figures.count(NAME, "refused in one line")
    if outcome.code in (1, 2) and _listing(run) != before:
        figures.fail(NAME, f"{command}: refused after writing", sorted(_listing(run) ^ before)[:5], **again)
    cases.done(run)


def _listing(run: Path) -> set[tuple[str, int]]:
    return {(str(path.relative_to(run)), path.stat().st_mtime_ns) for path in run.rglob("*") if path.is_file()}


def replay(cases: Cases, server: Server, figures: Figures, entry: dict[str, Any]) -> None:
    """Repeat the command line of a failure."""
    cases.make(server, stages())
    try_line(cases, server, figures, entry["command"], entry["words"], BASES.get(entry["command"]))


def stages() -> list[str]:
    """Return the stages whose run folders the commands start from."""
    return ["train", "retrain"]
