"""The commands that make a run again, from its record: options that are not the defaults, those alone."""

import shlex
from collections.abc import Iterator
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
    retrain_preset,
    train_preset,
)
from jaxscape.runs.embeddings import embeddings, read_setting
from jaxscape.runs.folder import JOINT, RECORDED, RunFolder
from jaxscape.runs.methods import METHODS


def commands(run: Path) -> list[str]:
    """Return the lines that make the trajectories of a run and embed them; what Python began is a comment."""
    run = RunFolder(run)
    return [*_makes(run), *_embeds(run)]


def _makes(run: RunFolder) -> Iterator[str]:
    record, kind = run.read_config(), run.kind
    problem = record.get("problem")
    if kind is RECORDED:
        yield f"# {run} is a training that was recorded: Run.record, or jaxscape import"
        return
    if kind is JOINT:
        return  # `_embeds` names the runs
    if problem is not None and not problem.get("source"):
        yield f"# {run} was begun in Python, with a problem of its own: Run.{kind.stage}"
        return
    for stage in (*kind.before, kind.stage):
        asked = run.settings(stage)
        if asked is None:
            continue
        if isinstance(asked, MinimumSettings) and asked.given:
            yield f"# the minimum of {run} was given in Python: Run.set_minimum"
            continue
        words = ["jaxscape", stage, str(run)]
        if problem is not None:
            words += ["--problem", str(problem["source"])]
            arguments = [f"{name}={value}" for name, value in problem.get("arguments", {}).items()]
            words += ["--problem-args", *arguments] if arguments else []
            yield _line([*words, *_options(asked, _defaults_of_own(run, stage))])
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
        option = "--" + ("seed_list" if name == "seeds" else name).replace("_", "-")
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


def _line(words: list[str]) -> str:
    return " ".join(map(shlex.quote, words))
