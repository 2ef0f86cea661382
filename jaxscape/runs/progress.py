"""Progress of a stage: a bar with the remaining time in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_UNBOUNDED = 10_000  # columns


def make_console(*, silent: bool = False) -> Console:
    """Return a console that prints text verbatim: no coloured numbers, no markup, no wrapped paths.

    Outside of a terminal, tables are as wide as their rows, so that a pipe or a log gets each row in one line.
    """
    console = Console(
        highlight=False, markup=False, soft_wrap=True, quiet=silent, force_terminal=False if silent else None
    )
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


def name_runs(runs: Sequence[Path], *, most: int = 5) -> str:
    """Return the names of run folders as text, of many only the first ones and the number of the others."""
    names = [run.name for run in runs]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def track[T](
    items: Iterable[T],
    *,
    title: str,
    total: int,
    console: Console,
    describe: Callable[[T], str],
    every: int = 1,
    before: int = 0,
) -> Iterator[T]:
    """Yield items and show the progress, with the remaining time.

    Args:
        items: the items; computing each of them takes time.
        title: description of the work.
        total: number of items.
        console: where to print: a bar if it is a terminal, otherwise lines.
        describe: returns a short note about an item, shown once the item is done.
        every: number of items per line.
        before: number of items at the beginning that are not counted, such as epoch 0.
    """
    with progress(title=title, total=total, console=console, every=every) as show:
        for count, item in enumerate(items, start=1 - before):
            show(count, describe(item))
            yield item


@contextmanager
def progress(
    *, title: str, total: int, console: Console, every: int = 1, first: int = 0
) -> Iterator[Callable[[int, str], None]]:
    """Show the progress of some work, with the remaining time.

    Args:
        title: description of the work.
        total: amount of work.
        console: where to print: a bar if it is a terminal, otherwise lines.
        every: amount of work between two lines.
        first: amount of work that was done before.

    Yields:
        `show(done, note)`, to be called with the amount of work done, and a short note or "".
    """
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=first, note="")
            yield lambda done, note: bar.update(task, completed=done, note=note)
        return
    started, shown = time.monotonic(), first

    def show(done: int, note: str) -> None:
        nonlocal shown
        if done // every > shown // every or shown < done == total:
            shown = done
            left = (time.monotonic() - started) / (done - first) * (total - done)
            console.print(f"{title}: {', '.join(filter(None, (f'{done}/{total}', f'{left:.0f} s left', note)))}")

    yield show
