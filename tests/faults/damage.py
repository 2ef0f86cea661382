"""Damage: each file of a finished run folder is damaged in every way, and each command must detect or tolerate it.

Allowed outcomes: the file is made again ("remade" if the command says so); all results have the same bytes ("same", or
"unread" if the damaged file itself is left as it is); or the command fails with one line that names the file or its
folder. Failures of the test are:

    SILENT      something other than the damaged file differs from the reference, or `info` prints something else
    LEFT        the command is responsible for the damaged file, reports success and leaves it damaged
    TRACEBACK   also more than one line of error, a signal, or a hang
    UNNAMED     the line of error names neither the file nor a folder that contains it
    LOST        the command fails, and something other than the damaged file has changed

A record without its checksum counts as edited on purpose, and its values are trusted if they are valid.
"""

import json
import random
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from itertools import count
from pathlib import Path
from typing import Any

from cases import JOURNEY, STAGES, Cases, differences
from figures import Figures, shorten
from server import Command, Outcome, Server

NAME = "damage"
COMMANDS = ("info", *reversed(JOURNEY))
UNSIGNED = ", unsigned"
WHOLE = "plot"  # the stage after which the run folder is finished


def _emptied(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def _halved(path: Path, _: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _noise(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(path.stat().st_size))


def _flipped(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def _deleted(path: Path, _: random.Random) -> None:
    path.unlink()


def _folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _dropped_row(path: Path, chance: random.Random) -> None:
    lines = path.read_text().splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    path.write_text("".join(lines))


def _dropped_key(path: Path, chance: random.Random) -> None:
    _edit(path, lambda record: record.pop(chance.choice(sorted(record))))


def _wrong_type(path: Path, chance: random.Random) -> None:
    value = chance.choice((None, [], {}, "text", -1, [[]], True))
    _edit(path, lambda record: record.update({chance.choice(sorted(record)): value}))


def _wrong_inside(path: Path, chance: random.Random) -> None:
    def change(record: dict[str, Any]) -> None:
        inner = [value for value in record.values() if isinstance(value, dict) and value]
        if inner:
            chosen = chance.choice(inner)
            chosen[chance.choice(sorted(chosen))] = chance.choice((None, "text", -1, [], {}))

    _edit(path, change)


def _unsigned(change: Callable[[Path, random.Random], None]) -> Callable[[Path, random.Random], None]:
    """Return the same damage, combined with the removal of the checksum."""

    def damage(path: Path, chance: random.Random) -> None:
        _edit(path, lambda record: record.pop("sha256", None))
        change(path, chance)

    return damage


def _other_value(path: Path, _: random.Random) -> None:
    path.write_text("[1, 2]\n")


def _nested(path: Path, _: random.Random) -> None:
    path.write_text("[" * 100_000)


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    record = json.loads(path.read_text())
    if isinstance(record, dict) and record:
        change(record)
    path.write_text(json.dumps(record))


_OF_ALL: dict[str, Callable[[Path, random.Random], None]] = {
    "emptied": _emptied,
    "halved": _halved,
    "noise": _noise,
    "flipped 1": _flipped,
    "flipped 2": _flipped,
    "flipped 3": _flipped,
    "deleted": _deleted,
    "folder": _folder,
}
_OF_JSON: dict[str, Callable[[Path, random.Random], None]] = {
    "dropped key": _dropped_key,
    "wrong type": _wrong_type,
    "wrong inside": _wrong_inside,
    f"dropped key{UNSIGNED}": _unsigned(_dropped_key),
    f"wrong type{UNSIGNED}": _unsigned(_wrong_type),
    f"wrong inside{UNSIGNED}": _unsigned(_wrong_inside),
    "other value": _other_value,
    "nested": _nested,
}
_OF_TABLES = {"dropped row": _dropped_row}
KINDS = _OF_ALL | _OF_JSON | _OF_TABLES


def plan(run: Path, seed: int) -> Iterator[tuple[str, str, str, int]]:
    """Yield names of files, kinds of damage, commands and seeds, in a random order and endlessly.

    Every damage to every file is tried with one command before any is tried with a second command.
    """
    chance = random.Random(seed)
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())
    everything = [(str(file), kind) for file in files for kind in _kinds(file)]
    orders = {each: chance.sample(COMMANDS, len(COMMANDS)) for each in everything}
    for turn in count():
        chance.shuffle(everything)
        for file, kind in everything:
            yield file, kind, orders[file, kind][turn % len(COMMANDS)], chance.randrange(2**32)


def _kinds(file: Path) -> list[str]:
    looks_like_json = file.suffix == ".json" or file.name in ("_METADATA", "_CHECKPOINT_METADATA")
    return [*_OF_ALL, *(_OF_JSON if looks_like_json else ()), *(_OF_TABLES if file.suffix == ".csv" else ())]


def prepare(cases: Cases, server: Server, whole: str = WHOLE) -> None:
    """Record what `info` prints for the run folder after the stage `whole`."""
    cases.make(server, [whole])
    run = cases.fresh(whole)
    [outcome] = server.run(Command(("info", str(run))))
    cases.outputs["info"] = _nameless(outcome.out, run)
    cases.done(run)


def try_damage(
    cases: Cases, server: Server, figures: Figures, file: str, kind: str, command: str, seed: int, whole: str = WHOLE
) -> None:
    """Damage a file, run a command, and record the outcome."""
    run = cases.fresh(whole)
    KINDS[kind](run / file, random.Random(seed))
    line = Command(("info", str(run))) if command == "info" else cases.command(command, run)
    [outcome] = server.run(line)
    differing = differences(cases.digest(server, run), cases.digests[whole])
    verdict = _verdict(cases, outcome, run, file, command, differing)
    if verdict == "SILENT" and kind.endswith(UNSIGNED):
        verdict = "believed, as an edit is"
    if verdict.isupper():
        seen = [outcome.code, shorten(outcome.out), shorten(outcome.err), differing]
        name = f"{verdict}: {_general(file)}, {kind}, {command}"
        figures.fail(NAME, name, seen, file=file, kind=kind, command=command, seed=seed)
        figures.count(NAME, verdict)
    else:
        figures.count(NAME, verdict)
    cases.done(run)


def _verdict(cases: Cases, outcome: Outcome, run: Path, file: str, command: str, differing: list[str]) -> str:
    if outcome.broken:
        return "TRACEBACK"
    others = [name for name in differing if name != _group(file)]
    if outcome.code != 0:
        if others:
            return "LOST"
        return "refused by name" if _names(outcome.err, file) else "UNNAMED"
    is_named = _names(outcome.out, file)
    if command == "info":
        return "unread" if is_named or _nameless(outcome.out, run) == cases.outputs["info"] else "SILENT"
    if others:
        return "SILENT"
    if not differing:
        return "remade" if is_named else "same"
    answers = any(_matches(file, pattern) for pattern in STAGES[command].products)
    return "LEFT" if answers else "unread"


def _matches(file: str, pattern: str) -> bool:
    """Return whether a file matches this pattern; a star does not match a slash."""
    return file.count("/") == pattern.count("/") and fnmatch(file, pattern)


def _group(file: str) -> str:
    """Return the entry of the digest to which a file belongs."""
    top = Path(file).parts[0]
    return top if top in ("minimum", "trajectories") else file


def _names(text: str, file: str) -> bool:
    """Return whether a text names the file or a folder that contains it."""
    folders = [str(parent) for parent in Path(file).parents if str(parent) != "."]
    return any(name in text for name in (file, Path(file).name, *(f"/{folder}" for folder in folders)))


def _nameless(text: str, run: Path) -> str:
    """Return the output of `info` without the folder, its size and the stages done, which depend on missing files."""
    lines = re.sub(r"[\d.]+ MB", "MB", text.replace(str(run), "RUN")).splitlines()
    return "\n".join(line for line in lines if not line.startswith("stages done:"))


def _general(file: str) -> str:
    """Return a file's name without its random part."""
    return re.sub(r"[0-9a-f]{16,}", "...", file)


def replay(cases: Cases, server: Server, figures: Figures, entry: dict[str, Any]) -> None:
    """Repeat the damage of a failure. Files of a database have random names: another file of the folder is taken."""
    prepare(cases, server)
    whole, file = cases.reference(WHOLE), entry["file"]
    if not (whole / file).exists():
        alike = sorted((whole / file).parent.glob("*"))
        file = str(next(path for path in alike if path.is_file()).relative_to(whole))
    try_damage(cases, server, figures, file, entry["kind"], entry["command"], entry["seed"])


def stages() -> list[str]:
    """Return all stages that the campaign needs."""
    return list(JOURNEY)
