"""What a user sees while a stage runs: a bar with time left in a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
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
    with progress(title=title, total=total, console=console, every=every) as say:
        for count, item in enumerate(items, start=1):
            say(count, describe(item))
            yield item


@contextmanager
def progress(
    *, title: str, total: int, console: Console, every: int = 1, first: int = 0
) -> Iterator[Callable[[int, str], None]]:
    """Show how far something is, with the time left.

    Args:
        title: what is done.
        total: how much there is to do.
        console: where to print; a bar where it is a terminal, otherwise lines.
        every: how much of it is done between two lines.
        first: how much was done before.

    Yields:
        `say(done, note)`, to be called with how much is done, and a few words or none.
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
    started, said = time.monotonic(), first

    def say(done: int, note: str) -> None:
        nonlocal said
        if done // every > said // every or said < done == total:
            said = done
            left = (time.monotonic() - started) / (done - first) * (total - done)
            console.print(f"{title}: {', '.join(filter(None, (f'{done}/{total}', f'{left:.0f} s left', note)))}")

    yield say
