"""The command line: `jaxscape demo | plan | train | retrain | compare | embed | plot | info`.

A command's options are the fields of its stage's configuration. The defaults, which `--help` shows, are those of the
run folder where it has some, else of the preset that the command line names: so `jaxscape train RUN` alone goes on
with an interrupted run.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Union

import tyro
from rich.console import Console

from jaxscape.cli.errors import failing_in_a_line
from jaxscape.cli.program import command
from jaxscape.runs.config import (
    CompareConfig,
    EmbedConfig,
    RetrainConfig,
    TrainConfig,
    compare_preset,
    retrain_preset,
    train_preset,
)
from jaxscape.runs.environment import cache_folder
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.processes import Cluster, check_devices, give_up, is_first, join, leave, others_may_fail
from jaxscape.runs.progress import make_console
from jaxscape.xla_cpu.memory import restart_with_kept_memory

__all__ = ["command", "main", "run_script"]

MOST_SEEDS = 1_000_000  # more copies than any machine has room for, and few enough to be counted


SeveralRuns = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
OneRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True)
class Demo:
    """The main job on real digits, in minutes: three minima, 20 retrained copies each, pictures and numbers."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("jaxscape-demo")
    """Where the three run folders and the figures go."""
    seed: int = 0
    """Of the minima and of the retraining."""


@dataclass(frozen=True)
class Train:
    """Train a network to a minimum."""

    runs: SeveralRuns
    """The run folder: a new one, or one to go on with. Several are trained together: they differ in their seed alone,
    which counts on from --seed."""
    config: tyro.conf.OmitArgPrefixes[TrainConfig] = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Retrain:
    """Perturb copies of the minimum, retrain them all, and measure where they go."""

    runs: SeveralRuns
    """A run folder with a minimum, or several: copies that take the same steps are retrained all together."""
    seeds: int | None = None
    """Jump along that many directions, with the seeds 0, 1, ...; 5 by default."""
    seed_list: tuple[int, ...] | None = None
    """Jump along the directions of these seeds instead."""
    config: tyro.conf.OmitArgPrefixes[RetrainConfig] = field(default_factory=RetrainConfig)
    cluster: tyro.conf.OmitArgPrefixes[Cluster] = field(default_factory=Cluster)


@dataclass(frozen=True)
class Compare:
    """Train networks side by side, by several optimisers from shared initial parameters, and keep their paths."""

    run: OneRun
    """The run folder: a new one, or one to go on with."""
    seeds: int | None = None
    """That many initial parameters, with the seeds 0, 1, ...; 5 by default."""
    seed_list: tuple[int, ...] | None = None
    """Initial parameters of these seeds instead."""
    config: tyro.conf.OmitArgPrefixes[CompareConfig] = field(default_factory=CompareConfig)


@dataclass(frozen=True)
class Plan:
    """Say what a run will take, in time, device memory and disk, from a few measured steps; nothing is started."""

    run: OneRun
    """The run folder; it need not be there."""
    devices: int | None = None
    """Plan for that many devices of this kind, instead of those of this machine."""
    seeds: int | None = None
    """As in `retrain`."""
    seed_list: tuple[int, ...] | None = None
    """As in `retrain`."""
    train: TrainConfig = field(default_factory=TrainConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)


@dataclass(frozen=True)
class Embed:
    """Embed the trajectories of a retrained run; each setting is kept beside the others."""

    run: OneRun
    """A run folder with finished trajectories."""
    config: tyro.conf.OmitArgPrefixes[EmbedConfig] = field(default_factory=EmbedConfig)


@dataclass(frozen=True)
class Plot:
    """Draw every embedding of a run, and its distances from the minimum."""

    run: OneRun
    """A run folder with embeddings."""


