"""The settings that a command line gives each run: its options, completed from the record of the run folder.

A command line is parsed once. Settings that it leaves out come from the record of the run folder, or else from the
preset that it names, so that `jaxscape train RUN` alone resumes an interrupted run. Only with `--help` and
a RUN is it parsed twice, since the help shows the settings of the run that the command line names.
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

MAX_SEEDS = 1_000_000  # more copies than fit on any machine, and few enough to list


class Line(NamedTuple):
    """A parsed command line."""

    command: Any  # the record of the command, with all of its options
    given: frozenset[str]  # names of the options that are on the command line, such as "train.epochs"
    own: Own | None  # the user's own problem, from the command line or the run's record; None is the built-in one

    def given_settings(self, stage: str) -> dict[str, Any]:
        """Return the settings of a stage that are on the command line."""
        config = getattr(self.command, stage if isinstance(self.command, Plan) else "config")
        prefix = self._prefix(stage)
        return {each.name: getattr(config, each.name) for each in fields(config) if prefix + each.name in self.given}

    def override(self, settings: Any, stage: str) -> Any:
        """Return the settings of a stage, overridden by those that are on the command line.

        Raises:
            SystemExit: if the command line has a setting that does not exist in `settings`.
        """
        given, known = self.given_settings(stage), {field.name for field in fields(settings)}
        if unknown := [name for name in given if name not in known]:
            options = ", ".join(f"--{self._prefix(stage)}{name}".replace("_", "-") for name in unknown)
            name = name_of(self.command)
            give_up(
                f"jaxscape: {options}: the run folder holds a problem of your own, which has no such "
                f"setting; jaxscape {name} RUN --help lists the settings that it has",
                code=2,
            )
        return replace(settings, **given)

    def _prefix(self, stage: str) -> str:
        return f"{stage}." if isinstance(self.command, Plan) else ""


def parse(arguments: list[str]) -> Line:
    """Parse a command line; RUN may be anywhere on it.

    Raises:
        SystemExit: for `--help`, or if the command line is invalid.
        ValueError: if the record of a run folder is damaged, or the runs have different problems.
    """
    _check_words(arguments)
    given = _given(arguments)
    defaults = Settings.for_any_problem(Own()) if "problem" in given else Settings.for_images()
    words = [word for word in arguments if word not in ("-h", "--help")]
    if words != arguments and _may_name_a_run(words):
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
    """Return the settings that a command line gives a run.

    Raises:
        SystemExit: if the command line has a setting that the run's problem does not have.
        ValueError: if the record of the run folder is damaged.
    """
    return _image_settings(line, run) if line.own is None else _own_settings(line, line.own, run)


def train_settings(line: Line) -> dict[Path, TrainSettings]:
    """Return the training settings of each run; without a seed on the command line or in a record, seeds count up.

    Raises:
        ValueError: if a run is named twice, or its record is damaged.
    """
    _check_named_once(line.command.runs)
    settings = {}
    for number, run in enumerate(line.command.runs):
        config = settings_of(line, run).train
        is_recorded = RunFolder(run).settings("train") is not None and "seed" not in line.given
        settings[run] = config if is_recorded else replace(config, seed=config.seed + number)
    return settings


def retrain_settings(line: Line) -> dict[Path, RetrainSettings]:
    """Return the retraining settings of each run.

    Raises:
        ValueError: if a run is named twice, or its record is damaged.
    """
    _check_named_once(line.command.runs)
    settings = {run: settings_of(line, run).retrain for run in line.command.runs}
    return {run: replace(config, seeds=seeds_of(line.command, config)) for run, config in settings.items()}


def seeds_of(command: Retrain | Plan | Compare, settings: RetrainSettings | CompareSettings) -> tuple[int, ...]:
    """Return the seeds of a command: from --seeds, from --seed-list, or from its settings.

    Raises:
        ValueError: if both options are given, or the number is out of range.
    """
    if command.seed_list is not None and command.seeds is not None:
        raise ValueError("give --seeds (how many) or --seed-list (which), not both")
    if command.seed_list is not None:
        return command.seed_list
    if command.seeds is None:
        return settings.seeds
    if not 1 <= command.seeds <= MAX_SEEDS:
        raise ValueError(f"seeds must be from 1 to {MAX_SEEDS}, got {command.seeds}")
    return tuple(range(command.seeds))


def key_values(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Parse options of the form key=value; a value that is written like a number becomes one, others stay strings.

    Raises:
        ValueError: for another form, or a key that is given twice.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals) or key in values:
            raise ValueError(f"{name} must be key=value, each key once, got {' '.join(words)!r}")
        values[key] = _number_or_text(value)
    return values


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
            raise ValueError(f"the runs of one command must share one problem; {run} and {runs[0]} have different ones")
    return Line(command, given, own)


def _own_problem(run: Path, own: Own, given: frozenset[str]) -> Own | None:
    """Return the user's own problem of a run: that of its record, overridden by the command line."""
    record = RunFolder(run).read_config().get("problem")
    if record is None and "problem" not in given:
        return None
    recorded = record or {}
    arguments = tuple(f"{name}={value!r}" for name, value in recorded.get("arguments", {}).items())
    on_line = {field.name: getattr(own, field.name) for field in fields(Own) if field.name in given}
    return replace(Own(recorded.get("source"), arguments), **on_line)


