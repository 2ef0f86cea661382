"""Repeated commands: nothing is done twice, nothing is lost, and the bytes are those of a single run."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from unittest import mock

import jax
import numpy as np
import pytest

from jaxscape.runs import measure, recording
from jaxscape.runs import train as train_stage
from jaxscape.runs.tables import read_csv
from jaxscape.trajectories.gram import gram
from jaxscape.trajectories.store import TrajectoryStore

pytestmark = pytest.mark.slow

MEMBERS = 6  # including the controls


def contents(*paths):
    """Return the bytes and modification time of every file under the paths."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    return {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def read_bytes(run):
    """Return every parameter of every snapshot, the numbers of updates, and the metrics."""
    store = TrajectoryStore.open(run / "trajectories")
    parameters = jax.tree.map(lambda leaf: (leaf.shape, leaf.tobytes()), store.read())
    return parameters, store.updates, (run / "metrics.csv").read_bytes()


def read_products(run):
    """Return the inner products of the increments: the minimum, then four rows per epoch."""
    with np.load(run / "gram.npz") as kept:
        return kept["products"]


@pytest.fixture(scope="module")
def longer(tmp_path_factory, kept_minimum, retrain):
    """Three uninterrupted epochs of retraining. Tests do not change it."""
    run = shutil.copytree(kept_minimum, tmp_path_factory.mktemp("longer") / "run")
    outcome = retrain(run, "--epochs", 3)
    assert outcome.code == 0, outcome.err
    return run


@pytest.fixture(scope="module")
def expected(longer):
    return read_bytes(longer)


@pytest.fixture
def three_epochs(longer, tmp_path):
    """A run folder with three epochs of retraining, which tests may change."""
    return shutil.copytree(longer, tmp_path / "run")


# Repeated calls


def test_a_second_call_repeats_nothing(jaxscape, run):
    kept = [run / name for name in ("minimum", "trajectories", "resume", "metrics.csv", "gram.npz", "embeddings")]
    before = contents(*kept)
    for command in (["train"], ["retrain"], ["embed", "--knn", 3], ["plot"], ["info"]):
        outcome = jaxscape(command[0], run, *command[1:])
        assert outcome.code == 0, outcome.err
    assert contents(*kept) == before


def test_a_second_plot_gives_the_same_bytes(jaxscape, run):
    before = {file: file.read_bytes() for file in (run / "figures").iterdir()}
    assert jaxscape("plot", run).code == 0
    assert {file: file.read_bytes() for file in (run / "figures").iterdir()} == before


def test_an_embedding_with_other_settings_is_stored_beside_the_first(jaxscape, run):
    before = contents(run / "embeddings")
    assert jaxscape("embed", run, "--knn", 4).code == 0
    after = contents(run / "embeddings")
    assert before.items() < after.items()
    assert list(json.loads((run / "report.json").read_text())["embeddings"]) == [
        "phate-cosine-none-knn3",
        "phate-cosine-none-knn4",
    ]


# More epochs


def test_an_extended_training_gives_the_minimum_of_a_single_training(train, with_minimum, tmp_path):
    assert train(with_minimum, "--epochs", 3).code == 0
    assert train(tmp_path / "single", "--epochs", 3).code == 0
    # The orbax checkpoint of the parameters contains dates; the training state has the same parameters without dates.
    for name in ("state-3-0-of-1.npz", "metrics.json"):
        assert (with_minimum / "minimum" / name).read_bytes() == (tmp_path / "single" / "minimum" / name).read_bytes()


def test_extended_trajectories_are_those_of_a_single_run(jaxscape, run, expected):
    assert jaxscape("retrain", run, "--epochs", 3).code == 0
    assert read_bytes(run) == expected


def test_old_embeddings_of_extended_trajectories_are_stale_and_embed_makes_new_ones(jaxscape, run):
    assert jaxscape("retrain", run, "--epochs", 3).code == 0
    outcome = jaxscape("plot", run)
    assert outcome.code == 1
    assert "has no embeddings of its trajectories" in outcome.err
    assert jaxscape("embed", run, "--knn", 3).code == 0
    tables = {"metrics.csv": MEMBERS, "geometry.csv": MEMBERS, "embeddings/phate-cosine-none-knn3/coordinates.csv": 4}
    for table, members in tables.items():  # no embedding contains the controls
        assert read_csv(run / table)["epoch"].tolist() == np.repeat(range(4), members).tolist()
    assert jaxscape("plot", run).code == 0


def noting_passes(monkeypatch):
    """Record how many rows each pass over the parameters takes from an earlier one."""
    kept = []

    def gram_and_note(*args, previous=None, **settings):
        kept.append(0 if previous is None else previous.num_points)
        return gram(*args, previous=previous, **settings)

    monkeypatch.setattr(measure, "gram", gram_and_note)
    return kept


