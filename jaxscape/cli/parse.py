"""From a command line to a command: where its options come from.

The defaults, which `--help` shows, are those of the run folder where it has some, else of the preset that the command
line names: so `jaxscape train RUN` alone goes on with an interrupted run.
"""

from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

from jaxscape.cli.commands import Compare, Defaults, Embed, Own, Plan, Retrain, Train, name_of, read
from jaxscape.runs.config import (
    CompareConfig,
    CompareSettings,
    RetrainConfig,
    RetrainSettings,
    TrainConfig,
    TrainSettings,
    compare_preset,
    retrain_preset,
    train_preset,
)
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.processes import give_up

MOST_SEEDS = 1_000_000  # more copies than any machine has room for, and few enough to be counted


def parse(arguments: list[str]) -> Any:
    """Return the command with its options; RUN may stand anywhere among them.

    Raises:
        SystemExit: for `--help`, and for what is no command line.
        ValueError: where the record of a run folder is damaged.
    """
    _check_words(arguments)
    # A first reading finds RUN, whose settings are the defaults of the second, which says what is wrong.
    found, named = None, _option(arguments, "problem") is not None
    with suppress(SystemExit), redirect_stderr(StringIO()):
        words = [word for word in arguments if word not in ("-h", "--help")]
        found = read(words, Defaults.of_any(Own()) if named else Defaults.of_images())
    command = read(arguments, _defaults(found, _first_run(found), arguments))
    if isinstance(command, Train | Retrain | Embed) and not command.runs:
        name = name_of(command)
        give_up(f"jaxscape: {name} needs RUN, a run folder, or several; see jaxscape {name} --help", code=2)
    return command


def train_settings(command: Train, arguments: list[str]) -> dict[Path, TrainSettings]:
    """Return what is asked of each run; a seed that is neither on the command line nor in the run's record counts on.

    Raises:
        ValueError: for a run that is named twice, or damaged.
    """
    _check_named_once(command.runs)
    asked = _option(arguments, "seed") is not None
    settings = {}
    for number, run in enumerate(command.runs):
        config = read(arguments, _defaults(command, run, arguments)).config
        known = RunFolder(run).settings("train") is not None and not asked
        settings[run] = config if known else replace(config, seed=config.seed + number)
    return settings


def retrain_settings(command: Retrain, arguments: list[str]) -> dict[Path, RetrainSettings]:
    """Return what is asked of each run: what stands on the command line, and the defaults of that run beside it.

    Raises:
        ValueError: for a run that is named twice, or damaged.
    """
    _check_named_once(command.runs)
    found = {run: read(arguments, _defaults(command, run, arguments)) for run in command.runs}
    return {run: replace(each.config, seeds=seeds_of(each, each.config)) for run, each in found.items()}


def seeds_of(command: Retrain | Plan | Compare, settings: RetrainSettings | CompareSettings) -> tuple[int, ...]:
    """Return the seeds that a command asks for: counted, listed, or those of its settings.

    Raises:
        ValueError: for both, or a number out of range.
    """
    if command.seed_list is not None and command.seeds is not None:
        raise ValueError("give --seeds (how many) or --seed-list (which), not both")
    if command.seed_list is not None:
        return command.seed_list
    if command.seeds is None:
        return settings.seeds
    if not 1 <= command.seeds <= MOST_SEEDS:
        raise ValueError(f"seeds must be from 1 to {MOST_SEEDS}, got {command.seeds}")
    return tuple(range(command.seeds))


def key_values(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Return what options of the form key=value say; a value is a number where it looks like one, else a text.

    Raises:
        ValueError: for another form, or a key that is given twice.
    """
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals) or key in found:
            raise ValueError(f"{name} must be key=value, each key once, got {' '.join(words)!r}")
        found[key] = _number_or_text(value)
    return found


def _number_or_text(value: str) -> int | float | str:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(value)
    return value


def _first_run(command: Any) -> Path | None:
    """The run whose settings a command's options begin with."""
    if isinstance(command, Train | Retrain):
        return next(iter(command.runs), None)
    return command.run if isinstance(command, Plan | Compare) else None


def _defaults(command: Any, run: Path | None, arguments: list[str]) -> Defaults:
    """The settings that the options of a command begin with, given the run folder that it names."""
    record = {} if run is None else RunFolder(run).read_config()
    if _option(arguments, "problem") is not None or "problem" in record:
        return _of_own(run, record)
    defaults = Defaults.of_images()
    if command is None or isinstance(command, Train | Plan):  # what cannot be read may name an unknown preset
        defaults = defaults._replace(train=_train_defaults(run, arguments))
    if isinstance(command, Retrain | Plan):
        defaults = defaults._replace(retrain=_retrain_defaults(run))
    if isinstance(command, Plan) and defaults.retrain == RetrainConfig():  # of a minimum that is not there yet
        with suppress(SystemExit), redirect_stderr(StringIO()):
            defaults = defaults._replace(retrain=retrain_preset(read(arguments, defaults).train))
    if isinstance(command, Compare):
        defaults = defaults._replace(compare=_compare_defaults(command.run, arguments))
    return defaults


def _of_own(run: Path | None, record: Mapping[str, Any]) -> Defaults:
    problem = record.get("problem", {})
    values = tuple(f"{name}={value!r}" for name, value in problem.get("arguments", {}).items())
    defaults = Defaults.of_any(Own(problem.get("source"), values))
    made = {} if run is None else {stage: RunFolder(run).settings(stage) for stage in ("train", "retrain", "compare")}
    train = made.get("train")
    if train is not None:
        train = TrainSettings(train.epochs, train.batch_size, train.seed)
        following = RetrainSettings(batch_size=train.batch_size, order_seed=train.seed)
        defaults = defaults._replace(train=train, retrain=following)
    if made.get("retrain") is not None:
        defaults = defaults._replace(retrain=made["retrain"])
    if made.get("compare") is not None:
        defaults = defaults._replace(compare=made["compare"])
    return defaults


def _check_words(arguments: list[str]) -> None:
    """Refuse what no argument can be: an empty RUN would be the working directory, and no path has a NUL."""
    for number, word in enumerate(arguments, start=1):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            give_up(f"jaxscape: argument {number} is empty ({word!r}); is a variable of the shell not set?", code=2)
        if "\0" in word:
            give_up(f"jaxscape: argument {number} holds a NUL: {word!r}", code=2)


def _check_named_once(runs: tuple[Path, ...]) -> None:
    if len(set(runs)) < len(runs):
        raise ValueError(f"each run can be named once, got {' '.join(map(str, runs))}")


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
