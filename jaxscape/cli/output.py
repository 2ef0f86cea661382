"""What is printed reaches its reader as far as that is possible, and never stops the work.

A console may have an encoding without `±`, a pipe may be closed by its reader (`| head -1`), the disk of a log may be
full: hours of training do not end for that.
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
    """A text stream that writes what another one can take, and remembers the first error instead of raising it."""

    def __init__(self, stream: Any) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, with what the encoding lacks in ASCII; nothing after an error."""
        if self.error is None:
            try:
                self._stream.write(_encodable(text, self._stream))
            except OSError as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flush the stream; nothing after an error."""
        if self.error is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._give_up(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def is_abandoned(self) -> bool:
        """Whether the reader went away, which is no fault of anyone; on Windows a closed pipe is EINVAL."""
        codes = (errno.EPIPE, errno.EINVAL) if sys.platform == "win32" else (errno.EPIPE,)
        return self.error is not None and self.error.errno in codes

    def _give_up(self, error: OSError) -> None:
        self.error = error
        # Python flushes once more when it ends: what is left goes nowhere, instead of to a traceback.
        with suppress(OSError, ValueError):  # a stream without a file has no number
            number = self._stream.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            os.close(nowhere)


@contextmanager
def surviving_output() -> Iterator[None]:
    """Let nothing that is printed within raise an error.

    Raises:
        OSError: at a good end, where what was printed could not be written; not where its reader went away.
    """
    # Python starts without streams where they are closed (`>&-`).
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
    if encoding is None:  # it keeps text
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
