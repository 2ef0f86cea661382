"""How many copies of a network run together, and where: the seam between the experiment and the machine.

A strategy turns functions of one member into functions of a stack of members (pytrees whose leaves have a leading
`member` axis). Callers name a strategy and know nothing else of it:

    run = epoch_runner(update, strategy="loop")
    states, metrics = run(states, data, batches, epoch)

"loop" runs the members one after the other through one compiled step. On a CPU that is the right one: convolutions
of several networks at once (vmap) and convolution gradients inside `lax.scan` both fall to slow code there. A member
therefore sees the same arithmetic whether it runs alone or beside others, and ends in the same bytes.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any

# update(state, data, batch, epoch, step) -> (state, metrics), for one member and one step.
Update = Callable[[PyTree, PyTree, PyTree, jax.Array, jax.Array], tuple[PyTree, PyTree]]


class EpochRunner(Protocol):
    """One epoch of every member."""

    def __call__(self, states: PyTree, data: PyTree, batches: PyTree, epoch: int) -> tuple[PyTree, PyTree]:
        """Take states [member, ...] (donated) and batches [member, step, ...]; give states and metrics [member]."""
        ...


def take_member(stacked: PyTree, member: int) -> PyTree:
    """One member of a stack."""
    return _take(stacked, member)


def stack_members(members: list[PyTree]) -> PyTree:
    """Members of one structure -> a stack of them."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)


def num_members(stacked: PyTree) -> int:
    """The length of the leading axis that all leaves share.

    Raises:
        ValueError: where there is no leaf or no member, or the leaves disagree (names two of them).
    """
    leaves = jax.tree_util.tree_leaves_with_path(stacked)
    if not leaves:
        raise ValueError("a stack of members needs at least one array, got an empty pytree")
    first_path, first = leaves[0]
    for path, leaf in leaves:
        if np.ndim(leaf) == 0 or np.shape(leaf)[0] != np.shape(first)[0]:
            raise ValueError(
                "arrays stacked by member (or by example) must share their leading axis, got "
                f"{jax.tree_util.keystr(first_path)} of shape {np.shape(first)} and "
                f"{jax.tree_util.keystr(path)} of shape {np.shape(leaf)}"
            )
    if np.shape(first)[0] == 0:
        raise ValueError(f"a stack needs at least one member (or example), got shape {np.shape(first)}")
    return np.shape(first)[0]


def epoch_runner(update: Update, *, strategy: str = "loop") -> EpochRunner:
    """A function that runs one epoch of all members.

    Args:
        update: one step of one member, pure: `(state, data, batch, epoch, step) -> (state, metrics)`.
        strategy: how the members run together; see `STRATEGIES`.

    Returns:
        `run(states, data, batches, epoch) -> (states, metrics)`; metrics are means over the steps, NumPy [member].

    Raises:
        ValueError: for an unknown strategy (lists the known ones).
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}; known: {', '.join(STRATEGIES)}")
    return STRATEGIES[strategy](update)


def map_members(function: Callable[..., PyTree], *stacked: PyTree) -> PyTree:
    """`function` of each member in turn; its scalar results as NumPy arrays [member]."""
    results = [function(*(_take(tree, member) for tree in stacked)) for member in range(num_members(stacked))]
    # One transfer at the end: every member's work is under way before the host waits for the first.
    return jax.tree.map(lambda *values: np.stack(values), *jax.device_get(results))


def _loop(update: Update) -> EpochRunner:
    step = jax.jit(update, donate_argnums=0)

    def run(states: PyTree, data: PyTree, batches: PyTree, epoch: int) -> tuple[PyTree, PyTree]:
        num_steps = jax.tree.leaves(batches)[0].shape[1]
        metrics = []
        for member in range(num_members(states)):
            state, own = _take(states, member), _take(batches, member)
            for index in range(num_steps):
                state, step_metrics = step(state, data, _take(own, index), np.int32(epoch), np.int32(index))
                metrics.append(step_metrics)
            states = _put(states, state, member)
        return states, _means(jax.device_get(metrics), num_steps)

    return run


def _means(metrics: list[PyTree], num_steps: int) -> PyTree:
    """Metrics of each step, members outermost -> their mean over the steps [member]."""

    def mean(*values: Any) -> np.ndarray:
        # float64: the sum of a diverging member's losses must not overflow.
        stacked = np.asarray(values, np.float64)
        return stacked.reshape(-1, num_steps, *stacked.shape[1:]).mean(axis=1)

    return jax.tree.map(mean, *metrics)


@jax.jit
def _take(stacked: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def _put_member(stacked: PyTree, one: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf, value: leaf.at[index].set(value), stacked, one)


_put = jax.jit(_put_member, donate_argnums=0)

STRATEGIES: dict[str, Callable[[Update], EpochRunner]] = {"loop": _loop}
