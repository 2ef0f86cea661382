"""The user's own trainings: recorded step by step, imported from checkpoints, and joined in one embedding."""

from io import StringIO

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from jaxscape.problem import Problem
from jaxscape.runs.exact import exact_panel
from jaxscape.runs.plot import exact_panels
from jaxscape.runs.run import Run
from jaxscape.runs.scale_free import scale_free_table
from jaxscape.runs.sources import read_sources
from jaxscape.trajectories.distances import pairwise_distances
from jaxscape.trajectories.gram import gram
from jaxscape.trajectories.store import TrajectoryStore


def walk(steps, seed=0, stride=10):
    """Yield the steps and parameters of a contracting training."""
    random = np.random.default_rng(seed)
    params = {"a": random.standard_normal((4, 3)).astype(np.float32), "b": np.zeros(3, np.float32)}
    for step in range(steps):
        yield step * stride, params
        noise = {name: random.standard_normal(leaf.shape).astype(np.float32) for name, leaf in params.items()}
        params = {name: np.float32(0.9) * leaf + np.float32(0.05) * noise[name] for name, leaf in params.items()}


def record(path, steps, **settings):
    with Run(path, quiet=True) as run:
        for step, params in walk(steps, **settings):
            if run.last_step is None or step > run.last_step:
                run.record(step, params, {"train_loss": 1 / (1 + step)})
    return run


def rows(run):
    leaves = jax.tree.leaves(run.store().read())
    return np.concatenate([leaf.reshape(leaf.shape[0] * leaf.shape[1], -1) for leaf in leaves], axis=1)


def exact_distances(points):
    wide = points.astype(np.longdouble)
    return np.sqrt(((wide[:, None] - wide[None]) ** 2).sum(-1)).astype(np.float64)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recorded") / "walk", 12)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recorded") / "other", 7, seed=1, stride=25)


def test_recorded_steps_are_stored(recorded):
    assert recorded.store().updates == list(range(0, 120, 10))
    np.testing.assert_array_equal(rows(recorded)[3, :12], list(walk(4))[3][1]["a"].ravel())
    header, *lines = (recorded.folder / "metrics.csv").read_text().splitlines()
    assert header == "member,run,epoch,update,finite,train_loss"
    assert lines[2] == f"0,walk,2,20,1,{1 / 21}"


def test_a_resumed_recording_is_the_same_as_a_single_one(recorded, tmp_path):
    record(tmp_path / "walk", 5)
    again = record(tmp_path / "walk", 12)
    np.testing.assert_array_equal(rows(again), rows(recorded))
    assert (again.folder / "metrics.csv").read_bytes() == (recorded.folder / "metrics.csv").read_bytes()


def test_distances_agree_with_extended_precision(recorded):
    found = pairwise_distances(gram(recorded.store()), metric="euclidean")
    np.testing.assert_allclose(found, exact_distances(rows(recorded)), rtol=1e-12, atol=1e-13)


def test_a_recording_is_embedded_drawn_and_reported(recorded, jaxscape):
    recorded.embed(knn=3)
    files = recorded.plot()
    assert [path.name for path in files if path.suffix == ".png"] == [
        *("polar.png", "plane.png", "phate-cosine-none-knn3.png", "norm.png")
    ]
    numbers = recorded.report()["geometry"]["by_group"]["walk"]["real"]
    path, ends = exact_distances(rows(recorded)), (0, -1)
    expected = sum(path[i, i + 1] for i in range(len(path) - 1)) / path[ends]
    assert numbers["tortuosity"]["mean"] == pytest.approx(expected, rel=1e-9)
    assert "return" not in numbers  # there is no minimum
    outcome = jaxscape("info", recorded.folder)
    assert "stages done: record (12 steps), distances and geometry" in outcome.out


