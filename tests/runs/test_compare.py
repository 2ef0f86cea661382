"""Networks trained side by side by several optimisers, through the command line."""

import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from jaxscape.runs import plot, recording
from jaxscape.runs.exact import exact_panel, exact_panels_of_groups
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.minimum import read_minimum
from jaxscape.runs.tables import read_csv
from jaxscape.trajectories.store import TrajectoryStore

pytestmark = pytest.mark.slow

EPOCHS, SEEDS, OPTIMIZERS = 3, (0, 1), ("sgd", "momentum", "adam")


@pytest.fixture(scope="module")
def compare(jaxscape, images):
    """Call `jaxscape compare RUN` on 40 images, two steps per epoch."""
    task = ("--dataset", "mnist", "--data-dir", images, "--data-unchecked", "--protocol", "digits")
    task += ("--train-size", 40, "--batch-size", 20)
    rest = ("--decay-epochs", 2, "--epochs", EPOCHS, "--seeds", len(SEEDS), "--strategy", "loop")
    return lambda run, *more: jaxscape("compare", run, *task, *rest, *more)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, compare):
    """A comparison of three uninterrupted epochs. Tests do not change it."""
    run = tmp_path_factory.mktemp("compared") / "run"
    outcome = compare(run)
    assert outcome.code == 0, outcome.err
    assert "run: train 6 networks: 3/3" in outcome.out
    return run


def as_bytes(run):
    params = jax.tree.map(np.ndarray.tobytes, TrajectoryStore.open(run / "trajectories").read())
    return params, [(run / table).read_bytes() for table in ("metrics.csv", "geometry.csv")]


def test_one_store_holds_all_optimizers_with_their_labels(compared):
    store = TrajectoryStore.open(compared / "trajectories")
    assert store.labels == [{"seed": seed, "optimizer": name} for name in OPTIMIZERS for seed in SEEDS]
    assert store.updates == [0, 2, 4, 6]
    with np.load(compared / "gram.npz") as kept:
        assert kept["label_optimizer"].tolist() == [name for name in OPTIMIZERS for _ in SEEDS] * (EPOCHS + 1)
        assert not kept["has_reference"]


def test_optimizers_share_the_initial_parameters_of_a_seed_and_end_elsewhere(compared):
    params = TrajectoryStore.open(compared / "trajectories").read()
    for leaf in jax.tree.leaves(params):
        by_optimizer = leaf.reshape(EPOCHS + 1, len(OPTIMIZERS), len(SEEDS), -1)
        assert (by_optimizer[0] == by_optimizer[0, :1]).all()
    ends = jax.tree.leaves(params)[-1][-1].reshape(len(OPTIMIZERS) * len(SEEDS), -1)
    assert len({end.tobytes() for end in ends}) == len(ends)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_each_network_is_the_minimum_that_it_would_be_alone(compared, train, tmp_path, optimizer):
    alone = ("--preset", "good", "--optimizer", optimizer, "--seed", 1, "--weight-decay", 0, "--decay-epochs", 2)
    outcome = train(tmp_path / "run", *alone, "--epochs", EPOCHS)
    assert outcome.code == 0, outcome.err
    expected = jax.tree.leaves(read_minimum(tmp_path / "run").params)
    member = OPTIMIZERS.index(optimizer) * len(SEEDS) + 1
    found = TrajectoryStore.open(compared / "trajectories").read(epochs=EPOCHS, members=member)
    for one, other in zip(expected, jax.tree.leaves(found), strict=True):
        np.testing.assert_array_equal(one, other[0, 0])


def test_the_numbers_are_those_of_the_vectors(compared):
    found = TrajectoryStore.open(compared / "trajectories").read()
    points = np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jax.tree.leaves(found)], axis=2)
    points = points.astype(float)
    geometry = read_csv(compared / "geometry.csv")
    np.testing.assert_allclose(geometry["norm"], np.linalg.norm(points, axis=2).ravel(), rtol=1e-10)
    chord = np.linalg.norm(points - points[0], axis=2)
    np.testing.assert_allclose(geometry["chord"], chord.ravel(), rtol=1e-10)
    assert geometry["optimizer"].tolist() == [name for name in OPTIMIZERS for _ in SEEDS] * (EPOCHS + 1)
    report = RunFolder(compared).read_report()["geometry"]["by_optimizer"]
    assert list(report) == list(OPTIMIZERS)
    start = np.linalg.norm(points[0], axis=1)
    for group, name in enumerate(OPTIMIZERS):
        members = slice(group * 2, group * 2 + 2)
        real = {statistic: values["mean"] for statistic, values in report[name]["real"].items()}
        np.testing.assert_allclose(real["travel"], (chord[-1, members] / start[members]).mean(), rtol=1e-9)
        spread = np.linalg.norm(points[-1, members][0] - points[-1, members][1])
        np.testing.assert_allclose(real["end_spread"], (spread / start[members]).mean(), rtol=1e-9)


@pytest.mark.parametrize(("owner", "name"), [(recording, "save_state"), (TrajectoryStore, "append")])
@pytest.mark.parametrize("call", [1, 3])
def test_an_interrupted_comparison_resumes_to_the_same_bytes(compare, jaxscape, compared, tmp_path, owner, name, call):
    run, write, calls = tmp_path / "run", getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return write(*arguments, **options)

    with mock.patch.object(owner, name, interrupted):
        assert compare(run).code == 130
    outcome = jaxscape("compare", run)
    assert outcome.code == 0, outcome.err
    assert call == 1 or "networks: 3/3" not in outcome.out
    assert as_bytes(run) == as_bytes(compared)


