"""The batches of an epoch: row numbers of arrays, or what a user's function, loader or iterator gives.

Where all members see the same batches these are kept once, as an array over the steps that every member picks from.
"""

import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxscape.arguments import leaf_name
from jaxscape.problem import Data, LossFn, checked_loss, is_arrays, is_number
from jaxscape.training.devices import BY_MEMBER, EVERYWHERE, gather, on_each, own_rows, replicate, share_out
from jaxscape.training.members import num_members

PyTree = Any

# Of the streams of a member's key the one of its order; the directions of the jumps have keys of their own.
ORDER = 0


class SharedBatches(NamedTuple):
    """The batches of an epoch that all members see, [step, batch, ...]; a data function may return them so."""

    batches: PyTree


class Work(NamedTuple):
    """An epoch's work, as the strategies take it."""

    data: PyTree  # arrays that all members pick from; None where each has batches of its own
    batches: PyTree  # [member, step, ...]: batches, or what is picked


def batches_for_each(make: Callable[[int, int], Iterable[PyTree]]) -> Callable[[int, jax.Array], PyTree]:
    """Return a data function that gives every member a stream of its own.

    Args:
        make: `(epoch, seed) -> iterable of batches`, such as a DataLoader that shuffles by this seed. The seed follows
            from the member's key and the epoch: members that share a key share it, and a resumed run has the same.

    Returns:
        `(epoch, keys) -> batches` with leaves [member, step, batch, ...], as `train` and `Problem` take it. A last
        batch that is smaller than the others is dropped. All of an epoch's batches are in memory at once.

    Raises:
        ValueError: by this function, where members differ in their numbers of batches, or batches in their shapes.
    """
    warn = _WarnOnce()

    def data(epoch: int, keys: jax.Array) -> PyTree:
        draw = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, ORDER), epoch)))
        members = [_stack(list(_full_batches(make(epoch, int(seed)), warn))) for seed in np.asarray(draw(keys))]
        steps = [num_members(batches) for batches in members]
        if len(set(steps)) > 1:
            raise ValueError(f"make must give every member as many batches in an epoch, got {steps}")
        return _stack(members)

    return data


def data_function(data: Data, steps: int | None = None) -> Callable[[int, jax.Array], PyTree]:
    """Return data that are no arrays as a function `(epoch, keys) -> batches`.

    Args:
        data: a function, which is returned as it is; or an iterable or an iterator of batches.
        steps: batches an epoch; None for one pass over an iterable.
    """
    if callable(data):
        return data
    if isinstance(data, Iterator):
        stream: Iterator[PyTree] | None = map(_as_arrays, data)
    else:
        passes = partial(_full_batches, data, _WarnOnce())
        stream = None if steps is None else itertools.chain.from_iterable(passes() for _ in itertools.count())

    def draw(epoch: int, keys: jax.Array) -> SharedBatches:
        batches = list(_ending(passes()) if stream is None else itertools.islice(stream, steps))
        if steps is not None and len(batches) < steps:
            raise ValueError(
                f"data must give steps = {steps} batches for every epoch, but it ended after {len(batches)} of "
                f"epoch {epoch}"
            )
        return SharedBatches(_stack(batches))

    return draw


