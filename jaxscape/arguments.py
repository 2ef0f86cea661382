"""Checks of single arguments: integers, numbers, PRNG keys and parameters.

Each check raises a one-line error that names the argument, shows its value and says what is allowed.
"""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from jaxscape.lazy import jax, jnp

PyTree = Any

_LEAVE_OUT = (
    "leave it out: keep what is not trained in model_state, "
    "or split the model, as problem.split_model(model) or {} does"
)
_SPLITS = {  # package of the model's class -> what splits it
    "flax": "flax.nnx.state(model, flax.nnx.Param)",
    "equinox": "equinox.partition(model, equinox.is_inexact_array)",
}
_SPLIT = "keep a complex array as two real ones, its real and its imaginary part"


def whole_number(name: str, value: Any) -> int:
    """Return `value` as an int.

    Raises:
        TypeError: for anything but a Python, NumPy or JAX integer. Bools, floats and strings are rejected.
    """
    try:
        if _is_bool(value):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {_shown(value)}") from None


def count(name: str, value: Any, *, least: int = 1) -> int:
    """Return `value` as an int that is at least `least`.

    Raises:
        TypeError: see `whole_number`.
        ValueError: if it is too small.
    """
    number = whole_number(name, value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def number(name: str, value: Any) -> float:
    """Return `value` as a float, which may be infinite or NaN.

    Raises:
        TypeError: for anything but one real number. Bools and strings are rejected.
    """
    try:
        if isinstance(value, str | bytes) or _is_bool(value) or np.ndim(value):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {_shown(value)}") from None


def finite_number(name: str, value: Any) -> float:
    """Return `value` as a finite float.

    Raises:
        TypeError: see `number`.
        ValueError: if it is infinite or NaN.
    """
    if not math.isfinite(number(name, value)):
        raise ValueError(f"{name} must be a finite number, got {value}")
    return float(value)


def typed_key(key: Any) -> jax.Array:
    """Return one PRNG key as a typed key; a legacy uint32 key is wrapped.

    Raises:
        TypeError: for anything else, including an array of keys.
    """
    typed = _typed(key)
    if typed is None or typed.shape:
        raise TypeError(f"key must be a PRNG key, as from jax.random.key(0), got {_shown(key)}")
    return typed


def typed_keys(keys: Any, members: int) -> jax.Array:
    """Return PRNG keys [member] as typed keys; legacy uint32 keys are wrapped.

    Raises:
        TypeError: for anything but an array of keys.
        ValueError: if there is not one key per member.
    """
    typed = _typed(keys)
    if typed is None or typed.ndim != 1:
        raise TypeError(
            f"keys must be PRNG keys [member], as from jax.random.split(jax.random.key(0), {members}), "
            f"got {_shown(keys)}"
        )
    if len(typed) != members:
        raise ValueError(f"keys must hold one key for each of the {members} members, got {len(typed)}")
    return typed


def is_prng_key(leaf: Any) -> bool:
    """Return whether a leaf is a typed PRNG key, or an array or the shape of such keys."""
    dtype = getattr(leaf, "dtype", None)
    try:
        return dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    except TypeError:  # a dtype of another framework
        return False


def check_parameters(name: str, params: PyTree) -> None:
    """Raise an error that names the first leaf that is not an array of real floating-point numbers.

    Raises:
        TypeError: for leaves of integers, bools, complex numbers, strings, objects or PRNG keys.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = _dtype(leaf)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            is_complex = dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating)
            raise TypeError(
                f"{name} must hold arrays of real floating-point numbers, got {dtype or type(leaf).__name__} "
                f"at {leaf_name(path)}; {_SPLIT if is_complex else _LEAVE_OUT.format(_split_of(params))}"
            )


def _split_of(params: PyTree) -> str:
    """Return what splits a model of this class; all that this package knows for other pytrees."""
    packages = {kind.__module__.partition(".")[0] for kind in type(params).__mro__}
    known = [split for package, split in _SPLITS.items() if package in packages]
    return " or ".join(known or _SPLITS.values())


def check_finite(name: str, params: PyTree) -> None:
    """Raise an error that names the first leaf with NaN or infinity; traced leaves are skipped.

    Raises:
        ValueError: if a leaf holds NaN or infinity.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        # NumPy rather than JAX, which would compile a program for each shape.
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(np.asarray(leaf)).all():
            raise ValueError(f"{name} must be finite, got NaN or infinity at {leaf_name(path)}")


def check_same(name: str, tree: PyTree, like: str, other: PyTree, *, dtypes: bool = False) -> None:
    """Raise an error if two pytrees of parameters differ in structure or shapes.

    Args:
        name: name of the first pytree, for the message.
        tree: the first pytree.
        like: name of the second pytree.
        other: the second pytree.
        dtypes: whether the dtypes must be equal too.

    Raises:
        TypeError: for leaves that are not real floating-point numbers (names the leaf).
        ValueError: names what differs.
    """
    if len({jax.tree.structure(tree), jax.tree.structure(other)}) > 1:
        names = [{leaf_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(t)} for t in (tree, other)]
        only = ", ".join(sorted(names[0] ^ names[1])) or "the containers"
        raise ValueError(f"{name} and {like} must have the same structure, but {only} differ")
    check_parameters(name, tree)
    check_parameters(like, other)
    for (path, leaf), second in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(other), strict=True):
        for what, one, two in (
            ("shapes", np.shape(leaf), np.shape(second)),
            ("dtypes", jnp.result_type(leaf), jnp.result_type(second)),  # after jax's canonicalisation
        ):
            if one != two and (dtypes or what == "shapes"):
                raise ValueError(
                    f"{name} and {like} must have the same {what}, got {one} and {two} at {leaf_name(path)}"
                )


def leaf_name(path: tuple[Any, ...]) -> str:
    """Return a leaf's key path as text; "the only leaf" for a pytree that is one array."""
    return jax.tree_util.keystr(path) or "the only leaf"


def _typed(key: Any) -> jax.Array | None:
    """Return a typed key, or array of keys, from a typed or legacy one; None for anything else."""
    if is_prng_key(key):
        return key
    legacy = jax.eval_shape(jax.random.key_data, jax.eval_shape(jax.random.key, 0)).shape
    is_legacy = getattr(key, "dtype", None) == np.uint32 and key.shape[-1:] == legacy
    return jax.random.wrap_key_data(key) if is_legacy else None


def _dtype(leaf: Any) -> Any:
    try:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        jnp.issubdtype(dtype, jnp.floating)
    except (TypeError, ValueError):  # TypeError: a dtype of another framework
        return None
    return dtype


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_


def _shown(value: Any) -> str:
    """Describe a value on one line: an array by its dtype and shape."""
    if getattr(value, "shape", ()) and hasattr(value, "dtype"):
        return f"an array of {value.dtype} of shape {value.shape}"
    return " ".join(f"{value!r:.100}".split())
