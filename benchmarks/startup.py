"""The start-up cost of commands: CPU seconds (user and system) of whole processes.

Every command runs `--repeats` times, interleaved with `python -c "import numpy"` and `python -c "import jax"` as
references for this machine; the medians are compared. RUN is a finished run with an embedding of the default setting;
it is copied first. Everything runs from cached bytecode, like a program that was started before; with
PYTHONDONTWRITEBYTECODE set, every process would compile jax again. CPU seconds depend less on the load than wall-clock
seconds:

    uv run python benchmarks/startup.py RUN --label after --json benchmarks/results/startup.json

`--source` measures another checkout with the same environment, and `--only` some of the commands.

`--profile FOLDER` times nothing. It writes FOLDER/LABEL-COMMAND.txt for every command: the modules whose import takes
at least 5 ms, as `python -X importtime` reports them (microseconds of wall-clock time: alone, and with what they
import), and the packages of all modules with their sums. The load of the machine shows in these:

    uv run python benchmarks/startup.py RUN --label after --profile benchmarks/results/startup
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from records import Record, replace_records, run_facts
from rich.console import Console

# Files that are removed from the copy of the run before a command.
ANEW = ("embed anew",)
IMPORTS = {"import numpy": "import numpy", "import jax": "import jax"}
ROOT = Path(__file__).parents[1]
PROGRAM = "from jaxscape.cli.program import command; command()"
LEAST_MICROSECONDS = 5_000  # of a module that a profile lists


def main() -> None:
    """Measure, print, and write the records."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="a finished run folder with an embedding")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", help="names of commands; all by default")
    parser.add_argument("--source", type=Path, default=ROOT, help="the checkout whose package is measured")
    parser.add_argument("--label", default="now", help="name of that checkout in the records")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", type=Path, metavar="FOLDER", help="write profiles of imports there instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(options.run, run)
        commands = {
            "help": ["--help"],
            "info": ["info", str(run)],
            "embed": ["embed", str(run)],
            "embed anew": ["embed", str(run)],
            "plot": ["plot", str(run)],
        }
        if unknown := set(options.only or ()) - commands.keys():
            parser.error(f"--only must be some of {', '.join(commands)}, got {', '.join(unknown)}")
        chosen = {name: commands[name] for name in options.only or commands}
        if options.profile is not None:
            profile(chosen, run, options.source.resolve(), options.profile, options.label)
            return
        seconds = measure(chosen, run, options.repeats, options.source.resolve())
    records = [record(name, seconds, options) for name in chosen]
    for each in records:
        Console().print(
            f"{each['command_line']}: {each['cpu_seconds']['median']:.2f} s, {each['over_import_numpy']:.1f} x import "
            f"numpy, {each['beyond_import_jax']:+.2f} s beyond import jax",
            highlight=False,
        )
    if options.json:
        replace_records(options.json, records, same=("label", "command_line"))


def measure(commands: dict[str, list[str]], run: Path, repeats: int, source: Path) -> dict[str, list[float]]:
    """Return the CPU seconds of every command and import, interleaved, without a first turn with cold caches."""
    environment = environment_of(source, run)
    seconds: dict[str, list[float]] = {name: [] for name in (*IMPORTS, *commands)}
    with tempfile.NamedTemporaryFile("w", suffix=".py") as script:  # a process that `-c` began starts no other
        script.write(PROGRAM)
        script.flush()
        for turn in range(repeats + 1):
            for name, code in IMPORTS.items():
                found = cpu_seconds(lambda code=code: call(["-c", code], environment))
                seconds[name] += [found] if turn else []
            for name, words in commands.items():
                if name in ANEW:
                    shutil.rmtree(run / "embeddings")
                found = cpu_seconds(lambda words=words: call([script.name, *words], environment))
                seconds[name] += [found] if turn else []
    return seconds


def environment_of(source: Path, run: Path) -> dict[str, str]:
    """Return the environment in which the package of a checkout is run, with a bytecode cache beside the run."""
    environment = os.environ | {"PYTHONPATH": str(source), "PYTHONPYCACHEPREFIX": str(run.parent / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


def profile(commands: dict[str, list[str]], run: Path, source: Path, folder: Path, label: str) -> None:
    """Write which modules every command imports, and how long that takes; the second of two runs."""
    # The process is not restarted with other malloc settings, so that every import is reported once.
    environment = environment_of(source, run) | {"GLIBC_TUNABLES": ""}
    folder.mkdir(parents=True, exist_ok=True)
    script = run.parent / "program.py"
    script.write_text(PROGRAM)
    for name, words in commands.items():
        for _ in range(2):
            if name in ANEW:
                shutil.rmtree(run / "embeddings")
            reported = call(["-X", "importtime", str(script), *words], environment)
        path = folder / f"{label}-{name.replace(' ', '-')}.txt"
        path.write_text("\n".join(describe_imports(reported)) + "\n")
        Console().print(f"{path}")


def describe_imports(reported: str) -> list[str]:
    """Return the lines of a profile from the report of `-X importtime`."""
    rows = [line.removeprefix("import time:").split("|") for line in reported.splitlines() if line.count("|") == 2]
    modules = [(int(alone), int(whole), name[1:]) for alone, whole, name in rows if alone.strip().isdigit()]
    packages: dict[str, list[int]] = {}
    for alone, _, name in modules:
        packages.setdefault(name.strip().partition(".")[0], []).append(alone)
    sums = sorted(((sum(each), len(each), name) for name, each in packages.items()), reverse=True)
    return [
        f"{sum(alone for alone, *_ in modules)} us, {len(modules)} modules",
        "",
        "us of a package, modules, package",
        *(f"{us:9d} {count:5d} {name}" for us, count, name in sums if us >= LEAST_MICROSECONDS),
        "",
        "us alone, us with what it imports, module",
        *(f"{alone:9d} {whole:9d} {name}" for alone, whole, name in modules if whole >= LEAST_MICROSECONDS),
    ]


def call(arguments: list[str], environment: dict[str, str]) -> str:
    """Run Python and wait; return what it writes to stderr. Its output is shown only if it fails."""
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
    return done.stderr


def cpu_seconds(work: Callable[[], None]) -> float:
    """Return the user and system seconds of the processes that `work` starts and waits for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def record(name: str, seconds: dict[str, list[float]], options: argparse.Namespace) -> Record:
    """Return the record of a command."""
    medians = {each: statistics.median(values) for each, values in seconds.items()}
    return {
        "label": options.label,
        "command_line": name,
        "repeats": options.repeats,
        "cpu_seconds": spread(seconds[name]),
        "import_numpy_seconds": spread(seconds["import numpy"]),
        "import_jax_seconds": spread(seconds["import jax"]),
        "over_import_numpy": medians[name] / medians["import numpy"],
        "beyond_import_jax": medians[name] - medians["import jax"],
        **run_facts(("jax", "numpy", "scipy", "matplotlib", "tyro", "rich")),
    }


def spread(values: list[float]) -> Record:
    """Return the median, smallest and largest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


if __name__ == "__main__":
    main()