def test_the_gram_matrix_of_extended_trajectories_is_extended(jaxscape, run, monkeypatch):
    before = read_products(run)
    kept = noting_passes(monkeypatch)
    assert jaxscape("retrain", run, "--epochs", 3).code == 0
    assert kept == [3 * MEMBERS]
    extended = read_products(run)
    np.testing.assert_array_equal(extended[: len(before), : len(before)], before)
    (run / "gram.npz").unlink()
    assert jaxscape("embed", run, "--knn", 3).code == 0
    assert kept == [3 * MEMBERS, 0]
    length = np.sqrt(np.diag(extended))
    assert (np.abs(extended - read_products(run)) <= 1e-14 * length[:, None] * length).all()


def test_the_gram_matrix_of_other_trajectories_is_recomputed(jaxscape, run, monkeypatch):
    """This happens if the same run was retrained on another machine, which rounds differently."""
    with np.load(run / "gram.npz") as opened:
        kept = dict(opened)
    np.savez(run / "gram.npz", **kept | {"products": kept["products"] * 1.001})
    passes = noting_passes(monkeypatch)
    assert jaxscape("retrain", run, "--epochs", 3).code == 0
    assert passes == [3 * MEMBERS, 0]


def test_a_minimum_with_trajectories_is_not_trained_further(jaxscape, run):
    before = contents(run)
    outcome = jaxscape("train", run, "--epochs", 3)
    assert outcome.code == 1
    assert "epochs is 2, requested 3" in outcome.err
    assert f"{run / 'trajectories'}" in outcome.err
    assert contents(run) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["train", "--epochs", 1], "epochs is 2, requested 1"),
        (["train", "--learning-rate", 0.2], "learning_rate is 0.1, requested 0.2"),
        (["train", "--preset", "memorization"], "preset is 'good', requested 'memorization'"),
        (["retrain", "--epochs", 1], "epochs is 2, requested 1"),
        (["retrain", "--learning-rate", 0.2], "learning_rate is 0.05, requested 0.2"),
        (["retrain", "--seed-list", 0, 2], "seeds is [0, 1], requested [0, 2]"),
    ],
)
def test_other_settings_are_refused_and_nothing_changes(jaxscape, run, command, words):
    before = contents(run)
    outcome = jaxscape(command[0], run, *command[1:])
    assert outcome.code == 1
    assert words in outcome.err
    assert "Choose another run folder, or start over by deleting" in outcome.err
    assert contents(run) == before


def test_results_without_a_record_are_refused(jaxscape, run):
    (run / "config.json").unlink()
    outcome = jaxscape("train", run)
    assert outcome.code == 1
    assert "does not say how they were made" in outcome.err


def test_after_deleting_what_the_refusal_names_everything_is_recomputed(jaxscape, retrain, run):
    before = read_products(run)
    shutil.rmtree(run / "trajectories")
    assert retrain(run, "--learning-rate", 0.2).code == 0
    after = read_products(run)
    first = MEMBERS + 1  # after the minimum and the jumps
    np.testing.assert_array_equal(after[:first, :first], before[:first, :first])
    assert not np.isclose(after[first, first], before[first, first])
    assert "embed" not in jaxscape("info", run).out


def test_an_interrupted_extension_of_the_minimum_is_not_a_finished_minimum(jaxscape, train, retrain, with_minimum):
    with mock.patch.object(train_stage, "save_state", side_effect=KeyboardInterrupt):
        assert train(with_minimum, "--epochs", 3).code == 130
    outcome = retrain(with_minimum)
    assert outcome.code == 1
    assert "has no finished minimum" in outcome.err
    assert jaxscape("train", with_minimum).code == 0
    assert json.loads((with_minimum / "minimum" / "metrics.json").read_text())["epochs"] == 3


# Interruptions


def test_a_killed_retraining_resumes_to_the_same_bytes(jaxscape, with_minimum, expected):
    options = ["--seeds", "2", "--step-sizes", "0.5", "1", "--epochs", "3"]
    program = "from jaxscape.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "retrain", with_minimum, *options],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        for line in process.stdout:
            if "2/3" in line:  # epoch 2 is done and about to be saved
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert TrajectoryStore.open(with_minimum / "trajectories").num_epochs in (1, 2, 3)
    assert "retrain (" in jaxscape("info", with_minimum).out
    assert jaxscape("retrain", with_minimum, *options).code == 0
    assert read_bytes(with_minimum) == expected


