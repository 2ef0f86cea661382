"""From a command line to what it asks of each run: its own words, and the settings of the run folder beside them.

A line is read once. What it does not say follows from the record of the run folder, else from the preset that it
names: so `jaxscape train RUN` alone goes on with an interrupted run. `--help` alone is read twice, for it shows the
settings of the run that the line names.
"""

import re
from collections.abc import Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import fields, replace
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from jaxscape.cli.commands import (
    Compare,
    Curvature,
    Embed,
    Own,
    PathCommand,
    Plan,
    Report,
    Retrain,
    Settings,
    Surface,
    Train,
    name_of,
    read,
)
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


class Line(NamedTuple):
    """A command line that was read."""

    command: Any  # with all of its options
    given: frozenset[str]  # the names of those that stand on the line, such as "train.epochs"
    own: Own | None  # the user's own problem, of the line or of the run's record; None is the built-in one

    def said(self, stage: str) -> dict[str, Any]:
        """Return the settings of a stage that stand on the line."""
        read = getattr(self.command, stage if isinstance(self.command, Plan) else "config")
        prefix = self._prefix(stage)
        return {each.name: getattr(read, each.name) for each in fields(read) if prefix + each.name in self.given}

    def over(self, settings: Any, stage: str) -> Any:
        """Return the settings of a stage, with what the line says in place of some.

        Raises:
            SystemExit: where the line says what these settings do not have.
        """
        said, known = self.said(stage), {field.name for field in fields(settings)}
        if strange := [name for name in said if name not in known]:
            options = ", ".join(f"--{self._prefix(stage)}{name}".replace("_", "-") for name in strange)
            name = name_of(self.command)
            give_up(
                f"jaxscape: {options}: the run folder holds a problem of your own, which has no such "
                f"setting; jaxscape {name} RUN --help lists those that it has",
                code=2,
            )
        return replace(settings, **said)

    def _prefix(self, stage: str) -> str:
        return f"{stage}." if isinstance(self.command, Plan) else ""


def parse(arguments: list[str]) -> Line:
    """Read a command line; RUN may stand anywhere on it.

    Raises:
        SystemExit: for `--help`, and for what is no command line.
        ValueError: where the record of a run folder is damaged, or runs have different problems.
    """
    _check_words(arguments)
    given = _given(arguments)
    defaults = Settings.of_any(Own()) if "problem" in given else Settings.of_images()
    words = [word for word in arguments if word not in ("-h", "--help")]
    if words != arguments:
        command = None
        with suppress(SystemExit), redirect_stderr(StringIO()):
            command = read(words, defaults)
        if (run := _first_run(command)) is not None:
            defaults = settings_of(_line(command, given), run)
    command = read(arguments, defaults)
    if isinstance(command, Train | Retrain | Embed | Report) and not command.runs:
        name = name_of(command)
        give_up(f"jaxscape: {name} needs RUN, a run folder, or several; see jaxscape {name} --help", code=2)
    return _line(command, given)


def settings_of(line: Line, run: Path) -> Settings:
    """Return what a line asks of a run.

    Raises:
        SystemExit: where the line has a setting that the run's problem has not.
        ValueError: where the record of the run folder is damaged.
    """
    return _of_images(line, run) if line.own is None else _of_own(line, line.own, run)


def train_settings(line: Line) -> dict[Path, TrainSettings]:
    """Return what is asked of each run; a seed that is neither on the command line nor in the run's record counts on.

    Raises:
        ValueError: for a run that is named twice, or damaged.
    """
    _check_named_once(line.command.runs)
    settings = {}
    for number, run in enumerate(line.command.runs):
        config = settings_of(line, run).train
        kept = RunFolder(run).settings("train") is not None and "seed" not in line.given
        settings[run] = config if kept else replace(config, seed=config.seed + number)
    return settings


def retrain_settings(line: Line) -> dict[Path, RetrainSettings]:
    """Return what is asked of each run.

    Raises:
        ValueError: for a run that is named twice, or damaged.
    """
    _check_named_once(line.command.runs)
    found = {run: settings_of(line, run).retrain for run in line.command.runs}
    return {run: replace(each, seeds=seeds_of(line.command, each)) for run, each in found.items()}


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


