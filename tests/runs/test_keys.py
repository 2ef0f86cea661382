"""The data of keys that are computed without jax are those of jax."""

import jax
import numpy as np
import pytest

from jaxscape.runs.keys import key_data, split_key_data


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("count", [1, 8])
def test_the_data_of_keys_are_those_of_jax(seed, count):
    keys = jax.random.split(jax.random.key(seed, impl="threefry2x32"), count)
    np.testing.assert_array_equal(split_key_data(seed, count), jax.random.key_data(keys))
    np.testing.assert_array_equal(key_data(seed), jax.random.key_data(jax.random.key(seed, impl="threefry2x32")))
