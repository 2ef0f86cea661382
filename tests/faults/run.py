"""Inject faults for some minutes, and print the outcomes.

    python -m uv run python tests/faults/run.py --minutes 30 --seed 0 --json faults.json
    python -m uv run python tests/faults/run.py --only kills --minutes 5
    python -m uv run python tests/faults/run.py --replay faults.json --entry 3

Four campaigns share the time: kills (and full disks) at every file operation of each stage, two writers, damage to each
file of a finished run folder, and invalid command lines. Each is a file here, whose docstring defines the correct
outcome. Two workers run in parallel, each with a fork server (server.py) and the shim (shim.c) between its children and
their files.

The first minute or two makes the references: run folders after each stage, without faults. Programs are compiled once
and cached in the scratch folder, so that the next call starts at once. The seed determines the order of everything
except for races. A failure is printed in capitals and recorded in the JSON file with the data to replay it. The exit
code is 1 if there is any failure. Linux with glibc and a C compiler only.
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
    """Parse the command line and run the campaigns, or replay a failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="duration after the references are made")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(CAMPAIGNS), nargs="+", help="run these campaigns instead of all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for figures and failures")
    parser.add_argument("--replay", type=Path, help="a file that --json wrote")
    parser.add_argument("--entry", type=int, default=0, help="index of the failure to replay")
    parser.add_argument("--compiled", type=Path, help="cache of compiled programs; by default in the scratch folder")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "jaxscape-faults")
    options = parser.parse_args()
    if (reason := shim.why_not()) is not None:
        parser.exit(2, f"run.py: {reason}\n")
    figures = Figures()
    started = time.monotonic()
    if options.replay is not None:
        replay(options.scratch, figures, json.loads(options.replay.read_text())["failures"][options.entry])
    else:
        with suppress(KeyboardInterrupt):  # the results so far are printed
            run_campaigns(options, figures)
    print(figures.describe())
    print(f"{len(figures.failures)} failures, {(time.monotonic() - started) / 60:.1f} min with the references")
    if options.json is not None:
        figures.save(
            options.json, seed=options.seed, minutes=options.minutes, seconds=round(time.monotonic() - started)
        )
    sys.exit(1 if figures.failures else 0)


def replay(scratch: Path, figures: Figures, entry: dict[str, Any]) -> None:
    """Replay one failure."""
    cases, library = prepare(scratch)
    with Server(library, scratch / "server0") as server:
        CAMPAIGNS[entry["campaign"]].replay(cases, server, figures, entry)
    print(json.dumps(figures.failures, indent=1))


def prepare(scratch: Path) -> tuple[Cases, Path]:
    """Empty the scratch folder except for compiled programs, and build the shim there."""
    scratch.mkdir(parents=True, exist_ok=True)
    for name in ("work", "references"):
        shutil.rmtree(scratch / name, ignore_errors=True)
    return Cases(scratch), shim.build(scratch)


def run_campaigns(options: argparse.Namespace, figures: Figures) -> None:
    """Run campaigns one after the other, each for its fraction of the time."""
    names = options.only or list(CAMPAIGNS)
    cases, library = prepare(options.scratch)
    servers = [
        Server(library, options.scratch / f"server{worker}", options.compiled) for worker in range(options.workers)
    ]
    try:
        cases.make(servers[0], [stage for name in names for stage in CAMPAIGNS[name].stages()])
        total = sum(_SHARES[name] for name in names)
        for name in names:
            tasks = tasks_of(name, cases, servers[0], figures, options.seed)
            work(servers, tasks, figures, name, seconds=60 * options.minutes * _SHARES[name] / total)
    finally:
        for server in servers:
            server.__exit__()


def tasks_of(name: str, cases: Cases, server: Server, figures: Figures, seed: int) -> Iterator[Task]:
    """Yield the tasks of a campaign endlessly."""
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
    """Let the servers work on tasks until the time is over."""
    lock = threading.Lock()
    first = next(tasks)  # runs the preparation before the workers start
    waiting = [first]
    deadline = time.monotonic() + seconds

    def one_worker(server: Server) -> None:
        while time.monotonic() < deadline:
            with lock:
                task = waiting.pop() if waiting else next(tasks)
            try:
                task(server)
            except Exception:  # an error of the harness itself is recorded as a failure
                figures.fail(name, "the harness failed", traceback.format_exc())

    workers = [threading.Thread(target=one_worker, args=(server,), daemon=True) for server in servers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
