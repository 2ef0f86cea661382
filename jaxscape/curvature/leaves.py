"""Which arrays of a network vary, and the one vector that holds them; the other arrays stay as they are."""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxscape.arguments import leaf_name
from jaxscape.jumps.filters import selected
from jaxscape.problem import Where
from jaxscape.trajectories.arrays import key_names, matching_names

PyTree = Any

# Names or patterns of arrays, as `gram` takes them; or a mask or a function, as `jump_grid` takes them.
Leaves = str | Sequence[str] | Where


class Layout(NamedTuple):
    """How the chosen arrays of one network lie in a vector (P,), in tree order."""

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

    def flatten(self, tree: PyTree, *, leading_axes: int = 0) -> jax.Array:
        """Return the chosen leaves of a pytree as vectors [..., P], float64 in 64-bit mode and float32 otherwise.

        Args:
            tree: of the structure of the parameters.
            leading_axes: how many axes of each leaf come before those of one network.
        """
        leaves = [leaf for leaf, is_chosen in zip(jax.tree.leaves(tree), self.chosen, strict=True) if is_chosen]
        wide = jax.dtypes.canonicalize_dtype(float)
        parts = [jnp.asarray(leaf).astype(wide) for leaf in leaves]
        return jnp.concatenate([part.reshape(*part.shape[:leading_axes], -1) for part in parts], axis=-1)

    def fixed(self, tree: PyTree) -> list[Any]:
        """Return the leaves of a pytree that are not chosen."""
        return [leaf for leaf, is_chosen in zip(jax.tree.leaves(tree), self.chosen, strict=True) if not is_chosen]

    def merge(self, flat: jax.Array, fixed: Sequence[Any]) -> PyTree:
        """Return the parameters of one network: those chosen from a vector (P,), the others as they are."""
        parts, others = iter(jnp.split(flat, np.cumsum(self.sizes)[:-1])), iter(fixed)
        wide = flat.dtype == jnp.float64
        leaves = [
            next(parts).reshape(shape).astype(flat.dtype if wide else dtype) if is_chosen else next(others)
            for shape, dtype, is_chosen in zip(self.shapes, self.dtypes, self.chosen, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def unflatten(self, flat: Any) -> PyTree:
        """Return vectors [..., P] as a pytree like the parameters, zero in the leaves that are not chosen."""
        of_arrays = np if isinstance(flat, np.ndarray) else jnp
        parts = iter(of_arrays.split(flat, np.cumsum(self.sizes)[:-1], axis=-1))
        leading = flat.shape[:-1]
        leaves = [
            next(parts).reshape(*leading, *shape) if is_chosen else of_arrays.zeros((*leading, *shape), flat.dtype)
            for shape, is_chosen in zip(self.shapes, self.chosen, strict=True)
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def check(self, name: str, tree: PyTree, *, leading: tuple[int, ...] = ()) -> None:
        """Raise an error where a pytree is no vector of this layout.

        Args:
            name: of the argument.
            tree: which it is; a leading axis of any length is -1 in
            leading: the axes that each leaf has before its own.

        Raises:
            ValueError: for another structure, or another shape of a leaf (names it).
        """
        if jax.tree.structure(tree) != self.treedef:
            raise ValueError(
                f"{name} must have the structure of params, {self.treedef}; got {jax.tree.structure(tree)}"
            )
        for path, leaf, shape in zip(self.paths, jax.tree.leaves(tree), self.shapes, strict=True):
            found = np.shape(leaf)
            wanted = (*leading, *shape)
            if len(found) != len(wanted) or any(want not in (-1, got) for got, want in zip(found, wanted, strict=True)):
                shown = str(wanted).replace("-1", "n")
                raise ValueError(f"{name} must have the shape {shown} at {leaf_name(path)}, got {found}")


def layout(params: PyTree, leaves: Leaves | None, *, stacked: bool) -> Layout:
    """Return the layout of a network's chosen leaves.

    Args:
        params: of one network, or of a stack [member, ...].
        leaves: which; None is all.
        stacked: whether the leaves have a member axis.

    Raises:
        TypeError: for a mask or function that answers something else than bools.
        ValueError: for names of no array, patterns that match none, a mask of another structure, or one that selects
            nothing.
    """
    found, treedef = jax.tree_util.tree_flatten_with_path(params)
    if not found:
        raise ValueError("params must hold at least one array, got an empty pytree")
    paths = [path for path, _ in found]
    shapes = [np.shape(leaf)[1:] if stacked else np.shape(leaf) for _, leaf in found]
    if leaves is None:
        chosen = [True] * len(found)
    elif isinstance(leaves, str) or (isinstance(leaves, Sequence) and all(isinstance(name, str) for name in leaves)):
        names = ["/".join(key_names(path)) for path in paths]
        wanted = set(matching_names(names, leaves))
        chosen = [name in wanted for name in names]
    else:
        chosen = selected(leaves, params)
    return Layout(treedef, shapes, [jnp.result_type(leaf) for _, leaf in found], chosen, paths)