def _line(command: Any, given: frozenset[str]) -> Line:
    if not isinstance(command, Train | Retrain | Compare | Plan | Surface | PathCommand | Curvature):
        return Line(command, given, None)
    runs = command.runs if isinstance(command, Train | Retrain) else (command.run,)
    own, *others = [_own_problem(run, command.own, given) for run in runs]
    for run, other in zip(runs[1:], others, strict=True):
        if other != own:
            raise ValueError(f"the runs of one command must have one problem, and {run} has another than {runs[0]}")
    return Line(command, given, own)


def _own_problem(run: Path, asked: Own, given: frozenset[str]) -> Own | None:
    """The problem of the user's own that a run learns: what the line says of it, and the run's record beside it."""
    record = RunFolder(run).read_config().get("problem")
    if record is None and "problem" not in given:
        return None
    made = record or {}
    arguments = tuple(f"{name}={value!r}" for name, value in made.get("arguments", {}).items())
    said = {field.name: getattr(asked, field.name) for field in fields(Own) if field.name in given}
    return replace(Own(made.get("source"), arguments), **said)


def _first_run(command: Any) -> Path | None:
    """The run whose settings `--help` shows."""
    if isinstance(command, Train | Retrain):
        return next(iter(command.runs), None)
    return command.run if isinstance(command, Plan | Compare) else None


def _of_images(line: Line, run: Path) -> Settings:
    settings = Settings.of_images()
    if isinstance(line.command, Train | Plan):
        settings = settings._replace(train=line.over(_train_defaults(line, run), "train"))
    if isinstance(line.command, Retrain | Plan):
        minimum: Any = settings.train if isinstance(line.command, Plan) else RunFolder(run).settings("train")
        settings = settings._replace(retrain=line.over(_retrain_defaults(run, minimum), "retrain"))
    if isinstance(line.command, Compare):
        settings = settings._replace(compare=line.over(_compare_defaults(line, run), "compare"))
    return settings


def _of_own(line: Line, own: Own, run: Path) -> Settings:
    settings = Settings.of_any(own)
    made = {stage: RunFolder(run).settings(stage) for stage in ("train", "retrain", "compare")}
    if (found := made["train"]) is not None:
        settings = settings._replace(train=TrainSettings(found.epochs, found.batch_size, found.seed))
    if isinstance(line.command, Train | Plan):
        settings = settings._replace(train=line.over(settings.train, "train"))
    if isinstance(line.command, Retrain | Plan):
        following = RetrainSettings(batch_size=settings.train.batch_size, order_seed=settings.train.seed)
        settings = settings._replace(retrain=line.over(made["retrain"] or following, "retrain"))
    if isinstance(line.command, Compare):
        settings = settings._replace(compare=line.over(made["compare"] or settings.compare, "compare"))
    return settings


def _given(arguments: Sequence[str]) -> frozenset[str]:
    """The names of the options on a line, as their fields are called."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments  # after it everything is a RUN
    words = [word.removeprefix("--").partition("=")[0] for word in options if word.startswith("--")]
    names = [word.replace("-", "_") for word in words]
    return frozenset([*names, *(re.sub(r"(^|\.)no_", r"\1", name) for name in names)])  # a flag is set, or unset


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


def _train_defaults(line: Line, run: Path) -> TrainConfig:
    """What the run was asked for, unless the command line names another preset."""
    said = line.said("train")
    named = {name: said.get(name) for name in ("preset", "protocol", "dataset")}
    made = RunFolder(run).settings("train")
    if made is not None and all(value in (None, getattr(made, name)) for name, value in named.items()):
        return made
    return train_preset(named["preset"] or "good", protocol=named["protocol"], dataset=named["dataset"] or "digits")


def _compare_defaults(line: Line, run: Path) -> CompareConfig:
    """What the run was asked for, unless the command line names another preset."""
    said = line.said("compare")
    named = {name: said.get(name) for name in ("protocol", "dataset")}
    made = RunFolder(run).settings("compare")
    if made is not None and all(value in (None, getattr(made, name)) for name, value in named.items()):
        return made
    return compare_preset(protocol=named["protocol"], dataset=named["dataset"] or "digits")


def _retrain_defaults(run: Path, minimum: TrainConfig | None) -> RetrainConfig:
    """What the kept trajectories were asked for, else what follows from the minimum."""
    folder = RunFolder(run)
    if folder.trajectories.exists() and (made := folder.settings("retrain")):
        return made
    return RetrainConfig() if minimum is None else retrain_preset(minimum)
