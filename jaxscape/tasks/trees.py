"""Models of other frameworks as nested dicts of parameters, and the results of their losses in one form."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from jaxscape.problem import Metrics

PyTree = Any


class Layout:
    """The paths of the arrays of a pytree, to convert it to nested dicts of arrays and back.

    Checkpoints restore nested dicts, whatever class a framework's parameters have.
    """

    def __init__(self, tree: PyTree, *, leave_out: int = 0):
        """Record the paths of a pytree, without the last `leave_out` keys of each."""
        leaves, treedef = jax.tree_util.tree_flatten_with_path(tree)
        self._treedef: Any = treedef
        # A single array has an empty path.
        self._paths = [path_names(path[: len(path) - leave_out]) or ("array",) for path, _ in leaves]
        assert len(set(self._paths)) == len(self._paths)

    def to_dicts(self, tree: PyTree) -> PyTree:
        """Return a pytree of this structure as nested dicts."""
        dicts: dict[str, Any] = {}
        for (*parents, last), leaf in zip(self._paths, self._treedef.flatten_up_to(tree), strict=True):
            inner = dicts
            for name in parents:
                inner = inner.setdefault(name, {})
            inner[last] = leaf
        return dicts

    def from_dicts(self, dicts: PyTree) -> PyTree:
        """Return nested dicts as a pytree of this structure.

        Raises:
            ValueError: if an array is missing (names it).
        """
        leaves = []
        for path in self._paths:
            leaf = dicts
            for name in path:
                if not isinstance(leaf, Mapping) or name not in leaf:
                    raise ValueError(
                        "params and model_state must have the arrays that init makes, as those of "
                        f"problem.split_model(model) do: {'/'.join(path)} is absent"
                    )
                leaf = leaf[name]
            leaves.append(leaf)
        return jax.tree.unflatten(self._treedef, leaves)


def loss_and_metrics(result: Any) -> tuple[Any, Metrics]:
    """Return the loss and the metrics of a loss function that gives `loss` or `(loss, metrics)`.

    Raises:
        TypeError: if metrics is not a dict.
    """
    loss, metrics = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
    if not isinstance(metrics, Mapping):
        raise TypeError(f"loss must give loss or (loss, metrics), where metrics is a dict, got {metrics!r:.100}")
    return loss, {"loss": loss, **metrics}


def path_names(path: Iterable[Any]) -> tuple[str, ...]:
    """Return the names and indices in the key path of a leaf."""
    return tuple(map(_name, path))


def _name(key: Any) -> str:
    for attribute in ("name", "key", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