@pytest.mark.parametrize(
    ("owner", "name"),
    [(recording, "write_table"), (recording, "save_state"), (TrajectoryStore, "append")],
    ids=["metrics", "state", "snapshot"],
)
def test_interrupted_before_any_of_its_writes_it_resumes_to_the_same_bytes(
    retrain, with_minimum, expected, owner, name
):
    write, calls = getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(*arguments, **options)

    with mock.patch.object(owner, name, interrupted):
        outcome = retrain(with_minimum, "--epochs", 3)
    assert outcome.code == 130
    assert outcome.err == "jaxscape: interrupted; the same command resumes from the last kept epoch"
    assert TrajectoryStore.open(with_minimum / "trajectories").num_epochs == 2
    outcome = retrain(with_minimum, "--epochs", 3)
    assert "controls): 1/3" not in outcome.out  # it did not start over
    assert read_bytes(with_minimum) == expected


@pytest.mark.parametrize(
    "lost",
    [
        ["trajectories/3"],
        ["trajectories/2", "trajectories/3"],
        ["trajectories/3", "resume"],
        ["trajectories/3", "metrics.csv"],
        ["metrics.csv"],
    ],
    ids=", ".join,
)
def test_deleted_results_are_recomputed(retrain, three_epochs, expected, lost):
    for name in lost:
        path = three_epochs / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert retrain(three_epochs, "--epochs", 3).code == 0
    assert read_bytes(three_epochs) == expected


def test_missing_rows_of_metrics_are_recomputed(retrain, three_epochs, expected):
    lines = (three_epochs / "metrics.csv").read_text().splitlines()
    (three_epochs / "metrics.csv").write_text("\n".join(lines[:-6]) + "\n")
    assert retrain(three_epochs, "--epochs", 3).code == 0
    assert read_bytes(three_epochs) == expected


@pytest.mark.parametrize("damage", [lambda data: data[:-500], lambda data: b""], ids=["cut", "empty"])
def test_a_damaged_state_is_named_and_its_epochs_are_recomputed(retrain, three_epochs, expected, damage):
    shutil.rmtree(three_epochs / "trajectories" / "3")
    state = three_epochs / "resume" / "state-3-0-of-1.npz"
    state.write_bytes(damage(state.read_bytes()))
    outcome = retrain(three_epochs, "--epochs", 3)
    assert outcome.code == 0
    assert outcome.out.startswith(f"{state} is damaged")
    assert read_bytes(three_epochs) == expected


def test_a_damaged_gram_matrix_is_recomputed(jaxscape, run):
    before = read_products(run)
    (run / "gram.npz").write_bytes((run / "gram.npz").read_bytes()[:-700])
    assert jaxscape("embed", run, "--knn", 3).code == 0
    np.testing.assert_array_equal(read_products(run), before)


# Full disk


def assert_told(outcome):
    """Check for a single line that ends with the system's message."""
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == 1
    assert outcome.err.startswith("jaxscape: ")
    assert "No space left on device" in outcome.err


@pytest.fixture
def disk_full_from():
    """Return a patch that lets this many files be written and then reports a full disk."""

    def patch(write):
        sync, calls = os.fsync, []

        def full(descriptor):
            calls.append(descriptor)
            if len(calls) >= write:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        return mock.patch("os.fsync", full)

    return patch


@pytest.mark.slow
@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_training_on_a_full_disk_fails_in_one_line_and_resumes_to_the_same_bytes(
    train, kept_minimum, tmp_path, disk_full_from, write
):
    run = tmp_path / "run"
    with disk_full_from(write):
        assert_told(train(run))
    assert not list(run.rglob("*.tmp"))
    assert train(run).code == 0
    for name in ("state-2-0-of-1.npz", "metrics.json"):
        assert (run / "minimum" / name).read_bytes() == (kept_minimum / "minimum" / name).read_bytes()


def test_a_full_disk_for_a_checkpoint_is_reported_as_for_any_file(train, tmp_path):
    words = 'RESOURCE_EXHAUSTED: Error writing "c/0" in OCDBT database: No space left on device [os_error_code=28]'
    with mock.patch("orbax.checkpoint.v1.save", side_effect=ValueError(words)):
        assert_told(train(tmp_path / "run"))
    outcome = train(tmp_path / "run")
    assert outcome.code == 0
    assert "train: " not in outcome.out  # the state was saved, so nothing is trained again


@pytest.mark.slow
@pytest.mark.parametrize("write", [5, 7])  # the index of the store, the state after epoch 1
def test_retraining_on_a_full_disk_fails_in_one_line_and_resumes_to_the_same_bytes(
    retrain, with_minimum, expected, disk_full_from, write
):
    with disk_full_from(write):
        assert_told(retrain(with_minimum, "--epochs", 3))
    assert not list(with_minimum.rglob("*.npz.tmp"))
    assert retrain(with_minimum, "--epochs", 3).code == 0
    assert read_bytes(with_minimum) == expected