def test_a_constant_trajectory_has_no_exact_view_and_is_left_out_beside_others(tmp_path):
    still = {"w": jnp.arange(6.0)}
    with Run(tmp_path / "run", quiet=True) as run:
        for step in range(4):
            run.record(step, [still, {"w": jnp.arange(6.0) * (step + 1)}], labels=[{"name": "a"}, {"name": "b"}])
    panel = exact_panel(run.folder)
    assert set(panel.member) == {1}
    np.testing.assert_allclose(panel.distance, np.sqrt(55) * np.arange(4))
    np.testing.assert_allclose(panel.angle, 0, atol=1e-7)
    with Run(tmp_path / "still", quiet=True) as run:
        for step in range(3):
            run.record(step, still)
    assert exact_panel(run.folder) is None
    assert exact_panels([run.folder]) == []


def test_an_extended_recording_is_measured_again(tmp_path):
    run = record(tmp_path / "walk", 5)
    assert run.report()["epochs"] == 4
    assert record(tmp_path / "walk", 8).report()["epochs"] == 7


def test_steps_that_a_killed_process_left_without_metrics_are_included(tmp_path):
    run = record(tmp_path / "walk", 4)
    params = jax.tree.map(lambda leaf: leaf[None], list(walk(6))[4][1])
    with TrajectoryStore.open(run.folder.trajectories) as store:
        store.append(4, params, update=40)
        store.append(5, jax.tree.map(lambda leaf: leaf * np.nan, params), update=50)
    _, [source] = read_sources(run.folder)
    with pytest.raises(ValueError, match=r"all 1 members of .* have diverged"):
        _ = source.diverged
    assert run.last_step == 50


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """Four networks of two seeds and two optimizers."""
    labels = [{"seed": seed, "optimizer": name} for seed in (0, 1) for name in ("adam", "sgd")]
    with Run(tmp_path_factory.mktemp("recorded") / "four", quiet=True) as run:
        for step in range(5):
            networks = [{"w": jnp.arange(6.0) * (step + 1) * (member + 1) ** 0.5} for member in range(4)]
            run.record(step, networks, {"loss": np.arange(4)}, labels=labels, group="optimizer")
    run.embed(method="pca")
    return run, labels


def test_several_networks_have_labels(several):
    run, labels = several
    assert set(run.report()["geometry"]["by_optimizer"]) == {"adam", "sgd"}
    assert run.store().labels == labels


@pytest.mark.slow
def test_several_networks_are_drawn(several):
    assert several[0].plot()


def test_runs_are_joined_with_exact_distances(recorded, other, tmp_path):
    out = StringIO()
    joint = Run.join(tmp_path / "joint", [recorded.folder, other.folder], console=Console(file=out, soft_wrap=True))
    joint.embed(method="pca")
    joint.embed(method="pca")
    assert out.getvalue().endswith("pca-euclidean is up to date\n")
    points = np.concatenate([rows(recorded), rows(other)])
    measured = joint.measured()
    assert measured.labels["run"].tolist() == ["walk"] * 12 + ["other"] * 7
    assert measured.labels["member"].tolist() == [0] * 12 + [1] * 7
    assert measured.labels["update"].tolist() == [*range(0, 120, 10), *range(0, 175, 25)]
    for products in (measured.gram, gram([recorded.store(), other.store()])):
        found = pairwise_distances(products, metric="euclidean")
        np.testing.assert_allclose(found, exact_distances(points), rtol=1e-12, atol=1e-13)
    assert set(joint.report()["geometry"]["by_group"]) == {"walk", "other"}
    alone = recorded.report()["geometry"]["by_group"]["walk"]["real"]["tortuosity"]["mean"]
    assert joint.report()["geometry"]["by_group"]["walk"]["real"]["tortuosity"]["mean"] == pytest.approx(alone)


def test_a_joint_run_follows_changes_of_its_runs(other, tmp_path):
    run = record(tmp_path / "walk", 5)
    joint = Run.join(tmp_path / "joint", [run.folder, other.folder], quiet=True)
    assert joint.report()["epochs"] == 6
    record(tmp_path / "walk", 9)
    assert joint.report()["epochs"] == 8


