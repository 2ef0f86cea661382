"""The examples of docs/models.md and docs/curvature.md run as they stand."""

import re
from pathlib import Path

import equinox as eqx
import numpy as np

DOCS = Path(__file__).parents[1] / "docs"


def run_examples(page):
    """Run the code blocks of a page one after the other and return the names that they leave."""
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


def test_the_examples_of_models_run_one_after_the_other(users_broadcast):
    names = run_examples("models.md")
    assert isinstance(names["again"], eqx.nn.MLP)
    assert np.isfinite(names["last"].metrics["epoch_loss"]).all()


def test_the_examples_of_curvature_run_one_after_the_other(compiled):
    names = run_examples("curvature.md")
    assert names["worst"].value > 0
    assert names["sigma"].value > 0
    assert names["path"] > 0
    assert names["norms"].distance == 0
    assert names["size"] < names["spectrum"].dimension
