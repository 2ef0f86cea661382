"""The commands that make a run and its measurements again, from its record: options that are not the defaults."""

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

# A stage of the landscape -> where a run keeps its measurements, and its settings.
_MEASUREMENTS: dict[str, tuple[Callable[[RunFolder], Path], type[MeasurementSettings]]] = {
    "surface": (lambda run: run.surfaces, SurfaceConfig),
    "path": (lambda run: run.paths, PathConfig),
    "curvature": (lambda run: run.curvature, CurvatureConfig),
}


def commands(run: Path) -> list[str]:
    """Return the lines that make the trajectories of a run, embed them and measure its landscape.

    What Python began is a comment.
    """
    run = RunFolder(run)
    return [*_makes(run), *_embeds(run), *_measures(run)]


def _makes(run: RunFolder) -> Iterator[str]:
    record, kind = run.read_config(), run.kind
    problem = record.get("problem")
    if kind is RECORDED:
        yield f"# {str(run)!r} is a training that was recorded: Run.record, or jaxscape import"
        return
    if kind is JOINT:
        return  # `_embeds` names the runs
    if problem is not None and not problem.get("source"):
        yield f"# {str(run)!r} was begun in Python, with a problem of its own: Run.{kind.stage}"
        return
    for stage in (*kind.before, kind.stage):
        asked = run.settings(stage)
        if asked is None:
            continue
        if isinstance(asked, MinimumSettings) and asked.given:
            yield f"# the minimum of {str(run)!r} was given in Python: Run.set_minimum"
            continue
        words = ["jaxscape", stage, str(run)]
        if problem is not None:
            yield _line([*words, *_names(problem), *_options(asked, _defaults_of_own(run, stage))])
        else:
            yield _line([*words, *_options(asked, _defaults(run, stage, asked))])


def _defaults(run: RunFolder, stage: str, asked: Any) -> Any:
    """What the command line takes for the built-in problem where nothing is said, once the preset is named."""
    if stage == "train":
        return train_preset(asked.preset, protocol=asked.protocol, dataset=asked.dataset)
    if stage == "retrain":
        return retrain_preset(run.settings("train"))
    return compare_preset(protocol=asked.protocol, dataset=asked.dataset)


def _defaults_of_own(run: RunFolder, stage: str) -> Any:
    if stage == "train":
        return TrainSettings()
    if stage == "retrain":
        minimum = run.settings("train")
        return RetrainSettings(batch_size=minimum.batch_size, order_seed=minimum.seed)
    return CompareSettings()


def _names(problem: Mapping[str, Any]) -> list[str]:
    """The options that name a problem of the user's own."""
    arguments = [f"{name}={value}" for name, value in problem.get("arguments", {}).items()]
    return ["--problem", str(problem["source"]), *(["--problem-args", *arguments] if arguments else [])]


def _options(asked: Any, defaults: Any) -> list[str]:
    """The settings that differ from the defaults, and the preset that the defaults follow from."""
    words: list[str] = []
    named = {"preset": "good", "dataset": "digits"}
    if isinstance(getattr(asked, "protocol", None), str):
        named["protocol"] = train_preset("good", dataset=asked.dataset).protocol
    known = {field.name for field in fields(defaults)}
    for field in fields(asked):
        name, value = field.name, getattr(asked, field.name)
        default = named.get(name, getattr(defaults, name) if name in known else None)
        if name in ("given", "data_dir") or value == default:
            continue
        # `seeds` of copies is their number on the command line; of a surface's directions it is what it says.
        is_counted = name == "seeds" and not isinstance(asked, MeasurementSettings)
        option = "--" + ("seed_list" if is_counted else name).replace("_", "-")
        words += [option, *map(_word, value)] if isinstance(value, tuple) else _said(option, value)
    return words


def _said(option: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    return [option, _word(value)]


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _embeds(run: RunFolder) -> Iterator[str]:
    for setting in embeddings(run):
        asked = read_setting(run, setting)
        if asked is None:
            continue
        sources = [str(run)]
        if run.kind is JOINT:
            joint = run.settings(JOINT.stage)
            sources = [*joint.runs, "--into", str(run), *(["--group", joint.group] if joint.group != "run" else [])]
        words = _options(asked, EmbedConfig(method=asked.method, metric=METHODS[asked.method].metric))
        words = ["--method", asked.method, *words] if asked.method != EmbedConfig().method or words else []
        yield _line(["jaxscape", "embed", *sources, *words])


def _measures(run: RunFolder) -> Iterator[str]:
    is_own = run.read_config().get("problem") is not None or run.kind is RECORDED
    for stage, (of_stage, config) in _MEASUREMENTS.items():
        for name in kept_names(of_stage(run)):
            try:
                record = read_record(of_stage(run) / name / RECORD)
                made = record["made_of"]
                asked = from_record(config, made["setting"])
                problem, others = made["problem"], [record["other"]] if stage == "path" else []
            except (OSError, ValueError, LookupError, TypeError):
                continue  # `jaxscape info` names what is damaged
            # Which units of one's own network can change places is known to Python alone.
            if is_own and (not problem.get("source") or (stage == "path" and made["matched"])):
                yield f"# {stage} {name} of {str(run)!r} was measured in Python: Run.{stage}"
                continue
            words = ["jaxscape", stage, str(run), *others, *(_names(problem) if is_own else [])]
            yield _line([*words, *_options(asked, config())])


def _line(words: list[str]) -> str:
    return " ".join(map(shlex.quote, words))