@pytest.mark.parametrize("kind", ["npz", pytest.param("safetensors", marks=pytest.mark.slow)])
def test_checkpoints_are_imported_and_joined_by_two_commands(jaxscape, tmp_path, kind):
    sources = []
    for number, steps in enumerate((6, 9)):
        folder = tmp_path / f"checkpoints{number}"
        folder.mkdir()
        for step, params in walk(steps, seed=number):
            if kind == "npz":
                np.savez(folder / f"step{step}.npz", **params, num_batches_tracked=np.array(step))
            else:
                write_safetensors(folder / f"step{step}.safetensors", params)
        sources.append(f"run{number}={folder}")
    outcome = jaxscape("import", tmp_path / "joint", *sources)
    assert outcome.code == 0, outcome.err
    assert ("left out: num_batches_tracked (int64)" in outcome.out) == (kind == "npz")
    outcome = jaxscape("embed", tmp_path / "joint", "--method", "pca", "--plot")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "joint" / "figures" / "pca-euclidean.png").exists()
    np.testing.assert_array_equal(rows(Run(tmp_path / "joint" / "run1"))[8, :12], list(walk(9, 1))[8][1]["a"].ravel())
    assert (
        "all 6 steps are recorded already"
        in jaxscape("import", tmp_path / "joint" / "run0", tmp_path / "checkpoints0").out
    )


