"""How PRNG keys are told from other leaves."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jaxscape.arguments import is_prng_key


@pytest.mark.parametrize(
    ("leaf", "expected"),
    [
        (jax.random.key(0), True),
        (jax.random.split(jax.random.key(0), 3), True),
        (jax.eval_shape(lambda: jax.random.key(0)), True),
        (jax.random.PRNGKey(0), False),  # a legacy key is an array like any other
        (np.zeros(2, np.uint32), False),
        (3, False),
        (None, False),
        (SimpleNamespace(dtype="torch.float32"), False),
        (SimpleNamespace(dtype=object), False),
    ],
)
def test_only_typed_keys_are_told_from_other_leaves(leaf, expected):
    assert is_prng_key(leaf) is expected
