"""The signatures of the numerical rooms are checked while the tests of these rooms run: a wrong one fails a test."""

import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import wrong_shapes
from checked_shapes import ShapeError

from jaxscape.jumps.directions import filter_normalize

TWO, THREE = np.zeros(2), np.zeros(3)


def test_a_result_of_another_shape_is_an_error():
    assert wrong_shapes.outer(TWO, TWO).shape == (2, 2)
    with pytest.raises(ShapeError, match=r"outer: result is ndarray float64 \(2, 3\), not .*'n n'.* where n=2, m=3"):
        wrong_shapes.outer(TWO, THREE)


def test_an_argument_of_another_dtype_is_an_error():
    with pytest.raises(ShapeError, match=r"outer: columns is ndarray int64 \(2,\), not Float\[ndarray, 'm'\]"):
        wrong_shapes.outer(TWO, np.zeros(2, int))


def test_a_result_of_another_dtype_is_an_error():
    assert wrong_shapes.wide(TWO) is TWO
    with pytest.raises(ShapeError, match="wide: result is ndarray float32"):
        wrong_shapes.wide(np.zeros(2, np.float32))


def test_an_error_of_the_function_itself_comes_first():
    with pytest.raises(ValueError, match="rows must be a vector, got 2 axes"):
        wrong_shapes.outer(np.zeros((2, 2)), THREE)


def test_fields_of_a_record_must_agree():
    assert wrong_shapes.norms(TWO, TWO) == (TWO, TWO)
    with pytest.raises(ShapeError, match=r"norms: result: Norms: last is ndarray float64 \(3,\), not .*members"):
        wrong_shapes.norms(TWO, THREE)


def test_each_yielded_value_is_checked():
    assert [block.shape for block in wrong_shapes.blocks(2)] == [(3, 2), (3, 2)]
    with pytest.raises(ShapeError, match=r"blocks: result is ndarray float64 \(3, 4\)"):
        list(wrong_shapes.blocks(4))


def test_every_array_of_a_list_is_checked():
    assert wrong_shapes.stacked([TWO] * 9).shape == (9, 2)
    with pytest.raises(ShapeError, match=r"stacked: arrays is ndarray float64 \(3,\), not .* where n=2"):
        wrong_shapes.stacked([*[TWO] * 9, THREE])


def test_shapes_are_checked_where_a_function_is_traced():
    points = jnp.zeros((4, 3, 2))
    assert jax.jit(jax.vmap(wrong_shapes.lengths))(points).shape == (4, 3)
    assert jax.grad(lambda each: wrong_shapes.lengths(each).sum())(points[0] + 1).shape == (3, 2)
    with pytest.raises(ShapeError, match=r"lengths: points is .*Tracer float32 \(4, 3, 2\)"):
        jax.jit(wrong_shapes.lengths)(points)


def test_a_checked_function_is_not_wrapped():
    assert not hasattr(filter_normalize, "__wrapped__")
    assert list(inspect.signature(filter_normalize).parameters)[:2] == ["direction", "params"]
    assert inspect.getdoc(filter_normalize).startswith("Rescale every filter")
    assert pickle.loads(pickle.dumps(filter_normalize)) is filter_normalize
