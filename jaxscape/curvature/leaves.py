"""The vector of the chosen parameters of a network; the other arrays are constants."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxscape.arguments import leaf_name
from jaxscape.jumps.filters import selected
from jaxscape.problem import Where
from jaxscape.trajectories.arrays import key_names, matching_names

PyTree = Any

# Names or patterns of arrays (see `gram`), or a mask or a function (see `jump_grid`).
Leaves = str | Sequence[str] | Where


class Layout(NamedTuple):
    """The layout of the chosen arrays of one network in a vector of P parameters, in tree order."""

    treedef: Any
    shapes: list[tuple[int, ...]]  # of all leaves, without a member axis
    dtypes: list[Any]
    chosen: list[bool]
    paths: list[tuple[Any, ...]]

    @property
    def dimension(self) -> int:
        """P, the number of chosen parameters."""
        return sum(self.sizes)

    @property
    def sizes(self) -> list[int]:
        """The number of parameters of each chosen leaf."""
        return [prod(shape) for shape, is_chosen in zip(self.shapes, self.chosen, strict=True) if is_chosen]

    @property
    def names(self) -> list[str]:
        """The names of the chosen leaves, such as "head/kernel"."""
        return ["/".join(key_names(path)) for path, is_chosen in zip(self.paths, self.chosen, strict=True) if is_chosen]

    def flatten(self, tree: PyTree, *, leading_axes: int = 0) -> Float[Array, "*leading parameters"]:
        """Return the chosen leaves of a pytree as vectors, float64 in 64-bit mode and float32 otherwise.

        Args:
            tree: a pytree with the structure of the parameters.
            leading_axes: number of axes of each leaf before those of one network.
        """
        leaves = [leaf for leaf, is_chosen in zip(jax.tree.leaves(tree), self.chosen, strict=True) if is_chosen]
        dtype = jax.dtypes.canonicalize_dtype(float)
        parts = [jnp.asarray(leaf).astype(dtype) for leaf in leaves]
        return jnp.concatenate([part.reshape(*part.shape[:leading_axes], -1) for part in parts], axis=-1)

    def fixed(self, tree: PyTree) -> list[Any]:
        """Return the leaves of a pytree that are not chosen."""
        return [leaf for leaf, is_chosen in zip(jax.tree.leaves(tree), self.chosen, strict=True) if not is_chosen]

    def merge(self, flat: Float[Array, " parameters"], fixed: Sequence[Any]) -> PyTree:
        """Return the parameters of one network: the chosen leaves from a vector, the others unchanged."""
        parts, others = iter(jnp.split(flat, np.cumsum(self.sizes)[:-1])), iter(fixed)
        is_float64 = flat.dtype == jnp.float64
        leaves = [
            next(parts).reshape(shape).astype(flat.dtype if is_float64 else dtype) if is_chosen else next(others)
            for shape, dtype, is_chosen in zip(self.shapes, self.dtypes, self.chosen, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def unflatten(self, flat: Float[Array, "*leading parameters"] | Float[np.ndarray, "*leading parameters"]) -> PyTree:
        """Return vectors as a pytree like the parameters, zero in the leaves that are not chosen."""
        xp = np if isinstance(flat, np.ndarray) else jnp
        parts = iter(xp.split(flat, np.cumsum(self.sizes)[:-1], axis=-1))
        leading = flat.shape[:-1]
        leaves = [
            next(parts).reshape(*leading, *shape) if is_chosen else xp.zeros((*leading, *shape), flat.dtype)
            for shape, is_chosen in zip(self.shapes, self.chosen, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def check(self, name: str, tree: PyTree, *, leading: tuple[int, ...] = ()) -> None:
        """Raise an error if a pytree is not a vector of this layout.

        Args:
            name: name of the argument.
            tree: the argument.
            leading: lengths of the axes of each leaf before its own; -1 allows any length.

        Raises:
            ValueError: if the structure or the shape of a leaf differs (names the leaf).
        """
        if jax.tree.structure(tree) != self.treedef:
            raise ValueError(
                f"{name} must have the structure of params, {self.treedef}; got {jax.tree.structure(tree)}"
            )
        for path, leaf, shape in zip(self.paths, jax.tree.leaves(tree), self.shapes, strict=True):
            actual, expected = np.shape(leaf), (*leading, *shape)
            if len(actual) != len(expected) or any(
                size not in (-1, own) for own, size in zip(actual, expected, strict=True)
            ):
                shown = str(expected).replace("-1", "n")
                raise ValueError(f"{name} must have the shape {shown} at {leaf_name(path)}, got {actual}")


def layout(params: PyTree, leaves: Leaves | None, *, stacked: bool) -> Layout:
    """Return the layout of a network's chosen leaves.

    Args:
        params: the parameters of one network, or of a stack [member, ...].
        leaves: the chosen leaves; None for all.
        stacked: whether the leaves have a member axis.

    Raises:
        TypeError: if a mask or function does not give bools.
        ValueError: if a name or pattern matches no array, or a mask has another structure or selects nothing.
    """
    with_paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    if not with_paths:
        raise ValueError("params must hold at least one array, got an empty pytree")
    paths = [path for path, _ in with_paths]
    shapes = [np.shape(leaf)[1:] if stacked else np.shape(leaf) for _, leaf in with_paths]
    if leaves is None:
        chosen = [True] * len(paths)
    elif isinstance(leaves, str) or (isinstance(leaves, Sequence) and all(isinstance(name, str) for name in leaves)):
        names = ["/".join(key_names(path)) for path in paths]
        matching = set(matching_names(names, leaves))
        chosen = [name in matching for name in names]
    else:
        chosen = selected(leaves, params)
    return Layout(treedef, shapes, [jnp.result_type(leaf) for _, leaf in with_paths], chosen, paths)
