"""jax, NumPy and optax for modules that are imported where none is needed: they are imported when they are first used.

`import jax` takes longer than all that `jaxscape info` does, which reads a few JSON files. What reads run folders and
stores, and what `jaxscape plot` draws from them, takes jax from here, and does not evaluate signatures that name it
(`from __future__ import annotations`):

    from jaxscape.lazy import jax, jnp
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__all__ = ["jax", "jnp", "multihost_utils", "np", "optax"]

if TYPE_CHECKING:
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.experimental import multihost_utils
else:

    class _Lazy(ModuleType):
        """Stands for the module of its name, which is imported when an attribute is first asked for."""

        def __getattr__(self, name: str) -> Any:
            return getattr(import_module(self.__name__), name)

    jax, jnp, np, optax = _Lazy("jax"), _Lazy("jax.numpy"), _Lazy("numpy"), _Lazy("optax")
    multihost_utils = _Lazy("jax.experimental.multihost_utils")
