"""The imports that each room allows, wherever in a file they are."""

import ast
from pathlib import Path

import pytest

import jaxscape

PACKAGE = Path(jaxscape.__file__).parent
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if not path.name.startswith("__"))

# What each room may import of the package, itself aside.
MAY_KNOW = {
    "lazy": set(),
    "arguments": set(),
    "problem": {"arguments"},
    "tasks": {"arguments", "problem", "xla_cpu"},
    "training": {"arguments", "problem", "xla_cpu"},
    "xla_cpu": set(),
    "jumps": {"arguments", "problem", "training"},
    "landscape": {"arguments", "problem", "training", "jumps", "xla_cpu", "trajectories"},
    "curvature": {"arguments", "problem", "training", "jumps", "trajectories", "xla_cpu"},
    "trajectories": set(),
    "embedding": set(),
    "topology": {"arguments"},
    "generalization": {"arguments"},
    "figures": set(),
    "report": set(),
    "runs": {
        *("arguments", "problem", "tasks", "training", "jumps", "landscape", "curvature", "topology"),
        *("trajectories", "embedding", "figures", "report"),
    },
    "cli": {"runs", "trajectories", "xla_cpu"},
}
# The one file of the stages that knows the built-in problems, the captions that name them, and the checks.
KNOW_THE_TASKS = {"runs/images.py", "runs/captions.py", "runs/checks.py"}
# Packages that stay behind one door.
DOORS = {
    "phate": {"embedding/baselines.py"},
    "umap": {"embedding/baselines.py"},
    "gudhi": {"topology/persistence.py"},
    "equinox": {"tasks/equinox.py"},
    "jinja2": {"report/page.py"},
    "anywidget": {"report/notebook.py"},
    "tyro": {str(file) for file in FILES if file.parts[0] in ("runs", "cli")},
    "rich": {str(file) for file in FILES if file.parts[0] in ("runs", "cli")},
}


def room_of(file):
    return file.parts[0].removesuffix(".py")


def imports(file):
    """Dotted names of all modules that a file imports."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import, which this test does not follow"
            yield node.module


def rooms(file):
    """The rooms of the package that a file imports; "" where it imports the package as a whole."""
    return {f"{name}.".split(".")[1] for name in imports(file) if name.split(".")[0] == "jaxscape"}


def test_every_room_is_known():
    assert {room_of(file) for file in FILES} == MAY_KNOW.keys()


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_room_knows_only_the_rooms_that_it_may(file):
    own = room_of(file)
    assert rooms(file) <= MAY_KNOW[own] | {own, "lazy"}  # which holds jax and NumPy, and knows nothing


def test_the_stages_take_any_problem():
    users = {str(file) for file in FILES if room_of(file) == "runs" and "tasks" in rooms(file)}
    assert users == KNOW_THE_TASKS


@pytest.mark.parametrize("package", DOORS)
def test_a_package_stays_behind_its_door(package):
    users = {str(file) for file in FILES if package in {name.split(".")[0] for name in imports(file)}}
    assert users
    assert users <= DOORS[package]


def test_modules_of_the_tests_have_names_of_their_own():
    # They are imported by their basename, since tests/ has no packages.
    names = [path.name for path in Path(__file__).parent.rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
