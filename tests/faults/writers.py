"""Two writers: two commands start on one run folder at nearly the same time.

One may write. The other waits, or fails with one line that names the process of the first. Afterwards the same
commands, one after the other, must succeed and end in the same bytes. A killed process no longer holds the lock.
"""

import random
import re
from collections.abc import Iterator
from typing import Any

from cases import STAGES, Cases, differences
from figures import Figures, shorten
from server import Server

NAME = "writers"
PAIRS = (
    ("train", "train"),
    ("retrain", "retrain"),
    ("extend", "extend"),
    ("compare", "compare"),
    ("embed", "embed"),
    ("plot", "plot"),
    ("retrain", "embed"),
    ("null", "plot"),
)
_NAMES_HOLDER = re.compile(r"process \d+ on ")
_NOT_YET = re.compile(r"has no |is missing|not there|are not finished|unfinished|another process has just begun")


def plan(seed: int) -> Iterator[tuple[tuple[str, str], float, float | None]]:
    """Yield pairs of stages, the delay of the second in seconds, and when the first is killed (None: never)."""
    chance = random.Random(seed)
    while True:
        for pair in PAIRS:
            yield pair, chance.choice((0.0, chance.uniform(0, 0.05), chance.uniform(0, 1.5))), None
            if pair[0] == pair[1]:
                yield pair, 0.0, chance.uniform(0.05, 2.0)


def race(
    cases: Cases, server: Server, figures: Figures, pair: tuple[str, str], delay: float, kill_after: float | None
) -> None:
    """Let a pair of stages race, or kill the first one and check that the second takes over."""
    run = cases.begin(pair[0])
    again = {"pair": pair, "delay": delay, "kill_after": kill_after}
    words = f"{pair[0]} and {pair[1]}"
    if kill_after is None:
        commands = [cases.command(pair[0], run), cases.command(pair[1], run, delay=delay)]
        outcomes = server.run(*commands)
    else:
        words += ", the first killed"
        server.run(cases.command(pair[0], run, kill_after=kill_after))
        outcomes = server.run(cases.command(pair[1], run))
    figures.count(NAME, f"{words}: races")
    for outcome in outcomes:
        if outcome.broken:
            figures.fail(NAME, f"{words}: broken", [outcome.code, shorten(outcome.err)], **again)
        elif outcome.code == 0:
            figures.count(NAME, f"{words}: done")
        elif _NAMES_HOLDER.search(outcome.err):
            figures.count(NAME, f"{words}: refused, the other is named")
        elif _NOT_YET.search(outcome.err):
            figures.count(NAME, f"{words}: refused, too early")
        else:
            figures.fail(NAME, f"{words}: refused otherwise", [outcome.code, shorten(outcome.err)], **again)
    if all(outcome.code != 0 for outcome in outcomes):
        figures.fail(NAME, f"{words}: nobody succeeds", [shorten(outcome.err) for outcome in outcomes], **again)
    _complete(cases, server, figures, run, pair, words, again)
    cases.done(run)


def _complete(
    cases: Cases, server: Server, figures: Figures, run: Any, pair: tuple[str, str], words: str, again: dict[str, Any]
) -> None:
    for stage in dict.fromkeys(pair):
        [outcome] = server.run(cases.command(stage, run))
        if outcome.code != 0 or outcome.broken:
            figures.fail(NAME, f"{words}: does not complete", [stage, outcome.code, shorten(outcome.err)], **again)
            return
    if differing := differences(cases.digest(server, run), cases.digests[pair[1]]):
        figures.fail(NAME, f"{words}: other bytes", differing, **again)
    else:
        figures.count(NAME, f"{words}: same bytes")


def replay(cases: Cases, server: Server, figures: Figures, entry: dict[str, Any]) -> None:
    """Repeat the race of a failure; its outcome may differ."""
    first, second = entry["pair"]
    cases.make(server, [first, second])
    race(cases, server, figures, (first, second), entry["delay"], entry["kill_after"])


def stages() -> list[str]:
    """Return all stages that take part."""
    return [stage for stage in STAGES if any(stage in pair for pair in PAIRS)]
