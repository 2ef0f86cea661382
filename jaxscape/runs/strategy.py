"""Autotuning: the fastest execution strategy on this machine, measured once or twice per kind of work and cached."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxscape.runs.environment import cache_folder
from jaxscape.training.choice import choose_strategy
from jaxscape.training.members import Update, parse_strategy
from jaxscape.training.train import TrainState
from jaxscape.trajectories.files import delete_unfinished, read_record, write_record

PyTree = Any

_VALID_SECONDS = 3600.0  # of a choice that was measured once
_STALE_SECONDS = 3600.0  # unfinished files older than this are of a process that is gone


def fastest_strategy(
    update: Update, states: TrainState, data: PyTree, batches: PyTree
) -> tuple[str, dict[str, Any], str]:
    """Return the fastest strategy, the record of its choice ("chosen", "seconds_per_step"), and when it was measured.

    Other programs that run during a measurement can make the wrong strategy look fastest. A measurement whose rounds
    disagree is therefore not cached, and decides only if there is no earlier one. A consistent one is cached for an
    hour, since other programs may be gone by then. If the next one chooses the same strategy, the choice is permanent.

    Raises:
        MemoryError: if not even one member fits into the device's memory.
    """
    cache = cache_folder()
    path = None if cache is None else cache / "strategies.json"
    known = {} if path is None else _known_choices(path)
    valid = {key: entry["chosen"] for key, entry in known.items() if _is_valid(entry)}
    choice = choose_strategy(update, states, data, batches, known=valid)
    if choice.key in valid:
        return choice.strategy, _record(known[choice.key]), "measured before"
    before = known.get(choice.key)
    if before is not None and not choice.consistent:
        return before["chosen"], _record(before), "measured before, as the times of a new measurement disagree"
    record = {"chosen": choice.strategy, "seconds_per_step": choice.seconds}
    if not choice.consistent:
        return choice.strategy, record, "measured now; not cached, as the times of its repetitions disagree"
    if path is not None:
        confirmed = before is not None and before["chosen"] == choice.strategy
        entry = record | {"measured": time.time(), "confirmed": confirmed}
        with suppress(OSError):
            delete_unfinished(path.parent, older_than=_STALE_SECONDS)
            write_record(path, known | {choice.key: entry})
    return choice.strategy, record, "measured now"


def _is_valid(entry: dict[str, Any]) -> bool:
    """Return whether a cached choice may be used without another measurement."""
    return entry.get("confirmed", False) or 0 <= time.time() - entry.get("measured", 0.0) < _VALID_SECONDS


def _record(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("chosen", "seconds_per_step")}


def _known_choices(path: Path) -> dict[str, Any]:
    """Return the choices that were measured for earlier runs; {} if the file is missing or damaged."""
    try:
        known = read_record(path)
        for entry in known.values():
            parse_strategy(entry["chosen"])
            _record(entry), _is_valid(entry)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return known
