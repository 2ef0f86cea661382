"""The batches of an epoch: row indices into arrays, or batches from a user's function, loader or iterator.

Batches that all members share are stored once, as arrays with a leading step axis that every member indexes.
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
from jaxscape.training.devices import BY_MEMBER, REPLICATED, gather, local_members, per_device, replicate, shard_members
from jaxscape.training.members import num_members

PyTree = Any

# Folded into a member's key for its batch order; the directions of the jumps use keys of their own.
ORDER = 0


class SharedBatches(NamedTuple):
    """Batches of an epoch that all members share, with leaves [step, batch, ...]; a data function may return one."""

    batches: PyTree


class EpochInputs(NamedTuple):
    """The inputs of one epoch, in the form that the strategies take."""

    data: PyTree  # arrays that all members index; None where every member has its own batches
    batches: PyTree  # [member, step, ...]: batches, or row indices into data


def batches_for_each(make: Callable[[int, int], Iterable[PyTree]]) -> Callable[[int, jax.Array], PyTree]:
    """Return a data function that gives every member its own stream of batches.

    Args:
        make: `(epoch, seed) -> iterable of batches`, such as a DataLoader that shuffles with this seed. The seed is
            derived from the member's key and the epoch: members with the same key get the same seed, and so does a
            resumed run.

    Returns:
        `(epoch, keys) -> batches` with leaves [member, step, batch, ...], as `train` and `Problem` take it. A last
        batch that is smaller than the others is dropped. All batches of an epoch are in memory at once.

    Raises:
        ValueError: from the returned function, if members differ in their numbers of batches, or batches in shape.
    """
    warn = _WarnOnce()

    def data(epoch: int, keys: jax.Array) -> PyTree:
        draw = jax.vmap(lambda key: jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, ORDER), epoch)))
        members = [_stack(list(_full_batches(make(epoch, int(seed)), warn))) for seed in np.asarray(draw(keys))]
        steps = [num_members(batches) for batches in members]
        if len(set(steps)) > 1:
            raise ValueError(f"make must give every member the same number of batches in an epoch, got {steps}")
        return _stack(members)

    return data


def data_function(data: Data, steps: int | None = None) -> Callable[[int, jax.Array], PyTree]:
    """Return a function `(epoch, keys) -> batches` for data that are not arrays.

    Args:
        data: a function, which is returned unchanged; or an iterable or an iterator of batches.
        steps: batches per epoch; None for one pass over an iterable.
    """
    if callable(data):
        return data
    if isinstance(data, Iterator):
        stream: Iterator[PyTree] | None = map(_as_arrays, data)
    else:
        passes = partial(_full_batches, data, _WarnOnce())
        stream = None if steps is None else itertools.chain.from_iterable(passes() for _ in itertools.count())

    def draw(epoch: int, keys: jax.Array) -> SharedBatches:
        batches = list(_finite_pass(passes()) if stream is None else itertools.islice(stream, steps))
        if steps is not None and len(batches) < steps:
            raise ValueError(
                f"data must give steps = {steps} batches for every epoch, but it ended after {len(batches)} of "
                f"epoch {epoch}"
            )
        return SharedBatches(_stack(batches))

    return draw


class EpochBatches:
    """Makes the inputs of every epoch, from data of any kind."""

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
            batch_size: examples per step, if data are arrays.
            steps: steps per epoch; None for one pass over the data.
            members: the number of members, without those that pad a mesh.
            mesh: the mesh of devices that the members are sharded over.
            check_values: raises an error for batches [member, step, batch, ...] that cannot be trained on.
        """
        self._batch_size, self._steps = batch_size, steps
        self._members, self._mesh, self._check_values = members, mesh, check_values
        self._arrays = replicate(jax.tree.map(jnp.asarray, data), mesh) if is_arrays(data) else None
        self._function = None if is_arrays(data) else data_function(data, steps)
        self._shared: bool | None = None

    def __call__(self, keys: jax.Array, epoch: int) -> EpochInputs:
        """Draw the epoch's batches for the members' keys, which are sharded over the mesh."""
        if self._function is None:
            return EpochInputs(self._arrays, self._rows(keys, epoch))
        own = local_members(jax.random.key_data(keys), self._mesh)
        own = jax.random.wrap_key_data(gather(own, self._mesh)[: self._members], impl=jax.random.key_impl(keys))
        try:
            batches = self._function(epoch, own)
        except StopIteration as error:  # which would end, or break, the iterator over epochs
            raise ValueError(f"data must give batches for every epoch, but it ended before epoch {epoch}") from error
        shared = isinstance(batches, SharedBatches)
        if self._shared not in (None, shared):
            raise ValueError(f"data must give SharedBatches for every epoch or for none, which epoch {epoch} breaks")
        self._shared = shared
        return self._replicated(batches.batches) if shared else self._sharded(batches)

    def _rows(self, keys: jax.Array, epoch: int) -> PyTree:
        """Return the row indices [member, step, batch] into the arrays."""
        examples, size = num_members(self._arrays), self._batch_size
        order = partial(_orders, keys, num_examples=examples, batch_size=size, mesh=self._mesh)
        return order(epoch) if self._steps is None else _some_steps(order, epoch, self._steps, examples // size)

    def _sharded(self, batches: PyTree) -> EpochInputs:
        _check_batches(batches, self._members)
        self._check_values(batches)
        return EpochInputs(None, shard_members(batches, self._mesh))

    def _replicated(self, batches: PyTree) -> EpochInputs:
        with_member = jax.tree.map(lambda leaf: np.asarray(leaf)[None], batches)
        _check_batches(with_member, 1)
        self._check_values(with_member)
        steps = np.shape(jax.tree.leaves(batches)[0])[0]
        numbers = jnp.tile(jnp.arange(steps, dtype=jnp.int32), (self._members, 1))
        return EpochInputs(
            replicate(jax.tree.map(jnp.asarray, batches), self._mesh), shard_members(numbers, self._mesh)
        )


def check_member_axis(loss_fn: LossFn, network: tuple[PyTree, PyTree], batches: PyTree) -> None:
    """Raise an error if batches [step, batch, ...] seem to be given in place of [member, step, batch, ...].

    The number of members may equal the number of steps, and many losses accept a single example in place of a batch,
    so shapes alone do not decide. But a loss accepts any number of examples: it is traced with one example more. If it
    accepts this along the third axis, the batches are right. If it does not accept it along the second axis either,
    nothing can be decided, and the batches pass; so do those of a loss that accepts arrays of any shape.

    Args:
        loss_fn: the loss of one member.
        network: params and model_state of one member, arrays or their shapes.
        batches: a pytree whose leaves have a first axis as long as the number of members.

    Raises:
        ValueError: the message says how the loss takes the batches.
    """
    takes = partial(_takes, loss_fn, network, batches)
    if not takes(axis=2, more=1) and takes(axis=1, more=0) and takes(axis=1, more=1):
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batches)]
        raise ValueError(
            f"data must give batches with leaves [member, step, batch, ...], got leaves of shapes {shapes}, which "
            "loss_fn accepts only as [step, batch, ...]: the member axis is missing; for batches that all "
            "members share, return SharedBatches(batches)"
        )


