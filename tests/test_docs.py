"""The examples of docs/models.md run as they stand."""

import re
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

MODELS = Path(__file__).parents[1] / "docs" / "models.md"


def test_the_examples_of_models_run_one_after_the_other():
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", MODELS.read_text(), re.DOTALL)
    with jax.numpy_rank_promotion("allow"):  # users broadcast; only our own code may not
        for block in blocks:
            exec(compile(block, str(MODELS), "exec"), names)
    assert isinstance(names["again"], eqx.nn.MLP)
    assert np.isfinite(names["last"].metrics["epoch_loss"]).all()