@dataclass(frozen=True)
class Info:
    """Say what a run folder holds."""

    run: OneRun
    """A run folder."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line in this process; exits with 0 only where the job was done."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with failing_in_a_line("jaxscape"):
        command = _parse(arguments)
        _keep_compiled()
        silent = False
        if isinstance(command, Retrain):
            join(command.cluster)
        if not isinstance(command, Plot | Info):
            check_devices()
        if isinstance(command, Retrain):
            silent = not is_first()
        with _orbax_silenced(), others_may_fail():
            _run(command, arguments, make_console(silent=silent))


def run_script(name: str, work: Callable[[], None]) -> None:
    """Run a script as the command line runs a command: with memory and programs kept, an error in one line.

    Args:
        name: of the script, before its errors.
        work: all of it, from the arguments on; called once, in a process that may have been started anew.
    """
    restart_with_kept_memory()
    with failing_in_a_line(name):
        _keep_compiled()
        with _orbax_silenced():
            work()


def _parse(arguments: list[str]) -> Any:
    """The command with its options; RUN may stand anywhere among them."""
    _check_words(arguments)
    # A first reading finds RUN, whose settings are the defaults of the second, which says what is wrong.
    found = None
    with suppress(SystemExit), redirect_stderr(StringIO()):
        found = _read([word for word in arguments if word not in ("-h", "--help")], TrainConfig(), RetrainConfig())
    train = _train_defaults(_first_run(found) if isinstance(found, Train | Plan) else None, arguments)
    retrain = _retrain_defaults(_first_run(found) if isinstance(found, Retrain | Plan) else None)
    if isinstance(found, Plan) and retrain == RetrainConfig():  # of a minimum that is not there yet
        with suppress(SystemExit), redirect_stderr(StringIO()):
            retrain = retrain_preset(_read(arguments, train, retrain).train)
    compare = _compare_defaults(found.run, arguments) if isinstance(found, Compare) else CompareConfig()
    command = _read(arguments, train, retrain, compare)
    if isinstance(command, Train | Retrain) and not command.runs:
        name = type(command).__name__.lower()
        give_up(f"jaxscape: {name} needs RUN, a run folder, or several; see jaxscape {name} --help", code=2)
    return command


def _check_words(arguments: list[str]) -> None:
    """Refuse what no argument can be: an empty RUN would be the working directory, and no path has a NUL."""
    for number, word in enumerate(arguments, start=1):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            give_up(f"jaxscape: argument {number} is empty ({word!r}); is a variable of the shell not set?", code=2)
        if "\0" in word:
            give_up(f"jaxscape: argument {number} holds a NUL: {word!r}", code=2)


def _first_run(command: Any) -> Path | None:
    """The run whose settings a command's options begin with."""
    if isinstance(command, Train | Retrain):
        return next(iter(command.runs), None)
    return command.run if isinstance(command, Plan) else None


def _read(
    arguments: list[str], train: TrainConfig, retrain: RetrainConfig, compare: CompareConfig | None = None
) -> Any:
    """The arguments as one of the commands."""
    commands: list[Any] = [
        Demo(),
        Plan(run=tyro.MISSING, train=train, retrain=retrain),
        Train(runs=tyro.MISSING, config=train),
        Retrain(runs=tyro.MISSING, config=retrain),
        Compare(run=tyro.MISSING, config=compare or CompareConfig()),
        Embed(run=tyro.MISSING),
        Plot(run=tyro.MISSING),
        Info(run=tyro.MISSING),
    ]
    kinds = [
        Annotated[type(default), tyro.conf.subcommand(type(default).__name__.lower(), default=default)]
        for default in commands
    ]
    command: Any = Union[tuple(kinds)]  # noqa: UP007  # made at run time
    return tyro.cli(
        command,
        args=arguments,
        prog="jaxscape",
        description="Loss landscapes as training meets them: jump away from a minimum, retrain, look where copies go.",
    )


def _run(command: Any, arguments: list[str], console: Console) -> None:
    match command:
        case Demo(folder, seed):
            from jaxscape.cli.demo import run_demo

            run_demo(folder, seed=seed, console=console)
        case Plan(run, devices, train=train, retrain=retrain):
            from jaxscape.runs.images import image_plan
            from jaxscape.runs.plan import describe_plan, plan_run

            stages = image_plan(train, replace(retrain, seeds=_seeds(command, retrain)))
            describe_plan(plan_run(run, *stages, devices=devices, console=console), console=console)
        case Train():
            from jaxscape.runs.images import image_trainings
            from jaxscape.runs.train import find_minima

            find_minima(image_trainings(_train_configs(command, arguments)), console=console)
        case Retrain():
            _retrain(_retrain_configs(command, arguments), console)
        case Compare(run, config=config):
            from jaxscape.runs.compare import compare_optimizers
            from jaxscape.runs.images import image_comparison
            from jaxscape.runs.measure import measure, optimizers_table

            comparison = image_comparison(replace(config, seeds=_seeds(command, config)))
            compare_optimizers(run, comparison, console=console)
            measure(run, console=console)
            console.print(optimizers_table(RunFolder(run).read_report()))
        case Embed(run, config):
            from jaxscape.runs.embed import embed_trajectories

            folder = embed_trajectories(run, config, console=console)
            console.print(f"{folder}")
        case Plot(run):
            from jaxscape.runs.plot import plot_run

            for path in plot_run(run, console=console):
                console.print(f"{path}")
        case Info(run):
            from jaxscape.cli.info import describe_run

            describe_run(run, console=console)


def _train_configs(command: Train, arguments: list[str]) -> dict[Path, TrainConfig]:
    """What is asked of each run; a seed that is neither on the command line nor in the run's record counts on."""
    _check_named_once(command.runs)
    asked = _option(arguments, "seed") is not None
    configs = {}
    for number, run in enumerate(command.runs):
        config = _read(arguments, _train_defaults(run, arguments), RetrainConfig()).config
        known = RunFolder(run).settings("train") is not None and not asked
        configs[run] = config if known else replace(config, seed=config.seed + number)
    return configs