def _may_name_a_run(words: Sequence[str]) -> bool:
    """Return whether the help of a command line without `--help` may depend on a run: `_first_run` may find one."""
    command, *rest = words or [""]
    return command in ("train", "retrain", "plan", "compare") and any(
        word == "--" or not word.startswith("-") for word in rest
    )


def _first_run(command: Any) -> Path | None:
    """Return the run whose settings `--help` shows."""
    if isinstance(command, Train | Retrain):
        return next(iter(command.runs), None)
    return command.run if isinstance(command, Plan | Compare) else None


def _image_settings(line: Line, run: Path) -> Settings:
    settings = Settings.for_images()
    if isinstance(line.command, Train | Plan):
        settings = settings._replace(train=line.override(_train_defaults(line, run), "train"))
    if isinstance(line.command, Retrain | Plan):
        minimum: Any = settings.train if isinstance(line.command, Plan) else RunFolder(run).settings("train")
        settings = settings._replace(retrain=line.override(_retrain_defaults(run, minimum), "retrain"))
    if isinstance(line.command, Compare):
        settings = settings._replace(compare=line.override(_compare_defaults(line, run), "compare"))
    return settings


def _own_settings(line: Line, own: Own, run: Path) -> Settings:
    settings = Settings.for_any_problem(own)
    recorded = {stage: RunFolder(run).settings(stage) for stage in ("train", "retrain", "compare")}
    if (train := recorded["train"]) is not None:
        settings = settings._replace(train=TrainSettings(train.epochs, train.batch_size, train.seed))
    if isinstance(line.command, Train | Plan):
        settings = settings._replace(train=line.override(settings.train, "train"))
    if isinstance(line.command, Retrain | Plan):
        defaults = RetrainSettings(batch_size=settings.train.batch_size, order_seed=settings.train.seed)
        settings = settings._replace(retrain=line.override(recorded["retrain"] or defaults, "retrain"))
    if isinstance(line.command, Compare):
        settings = settings._replace(compare=line.override(recorded["compare"] or settings.compare, "compare"))
    return settings


def _given(arguments: Sequence[str]) -> frozenset[str]:
    """Return the names of the options on a command line, spelled like their fields."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments  # everything after "--" is a RUN
    words = [word.removeprefix("--").partition("=")[0] for word in options if word.startswith("--")]
    names = [word.replace("-", "_") for word in words]
    return frozenset([*names, *(re.sub(r"(^|\.)no_", r"\1", name) for name in names)])  # flags have a --no- form


def _check_words(arguments: list[str]) -> None:
    """Reject invalid arguments: an empty RUN would be the working directory, and a path cannot contain NUL."""
    for number, word in enumerate(arguments, start=1):
        option, equals, value = word.partition("=")
        if not word or (option.startswith("--") and equals and not value):
            give_up(f"jaxscape: argument {number} is empty ({word!r}); is a shell variable unset?", code=2)
        if "\0" in word:
            give_up(f"jaxscape: argument {number} contains a NUL character: {word!r}", code=2)


def _check_named_once(runs: tuple[Path, ...]) -> None:
    if len(set(runs)) < len(runs):
        raise ValueError(f"each run can be named once, got {' '.join(map(str, runs))}")


def _train_defaults(line: Line, run: Path) -> TrainConfig:
    """Return the recorded settings of the run, or those of a preset if the command line names another one."""
    given = line.given_settings("train")
    named = {name: given.get(name) for name in ("preset", "protocol", "dataset")}
    recorded = RunFolder(run).settings("train")
    if recorded is not None and all(value in (None, getattr(recorded, name)) for name, value in named.items()):
        return recorded
    return train_preset(named["preset"] or "good", protocol=named["protocol"], dataset=named["dataset"] or "digits")


def _compare_defaults(line: Line, run: Path) -> CompareConfig:
    """Return the recorded settings of the run, or those of a preset if the command line names another one."""
    given = line.given_settings("compare")
    named = {name: given.get(name) for name in ("protocol", "dataset")}
    recorded = RunFolder(run).settings("compare")
    if recorded is not None and all(value in (None, getattr(recorded, name)) for name, value in named.items()):
        return recorded
    return compare_preset(protocol=named["protocol"], dataset=named["dataset"] or "digits")


def _retrain_defaults(run: Path, minimum: TrainConfig | None) -> RetrainConfig:
    """Return the recorded settings of existing trajectories, or else the defaults that follow from the minimum."""
    folder = RunFolder(run)
    if folder.trajectories.exists() and (recorded := folder.settings("retrain")):
        return recorded
    return RetrainConfig() if minimum is None else retrain_preset(minimum)
