"""Output that never stops the work, whatever happens to stdout and stderr.

The encoding of a console may lack `±`, the reader of a pipe may close it (`| head -1`), or the disk of a log may be
full. None of these should end hours of training.
"""

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

_IN_ASCII = {"±": "+-", "×": "x", "•": "*", "…": "...", "–": "-", "—": "-", "\N{NO-BREAK SPACE}": " "}
_BOXES = range(0x2500, 0x25A0)  # box drawing and block elements
_LINES = {"─": "-", "━": "-", "╌": "-", "═": "-", "│": "|", "┃": "|", "║": "|"}


class Output:
    """A text stream that writes what the wrapped stream can encode; it records the first error and raises none."""

    def __init__(self, stream: Any) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, with ASCII for characters that the encoding lacks; write nothing after an error."""
        if self.error is None:
            try:
                self._stream.write(_encodable(text, self._stream))
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; do nothing after an error."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def is_abandoned(self) -> bool:
        """Return whether the reader closed the pipe, which is not a failure; on Windows a closed pipe is EINVAL."""
        codes = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)
        return self.error is not None and self.error.errno in codes

    def _give_up(self, error: OSError) -> None:
        self.error = error
        # Python flushes once more at exit: send the remaining text to the null device instead of raising a traceback.
        with suppress(OSError, ValueError):  # a stream without a file has no descriptor
            descriptor = self._stream.fileno()
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, descriptor)
            os.close(null_device)


@contextmanager
def surviving_output() -> Iterator[None]:
    """Prevent output from raising errors in the body of the `with` statement.

    Raises:
        OSError: after the body succeeded, if its output could not be written; not if the reader closed the pipe.
    """
    # If a stream is closed (`>&-`), Python starts without it.
    out, error = (None if stream is None else Output(stream) for stream in (sys.stdout, sys.stderr))
    with redirect_stdout(out), redirect_stderr(error):
        try:
            yield
        finally:
            for stream in (out, error):
                if stream is not None:
                    stream.flush()
    if out is not None and out.error is not None and not out.is_abandoned:
        raise OSError(f"the work is done, but what it printed could not be written: {out.error.strerror or out.error}")


def _encodable(text: str, stream: Any) -> str:
    encoding = getattr(stream, "encoding", None)
    if encoding is None:  # the stream stores text
        return text
    try:
        text.encode(encoding, getattr(stream, "errors", None) or "strict")
    except UnicodeEncodeError:
        return text.encode(encoding, "jaxscape").decode(encoding)
    return text


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_one_in_ascii, error.object[error.start : error.end])), error.end


def _one_in_ascii(character: str) -> str:
    if ord(character) in _BOXES:
        return _LINES.get(character, "+")
    return _IN_ASCII.get(character) or character.encode("ascii", "backslashreplace").decode()


codecs.register_error("jaxscape", _in_ascii)
