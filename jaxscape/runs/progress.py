"""What a user sees while a stage runs: a bar with time left in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_UNBOUNDED = 10_000  # columns


def make_console(*, silent: bool = False) -> Console:
    """A console that prints text as it is: no colours for numbers, no brackets read as styles, no broken paths.

    Tables are as wide as their rows where nobody's window bounds them: a pipe or a log gets each row as one line.
    """
    console = Console(
        highlight=False, markup=False, soft_wrap=True, quiet=silent, force_terminal=False if silent else None
    )
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def name_runs(runs: Sequence[Path], *, most: int = 5) -> str:
    """The names of run folders that go together; of many the first ones, and how many more."""
    names = [run.name for run in runs]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def track[T](
    items: Iterable[T], *, title: str, total: int, console: Console, describe: Callable[[T], str], every: int = 1
) -> Iterator[T]:
    """Pass items on and show how far they are, with the time left.

    Args:
        items: what takes time.
        title: what is done.
        total: how many items there are.
        console: where to print; a bar where it is a terminal, otherwise lines.
        describe: a few words on an item, shown when it is there.
        every: items a line.
    """
    if console.is_terminal:
        return _bar(items, title, total, console, describe)
    return _lines(items, title, total, console, describe, every)


def _bar[T](items: Iterable[T], title: str, total: int, console: Console, describe: Callable[[T], str]) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=total, note="")
        for item in items:
            progress.update(task, advance=1, note=describe(item))
            yield item


def _lines[T](
    items: Iterable[T], title: str, total: int, console: Console, describe: Callable[[T], str], every: int
) -> Iterator[T]:
    started = time.monotonic()
    for count, item in enumerate(items, start=1):
        if count % every == 0 or count == total:
            left = (time.monotonic() - started) / count * (total - count)
            words = ", ".join(filter(None, (f"{count}/{total}", f"{left:.0f} s left", describe(item))))
            console.print(f"{title}: {words}")
        yield item
