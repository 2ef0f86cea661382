"""How a command ends that cannot do its work: one line on stderr, and the exit code.

What the user can mend says what and where. What cannot happen is a bug: its traceback goes to a file, not to the
screen. Nothing here imports more than the standard library before something has failed, so that the imports of the
package are covered too.
"""

import os
import platform
import signal
import sys
import sysconfig
import tempfile
import threading
import traceback
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from jaxscape.cli.output import surviving_output
from jaxscape.runs.processes import give_up

INTERRUPTED = 130  # as shells count it: 128 + SIGINT
_EXPECTED = (ValueError, OSError, FloatingPointError, MemoryError, ImportError)
_PACKAGES = (
    *("jaxscape-phate", "jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint"),
    *("matplotlib", "tyro", "rich"),
)


@contextmanager
def failing_in_a_line(name: str) -> Iterator[None]:
    """End the process with one line and a code other than 0 where an exception comes out of the work within.

    Args:
        name: of the program, in front of the line.
    """
    try:
        with surviving_output():
            try:
                yield
            except Exception as error:
                give_up(f"{name}: {_line(error)}")
            except KeyboardInterrupt:
                with _undisturbed():
                    give_up(f"{name}: interrupted; the same command resumes from the last kept epoch", code=INTERRUPTED)
    except OSError as error:  # of what was printed
        give_up(f"{name}: {error}")


class ProblemError(Exception):
    """An error in a problem of the user's own, or in how it is used; in words."""


@contextmanager
def naming_the_line_of_a_problem() -> Iterator[None]:
    """Say where in the user's own files an error lies that came through them.

    Raises:
        ProblemError: in its place.
    """
    try:
        yield
    except _EXPECTED:
        raise
    except Exception as error:
        if place := _line_in_own_files(error):
            raise ProblemError(f"{type(error).__name__} in {place}: {describe(error)}") from error
        if isinstance(error, TypeError):  # what a problem must give stands in the text
            raise ProblemError(describe(error)) from error
        raise


def _line_in_own_files(error: Exception) -> str:
    """The innermost line of files that are no library's; "" where the error came through none."""
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    known = (str(Path(__file__).parents[1]), str(Path(sys.executable).parent), "<", *libraries)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{frame.filename}, line {frame.lineno}" for frame in frames if not frame.filename.startswith(known)]
    return own[-1] if own else ""


def end_at_once_when_interrupted() -> None:
    """Let a later Ctrl-C end this process without a word: what is left to do is to wait for threads."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def warn_in_a_line(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning as one line, in place of `warnings.showwarning`: where it was raised says nothing to a user."""
    if sys.stderr is not None:
        print(f"jaxscape: warning: {_printable(' '.join(str(message).split()))}", file=sys.stderr)


def describe(error: BaseException) -> str:
    """Return an error in words: what the system says of a file without its number, and never an empty text."""
    text = str(error).strip()
    if isinstance(error, MemoryError):
        return f"out of memory: {text}" if text else "out of memory"
    if _is_of_device_memory(error):
        return f"out of memory on the device; fewer copies, or a smaller batch_size, need less ({text})"
    if isinstance(error, OSError) and error.strerror and text.startswith("[Errno"):
        return error.strerror if error.filename is None else f"cannot access {error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and text.startswith("No module named"):
        return f"{text}; install jaxscape again, with all that it depends on"
    return text or type(error).__name__


def _line(error: Exception) -> str:
    expected = isinstance(error, (*_EXPECTED, ProblemError)) or _is_of_device_memory(error)
    text, *more = describe(error).splitlines()
    if not expected:
        return _printable(
            f"this is a bug in jaxscape: {type(error).__name__}: {text}; {_kept(error)}; please report it"
        )
    return _printable(f"{text} ({_kept(error)})" if more or isinstance(error, ProblemError) else text)


def _is_of_device_memory(error: BaseException) -> bool:
    """XLA has one exception for everything."""
    return isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def _printable(text: str) -> str:
    """The text without line ends and other control characters, which a path may have."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character)[0] == "C" else character
        for character in text
    )


def _kept(error: Exception) -> str:
    """Write all that is known of an error to a file, and say where it is. Never fails."""
    for folder in (_cache_folder, _temporary_folder):
        try:
            with tempfile.NamedTemporaryFile(
                "w", prefix="error-", suffix=".log", dir=folder(), delete=False, encoding="utf-8", errors="replace"
            ) as file:
                file.write(_log(error))
            return f"the traceback is in {file.name}"
        except Exception:  # the error that is reported is another one
            continue
    return "the traceback could not be written to a file"


def _cache_folder() -> Path:
    from jaxscape.runs.environment import cache_folder

    folder = cache_folder()
    if folder is None:
        raise OSError("there is no cache folder")
    (folder / "errors").mkdir(exist_ok=True)
    return folder / "errors"


def _temporary_folder() -> Path:
    return Path(tempfile.gettempdir())


def _log(error: Exception) -> str:
    versions = [f"{package} {_version(package)}" for package in _PACKAGES]
    lines = [
        f"command: {' '.join(map(repr, sys.argv))}",
        f"folder: {os.getcwd()}",
        f"python {platform.python_version()} on {platform.platform()}",
        f"versions: {', '.join(versions)}",
        "",
        *traceback.format_exception(error),
    ]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C for the time that a line takes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
