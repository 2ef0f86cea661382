"""The pass over the parameters: threads, devices, and what is kept of a former one."""

import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from jaxscape.trajectories import increments
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.geometry import trajectory_geometry
from jaxscape.trajectories.gram import gram, take_points
from jaxscape.trajectories.null import null_trajectories
from jaxscape.trajectories.store import TrajectoryStore

EPOCHS, MEMBERS, SIZE = 6, 4, 3000


def trajectories(size=SIZE, epochs=EPOCHS, seed=0):
    """A minimum, the rows of copies that walk away from it epoch by epoch, and the rows before them."""
    generator = np.random.default_rng(seed)
    minimum = generator.standard_normal(size).astype(np.float32)
    start = minimum + generator.standard_normal((MEMBERS, size))
    moves = 1e-4 * generator.standard_normal((epochs, MEMBERS, size))
    moves[0] = 0
    rows = (start + np.cumsum(moves, axis=0)).astype(np.float32).reshape(-1, size)
    return minimum, rows, np.maximum(np.arange(len(rows)) - MEMBERS, -1)


def exact_products(minimum, rows, parents):
    """In extended precision."""
    points = np.concatenate([minimum[None], rows]).astype(np.longdouble)
    increments = points.copy()
    increments[1:] -= points[np.maximum(parents, -1) + 1]
    return increments @ increments.T


def whole(found):
    """Products and remainders as one number of extended precision."""
    return found.products.astype(np.longdouble) + found.remainders


def error(found, expected):
    """The largest error as a share of the lengths of the two increments."""
    length = np.sqrt(np.diag(expected))
    return float(np.max(np.abs(found - expected) / (length[:, None] * length)))


@pytest.fixture
def three_threads():
    """BLAS has three threads, however many the tests leave it (tests/conftest.py)."""
    with threadpool_limits(3, user_api="blas"):
        yield


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_share_the_columns(threads, monkeypatch):
    monkeypatch.setattr(increments, "_count_threads", lambda num_rows: threads)
    minimum, rows, parents = trajectories()
    found = gram(rows, reference=minimum, parents=parents, max_bytes=4 * len(rows) * 500 * (threads + 1))
    assert error(whole(found), exact_products(minimum, rows, parents)) < 1e-16


def test_threads_are_those_of_blas_and_fewer_where_the_sums_are_large(three_threads):
    assert increments._count_threads(100) == 3
    assert increments._count_threads(10**5) == 1


