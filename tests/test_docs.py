"""The code blocks of the pages of docs run."""

import re
from pathlib import Path

import equinox as eqx
import numpy as np
import pytest

DOCS = Path(__file__).parents[1] / "docs"


def run_blocks(page):
    """Run the examples of a page one after another; return their names."""
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


@pytest.mark.slow
def test_the_examples_of_models_run_one_after_the_other(users_broadcast):
    names = run_blocks("models.md")
    assert isinstance(names["again"], eqx.nn.MLP)
    assert np.isfinite(names["last"].metrics["epoch_loss"]).all()


def test_the_examples_of_paths_run_one_after_the_other(users_broadcast):
    names = run_blocks("paths.md")
    assert names["profile"].curve.height < names["profile"].straight.height
    assert names["matching"].squared_distance < names["matching"].squared_distance_before
    assert len(names["path"].losses) == 40


def test_the_examples_of_landscapes_run_one_after_the_other(users_broadcast):
    names = run_blocks("landscapes.md")
    assert names["barrier"].height >= 0
    assert names["picture"].done.all()
    assert np.isfinite(names["projected"].plane_metrics["loss"]).all()


@pytest.mark.slow
def test_the_examples_of_curvature_run_one_after_the_other():
    names = run_blocks("curvature.md")
    assert names["worst"].value > 0
    assert names["sigma"].value > 0
    assert names["path"] > 0
    assert names["norms"].distance == 0
    assert names["size"] < names["spectrum"].dimension