class EpochBatches:
    """The work of every epoch, from data of any kind."""

    def __init__(
        self,
        data: Data,
        *,
        batch_size: int,
        steps: int | None,
        members: int,
        mesh: Mesh | None,
        check_values: Callable[[PyTree], None],
    ):
        """Put arrays on the devices, once.

        Args:
            data: as `train` takes it.
            batch_size: examples a step, of arrays.
            steps: of an epoch; None for one pass over the data.
            members: how many there are, those that fill up a mesh aside.
            mesh: of devices that share the members out among them.
            check_values: raises an error for batches [member, step, batch, ...] that cannot be trained on.
        """
        self._batch_size, self._steps = batch_size, steps
        self._members, self._mesh, self._check_values = members, mesh, check_values
        self._arrays = replicate(jax.tree.map(jnp.asarray, data), mesh) if is_arrays(data) else None
        self._function = None if is_arrays(data) else data_function(data, steps)
        self._shared: bool | None = None

    def __call__(self, keys: jax.Array, epoch: int) -> Work:
        """Draw the epoch's batches, for the members' keys as they lie on the mesh."""
        if self._function is None:
            return Work(self._arrays, self._rows(keys, epoch))
        own = own_rows(jax.random.key_data(keys), self._mesh)
        own = jax.random.wrap_key_data(gather(own, self._mesh)[: self._members], impl=jax.random.key_impl(keys))
        try:
            batches = self._function(epoch, own)
        except StopIteration as error:  # which would end, or break, the iterator over epochs
            raise ValueError(f"data must give batches for every epoch, but it ended before epoch {epoch}") from error
        shared = isinstance(batches, SharedBatches)
        if self._shared not in (None, shared):
            raise ValueError(f"data must give SharedBatches for every epoch or for none, but not so for epoch {epoch}")
        self._shared = shared
        return self._share(batches.batches) if shared else self._share_out(batches)

    def _rows(self, keys: jax.Array, epoch: int) -> PyTree:
        """Row numbers [member, step, batch] of arrays."""
        examples, size = num_members(self._arrays), self._batch_size
        order = partial(_orders, keys, num_examples=examples, batch_size=size, mesh=self._mesh)
        return order(epoch) if self._steps is None else _some_steps(order, epoch, self._steps, examples // size)

    def _share_out(self, batches: PyTree) -> Work:
        _check_batches(batches, self._members)
        self._check_values(batches)
        return Work(None, share_out(batches, self._mesh))

    def _share(self, batches: PyTree) -> Work:
        with_member = jax.tree.map(lambda leaf: np.asarray(leaf)[None], batches)
        _check_batches(with_member, 1)
        self._check_values(with_member)
        steps = np.shape(jax.tree.leaves(batches)[0])[0]
        numbers = jnp.tile(jnp.arange(steps, dtype=jnp.int32), (self._members, 1))
        return Work(replicate(jax.tree.map(jnp.asarray, batches), self._mesh), share_out(numbers, self._mesh))


def check_member_axis(loss_fn: LossFn, network: tuple[PyTree, PyTree], batches: PyTree) -> None:
    """Raise an error where batches [step, batch, ...] seem to stand for [member, step, batch, ...].

    The numbers of members and of steps may be the same, and many losses take one example in place of a batch. What
    tells the readings apart is that a loss takes any number of examples: it is traced with one example more. Where it
    takes that along the third axis, or does not along the second one either, the batches are right, or nothing can
    be told: a loss that takes arrays of any shape accepts both.

    Args:
        loss_fn: of one member.
        network: params and model_state of one member, arrays or their shapes.
        batches: with leaves whose first axis has the length of the members.

    Raises:
        ValueError: says how the loss takes the batches.
    """
    takes = partial(_takes, loss_fn, network, batches)
    if not takes(axis=2, more=1) and takes(axis=1, more=0) and takes(axis=1, more=1):
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batches)]
        raise ValueError(
            f"data must give batches with leaves [member, step, batch, ...], got leaves of shapes {shapes}, which "
            "loss_fn takes as [step, batch, ...] alone: the axis of the members is missing; for batches that all "
            "members see return SharedBatches(batches)"
        )


def _takes(loss_fn: LossFn, network: tuple[PyTree, PyTree], batches: PyTree, *, axis: int, more: int) -> bool:
    """Whether the loss can be traced for a batch that has this axis first, with so many examples more."""

    def batch_of(leaf: Any) -> jax.ShapeDtypeStruct:
        size, *rest = np.shape(leaf)[axis:]
        return jax.ShapeDtypeStruct((size + more, *rest), jax.dtypes.canonicalize_dtype(jnp.result_type(leaf)))

    try:
        batch = jax.tree.map(batch_of, batches)
        jax.eval_shape(checked_loss(loss_fn), *network, batch, jax.eval_shape(jax.random.key, 0))
    except Exception:  # whatever a user's function makes of shapes that it does not take
        return False
    return True


def _ending(batches: Iterable[PyTree]) -> Iterator[PyTree]:
    """The batches of one pass, as long as they fit into memory: a loader that repeats its data has no end."""
    most, size = _memory() // 2, 0  # they are stacked, and so are there twice
    for number, batch in enumerate(batches, 1):
        size += sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
        if size > most:
            raise ValueError(
                f"data must give passes that end, and fit into memory: {number} batches of one pass have {size} bytes, "
                f"half the memory of this machine; of data that repeat give one pass, or steps= to jaxscape.train"
            )
        yield batch


