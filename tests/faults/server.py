"""A fork server that runs each command in a forked process, which saves seconds of imports.

`Server` starts this file as a process that imports everything, without starting threads or a backend of jax, and then
forks one child per command. A child arms the shim, runs `jaxscape.cli.main.main` and ends like an interpreter.
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

HANG = -99  # exit code of a child that did not end in time
_SECONDS = 120  # time limit of a child
_HERE = Path(__file__).parent


class Outcome(NamedTuple):
    """The exit code of a command (-9: killed), and its output."""

    code: int
    out: str
    err: str

    @property
    def killed(self) -> bool:
        """Whether it was killed, as by a fault."""
        return self.code == -signal.SIGKILL

    @property
    def broken(self) -> bool:
        """Whether it ended in a forbidden way: traceback, signal, no message, or more than one line of error."""
        if self.code == 0:
            return "Traceback" in self.err
        return self.code not in (1, 2) or "Traceback" in self.err or len(self.err.strip().splitlines()) != 1


class Command(NamedTuple):
    """A command line for a child, or a request for the digest of a run folder."""

    argv: tuple[str, ...]
    fault: dict[str, Any] | None = None
    delay: float = 0.0
    kill_after: float | None = None
    digest: str | None = None
    folder: str | None = None


class Server:
    """A process that forks children, with the shim loaded; a context manager."""

    def __init__(self, library: Path, scratch: Path, compiled: Path | None = None):
        """Start the server.

        Args:
            library: path of the shim.
            scratch: folder of this server; its parent folder is shared by all servers.
            compiled: folder of the cache of compiled programs.
        """
        scratch.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "LD_PRELOAD": str(library),
            "FAULT_LIBRARY": str(library),
            "FAULT_SCRATCH": str(scratch),
            "PATH": str(scratch / "nothing"),  # without git: `git describe` takes time and is not tested here
            "JAX_COMPILATION_CACHE_DIR": str(compiled or scratch.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_PLATFORMS": "cpu",
            "JAXSCAPE_ONEDNN": "0",
            "XDG_CACHE_HOME": str(scratch.parent / "cache"),
            "MPLCONFIGDIR": str(scratch.parent / "matplotlib"),
            "MPLBACKEND": "agg",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(_HERE / "server.py")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *commands: Command) -> list[Outcome]:
        """Run commands in parallel, and wait for all of them."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([command._asdict() for command in commands]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the fork server has ended")
        return [Outcome(*each) for each in json.loads(answer)]

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _serve() -> None:
    """Answer each line of standard input, a list of commands, with one line of outcomes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_everything()
    scratch = Path(os.environ["FAULT_SCRATCH"])
    for line in sys.stdin:
        children = [_fork(Command(**command), scratch / str(i)) for i, command in enumerate(json.loads(line))]
        print(json.dumps([_wait(*child) for child in children]), file=answers, flush=True)


def _import_everything() -> None:
    import jaxscape

    for module in pkgutil.walk_packages(jaxscape.__path__, "jaxscape."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in (
        "cases",
        "matplotlib.backends.backend_agg",
        "matplotlib.pyplot",
        "orbax.checkpoint.v1",
        "sklearn.manifold",
        "sklearn.neighbors",
        "scipy.sparse.linalg",
        "scipy.spatial",
        "scipy.optimize",
        "tensorstore",
        "jax._src.compilation_cache",
        "jax.experimental.multihost_utils",
        "flax.linen",
        "PIL.Image",
        "PIL.PngImagePlugin",
    ):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
    from jax._src import xla_bridge

    assert not xla_bridge._backends, "a backend was started before the fork"
    gc.collect()
    gc.freeze()  # otherwise the garbage collector of each child would touch, and so copy, all shared memory


def _fork(command: Command, output: Path) -> tuple[int, Command, Path, float]:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child, command, output, time.monotonic()
    code = 70
    try:
        os.setsid()
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{output}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if command.folder is not None:
            os.chdir(command.folder)
        time.sleep(command.delay)
        code = _end(_run(command))
    finally:
        os._exit(code)


def _run(command: Command) -> int:
    """Run a command and return its exit code, as an interpreter would."""
    try:
        if command.digest is not None:
            from cases import digest

            print(json.dumps(digest(Path(command.digest))))
            return 0
        if command.fault is not None:
            import shim

            shim.arm(os.environ["FAULT_LIBRARY"], command.fault)
        from jaxscape.cli.main import main

        sys.argv = ["jaxscape", *command.argv]
        main(list(command.argv))
        return 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1


def _end(code: int) -> int:
    """Run the exit handlers of an interpreter, and return the exit code."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        return 120
    return code


def _wait(child: int, command: Command, output: Path, started: float) -> Outcome:
    """Wait for a child, kill it if it takes too long, and read its output."""
    status, seconds = None, command.kill_after
    deadline = started + (_SECONDS if seconds is None else command.delay + seconds)
    while status is None:
        ended, child_status = os.waitpid(child, os.WNOHANG)
        if ended:
            status = child_status
        elif time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            if seconds is None:
                return Outcome(HANG, *_read(output))
        else:
            time.sleep(0.005)
    return Outcome(os.waitstatus_to_exitcode(status), *_read(output))


def _read(output: Path) -> Sequence[str]:
    """Return the output of a child, including a traceback that it wrote to a file instead of the screen."""
    out, err = (Path(f"{output}.{name}").read_text(errors="replace") for name in ("out", "err"))
    kept = re.search(r"the traceback is in (.+?\.log)", err)
    if kept is None:
        return out, err
    try:
        return out, f"{err}\n{Path(kept[1]).read_text(errors='replace')}"
    except OSError:
        return out, f"{err}\nTraceback not found"


if __name__ == "__main__":
    _serve()
