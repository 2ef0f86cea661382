"""Autotuning: the fastest execution strategy on this machine, measured once per kind of work and cached."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxscape.runs.environment import cache_folder
from jaxscape.training.choice import choose_strategy
from jaxscape.training.members import Update, parse_strategy
from jaxscape.training.train import TrainState
from jaxscape.trajectories.files import delete_unfinished, read_record, write_record

PyTree = Any

_STALE_SECONDS = 3600.0  # unfinished files older than this are of a process that is gone


def fastest_strategy(
    update: Update, states: TrainState, data: PyTree, batches: PyTree
) -> tuple[str, dict[str, Any], str]:
    """Return the fastest strategy, the record of its choice ("chosen", "seconds_per_step"), and when it was measured.

    Raises:
        MemoryError: if not even one member fits into the device's memory.
    """
    cache = cache_folder()
    path = None if cache is None else cache / "strategies.json"
    known = {} if path is None else _known_choices(path)
    earlier = {key: record["chosen"] for key, record in known.items()}
    choice = choose_strategy(update, states, data, batches, known=earlier)
    if choice.key in known:
        return choice.strategy, known[choice.key], "measured before"
    record = {"chosen": choice.strategy, "seconds_per_step": choice.seconds}
    if path is not None:
        with suppress(OSError):
            delete_unfinished(path.parent, older_than=_STALE_SECONDS)
            write_record(path, known | {choice.key: record})
    return choice.strategy, record, "measured now"


def _known_choices(path: Path) -> dict[str, Any]:
    """Return the choices that were measured for earlier runs; {} if the file is missing or damaged."""
    try:
        known = read_record(path)
        for record in known.values():
            parse_strategy(record["chosen"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return known