def _memory() -> int:
    """The memory of this machine in bytes; a large number where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has none of it
        return 2**62


class _WarnOnce:
    """Says once that the last batch of a pass is smaller than the others."""

    def __init__(self) -> None:
        self._done = False

    def __call__(self, last: int, others: int) -> None:
        if not self._done:
            message = (
                f"the last batch of a pass over data has {last} examples, the others {others}; it is dropped, as in "
                "every pass (drop_last=True says so to a DataLoader)"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        self._done = True


def _full_batches(batches: Iterable[PyTree], warn: _WarnOnce) -> Iterator[PyTree]:
    """The batches of one pass as NumPy arrays, without a last one that is smaller than the first."""
    first = before = None
    for batch in map(_as_arrays, batches):
        if before is not None:
            yield before
        before = batch
        first = batch if first is None else first
    if before is None:
        raise ValueError("data must give at least one batch a pass, got none")
    last, others = _num_examples(before), _num_examples(first)
    if last < others:
        warn(last, others)
    else:
        yield before


def _num_examples(batch: PyTree) -> int:
    return max((len(leaf) for leaf in jax.tree.leaves(batch) if leaf.ndim), default=0)


def _as_arrays(batch: PyTree) -> PyTree:
    """A batch as NumPy arrays, which tensors of other frameworks turn into too."""
    arrays = jax.tree.map(np.asarray, batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        if not is_number(leaf):
            raise TypeError(f"data must give batches of arrays of numbers, got {leaf.dtype} at {leaf_name(path)}")
    if not jax.tree.leaves(arrays):
        raise TypeError(f"data must give batches of arrays of numbers, got {batch!r:.100}")
    return arrays


def _stack(batches: list[PyTree]) -> PyTree:
    """Batches of one structure -> [step, ...]."""
    for number, batch in enumerate(batches):
        if _outline(batch) != _outline(batches[0]):
            raise ValueError(
                "data must give batches of the same structure and shapes in an epoch (the last one of a pass over an "
                f"iterable may be smaller), got {_outline(batches[0])} first and {_outline(batch)} as number {number}"
            )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _outline(batch: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", batch)


def _some_steps(order: Callable[[int], jax.Array], epoch: int, steps: int, a_pass: int) -> jax.Array:
    """Row numbers [member, step, batch] of an epoch of so many steps, from those of the passes it lies in."""
    first = (epoch - 1) * steps
    passes = range(first // a_pass, (first + steps - 1) // a_pass + 1)
    begin = first - passes.start * a_pass
    return jnp.concatenate([order(number + 1) for number in passes], axis=1)[:, begin : begin + steps]


@partial(jax.jit, static_argnames=("num_examples", "batch_size", "mesh"))
def _orders(keys: jax.Array, epoch: int, *, num_examples: int, batch_size: int, mesh: Mesh | None) -> jax.Array:
    """Row numbers [member, step, batch] of an epoch: each member's shuffle, its last partial batch dropped."""
    steps = num_examples // batch_size

    def order(key: jax.Array, epoch: jax.Array) -> jax.Array:
        epoch_key = jax.random.fold_in(jax.random.fold_in(key, ORDER), epoch)
        return jax.random.permutation(epoch_key, num_examples)[: steps * batch_size].reshape(steps, batch_size)

    return on_each(jax.vmap(order, in_axes=(0, None)), mesh, (BY_MEMBER, EVERYWHERE), BY_MEMBER)(keys, epoch)


def _check_batches(batches: PyTree, members: int) -> None:
    # An index out of range would be clamped without a word.
    leading = sorted({np.shape(leaf)[:2] for leaf in jax.tree.leaves(batches)})
    if not leading:
        raise ValueError(f"data must give batches [member, step, batch, ...], got {batches!r:.100}")
    if len(leading) != 1 or len(leading[0]) < 2 or leading[0][0] != members or leading[0][1] < 1:
        raise ValueError(
            f"data must give batches with leaves [member, step, batch, ...] for {members} members and at least one "
            f"step, got leaves that begin with {leading}"
        )
