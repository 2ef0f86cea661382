"""What tests of several rooms need: programs compiled once, and tiny runs through the whole command line."""

import gc
import os
import shutil
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from fcntl import LOCK_EX, flock
from io import StringIO
from typing import NamedTuple

import checked_shapes  # noqa: F401 - has the package check its signatures, if imported before it
import pytest
import xdist

# jax and jaxscape are imported where they are used: the process that only hands tests to workers does without them.


def pytest_configure(config):
    """Set the environment of the workers, and of the programs that tests start.

    They keep bytecode where the environment forbids it beside the sources: each would compile that of jax and scipy
    anew, 13 s of CPU. And they share the cores: a thread of OpenMP or OpenBLAS that waits for another one, whose core
    is taken by a worker, spins (the tests of t-SNE took 26 s of CPU on a busy machine instead of 1). Cyclic garbage
    is looked for less often: among the objects of a worker the search took 6 to 9 % of the time.
    """
    gc.set_threshold(50_000)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    if config.pluginmanager.hasplugin("cacheprovider") and os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    """Make an accidental broadcast between ranks an error in the tests, and set how programs are compiled.

    Before the test modules are imported, since some of them compile programs.
    """
    if not xdist.is_xdist_controller(session):
        import jax

        jax.config.update("jax_numpy_rank_promotion", "raise")
        for name, value in compilation(session.config).items():
            jax.config.update(name, value)


def compilation(config):
    """Return the settings of jax with which programs are compiled fast.

    And once for all workers and later sessions, unless pytest runs without its cache.
    """
    settings = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_disable_most_optimizations": True}
    if config.pluginmanager.hasplugin("cacheprovider"):
        settings["jax_compilation_cache_dir"] = str(config.cache.mkdir("compiled"))
    return settings


@pytest.fixture(scope="session", autouse=True)
def compiled_fast(pytestconfig, tmp_path_factory):
    """Let programs that tests start compile as the tests do; `optimized` is for tests of what users compile."""
    from jaxscape.xla_cpu.memory import TUNABLES

    with pytest.MonkeyPatch.context() as patch:
        for name, value in compilation(pytestconfig).items():
            patch.setenv(name.upper(), str(value))
        # Programs that call oneDNN are compiled each time; tests/xla_cpu holds that they compute the same.
        patch.setenv("JAXSCAPE_ONEDNN", "0")
        # Commands have their malloc settings from the start, and need not restart; tests/xla_cpu restarts processes.
        patch.setenv("GLIBC_TUNABLES", TUNABLES)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def optimized(monkeypatch):
    """Programs are compiled as users compile them, in this process and in those that the test starts."""
    import jax

    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def users_broadcast():
    """Ranks may be promoted, in threads too: only our own code may not."""
    import jax

    jax.config.update("jax_numpy_rank_promotion", "allow")
    yield
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory):
    """`made_once(name, make)`: a folder that `make(folder)` has filled, once for all workers of a session."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder(name, make):
        path, whole = base / name, base / f"{name}-is-whole"
        with open(base / f"{name}-lock", "w") as lock:  # the other workers wait while one of them makes it
            flock(lock, LOCK_EX)
            if not whole.exists():
                shutil.rmtree(path, ignore_errors=True)  # what a worker left that failed
                path.mkdir()
                make(path)
                whole.touch()
        return path

    return folder


# Tiny runs, made once for all workers: WRN-10-1 on 40 drawn images, four copies.


class Outcome(NamedTuple):
    """What a command left behind; code -1 is a traceback."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def jaxscape():
    """`jaxscape("train", run, ...)` as a user types it."""

    from jaxscape.cli.main import main

    def command(*arguments):
        out, err = StringIO(), StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main([str(argument) for argument in arguments])
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
                print("" if isinstance(end.code, int) else end.code, file=err)
            except Exception:
                code = -1
                traceback.print_exc(file=err)
        return Outcome(code, out.getvalue(), err.getvalue().strip())

    return command


@pytest.fixture(scope="session")
def images(made_once):
    """The folder of `write_images`."""
    from tiny_images import write_images

    return made_once("images", write_images)


@pytest.fixture(scope="session")
def train(jaxscape, images):
    """`jaxscape train RUN` on 40 of those images, two epochs; several runs come first, as a list."""
    tiny = ("--dataset", "mnist", "--data-dir", images, "--data-unchecked", "--protocol", "digits")
    tiny += ("--train-size", 40, "--batch-size", 20)

    def command(run, *more):
        runs = run if isinstance(run, list) else [run]
        return jaxscape("train", *runs, *tiny, "--epochs", 2, *more)

    return command


@pytest.fixture(scope="session")
def retrain(jaxscape):
    """`jaxscape retrain RUN` with four copies, two epochs."""
    return lambda run, *more: jaxscape("retrain", run, "--seeds", 2, "--step-sizes", 0.5, 1, "--epochs", 2, *more)


@pytest.fixture(scope="session")
def kept_minimum(made_once, train):
    """A run folder with a minimum alone. Tests leave it as it is."""

    def make(folder):
        outcome = train(folder / "run")
        assert outcome.code == 0, outcome.err

    return made_once("minimum", make) / "run"


@pytest.fixture(scope="session")
def finished(made_once, kept_minimum, jaxscape, retrain):
    """A run folder with everything. Tests leave it as it is."""

    def make(folder):
        run = shutil.copytree(kept_minimum, folder / "run")
        for outcome in (retrain(run), jaxscape("embed", run, "--knn", 3), jaxscape("plot", run)):
            assert outcome.code == 0, outcome.err

    return made_once("finished", make) / "run"


@pytest.fixture
def with_minimum(tmp_path, kept_minimum):
    """A run folder with a minimum, to be changed."""
    return shutil.copytree(kept_minimum, tmp_path / "run")


@pytest.fixture
def run(tmp_path, finished):
    """A run folder with everything, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture(scope="session")
def tiny(made_once):
    """A finished run of every kind by its name, of a network with 12 parameters. Tests leave them as they are."""
    import tiny_runs

    folder = made_once("tiny", tiny_runs.make_all)
    return {kind: tiny_runs.opened(folder / name) for kind, name in tiny_runs.KINDS.items()}
