"""Commands do not import what they do not need: jax, orbax, optax, flax, SciPy or matplotlib."""

import os
import shutil
import subprocess
import sys

import pytest

# Packages that take a tenth of a second or more to import.
HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "matplotlib", "scipy", "sklearn", "PIL", "pandas", "jinja2")

PROGRAM = """
import sys
from jaxscape.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *sorted(name for name in sys.modules if "." not in name or name == "scipy.stats"))
"""


def imported_by(*command):
    """Return the packages, and those of SciPy, that a command has imported when it ends, in a separate process."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    words = done.stdout.splitlines()[-1].split()
    assert words[0] == "imported:"
    assert "tyro" in words  # the list is not empty
    return set(words)


@pytest.mark.parametrize("command", [["--help"], ["embed", "--help"], ["retrain", "--help"]], ids=" ".join)
def test_help_does_not_import_numpy(command):
    assert not imported_by(*command) & {"numpy", *HEAVY}


@pytest.mark.parametrize(
    "kind", ["retrained", "joined", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("compared", "recorded"))]
)
def test_info_does_not_import_jax(tiny, kind):
    assert not imported_by("info", tiny[kind].folder) & set(HEAVY)


def test_embedding_again_does_not_import_jax(finished):
    assert not imported_by("embed", finished, "--knn", 3) & set(HEAVY)


def test_embedding_anew_does_not_import_the_networks(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "embeddings")
    imported = imported_by("embed", run, "--knn", 3)
    assert (run / "embeddings").exists()
    assert "jax" in imported  # metric scaling is compiled
    assert not imported & {"optax", "flax", "orbax", "sklearn", "pandas", "matplotlib", "scipy.stats"}


def test_plot_does_not_import_jax(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(run / "figures")
    imported = imported_by("plot", run)
    assert (run / "figures" / "polar.png").exists()
    assert "matplotlib" in imported
    assert not imported & (set(HEAVY) - {"matplotlib", "PIL"})


@pytest.mark.parametrize("threshold", [None, pytest.param("0.5", marks=pytest.mark.slow)])
def test_the_compilation_cache_is_configured_before_jax_is_imported(finished, tmp_path, threshold):
    """Programs that compile fast are cached too, since there are many, unless the user sets another threshold."""
    shown = "import jax; [print(jax.config.values[name]) for name in sys.argv.pop().split()]; print("
    names = "jax_compilation_cache_dir jax_persistent_cache_min_compile_time_secs"
    program = PROGRAM.replace("main(sys.argv[1:])", "main(sys.argv[1:-1])").replace("print(", shown, 1)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    if threshold is not None:
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = threshold
    done = subprocess.run(
        [sys.executable, "-c", program, "info", finished, names], capture_output=True, text=True, env=environment
    )
    expected = [str(tmp_path / "jaxscape" / "xla"), str(float(threshold or 0))]
    assert done.stdout.splitlines()[-3:-1] == expected, done.stderr
