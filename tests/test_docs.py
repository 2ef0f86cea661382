"""The examples of docs/models.md run as they stand."""

import re
from pathlib import Path

import equinox as eqx
import numpy as np

MODELS = Path(__file__).parents[1] / "docs" / "models.md"


def test_the_examples_of_models_run_one_after_the_other(users_broadcast):
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", MODELS.read_text(), re.DOTALL)
    for block in blocks:
        exec(compile(block, str(MODELS), "exec"), names)
    assert isinstance(names["again"], eqx.nn.MLP)
    assert np.isfinite(names["last"].metrics["epoch_loss"]).all()
