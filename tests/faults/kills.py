"""Kills and full disks: each stage is stopped at each of its file operations, and must end in the same bytes.

A chain is a list of faults [operation, kind]. The stage runs once per fault, each time on the state that the previous
run left behind, and finally without a fault: it must then succeed without a traceback, with the undisturbed result.
"""

import random
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from cases import STAGES, Cases, differences, leftovers
from figures import Figures, shorten
from server import Command, Server

Chain = list[tuple[int, str]]
NAME = "kills"
_KINDS = ("before", "middle", "after")


def record(cases: Cases, server: Server, stages: list[str]) -> dict[str, int]:
    """Return the number of file operations of each stage."""
    counts = {}
    for stage in stages:
        run = cases.begin(stage)
        log = run.parent / "log"
        [outcome] = server.run(_with_fault(cases, stage, run, 0, "none", str(log)))
        assert outcome.code == 0, outcome.err
        counts[stage] = len(log.read_text().splitlines())
        cases.done(run)
    return counts


def plan(operations: dict[str, int], seed: int) -> Iterator[tuple[str, Chain]]:
    """Yield stages and chains endlessly: every operation with every kind of kill in random order, stages interleaved.

    Every fifth chain begins with a full disk.
    """
    chance = random.Random(seed)
    while True:
        by_stage = []
        for stage, count in operations.items():
            faults = [(at, kind) for at in range(1, count + 1) for kind in _KINDS]
            faults += [(at, "full") for at in range(1, count + 1)][:: max(1, 4 * count // len(faults))]
            chance.shuffle(faults)
            by_stage.append([(stage, fault) for fault in faults])
        for group in zip_longest(*by_stage):
            for entry in group:
                if entry is not None:
                    stage, fault = entry
                    more = chance.choice((1, 1, 2, 3, 4))
                    yield stage, [fault, *(_anywhere(chance, operations[stage]) for _ in range(more))]


def _anywhere(chance: random.Random, operations: int) -> tuple[int, str]:
    """Return a fault at a random operation; early ones are more frequent, since few operations may remain."""
    return int(operations ** chance.uniform(0, 0.9)), chance.choice(_KINDS)


def run_chain(cases: Cases, server: Server, figures: Figures, stage: str, chain: Chain) -> None:
    """Run a stage through a chain of faults, and compare the result."""
    run = cases.begin(stage)
    again = {"stage": stage, "chain": chain}
    for at, kind in chain:
        [outcome] = server.run(_with_fault(cases, stage, run, at, kind))
        if outcome.killed:
            figures.count(NAME, f"{stage}: killed")
        elif outcome.broken:
            figures.fail(NAME, f"{stage}: broken by {kind}", [outcome.code, shorten(outcome.err)], **again)
        elif outcome.code == 0:
            figures.count(NAME, f"{stage}: done before its fault")
            break
        elif kind == "full":
            figures.count(NAME, f"{stage}: disk full, said in one line")
        else:
            figures.fail(NAME, f"{stage}: refused after a kill", [outcome.code, shorten(outcome.err)], **again)
    [outcome] = server.run(cases.command(stage, run))
    if outcome.code != 0 or outcome.broken:
        figures.fail(NAME, f"{stage}: does not complete", [outcome.code, shorten(outcome.err)], **again)
    elif differing := differences(cases.digest(server, run), cases.digests[stage]):
        figures.fail(NAME, f"{stage}: other bytes", differing, **again)
    else:
        figures.count(NAME, f"{stage}: same bytes")
    if files := leftovers(run):
        figures.fail(NAME, f"{stage}: temporary files stay", files[:5], **again)
    cases.done(run)


def replay(cases: Cases, server: Server, figures: Figures, entry: dict[str, Any]) -> None:
    """Repeat the chain of a failure."""
    cases.make(server, [entry["stage"]])
    run_chain(cases, server, figures, entry["stage"], [(at, kind) for at, kind in entry["chain"]])


def stages() -> list[str]:
    """Return all stages."""
    return list(STAGES)


def _with_fault(cases: Cases, stage: str, run: Any, at: int, kind: str, log: str = "") -> Command:
    fault = {"root": str(run), "at": at, "kind": kind, "log": log}
    command: Command = cases.command(stage, run, fault=fault)
    return command