def _takes(loss_fn: LossFn, network: tuple[PyTree, PyTree], batches: PyTree, *, axis: int, more: int) -> bool:
    """Return whether the loss can be traced for a batch whose first axis is `axis`, with `more` examples added."""

    def batch_of(leaf: Any) -> jax.ShapeDtypeStruct:
        size, *rest = np.shape(leaf)[axis:]
        return jax.ShapeDtypeStruct((size + more, *rest), jax.dtypes.canonicalize_dtype(jnp.result_type(leaf)))

    try:
        batch = jax.tree.map(batch_of, batches)
        jax.eval_shape(checked_loss(loss_fn), *network, batch, jax.eval_shape(jax.random.key, 0))
    except Exception:  # a user's function may raise anything for shapes that it does not take
        return False
    return True


def _finite_pass(batches: Iterable[PyTree]) -> Iterator[PyTree]:
    """Yield the batches of one pass while they fit into memory: a loader that repeats its data never ends."""
    most, size = _memory() // 2, 0  # half, because stacking the batches makes a second copy
    for number, batch in enumerate(batches, 1):
        size += sum(leaf.nbytes for leaf in jax.tree.leaves(batch))
        if size > most:
            raise ValueError(
                f"data must give passes that end and fit into memory: {number} batches of one pass have {size} bytes, "
                "half the memory of this machine; for data that repeat, give a single pass, or pass steps= to "
                "jaxscape.train"
            )
        yield batch


