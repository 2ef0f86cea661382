"""How a failing command ends: one line on stderr, and an exit code.

An error that the user can correct says what is wrong and where. Any other error is a bug: its traceback is written to a
file, not to the screen. Until an error occurs this module imports only the standard library, so that errors while the
package is imported are handled too.
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

INTERRUPTED = 130  # the convention of shells: 128 + SIGINT
_EXPECTED = (ValueError, OSError, FloatingPointError, MemoryError, ImportError)
_PACKAGES = (
    *("jaxscape-phate", "jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint"),
    *("matplotlib", "tyro", "rich"),
)


@contextmanager
def report_errors_in_one_line(name: str) -> Iterator[None]:
    """Exit with one line and a nonzero code if the body of the `with` statement raises an exception.

    Args:
        name: name of the program, which begins the line.
    """
    try:
        with surviving_output():
            try:
                yield
            except Exception as error:
                give_up(f"{name}: {_line(error)}")
            except KeyboardInterrupt:
                with _ignoring_interrupts():
                    give_up(f"{name}: interrupted; the same command resumes from the last kept epoch", code=INTERRUPTED)
    except OSError as error:  # the output could not be written
        give_up(f"{name}: {error}")


class ProblemError(Exception):
    """An error in a problem of the user's own, or in its use; the message describes it."""


@contextmanager
def locate_problem_errors() -> Iterator[None]:
    """Add the location in the user's own files to an error that passed through them.

    Raises:
        ProblemError: replaces the original error.
    """
    try:
        yield
    except _EXPECTED:
        raise
    except Exception as error:
        if place := _line_in_own_files(error):
            raise ProblemError(f"{type(error).__name__} in {place}: {describe(error)}") from error
        if isinstance(error, TypeError):  # its message says what the problem must return
            raise ProblemError(describe(error)) from error
        raise


def _line_in_own_files(error: Exception) -> str:
    """Return the innermost line outside of all libraries; "" if the traceback has none."""
    libraries = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    known = (str(Path(__file__).parents[1]), str(Path(sys.executable).parent), "<", *libraries)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{frame.filename}, line {frame.lineno}" for frame in frames if not frame.filename.startswith(known)]
    return own[-1] if own else ""


def exit_at_once_when_interrupted() -> None:
    """Let a later Ctrl-C end this process silently, since all that remains is waiting for threads."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def show_warning_in_one_line(message: Warning | str, *_: object, **__: object) -> None:
    """Print a warning in one line, without its location in the code; replaces `warnings.showwarning`."""
    if sys.stderr is not None:
        print(f"jaxscape: warning: {_printable(' '.join(str(message).split()))}", file=sys.stderr)


def describe(error: BaseException) -> str:
    """Return an error's message: without errno for operating system errors, and never empty."""
    text = str(error).strip()
    if isinstance(error, MemoryError):
        return f"out of memory: {text}" if text else "out of memory"
    if _is_device_memory_error(error):
        return f"out of memory on the device; fewer copies, or a smaller batch_size, need less ({text})"
    if isinstance(error, OSError) and error.strerror and text.startswith("[Errno"):
        return error.strerror if error.filename is None else f"cannot access {error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError) and text.startswith("No module named"):
        return f"{text}; install jaxscape again with its dependencies"
    return text or type(error).__name__


def _line(error: Exception) -> str:
    expected = isinstance(error, (*_EXPECTED, ProblemError)) or _is_device_memory_error(error)
    text, *more = describe(error).splitlines()
    if not expected:
        return _printable(
            f"this is a bug in jaxscape: {type(error).__name__}: {text}; {_write_log(error)}; please report it"
        )
    return _printable(f"{text} ({_write_log(error)})" if more or isinstance(error, ProblemError) else text)


def _is_device_memory_error(error: BaseException) -> bool:
    """Return whether an error means that device memory ran out; XLA has one exception type for all errors."""
    return isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def _printable(text: str) -> str:
    """Return the text with line breaks and other control characters, which a path may contain, escaped."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character)[0] == "C" else character
        for character in text
    )


def _write_log(error: Exception) -> str:
    """Write the details of an error to a file and return a phrase that names it. Never raises an error."""
    for folder in (_cache_folder, _temporary_folder):
        try:
            with tempfile.NamedTemporaryFile(
                "w", prefix="error-", suffix=".log", dir=folder(), delete=False, encoding="utf-8", errors="replace"
            ) as file:
                file.write(_log(error))
            return f"the traceback is in {file.name}"
        except Exception:  # must not hide the error that is being reported
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
def _ignoring_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C while a line is printed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
