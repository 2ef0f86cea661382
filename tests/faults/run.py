"""Inject faults for some minutes, and print what came of it.

    python -m uv run python tests/faults/run.py --minutes 30 --seed 0 --json faults.json
    python -m uv run python tests/faults/run.py --only kills --minutes 5
    python -m uv run python tests/faults/run.py --replay faults.json --entry 3

Four campaigns share the time: kills (and full disks) at every file operation of each stage, two writers, damage to each
file of a finished run folder, bad command lines. Each is a file here, whose docstring says what is right. Two workers
work side by side, each with a fork server (server.py) and the shim (shim.c) between its children and their files.

The first minute or two makes the references: run folders after each stage, without faults. Programs are compiled once
and kept in the scratch folder, so that the next call begins at once. The order of everything follows from the seed;
races do not. A failure is printed in capitals and stands in the JSON with what it takes to see it again. The exit code
is 1 if anything is wrong. Linux with glibc and a C compiler only.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import damage
import inputs
import kills
import shim
import writers
from cases import Cases
from figures import Figures
from server import Server

CAMPAIGNS: dict[str, ModuleType] = {module.NAME: module for module in (kills, writers, damage, inputs)}
_SHARES = {"kills": 0.5, "writers": 0.15, "damage": 0.25, "inputs": 0.1}

Task = Callable[[Server], None]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="how long, after the references are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(CAMPAIGNS), help="one campaign instead of all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where figures and failures go")
    parser.add_argument("--replay", type=Path, help="a file that --json wrote")
    parser.add_argument("--entry", type=int, default=0, help="which of its failures is run again")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "jaxscape-faults")
    asked = parser.parse_args()
    if (reason := shim.why_not()) is not None:
        parser.exit(2, f"run.py: {reason}\n")
    figures = Figures()
    started = time.monotonic()
    if asked.replay is not None:
        replay(asked.scratch, figures, json.loads(asked.replay.read_text())["failures"][asked.entry])
    else:
        with suppress(KeyboardInterrupt):  # what was found so far is told
            run_campaigns(asked, figures)
    print(figures.describe())
    print(f"{len(figures.failures)} failures, {(time.monotonic() - started) / 60:.1f} min with the references")
    if asked.json is not None:
        figures.save(asked.json, seed=asked.seed, minutes=asked.minutes, seconds=round(time.monotonic() - started))
    sys.exit(1 if figures.failures else 0)


def replay(scratch: Path, figures: Figures, entry: dict[str, Any]) -> None:
    """Run one failure again."""
    cases, library = prepare(scratch)
    with Server(library, scratch / "server0") as server:
        CAMPAIGNS[entry["campaign"]].replay(cases, server, figures, entry)
    print(json.dumps(figures.failures, indent=1))


def prepare(scratch: Path) -> tuple[Cases, Path]:
    """Empty the scratch folder but for compiled programs, and build the shim there."""
    scratch.mkdir(parents=True, exist_ok=True)
    for name in ("work", "references"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    return Cases(scratch), shim.build(scratch)


def run_campaigns(asked: argparse.Namespace, figures: Figures) -> None:
    """Run campaigns one after the other, each for its share of the time."""
    names = [asked.only] if asked.only else list(CAMPAIGNS)
    cases, library = prepare(asked.scratch)
    servers = [Server(library, asked.scratch / f"server{worker}") for worker in range(asked.workers)]
    try:
        cases.make(servers[0], [stage for name in names for stage in CAMPAIGNS[name].stages()])
        total = sum(_SHARES[name] for name in names)
        for name in names:
            tasks = tasks_of(name, cases, servers[0], figures, asked.seed)
            work(servers, tasks, figures, name, seconds=60 * asked.minutes * _SHARES[name] / total)
    finally:
        for server in servers:
            server.__exit__()


def tasks_of(name: str, cases: Cases, server: Server, figures: Figures, seed: int) -> Iterator[Task]:
    """Yield the tasks of a campaign, without end."""
    if name == "kills":
        operations = kills.record(cases, server, kills.stages())
        for stage, count in operations.items():
            figures.count(name, f"{stage}: file operations", count)
        for stage, chain in kills.plan(operations, seed):
            yield lambda server, stage=stage, chain=chain: kills.run_chain(cases, server, figures, stage, chain)
    elif name == "writers":
        for race in writers.plan(seed):
            yield lambda server, race=race: writers.race(cases, server, figures, *race)
    elif name == "damage":
        damage.prepare(cases, server)
        for case in damage.plan(cases.reference(damage.WHOLE), seed):
            yield lambda server, case=case: damage.try_damage(cases, server, figures, *case)
    else:
        for line in inputs.plan(seed):
            base = inputs.BASES.get(line[0])
            yield lambda server, line=line, base=base: inputs.try_line(cases, server, figures, *line, base)


def work(servers: list[Server], tasks: Iterator[Task], figures: Figures, name: str, *, seconds: float) -> None:
    """Let each server work on tasks in turn, until the time is over."""
    lock = threading.Lock()
    first = next(tasks)  # what it prepares belongs to no worker
    waiting = [first]
    deadline = time.monotonic() + seconds

    def one_worker(server: Server) -> None:
        while time.monotonic() < deadline:
            with lock:
                task = waiting.pop() if waiting else next(tasks)
            try:
                task(server)
            except Exception:  # the harness itself: a failure like others
                figures.fail(name, "the harness failed", traceback.format_exc())

    workers = [threading.Thread(target=one_worker, args=(server,), daemon=True) for server in servers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
