"""Several run folders in one command: minima that are trained together, and copies of several minima."""

import json
import shutil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxscape import TrajectoryStore, concatenate_states, start_states
from jaxscape.runs import recording
from jaxscape.runs import train as train_stage

pytestmark = pytest.mark.slow

OPTIONS = ("--strategy", "loop", "--seeds", "2", "--step-sizes", "0.5", "1", "--epochs", "3")
KEPT = ("metrics.csv", "geometry.csv")


@pytest.fixture(scope="module")
def another_minimum(tmp_path_factory, train):
    """A run folder with the minimum of another seed."""
    run = tmp_path_factory.mktemp("another") / "second"
    outcome = train(run, "--seed", 1)
    assert outcome.code == 0, outcome.err
    return run


@pytest.fixture
def minima(tmp_path, kept_minimum, another_minimum):
    """Two run folders with a minimum each, which tests may change."""
    return [shutil.copytree(run, tmp_path / name) for name, run in {"a": kept_minimum, "b": another_minimum}.items()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory, kept_minimum, another_minimum, jaxscape):
    """The results of each run by itself."""
    folder, found = tmp_path_factory.mktemp("alone"), []
    for name, minimum in {"a": kept_minimum, "b": another_minimum}.items():
        run = shutil.copytree(minimum, folder / name)
        outcome = jaxscape("retrain", run, *OPTIONS)
        assert outcome.code == 0, outcome.err
        found.append(read_bytes(run))
    return found


def read_bytes(run):
    params = jax.tree.map(np.ndarray.tobytes, TrajectoryStore.open(run / "trajectories").read())
    return params, [(run / table).read_bytes() for table in KEPT]


def test_two_minima_together_give_the_results_of_each_alone(jaxscape, minima, alone):
    outcome = jaxscape("retrain", *minima, *OPTIONS)
    assert outcome.code == 0, outcome.err
    assert "a, b: retrain 12 copies (incl. 4 controls): 3/3" in outcome.out
    assert [read_bytes(run) for run in minima] == alone
    again = jaxscape("retrain", *minima)
    assert again.code == 0
    assert again.out.count("the trajectories are complete, 3 epochs") == 2


@pytest.mark.parametrize(("owner", "name"), [(recording, "save_state"), (TrajectoryStore, "append")])
@pytest.mark.parametrize("call", [3, 4, 5])
def test_interrupted_between_two_runs_they_resume_to_the_same_bytes(jaxscape, minima, alone, owner, name, call):
    """One of them may then be an epoch ahead, and is retrained separately."""
    write, calls = getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise KeyboardInterrupt
        return write(*arguments, **options)

    with mock.patch.object(owner, name, interrupted):
        assert jaxscape("retrain", *minima, *OPTIONS).code == 130
    outcome = jaxscape("retrain", *minima, *OPTIONS)
    assert outcome.code == 0, outcome.err
    assert "controls): 1/3" not in outcome.out or call < 5
    assert [read_bytes(run) for run in minima] == alone


def test_a_run_with_different_steps_is_retrained_after_the_other(jaxscape, minima, alone):
    config = minima[1] / "config.json"
    record = json.loads(config.read_text())
    record["train"]["weight_decay"] = 0.01  # used for its copies too
    del record["sha256"]  # marks the edit as intended
    config.write_text(json.dumps(record))
    outcome = jaxscape("retrain", *minima, *OPTIONS)
    assert outcome.code == 0, outcome.err
    assert outcome.out.index("a: retrain 6 copies (incl. 2 controls): 3/3") < outcome.out.index(
        "b: retrain 6 copies (incl. 2 controls): 1/3"
    )
    assert read_bytes(minima[0]) == alone[0]
    assert read_bytes(minima[1]) != alone[1]
    assert json.loads(config.read_text())["retrain"]["weight_decay"] == 0.01


def test_a_run_without_a_minimum_stops_all_before_any_work(jaxscape, minima, tmp_path):
    outcome = jaxscape("retrain", *minima, tmp_path / "nothing", *OPTIONS)
    assert outcome.code == 1
    assert "has no finished minimum" in outcome.err
    assert not (minima[0] / "trajectories").exists()


def test_runs_are_named_once_and_at_least_one_is(jaxscape, minima):
    outcome = jaxscape("retrain", minima[0], minima[0])
    assert outcome.code == 1
    assert "each run can be named once" in outcome.err
    outcome = jaxscape("retrain", "--epochs", 3)
    assert outcome.code == 2
    assert outcome.err == "jaxscape: retrain needs RUN, a run folder, or several; see jaxscape retrain --help"


def read_minima(runs):
    return [
        (jax.tree.map(np.ndarray.tobytes, [found.params, found.model_state]), found.settings.seed, found.metrics)
        for found in map(train_stage.read_minimum, runs)
    ]


