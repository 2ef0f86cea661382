"""The table of contents, `jaxscape/__init__.py`: what it promises is there, and costs nothing until it is used."""

import ast
import inspect
import subprocess
import sys

import pytest

import jaxscape

# The public names of the design; tsne and umap are still to come.
PROMISED = [
    "IncrementGram",
    "JumpGrid",
    "PhateResult",
    "TrajectoryStore",
    "WideResNet",
    "filter_normalize",
    "gram",
    "jump",
    "jump_grid",
    "load_dataset",
    "null_trajectories",
    "pairwise_distances",
    "pca",
    "phate",
    "random_direction",
    "random_plane",
    "retrain",
]


def names_for_type_checkers():
    """What is imported under `if TYPE_CHECKING`, by module."""
    tree = ast.parse(inspect.getsource(jaxscape))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {node.module.removeprefix("jaxscape."): {alias.name for alias in node.names} for node in block.body}


def test_the_lists_of_names_agree():
    contents = {module: set(names) for module, names in jaxscape._CONTENTS.items()}
    assert names_for_type_checkers() == contents
    assert sorted(jaxscape.__all__) == sorted(name for names in contents.values() for name in names)


def test_what_the_design_promises_is_public():
    assert set(PROMISED) <= set(jaxscape.__all__)


@pytest.mark.parametrize("name", sorted({*PROMISED, *jaxscape.__all__}))
def test_a_public_name_can_be_had_and_says_what_it_is(name):
    found = getattr(jaxscape, name)
    generated = f"{name}("  # the docstring of a record without one is its signature
    assert found.__doc__
    assert not found.__doc__.startswith(generated)
    assert name in dir(jaxscape)


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="module 'jaxscape' has no attribute 'jump_gird'"):
        jaxscape.jump_gird  # noqa: B018


@pytest.mark.parametrize(("former", "new"), jaxscape._RENAMED.items())
def test_a_former_name_warns_and_gives_what_the_new_name_gives(former, new):
    with pytest.warns(DeprecationWarning, match=f"jaxscape.{former} is now jaxscape.{new}") as caught:
        found = getattr(jaxscape, former)
    assert found is getattr(jaxscape, new)
    assert [warning.filename for warning in caught] == [__file__]  # the line to change, not one of the package
    assert former not in jaxscape.__all__


@pytest.mark.parametrize("module", ["jaxscape", "jaxscape.cli.main"])
def test_an_import_costs_nothing_heavy(module):
    heavy = ("jax", "flax", "matplotlib", "orbax", "phate", "umap", "scipy", "sklearn", "tensorflow_datasets")
    program = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
