"""The commands that reproduce a run and its measurements, with the options that differ from the defaults."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from jaxscape.runs.config import (
    CompareSettings,
    EmbedConfig,
    MinimumSettings,
    RetrainSettings,
    TrainSettings,
    compare_preset,
    from_record,
    retrain_preset,
    train_preset,
)
from jaxscape.runs.embeddings import embeddings, read_setting
from jaxscape.runs.folder import JOINT, RECORDED, RunFolder
from jaxscape.runs.kept import RECORD, kept_names
from jaxscape.runs.landscape_config import CurvatureConfig, MeasurementSettings, PathConfig, SurfaceConfig
from jaxscape.runs.methods import METHODS
from jaxscape.trajectories.files import read_record

# A stage of the landscape -> the folder of its measurements in a run, and the class of its settings.
_MEASUREMENTS: dict[str, tuple[Callable[[RunFolder], Path], type[MeasurementSettings]]] = {
    "surface": (lambda run: run.surfaces, SurfaceConfig),
    "path": (lambda run: run.paths, PathConfig),
    "curvature": (lambda run: run.curvature, CurvatureConfig),
}


def commands(run: Path) -> list[str]:
    """Return the command lines that make the trajectories of a run, embed them and measure its landscape.

    What was done from Python appears as a comment.
    """
    run = RunFolder(run)
    return [*_stage_commands(run), *_embed_commands(run), *_landscape_commands(run)]


def _stage_commands(run: RunFolder) -> Iterator[str]:
    record, kind = run.read_config(), run.kind
    problem = record.get("problem")
    if kind is RECORDED:
        yield f"# {str(run)!r} is a training that was recorded: Run.record, or jaxscape import"
        return
    if kind is JOINT:
        return  # `_embed_commands` names the runs
    if problem is not None and not problem.get("source"):
        yield f"# {str(run)!r} was started from Python, with a problem of its own: Run.{kind.stage}"
        return
    for stage in (*kind.before, kind.stage):
        settings = run.settings(stage)
        if settings is None:
            continue
        if isinstance(settings, MinimumSettings) and settings.given:
            yield f"# the minimum of {str(run)!r} was set from Python: Run.set_minimum"
            continue
        words = ["jaxscape", stage, str(run)]
        if problem is not None:
            yield _line([*words, *_problem_options(problem), *_options(settings, _defaults_of_own(run, stage))])
        else:
            yield _line([*words, *_options(settings, _defaults(run, stage, settings))])


def _defaults(run: RunFolder, stage: str, settings: Any) -> Any:
    """Return the defaults of the command line for the built-in problem, given the preset."""
    if stage == "train":
        return train_preset(settings.preset, protocol=settings.protocol, dataset=settings.dataset)
    if stage == "retrain":
        return retrain_preset(run.settings("train"))
    return compare_preset(protocol=settings.protocol, dataset=settings.dataset)


def _defaults_of_own(run: RunFolder, stage: str) -> Any:
    if stage == "train":
        return TrainSettings()
    if stage == "retrain":
        minimum = run.settings("train")
        return RetrainSettings(batch_size=minimum.batch_size, order_seed=minimum.seed)
    return CompareSettings()


def _problem_options(problem: Mapping[str, Any]) -> list[str]:
    """Return the options that name a problem of the user's own."""
    arguments = [f"{name}={value}" for name, value in problem.get("arguments", {}).items()]
    return ["--problem", str(problem["source"]), *(["--problem-args", *arguments] if arguments else [])]


def _options(settings: Any, defaults: Any) -> list[str]:
    """Return the options for settings that differ from the defaults, and for the preset that sets the defaults."""
    words: list[str] = []
    named = {"preset": "good", "dataset": "digits"}
    if isinstance(getattr(settings, "protocol", None), str):
        named["protocol"] = train_preset("good", dataset=settings.dataset).protocol
    known = {field.name for field in fields(defaults)}
    for field in fields(settings):
        name, value = field.name, getattr(settings, field.name)
        default = named.get(name, getattr(defaults, name) if name in known else None)
        if name in ("given", "data_dir") or value == default:
            continue
        # On the command line, --seeds is the number of directions of the copies, but the list of seeds of a surface.
        is_counted = name == "seeds" and not isinstance(settings, MeasurementSettings)
        option = "--" + ("seed_list" if is_counted else name).replace("_", "-")
        words += [option, *map(_word, value)] if isinstance(value, tuple) else _option(option, value)
    return words


def _option(option: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    return [option, _word(value)]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _embed_commands(run: RunFolder) -> Iterator[str]:
    for setting in embeddings(run):
        config = read_setting(run, setting)
        if config is None:
            continue
        sources = [str(run)]
        if run.kind is JOINT:
            joint = run.settings(JOINT.stage)
            sources = [*joint.runs, "--into", str(run), *(["--group", joint.group] if joint.group != "run" else [])]
        words = _options(config, EmbedConfig(method=config.method, metric=METHODS[config.method].metric))
        words = ["--method", config.method, *words] if config.method != EmbedConfig().method or words else []
        yield _line(["jaxscape", "embed", *sources, *words])


def _landscape_commands(run: RunFolder) -> Iterator[str]:
    is_own = run.read_config().get("problem") is not None or run.kind is RECORDED
    for stage, (folder_of, config) in _MEASUREMENTS.items():
        for name in kept_names(folder_of(run)):
            try:
                record = read_record(folder_of(run) / name / RECORD)
                inputs = record["made_of"]
                settings = from_record(config, inputs["setting"])
                problem, others = inputs["problem"], [record["other"]] if stage == "path" else []
            except (OSError, ValueError, LookupError, TypeError):
                continue  # `jaxscape info` reports what is damaged
            # The command line cannot express which units of the user's own network may be permuted.
            if is_own and (not problem.get("source") or (stage == "path" and inputs["matched"])):
                yield f"# {stage} {name} of {str(run)!r} was measured from Python: Run.{stage}"
                continue
            words = ["jaxscape", stage, str(run), *others, *(_problem_options(problem) if is_own else [])]
            yield _line([*words, *_options(settings, config())])


def _line(words: list[str]) -> str:
    return " ".join(map(shlex.quote, words))