def write_safetensors(path, arrays):
    """Write the safetensors format: the length of a JSON header, the header, then the bytes."""
    import json

    header, content = {}, b""
    for name, array in arrays.items():
        begin, content = len(content), content + array.tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [begin, len(content)]}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: run.record(110, {"a": np.ones((4, 3)), "b": np.ones(3)}), "step must be larger than the last"),
        (lambda run: run.record(200, {"a": np.ones((4, 3), np.float32)}), "'b' of a member is absent"),
        (lambda run: run.record(200, {}, labels=[{"seed": 0}]), "holds members of other labels"),
        (lambda run: run.record(200, {}, labels=[]), "labels must be one record per member"),
        (lambda run: run.record(200, {}, group="optimizer"), "group must be one of the labels run"),
        (
            lambda run: run.record(200, {"a": np.ones((4, 3), np.float32)}, {"loss": np.ones(3)}),
            "metrics must be numbers, one or one per member",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:parameters of float64")
def test_invalid_recordings_are_refused(recorded, call, words):
    before = rows(recorded)
    run = Run(recorded.folder, quiet=True)
    with pytest.raises(ValueError, match=words):
        call(run)
    run.close()
    np.testing.assert_array_equal(rows(recorded), before)


def test_float64_is_stored_as_float32_with_a_warning(tmp_path):
    with Run(tmp_path / "run", quiet=True) as run, pytest.warns(UserWarning, match="float64 are stored as float32"):
        run.record(0, {"w": np.linspace(0, 1, 5)})
    assert run.store().read()["w"].dtype == np.float32


def test_recording_into_a_folder_of_another_kind_is_refused(kept_minimum, recorded, tmp_path):
    with pytest.raises(ValueError, match="holds results of `retrain`; choose another run folder"):
        Run(kept_minimum, quiet=True).record(0, {"w": np.ones(3, np.float32)})
    problem = Problem(lambda params, state, batch, key: (0.0, (state, {})), np.ones((4, 2)))
    with pytest.raises(ValueError, match="holds results"):
        Run(recorded.folder, problem, quiet=True).set_minimum({"w": np.ones(3, np.float32)})


@pytest.mark.parametrize(
    ("runs", "group", "words"),
    [
        ([0], "run", "runs must name two or more"),
        ([0, 0], "run", "runs must name two or more runs, each once"),
        ([0, 1], "optimizer", "group must be one of the labels run, got 'optimizer'"),
    ],
)
def test_runs_that_cannot_be_joined_are_refused(recorded, other, tmp_path, runs, group, words):
    with pytest.raises(ValueError, match=words):
        Run.join(tmp_path / "joint", [(recorded, other)[i].folder for i in runs], group=group)
    assert not (tmp_path / "joint").exists()


def test_networks_that_differ_are_not_joined(recorded, tmp_path):
    with Run(tmp_path / "else", quiet=True) as run:
        run.record(0, {"a": np.ones((4, 2), np.float32), "b": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"'a' is \(4, 2\) in .*else and \(4, 3\) in .*walk"):
        Run.join(tmp_path / "joint", [recorded.folder, run.folder], quiet=True)
    assert not (tmp_path / "joint").exists()


@pytest.mark.parametrize(
    ("names", "first", "words"),
    [
        (("a", "b"), 5, "holds steps up to 110, but not step 5; are these from another training?"),
        (("a", "c"), 0, "'b' is absent, and (3,) in the steps that"),
    ],
)
def test_checkpoints_of_another_training_are_refused(recorded, jaxscape, tmp_path, names, first, words):
    for step, params in walk(3):
        np.savez(tmp_path / f"step{step + first}.npz", **dict(zip(names, params.values(), strict=True)))
    before = rows(recorded)
    outcome = jaxscape("import", recorded.folder, tmp_path)
    assert outcome.code == 1
    assert words in outcome.err
    np.testing.assert_array_equal(rows(recorded), before)


@pytest.mark.parametrize("options", [("--center", "minimum"), ("--include-minimum",)])
def test_a_recording_has_no_minimum_as_a_center(recorded, jaxscape, options):
    outcome = jaxscape("embed", recorded.folder, "--knn", 3, *options)
    assert outcome.code == 1
    assert "center minimum and include_minimum require a minimum, but" in outcome.err


@pytest.mark.parametrize("name", ["epoch", "finite", "member", "run"])
def test_a_metric_with_the_name_of_another_column_is_refused(tmp_path, name):
    # A metric "epoch" once replaced the column of that name, and the metrics were lost on resuming.
    with (
        Run(tmp_path / "run", quiet=True) as run,
        pytest.raises(ValueError, match=f"metrics must not have .* '{name}'"),
    ):
        run.record(0, {"w": np.ones(3, np.float32)}, {name: 1.0})


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([{"epoch": 0}, {"epoch": 1}], "labels must not have the names member, epoch"),
        ([{"seed": 0}, {"sed": 0}], "labels must have the same names for every member"),
    ],
)
def test_labels_with_the_name_of_another_column_are_refused(tmp_path, labels, words):
    with Run(tmp_path / "run", quiet=True) as run, pytest.raises(ValueError, match=words):
        run.record(0, [{"w": np.ones(3, np.float32)}] * 2, labels=labels)


def test_a_metric_that_is_not_a_number_is_named(tmp_path):
    with Run(tmp_path / "run", quiet=True) as run, pytest.raises(TypeError, match="got 'low' for 'loss'"):
        run.record(0, {"w": np.ones(3, np.float32)}, {"loss": "low"})


def test_trainings_with_different_arrays_are_refused_before_any_is_recorded(jaxscape, tmp_path):
    for name, array in (("one", "fc1/bias"), ("two", "fc2/bias")):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "step0.npz", **{array: np.ones(3, np.float32)})
    outcome = jaxscape("import", tmp_path / "joint", *(f"{name}={tmp_path / name}" for name in ("one", "two")))
    assert outcome.code == 1
    assert "'fc1/bias' is (3,) in one and absent in two; one has 'fc1/bias', two has 'fc2/bias'" in outcome.err
    assert not (tmp_path / "joint").exists()


def test_scale_free_views_need_a_minimum(recorded):
    with pytest.raises(ValueError, match=r"scale-free distances are measured from a minimum, but .* has none"):
        scale_free_table(recorded.folder)
