"""The command line of the experiments.

Every setting of a stage and of the scale can be overridden:

    --set train.epochs=100 retrain.learning_rate=0.01 compare.steps=4 embed.knn=10 scale.seeds=10,11,12
"""

import argparse
import ast
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from scales import SCALES, Scale
from stages import Experiment

from jaxscape.cli.main import run_script
from jaxscape.runs.config import CompareConfig, EmbedConfig, RetrainConfig, TrainConfig
from jaxscape.runs.progress import make_console


def start(main: Callable[[Experiment], None], description: str, name: str) -> None:
    """Run an experiment with the settings of its command line."""
    run_script(name, lambda: main(parse_command(description, name)))


def parse_command(description: str, name: str) -> Experiment:
    """Parse the command line of an experiment."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="quick", help="see experiments/scales.py")
    parser.add_argument(
        "--folder", type=Path, help="folder of the runs, shared by the experiments; runs/SCALE by default"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="STAGE.SETTING=VALUE",
        help="any setting of train, retrain, compare, embed or scale",
    )
    parser.add_argument(
        "--no-plan",
        action="store_true",
        help="start without a plan, whose measurements take minutes to compile on a GPU",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="also write page, figure and numbers into docs/ and benchmarks/results/",
    )
    options = parser.parse_args()
    try:
        changes = parse_changes(options.set)
    except ValueError as error:
        parser.error(str(error))
    folder = options.folder or Path("runs") / options.scale
    scale = replace(SCALES[options.scale], **changes.get("scale", {}))
    return Experiment(
        name,
        scale,
        folder,
        changes,
        make_console(),
        with_plan=not options.no_plan,
        scale_name=options.scale,
        publish=options.publish,
    )


def parse_changes(words: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Parse words such as "train.epochs=100" into settings by stage.

    Raises:
        ValueError: for another form, an unknown stage or setting (lists the known ones), or a value that is not a
            number if one is needed.
    """
    stages = {
        "train": TrainConfig,
        "retrain": RetrainConfig,
        "compare": CompareConfig,
        "embed": EmbedConfig,
        "scale": Scale,
    }
    changes: dict[str, dict[str, Any]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        stage, dot, setting = name.partition(".")
        if not (equals and dot) or stage not in stages:
            raise ValueError(f"--set takes STAGE.SETTING=VALUE with a stage of {', '.join(stages)}, got {word!r}")
        kinds = {each.name: each.type for each in fields(stages[stage])}
        if setting not in kinds:
            raise ValueError(f"unknown setting {setting!r} of {stage}; known: {', '.join(kinds)}")
        parsed = _value(value)
        if kinds[setting] in (int, float) and not isinstance(parsed, int | kinds[setting]):  # type: ignore[operator]
            raise ValueError(f"{name} must be {kinds[setting].__name__}, got {value!r}")  # type: ignore[union-attr]
        needs_tuple = "tuple[" in str(kinds[setting]) and not isinstance(parsed, tuple)
        changes.setdefault(stage, {})[setting] = (parsed,) if needs_tuple else parsed
    return changes


def _value(word: str) -> Any:
    """Return a Python literal (a number, None or a tuple), or else the word itself."""
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