def test_minima_trained_together_are_those_trained_alone_and_seeds_count_on(
    train, jaxscape, tmp_path, kept_minimum, another_minimum
):
    runs = [tmp_path / name for name in "ab"]
    outcome = train(runs)
    assert outcome.code == 0, outcome.err
    assert "a, b: train: 2/2" in outcome.out
    assert read_minima(runs) == read_minima([kept_minimum, another_minimum])
    again = jaxscape("train", *runs)
    assert again.out.count("the minimum is complete, 2 epochs") == 2
    outcome = train(runs[::-1], "--seed", 0)
    assert outcome.code == 1
    assert "seed is 1, requested 0" in outcome.err


def test_interrupted_minima_resume_to_the_same_bytes(train, tmp_path, monkeypatch, kept_minimum, another_minimum):
    """The first has saved a state and the second has none, so each is trained separately."""
    runs = [tmp_path / name for name in "ab"]
    write, kept = train_stage.save_state, []
    monkeypatch.setattr(train_stage, "_SECONDS_BETWEEN_STATES", 0)

    def interrupted(*arguments):
        if kept:
            raise KeyboardInterrupt
        kept.append(arguments)
        write(*arguments)

    with mock.patch.object(train_stage, "save_state", interrupted):
        assert train(runs).code == 130
    outcome = train(runs)
    assert outcome.code == 0, outcome.err
    assert "a: train: 1/1" in outcome.out
    assert "b: train: 2/2" in outcome.out
    assert read_minima(runs) == read_minima([kept_minimum, another_minimum])


def test_a_training_that_diverges_leaves_the_others_unaffected(train, tmp_path, kept_minimum, monkeypatch):
    runs = [tmp_path / name for name in "ab"]
    start = train_stage.init_states

    def with_one_bad(params, *arguments, **options):
        if next(bad):
            params = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.inf), params)
        return start(params, *arguments, **options)

    bad = iter([False, True])
    monkeypatch.setattr(train_stage, "init_states", with_one_bad)
    outcome = train(runs)
    assert outcome.code == 1
    assert outcome.err == f"jaxscape: training diverged: parameters are not finite in {runs[1]} from epoch 1 on"
    assert read_minima(runs[:1]) == read_minima([kept_minimum])
    assert not (runs[1] / "minimum").exists()


def test_on_a_gpu_the_fastest_strategy_is_chosen_and_kept(train, tmp_path, monkeypatch):
    """A resumed run keeps the strategy that it began with."""
    runs, asked = [tmp_path / name for name in "ab"], []
    monkeypatch.setattr(train_stage.jax, "default_backend", lambda: "gpu")

    def measured(*arguments):
        asked.append(arguments)
        return "vmap_grad", {"chosen": "vmap_grad", "seconds_per_step": {}}, "measured now"

    monkeypatch.setattr(train_stage, "fastest_strategy", measured)
    assert train(runs).code == 0
    assert len(asked) == 1
    for run in runs:
        assert json.loads((run / "config.json").read_text())["train_strategy"]["chosen"] == "vmap_grad"
        (run / "minimum" / "metrics.json").unlink()
    again = train(runs, "--epochs", 3)
    assert again.code == 0, again.err
    assert "a, b: train: 1/1" in again.out
    assert len(asked) == 1


def test_stacks_of_different_networks_cannot_be_concatenated():
    def states(width):
        import optax

        return start_states(np.ones((2, width), np.float32), optax.sgd(0.1), key=jax.random.key(0))

    assert concatenate_states([states(3), states(3)]).params.shape == (4, 3)
    with pytest.raises(ValueError, match=r"states\[1\] belongs to another network or optimiser than states"):
        concatenate_states([states(3), states(4)])
    with pytest.raises(ValueError, match="at least one stack, got none"):
        concatenate_states([])


def test_a_copied_minimum_is_retrained_like_the_one_it_was_copied_from(jaxscape, minima, alone, tmp_path):
    run = tmp_path / "c"
    (run / "minimum").mkdir(parents=True)
    (run / "minimum" / "left").write_text("by a copying that was interrupted")
    (run / "config.json").write_bytes((minima[0] / "config.json").read_bytes())
    train_stage.copy_minimum(minima[0], run)
    assert jaxscape("retrain", run, *OPTIONS).code == 0
    assert read_bytes(run) == alone[0]
    before = [path.stat().st_mtime_ns for path in sorted((run / "minimum").rglob("*"))]
    train_stage.copy_minimum(minima[0], run)  # exists already
    assert [path.stat().st_mtime_ns for path in sorted((run / "minimum").rglob("*"))] == before


def test_a_minimum_is_not_copied_over_another(minima, tmp_path):
    with pytest.raises(ValueError, match=r"b holds results of another configuration: seed is 1, requested 0"):
        train_stage.copy_minimum(*minima)
    with pytest.raises(FileNotFoundError, match=r"nowhere has no finished minimum"):
        train_stage.copy_minimum(tmp_path / "nowhere", minima[0])
