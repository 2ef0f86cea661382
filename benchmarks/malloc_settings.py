"""Compilation and steps of small and large networks on a CPU, by the C library's settings of malloc.

Each setting is a process of its own; settings are interleaved, one after another and no two at a time. A step is one
of all copies, run in threads as on the command line; compile_s includes the first call, without a cache.

    python -m uv run python benchmarks/malloc_settings.py --repeats 3 --json benchmarks/results/malloc_settings.json
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from records import Record, devices, peak_mb, replace_records, run_facts

from jaxscape.xla_cpu.memory import TUNABLES

KEPT = TUNABLES[: TUNABLES.index(":glibc.malloc.arena_max")]
SETTINGS = {
    "glibc's own": "",
    "kept, one arena": f"{KEPT}:glibc.malloc.arena_max=1",
    "kept, an arena per core": TUNABLES,
    "kept, any number of arenas": KEPT,
}
# Case of members.py -> copies, examples of a batch, steps of an epoch.
CASES = {"digits": (20, 64, 4), "image28": (4, 128, 4), "wrn28": (2, 128, 1)}
TURNS = 5  # timed calls of a process


def measure(case: str) -> Record:
    """Measure a case in this process."""
    from members import CASES as NETWORKS
    from members import Work, strategy_arm

    members, batch_size, steps = CASES[case]
    work = Work(NETWORKS[case], members, batch_size, steps, "float32")
    started = time.perf_counter()
    run = strategy_arm(work, "threads")
    run()
    compiled = time.perf_counter() - started
    seconds = [run() for _ in range(TURNS)]
    return {"compile_s": compiled, "step_s": float(np.median(seconds)), "peak_mb": peak_mb()}


def measure_in_process(case: str, tunables: str) -> Record:
    """Measure a case in a process of its own with these settings."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, __file__, "--case", case],
        env=environment | {"GLIBC_TUNABLES": tunables},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    answer: Record = json.loads(done.stdout)
    return answer


def main() -> None:
    """Measure all cases by all settings, print and write the records."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, help="measure this case in this process, and print a record")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each setting")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case)))
        return
    facts = run_facts(("jax", "jaxlib", "flax", "numpy"), device=devices())
    for case, (members, batch_size, _) in CASES.items():
        found: dict[str, list[Record]] = {setting: [] for setting in SETTINGS}
        for _ in range(options.repeats):
            for setting, tunables in SETTINGS.items():
                found[setting].append(measure_in_process(case, tunables))
        records = []
        for setting, answers in found.items():
            medians = {name: float(np.median([answer[name] for answer in answers])) for name in answers[0]}
            about = {"case": case, "members": members, "batch_size": batch_size, "setting": setting}
            records.append(facts | about | medians | {"turns": answers})
            print(
                f"{case:8} {setting:28} step {1e3 * medians['step_s']:6.0f} ms, "
                f"compile {medians['compile_s']:5.1f} s, peak {medians['peak_mb']:5.0f} MB",
                flush=True,
            )
        if options.json:
            replace_records(options.json, records, same=("case", "setting", "device"))


if __name__ == "__main__":
    main()