def test_the_limit_on_blas_ends_with_the_pass(three_threads):
    before = threadpool_info()
    minimum, rows, parents = trajectories(size=300)
    gram(rows, reference=minimum, parents=parents)
    rows[3, 7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        gram(rows, reference=minimum, parents=parents)
    assert [library["num_threads"] for library in threadpool_info()] == [library["num_threads"] for library in before]


def test_the_same_points_give_the_same_bytes():
    minimum, rows, parents = trajectories()
    one, other = (gram(rows, reference=minimum, parents=parents, max_bytes=10**5) for _ in range(2))
    assert one.products.tobytes() == other.products.tobytes()
    assert one.remainders.tobytes() == other.remainders.tobytes()


@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("size", [7, 130, SIZE])
def test_a_device_gives_the_same_to_rounding(size, reference):
    minimum, rows, parents = trajectories(size=size)
    minimum = minimum if reference else None
    on_device = gram(rows, reference=minimum, parents=parents, devices=jax.devices(), max_bytes=4 * len(rows) * 500)
    on_host = gram(rows, reference=minimum, parents=parents, devices=[])
    assert error(whole(on_device), whole(on_host)) < 1e-15
    assert (on_device.products == on_device.products.T).all()
    distances = pairwise_distances(on_device, metric="euclidean")
    np.testing.assert_allclose(distances, pairwise_distances(on_host, metric="euclidean"), rtol=1e-9)


def test_several_devices_share_the_blocks():
    program = """
        import jax
        import numpy as np

        jax.config.update("jax_num_cpu_devices", 3)
        from jaxscape import gram
        from jaxscape.trajectories import increments

        used = set()
        add_block = increments._compiled_add_block()
        def add_and_note(sums, *args, **settings):
            used.update(sums[0].devices())
            return add_block(sums, *args, **settings)
        increments._compiled_add_block = lambda: add_and_note

        rows = np.random.default_rng(0).standard_normal((9, 4000)).astype(np.float32)
        parents = [-1, -1, 0, 1, 2, 3, 4, 5, 6]
        shared = gram(rows, parents=parents, devices=jax.devices(), max_bytes=9 * 4 * 4 * 300)
        on_host = gram(rows, parents=parents)
        np.testing.assert_allclose(shared.products, on_host.products, rtol=1e-13, atol=1e-11)
        assert used == set(jax.devices()) and len(used) == 3, used
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_points_of_which_one_is_infinite_are_named_by_a_device_too():
    minimum, rows, parents = trajectories(size=300)
    rows[5, 3] = np.inf
    with pytest.raises(ValueError, match="rows 5"):
        gram(rows, reference=minimum, parents=parents, devices=jax.devices())


# What is kept of a former pass


@pytest.mark.parametrize("devices", [[], None])
@pytest.mark.parametrize("reference", [True, False])
@pytest.mark.parametrize("kept", [1, 2, MEMBERS, 3 * MEMBERS, EPOCHS * MEMBERS])
def test_new_rows_extend_a_previous_result(kept, reference, devices):
    minimum, rows, parents = trajectories()
    minimum = minimum if reference else None
    devices = jax.devices() if devices is None else devices
    old = gram(rows[:kept], reference=minimum, parents=parents[:kept])
    found = gram(rows, reference=minimum, parents=parents, previous=old, devices=devices)
    expected = gram(rows, reference=minimum, parents=parents)
    assert error(whole(found), whole(expected)) < 1e-15
    assert (found.products == found.products.T).all()
    assert (found.remainders == found.remainders.T).all()
    corner = len(old.parents)
    np.testing.assert_array_equal(found.products[:corner, :corner], old.products)
    assert found.parents.tolist() == expected.parents.tolist()


def test_only_new_products_are_computed(monkeypatch):
    minimum, rows, parents = trajectories()
    old = gram(rows[:-MEMBERS], reference=minimum, parents=parents[:-MEMBERS])
    shapes = []
    add = increments._add_block

    def add_and_note(sums, *rest):
        shapes.append(sums.total.shape)
        add(sums, *rest)

    monkeypatch.setattr(increments, "_add_block", add_and_note)
    gram(rows, reference=minimum, parents=parents, previous=old)
    assert set(shapes) == {(MEMBERS + 1, len(rows) + 1)}  # one old row tells whether the rows are the same


def test_a_longer_store_reuses_a_previous_result(tmp_path):
    minimum, rows, _ = trajectories()
    with TrajectoryStore.create(tmp_path / "store", [{"seed": member} for member in range(MEMBERS)]) as store:
        for epoch in range(EPOCHS):
            if epoch == 4:
                store.wait()
                old = gram(store, reference=minimum)
            store.append(epoch, rows[epoch * MEMBERS : (epoch + 1) * MEMBERS])
        store.wait()
        found = gram(store, reference=minimum, previous=old)
        expected = gram(store, reference=minimum)
    assert found.num_points == EPOCHS * MEMBERS
    np.testing.assert_allclose(
        pairwise_distances(found, center="mean"), pairwise_distances(expected, center="mean"), rtol=1e-9
    )


def test_a_previous_result_for_other_points_is_refused():
    minimum, rows, parents = trajectories()
    half = 3 * MEMBERS
    old = gram(rows[:half], reference=minimum, parents=parents[:half])
    other = rows.copy()
    other[5] += np.float32(1e-3) * np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
    with pytest.raises(ValueError, match="previous is of other points"):
        gram(other, reference=minimum, parents=parents, previous=old)
    with pytest.raises(ValueError, match="previous is of other points"):
        gram(rows, reference=minimum[::-1], parents=parents, previous=old)
    with pytest.raises(ValueError, match=r"previous has \(has_reference, dimension\)"):
        gram(rows, parents=parents, previous=old)
    with pytest.raises(ValueError, match=r"previous has \(has_reference, dimension\)"):
        gram(rows[:, 1:], reference=minimum[1:], parents=parents, previous=old)
    with pytest.raises(ValueError, match="same parents; it has 13 rows"):
        gram(rows[:5], reference=minimum, parents=parents[:5], previous=old)
    with pytest.raises(ValueError, match="same parents"):
        gram(rows, reference=minimum, parents=[-1] * len(rows), previous=old)


def test_a_store_without_snapshots_and_members_that_are_not_there_are_refused(tmp_path):
    with TrajectoryStore.create(tmp_path / "store", [{"seed": 0}]) as store:
        for reference in (None, np.ones(3)):
            with pytest.raises(ValueError, match="has no snapshots yet"):
                gram(store, reference=reference)
        store.append(0, np.ones((1, 3), np.float32))
        for members in ([], [4]):
            with pytest.raises(ValueError, match=r"members=.* must be one or several of 0 to 0"):
                gram(store, members=members)


def test_nan_in_old_and_in_new_rows_is_refused():
    minimum, rows, parents = trajectories()
    old = gram(rows[:8], reference=minimum, parents=parents[:8])
    for row, message in ((2, "previous is of other points"), (20, "rows 20")):
        broken = rows.copy()
        broken[row, 1] = np.nan
        with pytest.raises(ValueError, match=message):
            gram(broken, reference=minimum, parents=parents, previous=old)


def test_copies_that_do_not_move_can_extend_a_previous_result():
    """Their last increments are zero and tell nothing; an earlier one is computed again instead."""
    minimum, rows, parents = trajectories()
    rows = np.tile(rows[:MEMBERS], (EPOCHS, 1))
    old = gram(rows[:12], reference=minimum, parents=parents[:12])
    found = gram(rows, reference=minimum, parents=parents, previous=old)
    assert (pairwise_distances(found)[MEMBERS:, MEMBERS:] == pairwise_distances(found)[:-MEMBERS, :-MEMBERS]).all()
    with pytest.raises(ValueError, match="other points"):
        gram(2 * rows, reference=minimum, parents=parents, previous=old)


@pytest.mark.parametrize("with_reference", [True, False])
def test_the_gram_of_some_trajectories_is_that_of_their_points(with_reference):
    minimum, rows, parents = trajectories()
    reference = minimum if with_reference else None
    taken = np.flatnonzero(np.isin(np.arange(len(rows)) % MEMBERS, [1, 3]))
    found = take_points(gram(rows, reference=reference, parents=parents), taken)
    alone = gram(rows[taken], reference=reference, parents=np.maximum(np.arange(len(taken)) - 2, -1))
    np.testing.assert_array_equal(found.parents, alone.parents)
    assert (found.has_reference, found.dimension) == (with_reference, SIZE)
    assert error(whole(found), whole(alone)) < 1e-15


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([4, 5], "points must include the predecessors of points 4, 5"),
        ([], "increasing numbers from 0 to 23"),
        ([1, 0], "increasing numbers from 0 to 23"),
        ([24], "increasing numbers from 0 to 23"),
        ([-1], "increasing numbers from 0 to 23"),
    ],
)
def test_points_without_their_predecessors_are_refused(points, message):
    minimum, rows, parents = trajectories()
    with pytest.raises(ValueError, match=message):
        take_points(gram(rows, reference=minimum, parents=parents), points)


# Some leaves, and several stores


def store_of(folder, epochs, members, seed):
    """A store of two layers, and its rows as a matrix."""
    generator = np.random.default_rng(seed)
    shapes = {"a": (400, 3), "b": (50,)}
    with TrajectoryStore.create(folder, [{"seed": member} for member in range(members)]) as store:
        start = {name: generator.standard_normal((members, *shape)) for name, shape in shapes.items()}
        rows = []
        for epoch in range(epochs):
            moved = {n: x + 1e-3 * epoch * generator.standard_normal(x.shape) for n, x in start.items()}
            params = {name: leaf.astype(np.float32) for name, leaf in moved.items()}
            store.append(epoch, params)
            rows.append(np.concatenate([leaf.reshape(members, -1) for leaf in params.values()], axis=1))
    return store, np.concatenate(rows)


def test_leaves_of_a_store_are_read_alone(tmp_path, monkeypatch):
    store, rows = store_of(tmp_path / "store", 3, 2, 0)
    opened = set()
    open_array = TrajectoryStore._open_array

    def open_and_note(self, epoch, leaf):
        opened.add(leaf.name)
        return open_array(self, epoch, leaf)

    monkeypatch.setattr(TrajectoryStore, "_open_array", open_and_note)
    found = gram(store, leaves=["b"], reference={"b": rows[0, 1200:]})
    assert opened == {"b"}
    expected = gram(rows[:, 1200:], reference=rows[0, 1200:], parents=np.maximum(np.arange(6) - 2, -1))
    np.testing.assert_allclose(found.products, expected.products, rtol=1e-12, atol=1e-15)
    assert found.dimension == 50
    blocks = np.concatenate(list(store.blocks(4 * 6 * 7, leaves="b*")), axis=1)
    np.testing.assert_array_equal(blocks, rows[:, 1200:])


@pytest.mark.parametrize("max_bytes", [2**28, 4 * 23 * 3 * 40])
def test_the_rows_of_several_stores_follow_one_another_and_never_cross(tmp_path, max_bytes):
    one, two, three = (store_of(tmp_path / str(n), *shape, n) for n, shape in enumerate([(4, 3), (1, 2), (9, 1)]))
    rows = np.concatenate([one[1], two[1], three[1]])
    parents = [*np.maximum(np.arange(12) - 3, -1), -1, -1, -1, *range(14, 22)]
    for reference in (None, rows[5]):
        found = gram([one[0], two[0], three[0]], reference=reference, max_bytes=max_bytes)
        expected = gram(rows, reference=reference, parents=parents)
        np.testing.assert_array_equal(found.parents, expected.parents)
        assert error(whole(found), whole(expected)) < 1e-15
    exact = np.linalg.norm(rows[:, None].astype(np.longdouble) - rows, axis=2)
    np.testing.assert_allclose(pairwise_distances([one[0], two[0], three[0]], metric="euclidean"), exact, rtol=1e-9)


def test_members_and_leaves_of_several_stores_and_a_store_that_joins(tmp_path):
    (one, of_one), (two, of_two) = (store_of(tmp_path / str(n), *shape, n) for n, shape in enumerate([(2, 3), (3, 2)]))
    rows = np.concatenate([of_one[[2, 0, 5, 3]], of_two])[:, 1200:]
    parents = [-1, -1, 0, 1, -1, -1, 4, 5, 6, 7]
    found = gram([one, two], members=[[2, 0], None], leaves="b")
    np.testing.assert_allclose(found.products, gram(rows, parents=parents).products, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(found.parents, parents)
    before = gram([one], members=[[2, 0]], leaves="b")
    joined = gram([one, two], members=((2, 0), np.arange(2)), leaves="b", previous=before)
    assert error(whole(joined), whole(found)) < 1e-15


def test_stores_of_other_lengths_have_a_geometry_of_each_and_a_null(tmp_path):
    one, two = (store_of(tmp_path / str(n), *shape, n)[0] for n, shape in enumerate([(2, 3), (5, 2)]))
    found = gram([one, two])
    summary = trajectory_geometry(found).summary()
    for store, columns in ((one, slice(0, 3)), (two, slice(3, 5))):
        alone = trajectory_geometry(gram(store)).summary()
        for name in alone.keys() - {"end_spread"}:
            np.testing.assert_allclose(summary[name][columns], alone[name], rtol=1e-9, err_msg=name)
    movement = [trajectory_geometry(each).movement for each in (found, null_trajectories(found, key=jax.random.key(0)))]
    np.testing.assert_array_equal(*movement)


@pytest.mark.parametrize(
    "members", [0, [0], [0, 1], [[0], [1], [0]], "01", [[0], "a"], [[0], [2]], [[0], [[0], [0, 1]]], [[], None]]
)
def test_members_of_several_stores_are_a_selection_each(tmp_path, members):
    stores = [store_of(tmp_path / str(n), 1, 2, n)[0] for n in range(2)]
    with pytest.raises(ValueError, match="members"):
        gram(stores, members=members)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"a": (400, 3)}, r"'b' is absent in .*other and of shape \(50,\) in .*one"),
        ({"a": (400, 3), "b": (51,)}, r"'b' is of shape \(51,\) in .*other and of shape \(50,\) in .*one"),
        ({"a": (400, 3), "b": (50,), "c": (1,)}, r"'c' is of shape \(1,\) in .*other and absent in .*one"),
    ],
)
def test_stores_of_other_arrays_are_refused_by_the_arrays_name(tmp_path, params, message):
    one, _ = store_of(tmp_path / "one", 1, 2, 0)
    with TrajectoryStore.create(tmp_path / "other", [{"seed": 0}]) as other:
        other.append(0, {name: np.ones((1, *shape), np.float32) for name, shape in params.items()})
    with pytest.raises(ValueError, match=f"stores must hold the same arrays: {message}"):
        gram([one, other])


def test_stores_beside_something_else_or_with_too_little_room_are_refused(tmp_path):
    one, rows = store_of(tmp_path / "one", 2, 2, 0)
    for points in ([one, rows], [rows, one]):
        with pytest.raises(ValueError, match=r"points must all be stores, or none, but points\[\d\] is a ndarray"):
            gram(points)
    with pytest.raises(ValueError, match=r"max_bytes=.* is less than one column, 32 bytes"):
        gram([one, one], max_bytes=10)
    with TrajectoryStore.create(tmp_path / "empty", [{"seed": 0}]) as empty, pytest.raises(ValueError, match="no snap"):
        gram([one, empty])
