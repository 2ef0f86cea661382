import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore as ts
from jax.flatten_util import ravel_pytree

from jaxscape.trajectories.arrays import in_structure
from jaxscape.trajectories.store import TrajectoryStore

MEMBERS, EPOCHS = 3, 4
LABELS = [{"seed": member, "step_size": 0.25 * (member + 1)} for member in range(MEMBERS)]
SHAPES = {"conv": {"kernel": (2, 3, 2, 4), "bias": (4,)}, "norm": {"scale": (), "wide": (1, 1, 5, 3)}}


def snapshot(epoch, shapes=SHAPES, members=MEMBERS):
    generator = np.random.default_rng(epoch)

    def draw(shape):
        return generator.standard_normal((members, *shape)).astype(np.float32)

    return jax.tree.map(draw, shapes, is_leaf=lambda node: isinstance(node, tuple))


def matrix(*snapshots):
    """One row a member, epoch by epoch, flattened by JAX."""
    return np.concatenate([jax.vmap(lambda params: ravel_pytree(params)[0])(params) for params in snapshots])


def assert_trees_equal(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A store that was written, closed and opened again."""
    path = tmp_path_factory.mktemp("store") / "trajectories"
    with TrajectoryStore.create(path, LABELS) as store:
        for epoch in range(EPOCHS):
            store.append(epoch, snapshot(epoch), update=7 * epoch)
    return TrajectoryStore.open(path)


@pytest.fixture
def fresh(tmp_path):
    with TrajectoryStore.create(tmp_path / "trajectories", LABELS) as store:
        yield store


# What comes back


def test_everything_comes_back_epoch_by_epoch(full):
    expected = jax.tree.map(lambda *epochs: np.stack(epochs), *[snapshot(epoch) for epoch in range(EPOCHS)])
    assert_trees_equal(full.read(), expected)


def test_one_epoch_keeps_its_axis(full):
    assert_trees_equal(full.read(epochs=2), jax.tree.map(lambda leaf: leaf[None], snapshot(2)))


def test_members_are_returned_in_the_requested_order(full):
    found = full.read(epochs=[3, 1], members=[2, 0])
    expected = jax.tree.map(lambda a, b: np.stack([a[[2, 0]], b[[2, 0]]]), snapshot(3), snapshot(1))
    assert_trees_equal(found, expected)


def test_leaves_prune_the_tree(full):
    found = full.read(epochs=0, leaves=["norm/scale", "norm/scale"])
    assert_trees_equal(found, {"norm": {"scale": snapshot(0)["norm"]["scale"][None]}})


def test_a_store_has_labels_and_leaf_names(full):
    assert (full.num_epochs, full.num_members) == (EPOCHS, MEMBERS)
    assert full.num_parameters == ravel_pytree(jax.tree.map(lambda leaf: leaf[0], snapshot(0)))[0].size
    assert full.leaf_names == ["conv/bias", "conv/kernel", "norm/scale", "norm/wide"]
    assert full.labels == LABELS
    assert full.updates == [0, 7, 14, 21]


def test_bits_survive(fresh):
    special = np.array([[-0.0, np.nan], [np.inf, 1e-45], [0.0, 0.0]], np.float32)
    fresh.append(0, {"x": special})
    assert fresh.read()["x"].tobytes() == special.tobytes()


def test_other_containers_come_back_as_dictionaries(fresh):
    layer = namedtuple("layer", ["kernel", "bias"])
    ones = np.ones((MEMBERS, 2), np.float32)
    fresh.append(0, [layer(ones, (2 * ones,)), {"a/b.c": 3 * ones}])
    expected = {"0": {"kernel": ones[None], "bias": {"0": 2 * ones[None]}}, "1": {"a/b.c": 3 * ones[None]}}
    assert_trees_equal(fresh.read(), expected)


def test_a_bare_array_comes_back_under_a_name(fresh):
    points = np.arange(MEMBERS * 2, dtype=np.float32).reshape(MEMBERS, 2)
    fresh.append(0, points)
    assert_trees_equal(fresh.read(), {"params": points[None]})
    np.testing.assert_array_equal(next(fresh.blocks(10**6)), points)


def test_columns_of_a_long_list_follow_the_list_and_not_its_spelling(fresh):
    params = [np.full((MEMBERS, 1), index, np.float32) for index in range(11)]
    fresh.append(0, params)
    np.testing.assert_array_equal(next(fresh.blocks(10**6)), matrix(params))


@pytest.mark.parametrize(
    "selection",
    [
        {"epochs": EPOCHS},
        {"members": [0, -1]},
        {"epochs": []},
        {"members": 0.5},
        {"epochs": True},
        {"epochs": [[0], [0, 1]]},
        {"members": "0"},
        {"members": 10**30},
    ],
)
def test_missing_epochs_and_members_are_refused_with_the_existing_ones(full, selection):
    with pytest.raises(ValueError, match=r"must be one or several of 0 to \d"):
        full.read(**selection)


@pytest.mark.parametrize("leaves", [["conv/missing"], "conv/bias", 5, [["conv/bias"]]])
def test_unknown_leaves_are_refused_with_the_known_ones(full, leaves):
    with pytest.raises(ValueError, match="conv/kernel"):
        full.read(leaves=leaves)


def test_an_empty_store_has_nothing_to_read(fresh):
    for reading in (fresh.read, lambda: fresh.blocks(10**6)):
        with pytest.raises(ValueError, match="no snapshots yet"):
            reading()


# Blocks


def test_blocks_are_the_matrix_of_all_snapshots_at_every_width(full):
    expected = matrix(*[snapshot(epoch) for epoch in range(EPOCHS)])
    rows, columns = expected.shape
    for width in range(1, columns + 2):
        blocks = list(full.blocks(4 * rows * width + 3))
        assert [block.shape[1] for block in blocks[:-1]] == [width] * (len(blocks) - 1)
        np.testing.assert_array_equal(np.concatenate(blocks, axis=1), expected)
        assert {block.dtype for block in blocks} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_stored_as_it_is_and_blocks_widen_it_exactly(fresh, dtype):
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), snapshot(0))
    fresh.append(0, params)
    assert_trees_equal(fresh.read(), jax.tree.map(lambda leaf: np.asarray(leaf)[None], params))
    block = next(fresh.blocks(10**6))
    assert block.dtype == np.float32
    np.testing.assert_array_equal(block, matrix(params).astype(np.float32))


def test_a_block_without_room_for_a_column_is_refused_at_once(full):
    with pytest.raises(ValueError, match="max_bytes=47 is less than one column, 48 bytes"):
        full.blocks(4 * EPOCHS * MEMBERS - 1)


# What is refused, before anything is written


@pytest.mark.parametrize("epoch", [0, 2, -1, 1.5, "1", None])
def test_only_the_next_epoch_can_be_appended(fresh, epoch):
    fresh.append(0, snapshot(0))
    with pytest.raises(ValueError, match=f"epoch={epoch} cannot be appended; the next epoch is 1"):
        fresh.append(epoch, snapshot(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p["conv"].update(bias=np.ones((MEMBERS, 5), np.float32)), r"'conv/bias'.*\(5,\).*\(4,\)"),
        (lambda p: p["conv"].update(bias=np.ones((MEMBERS, 4), np.float16)), "'conv/bias'.*float16.*float32"),
        (lambda p: p["norm"].pop("scale"), "'norm/scale'.*absent"),
        (lambda p: p["norm"].update(new=np.ones((MEMBERS, 1), np.float32)), "'norm/new'.*absent"),
    ],
)
def test_a_snapshot_unlike_the_first_is_refused_by_key_path(fresh, change, message):
    fresh.append(0, snapshot(0))
    other = snapshot(1)
    change(other)
    with pytest.raises(ValueError, match=message):
        fresh.append(1, other)
    assert fresh.num_epochs == 1


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (np.ones((MEMBERS, 2)), "'layer/kernel' is float64; allowed: float32"),
        (np.ones((MEMBERS, 2), np.int32), "'layer/kernel' is int32; allowed: float32"),
        (1.0, "'layer/kernel' is a float; allowed"),
        (np.ones((MEMBERS + 1, 2), np.float32), r"'layer/kernel' has the shape \(4, 2\); allowed: \(3, ...\)"),
        (np.ones((MEMBERS, 0), np.float32), "'layer/kernel' has the shape"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_key_path(fresh, leaf, message):
    with pytest.raises(ValueError, match=message):
        fresh.append(0, {"layer": {"kernel": leaf}})
    assert fresh.num_epochs == 0


def test_two_arrays_of_one_name_are_refused(fresh):
    ones = np.ones((MEMBERS, 1), np.float32)
    with pytest.raises(ValueError, match=r"'a.b' would have the name of another"):
        fresh.append(0, {"a": {"b": ones}, "a.b": ones})


def test_params_without_arrays_are_refused(fresh):
    with pytest.raises(ValueError, match="no arrays"):
        fresh.append(0, {})


def test_a_closed_store_can_be_read_and_not_appended_to(fresh):
    fresh.append(0, snapshot(0))
    fresh.close()
    assert fresh.read(epochs=0)["norm"]["scale"].shape == (1, MEMBERS)
    with pytest.raises(ValueError, match="is closed"):
        fresh.append(1, snapshot(1))


# Labels and folders


def test_array_scalars_become_plain_values(tmp_path):
    label = {"seed": np.int64(3), "step_size": jnp.float32(0.25), "optimizer": "sgd", "decay": None}
    store = TrajectoryStore.create(tmp_path, [label])
    assert store.labels == [{"seed": 3, "step_size": 0.25, "optimizer": "sgd", "decay": None}]
    assert json.loads((tmp_path / "store.json").read_text())["labels"] == store.labels


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "labels"),
        ([{"seed": 0}, {"step": 0}], r"labels\[1\] has the columns \['step'\]; allowed: \['seed'\]"),
        ([{"seed": np.zeros(2)}], r"labels\[0\]"),
        ([{"seed": float("nan")}], r"labels\[0\]"),
    ],
)
def test_labels_that_are_not_a_table_are_refused(tmp_path, labels, message):
    with pytest.raises(ValueError, match=message):
        TrajectoryStore.create(tmp_path / "store", labels)
    assert not (tmp_path / "store").exists()


def test_create_replaces_nothing(fresh, tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (fresh.path, tmp_path, tmp_path / "file"):
        with pytest.raises(FileExistsError, match=str(path)):
            TrajectoryStore.create(path, LABELS)


def test_open_says_what_is_missing(full, tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing"):
        TrajectoryStore.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"not a trajectory store: it has no store.json"):
        TrajectoryStore.open(tmp_path)
    (tmp_path / "store.json").write_text('{"format": "jaxscape trajectories", "version": 99}')
    with pytest.raises(ValueError, match="99"):
        TrajectoryStore.open(tmp_path)


@pytest.mark.parametrize("path", ["", "a\0b", b"store"])
def test_what_is_no_name_of_a_folder_is_refused(path):
    for make in (TrajectoryStore.open, lambda path: TrajectoryStore.create(path, LABELS)):
        with pytest.raises(ValueError, match=r"path=.* must be the name of a folder"):
            make(path)


def test_a_tilde_before_no_users_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TrajectoryStore.create("~nobody has this name", LABELS)
    assert (tmp_path / "~nobody has this name" / "store.json").is_file()


def test_numbers_of_other_types_name_the_same_epoch(fresh):
    for epoch in (False, np.int64(1), 2.0):
        fresh.append(epoch, snapshot(0), update=np.int32(7))
    fresh.close()
    assert TrajectoryStore.open(fresh.path).updates == [7, 7, 7]


def test_a_relative_path_is_resolved_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with TrajectoryStore.create("run/trajectories", LABELS) as store:
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        store.append(0, snapshot(0))
    assert TrajectoryStore.open(tmp_path / "run" / "trajectories").num_epochs == 1


# Without this class


def test_orbax_alone_reads_a_snapshot(full):
    from orbax.checkpoint import v1 as ocp

    with ocp.training.Checkpointer(full.path) as checkpointer:
        assert_trees_equal(checkpointer.load(2), snapshot(2))


def test_tensorstore_alone_finds_uncompressed_chunks_of_one_member(fresh):
    kernel = np.ones((MEMBERS, 40, 50), np.float32)
    fresh.append(0, {"dense": {"kernel": kernel}})
    fresh.wait()
    base = {"driver": "file", "path": f"{fresh.path}/0/state/"}
    spec = {"driver": "zarr3", "kvstore": {"driver": "ocdbt", "base": base, "path": "dense.kernel/"}}
    array = ts.open(spec).result()
    assert array.chunk_layout.read_chunk.shape == (1, 40, 50)
    codec = array.codec.to_json()["codecs"][0]["configuration"]["codecs"]
    assert [part["name"] for part in codec] == ["bytes"]
    np.testing.assert_array_equal(array.read().result(), kernel)


# Writing in the background, crashes


def test_arrays_may_be_overwritten_as_soon_as_append_returns(fresh):
    array = np.ones((MEMBERS, 300_000), np.float32)
    fresh.append(0, {"x": array})
    array[:] = np.nan
    np.testing.assert_array_equal(fresh.read(leaves=["x"])["x"], np.ones((1, *array.shape)))


def test_buffers_may_be_donated_as_soon_as_append_returns(fresh):
    advance = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)
    params = {"x": jnp.zeros((MEMBERS, 300_000))}
    for epoch in range(3):
        fresh.append(epoch, params)
        before, params = params, advance(params)
        if not before["x"].is_deleted():
            before["x"].delete()  # jax 0.11 does not donate a buffer that was viewed from the host
    np.testing.assert_array_equal(fresh.read()["x"][:, 0, 0], [0, 1, 2])


def test_the_unfinished_snapshot_of_a_crash_does_not_count(fresh):
    for epoch in range(2):
        fresh.append(epoch, snapshot(epoch))
    fresh.close()
    (fresh.path / "1").rename(fresh.path / "1.orbax-checkpoint-tmp")
    with TrajectoryStore.open(fresh.path) as store:
        assert store.num_epochs == 1
        store.append(1, snapshot(1), update=5)
        store.append(2, snapshot(2))
    again = TrajectoryStore.open(fresh.path)
    assert again.updates == [None, 5, None]
    assert again.last_update is None
    np.testing.assert_array_equal(next(again.blocks(10**6)), matrix(*[snapshot(epoch) for epoch in range(3)]))


def test_a_first_snapshot_that_never_finished_does_not_fix_the_structure(fresh):
    fresh.append(0, snapshot(0))
    fresh.close()
    (fresh.path / "0").rename(fresh.path / "0.orbax-checkpoint-tmp")
    with TrajectoryStore.open(fresh.path) as store:
        store.append(0, {"other": np.ones((MEMBERS, 2), np.float32)})
    assert TrajectoryStore.open(fresh.path).leaf_names == ["other"]


def test_a_failed_write_surfaces_and_its_epoch_can_be_appended_again(fresh):
    fresh.append(0, snapshot(0))
    fresh.wait()
    threads = set(threading.enumerate())
    aside = fresh.path.rename(fresh.path.parent / "aside")
    fresh.path.touch()  # a file, where the folder was
    fresh.append(1, snapshot(1))
    with pytest.raises(OSError, match=f"epoch 1 could not be written to {fresh.path}"):
        fresh.append(2, snapshot(2))
    assert fresh.num_epochs == 1
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=10)
        assert not thread.is_alive(), f"{thread.name} would keep Python from ending"
    fresh.path.unlink()
    aside.rename(fresh.path)
    fresh.append(1, snapshot(1))
    np.testing.assert_array_equal(next(fresh.blocks(10**6)), matrix(snapshot(0), snapshot(1)))


def test_a_killed_writer_leaves_whole_snapshots_only(tmp_path):
    program = """
        import os, signal, sys
        import numpy as np
        from jaxscape.trajectories.store import TrajectoryStore

        store = TrajectoryStore.create(sys.argv[1], [{"seed": member} for member in range(3)])
        for epoch in range(3):
            store.append(epoch, {"x": np.full((3, 500_000), epoch, np.float32)})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    path = tmp_path / "store"
    command = [sys.executable, "-c", textwrap.dedent(program), str(path)]
    killed = subprocess.run(command, env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    with TrajectoryStore.open(path) as store:
        assert store.num_epochs in (2, 3)  # the last append had returned, its write had not
        for epoch in range(store.num_epochs, 4):
            store.append(epoch, {"x": np.full((3, 500_000), epoch, np.float32)})
        np.testing.assert_array_equal(store.read()["x"].min(axis=2), store.read()["x"].max(axis=2))
        np.testing.assert_array_equal(store.read(members=1)["x"][:, 0, 0], [0, 1, 2, 3])


def test_a_crash_in_the_midst_of_creating_leaves_a_folder_that_create_takes(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.json.tmp").write_text("{")
    with TrajectoryStore.create(tmp_path / "store", [{"seed": 0}]) as store:
        assert store.num_members == 1


# In the structure of the user's own parameters


Layer = namedtuple("Layer", ["weight", "bias"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Module:
    weight: object
    layers: object


def test_a_named_tuple_comes_back_with_its_fields_in_place(fresh):
    layer = Layer(weight=np.zeros((MEMBERS, 2, 2), np.float32), bias=np.ones((MEMBERS, 2, 2), np.float32))
    fresh.append(0, layer)  # equal shapes: unflattening the sorted dictionary would exchange them
    found = fresh.read(like=layer)
    assert isinstance(found, Layer)
    np.testing.assert_array_equal(found.weight, np.zeros((1, MEMBERS, 2, 2)))
    np.testing.assert_array_equal(found.bias, np.ones((1, MEMBERS, 2, 2)))


def nodes():
    values = iter(range(1, 100))

    def leaf(*shape):
        return np.full((MEMBERS, *shape), next(values), np.float32)

    return Module(leaf(2), [Layer(leaf(3), leaf()), {"b": leaf(1), "a": (leaf(1), None)}, *[leaf(1) for _ in range(9)]])


@pytest.mark.parametrize("of", ["all members", "one member", "shapes"])
def test_any_registered_nodes_come_back_as_they_were(fresh, of):
    params = nodes()
    fresh.append(0, params)
    fresh.append(1, params)
    like = {
        "all members": params,
        "one member": jax.tree.map(lambda leaf: leaf[0], params),
        "shapes": jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), params),
    }[of]
    found = fresh.read([1, 0], [2, 1], like=like)
    assert_trees_equal(found, jax.tree.map(lambda leaf: np.stack([leaf[1:], leaf[1:]]), params))


def test_a_bare_array_comes_back_bare(fresh):
    fresh.append(0, np.ones((MEMBERS, 2), np.float32))
    np.testing.assert_array_equal(fresh.read(like=np.zeros(2)), np.ones((1, MEMBERS, 2)))


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (Layer(np.ones((3, 4)), None), r"like: 'bias' is absent; allowed: of shape \(4,\), as stored"),
        (Layer(np.ones((3, 4)), np.ones(5)), r"like: 'bias' is of shape \(5,\); allowed: of shape \(4,\)"),
        (Layer(np.ones((MEMBERS, 3, 4)), np.ones(4)), r"like: 'weight' is of shape \(3, 3, 4\); allowed"),
        ([np.ones((3, 4)), np.ones(4)], "like: '0' is of shape .*; allowed: absent"),
        (Layer(np.ones((3, 4)), [np.ones(4)]), "like: 'bias/0' is of shape .*; allowed: absent"),
        (Layer(np.ones((3, 4)), abs), "like: 'bias' is no array; allowed: of shape"),
    ],
)
def test_another_structure_is_refused_by_key_path_before_anything_is_read(fresh, like, message, monkeypatch):
    fresh.append(0, Layer(np.ones((MEMBERS, 3, 4), np.float32), np.ones((MEMBERS, 4), np.float32)))
    fresh.wait()
    monkeypatch.setattr(fresh, "_open_array", None)
    with pytest.raises(ValueError, match=message):
        fresh.read(like=like)


def test_leaves_and_like_are_not_given_together(full):
    with pytest.raises(ValueError, match=r"leaves=\['norm/scale'\] cannot be given with like"):
        full.read(leaves=["norm/scale"], like=snapshot(0))


def test_typed_keys_are_returned_unchanged():
    key, weight = jax.random.key(3), np.ones(2)
    found = in_structure({"key": key, "weight": np.zeros(2)}, {"weight": weight})
    assert found["key"] is key
    assert found["weight"] is weight
    numbers = np.array([0, 4], np.uint32)
    assert in_structure([key, 1.5], {"0": numbers, "1": np.ones(())})[0] is numbers
    stored = in_structure({"key": key}, {"key": jax.random.key(4)})["key"]
    assert jax.random.key_data(stored).tolist() == jax.random.key_data(jax.random.key(4)).tolist()


def test_columns_say_what_each_row_of_the_blocks_is(tmp_path):
    with TrajectoryStore.create(tmp_path / "store", LABELS) as store:
        for epoch in range(EPOCHS):
            store.append(epoch, snapshot(epoch), update=10 * epoch)
        columns = store.columns()
        rows = np.concatenate(list(store.blocks(2**20)), axis=1)
    assert list(columns) == ["member", "seed", "step_size", "epoch", "update"]
    for row, epoch, member in zip(rows, columns["epoch"], columns["member"], strict=True):
        own = jax.tree.map(lambda leaf, member=member: leaf[member], snapshot(int(epoch)))
        np.testing.assert_array_equal(row, ravel_pytree(own)[0])
    np.testing.assert_array_equal(columns["seed"], columns["member"])
    np.testing.assert_array_equal(columns["step_size"], 0.25 * (columns["member"] + 1))
    np.testing.assert_array_equal(columns["update"], 10 * columns["epoch"])
    some = store.columns([2, 0])
    assert some["member"].tolist() == [2, 0] * EPOCHS
    assert some["seed"].tolist() == [2, 0] * EPOCHS


def test_columns_of_steps_without_numbers_have_none(tmp_path):
    with TrajectoryStore.create(tmp_path / "store", LABELS) as store:
        assert store.columns()["member"].tolist() == []
        store.append(0, snapshot(0))
        assert list(store.columns()) == ["member", "seed", "step_size", "epoch"]
        with pytest.raises(IndexError):
            store.columns([MEMBERS])