def _memory() -> int:
    """Return the memory of this machine in bytes, or a large number if it is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return 2**62


class _WarnOnce:
    """Warn once that the last batch of a pass is smaller than the others."""

    def __init__(self) -> None:
        self._done = False

    def __call__(self, last: int, others: int) -> None:
        if not self._done:
            message = (
                f"the last batch of a pass over data has {last} examples, the others have {others}; it is dropped in "
                "every pass (a DataLoader does the same with drop_last=True)"
            )
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        self._done = True


def _full_batches(batches: Iterable[PyTree], warn: _WarnOnce) -> Iterator[PyTree]:
    """Yield the batches of one pass as NumPy arrays, without a last one that is smaller than the first."""
    first = before = None
    for batch in map(_as_arrays, batches):
        if before is not None:
            yield before
        before = batch
        first = batch if first is None else first
    if before is None:
        raise ValueError("data must give at least one batch per pass, got none")
    last, others = _num_examples(before), _num_examples(first)
    if last < others:
        warn(last, others)
    else:
        yield before


def _num_examples(batch: PyTree) -> int:
    return max((len(leaf) for leaf in jax.tree.leaves(batch) if leaf.ndim), default=0)


def _as_arrays(batch: PyTree) -> PyTree:
    """Return a batch as NumPy arrays; tensors of other frameworks are converted too."""
    arrays = jax.tree.map(np.asarray, batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        if not is_number(leaf):
            raise TypeError(f"data must give batches of arrays of numbers, got {leaf.dtype} at {leaf_name(path)}")
    if not jax.tree.leaves(arrays):
        raise TypeError(f"data must give batches of arrays of numbers, got {batch!r:.100}")
    return arrays


def _stack(batches: list[PyTree]) -> PyTree:
    """Stack batches of one structure along a new leading axis, [step, ...]."""
    for number, batch in enumerate(batches):
        if _shapes(batch) != _shapes(batches[0]):
            raise ValueError(
                "data must give batches of the same structure and shapes in an epoch (the last one of a pass over an "
                f"iterable may be smaller), got {_shapes(batches[0])} at index 0 and {_shapes(batch)} at index {number}"
            )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def _shapes(batch: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", batch)


def _some_steps(order: Callable[[int], jax.Array], epoch: int, steps: int, steps_per_pass: int) -> jax.Array:
    """Return the row indices [member, step, batch] of an epoch of `steps` steps, from the passes that it spans."""
    first = (epoch - 1) * steps
    passes = range(first // steps_per_pass, (first + steps - 1) // steps_per_pass + 1)
    begin = first - passes.start * steps_per_pass
    return jnp.concatenate([order(number + 1) for number in passes], axis=1)[:, begin : begin + steps]


@partial(jax.jit, static_argnames=("num_examples", "batch_size", "mesh"))
def _orders(keys: jax.Array, epoch: int, *, num_examples: int, batch_size: int, mesh: Mesh | None) -> jax.Array:
    """Return the row indices [member, step, batch] of an epoch: a shuffle per member, the partial batch dropped."""
    steps = num_examples // batch_size

    def order(key: jax.Array, epoch: jax.Array) -> jax.Array:
        epoch_key = jax.random.fold_in(jax.random.fold_in(key, ORDER), epoch)
        return jax.random.permutation(epoch_key, num_examples)[: steps * batch_size].reshape(steps, batch_size)

    return per_device(jax.vmap(order, in_axes=(0, None)), mesh, (BY_MEMBER, REPLICATED), BY_MEMBER)(keys, epoch)


def _check_batches(batches: PyTree, members: int) -> None:
    # JAX would silently clamp an index that is out of range.
    leading = sorted({np.shape(leaf)[:2] for leaf in jax.tree.leaves(batches)})
    if not leading:
        raise ValueError(f"data must give batches [member, step, batch, ...], got {batches!r:.100}")
    if len(leading) != 1 or len(leading[0]) < 2 or leading[0][0] != members or leading[0][1] < 1:
        raise ValueError(
            f"data must give batches with leaves [member, step, batch, ...] for {members} members and at least one "
            f"step, got leaves that begin with {leading}"
        )
