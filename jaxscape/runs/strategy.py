"""The fastest strategy on this machine, measured once for each kind of work and kept for later runs."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from jaxscape.runs.environment import cache_folder
from jaxscape.training.choice import choose_strategy
from jaxscape.training.members import Update, parse_strategy
from jaxscape.training.train import TrainState
from jaxscape.trajectories.files import delete_unfinished, read_record, write_record

PyTree = Any

_SECONDS_OF_A_WRITE = 3600.0  # no process is still writing what is older


def fastest_strategy(
    update: Update, states: TrainState, data: PyTree, batches: PyTree
) -> tuple[str, dict[str, Any], str]:
    """The name of the strategy, a record of its choice ("chosen", "seconds_per_step"), and when it was measured.

    Raises:
        MemoryError: where not even one member fits into the device's memory.
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
            delete_unfinished(path.parent, older_than=_SECONDS_OF_A_WRITE)
            write_record(path, known | {choice.key: record})
    return choice.strategy, record, "measured now"


def _known_choices(path: Path) -> dict[str, Any]:
    """The choices that were measured for earlier runs; none where the file is missing or damaged."""
    try:
        known = read_record(path)
        for record in known.values():
            parse_strategy(record["chosen"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}
    return known