def test_more_epochs_extend_it_and_what_is_finished_is_not_done_again(compared, jaxscape, tmp_path):
    run = shutil.copytree(compared, tmp_path / "run")
    assert "the trajectories are complete, 3 snapshots" in jaxscape("compare", run).out
    outcome = jaxscape("compare", run, "--epochs", EPOCHS + 1)
    assert outcome.code == 0, outcome.err
    assert TrajectoryStore.open(run / "trajectories").num_epochs == EPOCHS + 2
    with np.load(run / "gram.npz") as kept:
        assert len(kept["label_member"]) == 6 * (EPOCHS + 2)


def test_snapshots_every_so_many_steps(compare, tmp_path):
    run = tmp_path / "run"
    outcome = compare(run, "--steps", 4, "--optimizers", "sgd")
    assert outcome.code == 0, outcome.err
    store = TrajectoryStore.open(run / "trajectories")
    assert store.updates == [0, 4]  # of 6 steps
    assert json.loads((run / "config.json").read_text())["snapshots"] == 1
    with mock.patch.object(plot, "norm_figure", wraps=plot.norm_figure) as drawn:
        plot._plot_norms(run, tmp_path)
    assert np.unique(drawn.call_args.args[0].epoch).tolist() == [0, 2]  # drawn in epochs, of two steps each


def test_a_comparison_is_embedded_drawn_and_described_like_any_run(compared, jaxscape, tmp_path):
    run = shutil.copytree(compared, tmp_path / "run")
    outcome = jaxscape("embed", run, "--knn", 3)
    assert outcome.code == 0, outcome.err
    columns = read_csv(run / "embeddings" / "phate-cosine-none-knn3" / "coordinates.csv")
    assert len(columns["x"]) == 6 * (EPOCHS + 1)
    assert set(columns["optimizer"]) == set(OPTIMIZERS)
    outcome = jaxscape("plot", run)
    assert outcome.code == 0, outcome.err
    drawn = {path.stem for path in (run / "figures").glob("*.png")}
    assert drawn == {"polar", "plane", "phate-cosine-none-knn3", "norm"}
    outcome = jaxscape("info", run)
    assert outcome.code == 0, outcome.err
    assert "compare (3 of 3 snapshots)" in outcome.out
    assert "optimizers sgd momentum adam" in outcome.out
    outcome = jaxscape("embed", run, "--center", "minimum")
    assert outcome.code == 1
    assert "center minimum and include_minimum require a minimum" in outcome.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--optimizers sgd sgd", "optimizers must name one or more, each once, got sgd sgd"),
        ("--optimizers adagrad", "unknown optimizer 'adagrad'"),
        ("--seed-list 1 1", "seeds must name one or more, each once, got 1 1"),
        ("--steps 0", "steps must be at least 1, got 0"),
        ("--steps 100", "steps must be at most the steps of all epochs, got 100"),
        ("--strategy magic", "unknown strategy 'magic'"),
        ("--eval-size 0", "eval_size must be at least 1, got 0"),
        ("--batch-size 1000", "batch_size must be at most the number of training examples, 40, got 1000"),
    ],
)
def test_invalid_options_are_refused_before_any_work(compare, jaxscape, tmp_path, options, message):
    run = tmp_path / "run"
    given = options.split()
    base = [] if "--seed-list" not in given else ["--seeds", 2]
    outcome = compare(run, *given) if not base else jaxscape("compare", run, *given)
    assert outcome.code == 1
    assert message in outcome.err
    assert not run.exists()


def test_a_configuration_that_differs_from_existing_results_is_refused(compare, compared, tmp_path):
    run = shutil.copytree(compared, tmp_path / "run")
    outcome = compare(run, "--learning-rate", 0.5)
    assert outcome.code == 1
    assert "learning_rate is 0.1, requested 0.5" in outcome.err


def test_the_exact_views_see_each_network_from_its_own_initial_parameters(compared):
    panel = exact_panel(compared)
    assert (panel.begin, panel.hue, panel.step_size) == ("initial", "optimizer", None)
    store = TrajectoryStore.open(compared / "trajectories")
    points = np.concatenate(list(store.blocks(10**6)), axis=1).astype(np.longdouble)
    points = points.reshape(EPOCHS + 1, store.num_members, -1)
    z = points - points[0]
    length = np.sqrt((z * z).sum(axis=-1))
    for member, labels in enumerate(store.labels):
        rows = np.flatnonzero(panel.member == member)
        assert set(panel.seed[rows]) == {labels["optimizer"]}
        assert panel.epoch[rows].tolist() == list(range(EPOCHS + 1))
        np.testing.assert_allclose(panel.distance[rows], length[:, member].astype(float), rtol=1e-9)
        cosine = (z[1:, member] @ z[-1, member]) / (length[1:, member] * length[-1, member])
        np.testing.assert_allclose(np.cos(panel.angle[rows[1:]]), cosine.astype(float), atol=1e-9)
    (null,) = panel.surrogates
    assert null.label == "random null"
    moves = np.sqrt((np.diff(points, axis=0) ** 2).sum(axis=-1)).astype(float)
    expected = np.sqrt((moves**2).sum(axis=0))  # of random steps, of so many parameters, at right angles
    ends = panel.epoch == EPOCHS
    np.testing.assert_allclose(null.distance[ends], expected[panel.member[ends]], rtol=0.1)
    groups = exact_panels_of_groups(panel)
    assert [each.title for each in groups] == sorted(OPTIMIZERS)
    for each in groups:
        rows = panel.seed == each.title
        np.testing.assert_array_equal(each.distance, panel.distance[rows])
        np.testing.assert_array_equal(each.surrogates[0].angle, null.angle[rows])