def _check_named_once(runs: tuple[Path, ...]) -> None:
    if len(set(runs)) < len(runs):
        raise ValueError(f"each run can be named once, got {' '.join(map(str, runs))}")


def _retrain_configs(command: Retrain, arguments: list[str]) -> dict[Path, RetrainConfig]:
    """What is asked of each run: what stands on the command line, and the defaults of that run beside it."""
    _check_named_once(command.runs)
    read = {run: _read(arguments, TrainConfig(), _retrain_defaults(run)) for run in command.runs}
    return {run: replace(found.config, seeds=_seeds(found, found.config)) for run, found in read.items()}


def _retrain(configs: dict[Path, RetrainConfig], console: Console) -> None:
    from jaxscape.runs.images import image_retrainings
    from jaxscape.runs.measure import geometry_table, measure
    from jaxscape.runs.retrain import retrain_copies

    retrain_copies(image_retrainings(configs), console=console)
    leave()
    for run in configs:
        measure(run, console=console)
    console.print(geometry_table({run.name: RunFolder(run).read_report() for run in configs}))


def _seeds(command: Retrain | Plan | Compare, config: RetrainConfig | CompareConfig) -> tuple[int, ...]:
    if command.seed_list is not None and command.seeds is not None:
        raise ValueError("give --seeds (how many) or --seed-list (which), not both")
    if command.seed_list is not None:
        return command.seed_list
    if command.seeds is None:
        return config.seeds
    if not 1 <= command.seeds <= MOST_SEEDS:
        raise ValueError(f"seeds must be from 1 to {MOST_SEEDS}, got {command.seeds}")
    return tuple(range(command.seeds))


def _keep_compiled() -> None:
    """Keep compiled programs on disk between commands, unless the user has settled that already."""
    import jax

    # Programs with calls of oneDNN cannot be written down (jaxlib 0.12); they are compiled each time.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache entry", UserWarning)
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    folder = cache_folder()
    if folder is not None:  # without one compilation takes its time, nothing else
        jax.config.update("jax_compilation_cache_dir", str(folder / "xla"))


@contextmanager
def _orbax_silenced() -> Iterator[None]:
    """Keep off the screen what orbax, tensorstore and asyncio print beside the error that they raise: a page of it."""
    from absl import logging as absl_logging

    verbosity, asyncio_logger = absl_logging.get_verbosity(), logging.getLogger("asyncio")
    level = asyncio_logger.level
    absl_logging.set_verbosity(absl_logging.FATAL)
    asyncio_logger.setLevel(logging.CRITICAL)
    if not isinstance(sys.unraisablehook, _QuietHook):  # it stays: loops are closed when the process ends
        sys.unraisablehook = _QuietHook(sys.unraisablehook)
    try:
        yield
    finally:
        absl_logging.set_verbosity(verbosity)
        asyncio_logger.setLevel(level)


class _QuietHook:
    """What Python calls for an exception that nobody can catch; silent about event loops that failed writes left."""

    def __init__(self, hook: Callable[[Any], Any]):
        self._hook = hook

    def __call__(self, found: Any) -> None:
        if str(found.exc_value) != "Event loop is closed":
            self._hook(found)


def _train_defaults(run: Path | None, arguments: list[str]) -> TrainConfig:
    """What the run was asked for, unless the command line names another preset."""
    named = {name: _option(arguments, name) for name in ("preset", "protocol", "dataset")}
    made = None if run is None else RunFolder(run).settings("train")
    if made is not None and all(value in (None, getattr(made, name)) for name, value in named.items()):
        return made
    return train_preset(named["preset"] or "good", protocol=named["protocol"], dataset=named["dataset"] or "digits")


def _compare_defaults(run: Path, arguments: list[str]) -> CompareConfig:
    """What the run was asked for, unless the command line names another preset."""
    named = {name: _option(arguments, name) for name in ("protocol", "dataset")}
    made = RunFolder(run).settings("compare")
    if made is not None and all(value in (None, getattr(made, name)) for name, value in named.items()):
        return made
    return compare_preset(protocol=named["protocol"], dataset=named["dataset"] or "digits")


def _retrain_defaults(run: Path | None) -> RetrainConfig:
    """What the kept trajectories were asked for, else what follows from the minimum."""
    if run is None:
        return RetrainConfig()
    run = RunFolder(run)
    if run.trajectories.exists() and (made := run.settings("retrain")):
        return made
    minimum = run.settings("train")
    return RetrainConfig() if minimum is None else retrain_preset(minimum)


def _option(arguments: list[str], name: str) -> str | None:
    """The value of an option; of several the last one, which is the one that tyro takes too."""
    found = None
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option in (f"--{name}", f"--train.{name}"):
            found = value if equals else next(iter(arguments[position + 1 :]), None)
    return found
