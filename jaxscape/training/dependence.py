"""Whether the result of a function depends on its first argument, from its trace."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

# Equations whose inner program is run once, with the equation's own inputs and outputs.
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint", "custom_jvp_call"}


def depends_on_first(function: Callable[..., Any], *arguments: Any) -> bool:
    """Return whether any result of a function depends on its first argument.

    The function is traced, not computed. A result of a loop or a branch counts as dependent on all of its inputs.

    Args:
        function: a traceable function of pytrees of arrays.
        arguments: its arguments, or their shapes.
    """
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    first = len(jax.tree.leaves(arguments[0]))
    return any(_dependent(program, [number < first for number in range(len(program.invars))]))


def _dependent(program: core.Jaxpr, inputs: Sequence[bool]) -> list[bool]:
    """Return which outputs of a program depend on the marked inputs."""
    marked = {id(var) for var, is_marked in zip(program.invars, inputs, strict=True) if is_marked}
    for equation in program.eqns:
        marks = [id(var) in marked for var in equation.invars]
        if not any(marks):
            continue
        inner = list(core.jaxprs_in_params(equation.params)) if equation.primitive.name in _CALLS else []
        outputs = [True] * len(equation.outvars)
        if len(inner) == 1 and len(inner[0].invars) == len(marks):
            outputs = _dependent(inner[0], marks)
        marked |= {id(var) for var, is_marked in zip(equation.outvars, outputs, strict=True) if is_marked}
    return [id(var) in marked for var in program.outvars]
