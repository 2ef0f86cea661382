"""Damaged, deleted or edited files of a run folder: recomputed with a message, or named with a remedy."""

import json
import shutil

import numpy as np
import pytest

from jaxscape.runs.folder import RunFolder
from jaxscape.runs.minimum import read_minimum
from jaxscape.runs.tables import read_table
from jaxscape.trajectories.files import read_record

pytestmark = pytest.mark.slow

SETTING = "phate-cosine-none-knn3"
COORDINATES = f"embeddings/{SETTING}/coordinates.csv"
DIAGNOSTICS = f"embeddings/{SETTING}/diagnostics.json"


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def numbers(run):
    """Return the report without its timings."""
    return {name: value for name, value in read_record(run / "report.json").items() if name != "timings"}


def half_of_the_rows(text):
    lines = text.splitlines(keepends=True)
    return "".join(lines[: len(lines) // 2])


def header_alone(text):
    return text.splitlines(keepends=True)[0]


def another_number(text):
    """Change one digit of the last number."""
    return text[:-2] + ("1" if text[-2] != "1" else "2") + "\n"


def without_a_column(text):
    return "".join(",".join(line.split(",")[1:]) + "\n" for line in text.splitlines())


TABLE_DAMAGES = [
    half_of_the_rows,
    header_alone,
    another_number,
    without_a_column,
    lambda text: "",
    lambda text: "\0" * 99,
]


@pytest.mark.parametrize("damage", TABLE_DAMAGES)
@pytest.mark.parametrize("name", ["metrics.csv", "geometry.csv", COORDINATES])
def test_a_damaged_table_is_not_read(run, name, damage):
    (run / name).write_text(damage((run / name).read_text()))
    with pytest.raises(ValueError, match="is damaged"):
        read_table(RunFolder(run), run / name)


@pytest.mark.parametrize("damage", [another_number, None])
@pytest.mark.parametrize("name", ["geometry.csv", COORDINATES])
def test_plot_recomputes_damaged_and_deleted_tables(jaxscape, run, finished, name, damage):
    if damage is None:
        (run / name).unlink()
    else:
        (run / name).write_text(damage((run / name).read_text()))
    outcome = jaxscape("plot", run)
    assert outcome.code == 0, outcome.err
    assert damage is None or "it is recomputed" in outcome.out
    assert (run / name).read_bytes() == (finished / name).read_bytes()
    for figure in (finished / "figures").iterdir():
        assert (run / "figures" / figure.name).read_bytes() == figure.read_bytes()


def cut(text):
    return text[: len(text) // 2]


@pytest.mark.parametrize(
    "damage",
    [
        None,
        cut,
        lambda text: "[]",
        lambda text: json.dumps({"setting": None}),
        lambda text: json.dumps({name: value for name, value in json.loads(text).items() if name != "setting"}),
    ],
    ids=["deleted", "cut", "a list", "setting null", "without setting"],
)
def test_an_embedding_without_diagnostics_is_recomputed_from_the_report(jaxscape, run, finished, damage):
    path = run / DIAGNOSTICS
    path.unlink() if damage is None else path.write_text(damage(path.read_text()))
    outcome = jaxscape("plot", run)
    assert outcome.code == 0, outcome.err
    assert "it is recomputed" in outcome.out
    assert read_record(path) == read_record(finished / DIAGNOSTICS)
    assert numbers(run) == numbers(finished)


@pytest.mark.parametrize("command", [["retrain"], ["embed", "--knn", 3], ["plot"]], ids=lambda words: words[0])
@pytest.mark.parametrize("damage", [None, cut, lambda text: "{}", lambda text: text.replace("0", "1")])
def test_the_report_is_recomputed_from_existing_results(jaxscape, run, finished, command, damage):
    path = run / "report.json"
    path.unlink() if damage is None else path.write_text(damage(path.read_text()))
    outcome = jaxscape(command[0], run, *command[1:])
    assert outcome.code == 0, outcome.err
    assert numbers(run) == numbers(finished)


def test_an_embedding_killed_before_the_report_is_added_to_the_report(jaxscape, run, finished):
    report = read_record(run / "report.json")
    (run / "report.json").write_text(json.dumps(report | {"embeddings": {}}))
    assert "is up to date" in jaxscape("embed", run, "--knn", 3).out
    assert numbers(run) == numbers(finished)


def test_the_report_keeps_its_embeddings_when_the_gram_matrix_is_recomputed(jaxscape, run, finished):
    (run / "gram.npz").unlink()
    assert jaxscape("embed", run, "--knn", 3).code == 0
    assert numbers(run) == numbers(finished)


@pytest.mark.parametrize("lost", ["products", "parents", "label_epoch", "fingerprint"])
def test_a_gram_file_without_one_of_its_arrays_is_recomputed(jaxscape, run, finished, lost):
    with np.load(run / "gram.npz") as opened:
        kept = {name: opened[name] for name in opened if name != lost}
    np.savez(run / "gram.npz", **kept)
    assert jaxscape("embed", run, "--knn", 3).code == 0
    assert (run / "gram.npz").read_bytes() == (finished / "gram.npz").read_bytes()


def test_any_flipped_byte_of_the_gram_file_is_detected_or_changes_nothing(jaxscape, run, finished):
    whole = (run / "gram.npz").read_bytes()
    for position in np.random.default_rng(0).integers(len(whole), size=8):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        (run / "gram.npz").write_bytes(damaged)
        assert jaxscape("embed", run, "--knn", 3).code == 0
        with np.load(run / "gram.npz") as found, np.load(finished / "gram.npz") as expected:
            for name in expected.files:
                np.testing.assert_array_equal(found[name], expected[name])


def test_a_store_without_its_index_is_refused_before_anything_is_deleted(jaxscape, run):
    (run / "trajectories" / "store.json").unlink()
    before = contents(run)
    outcome = jaxscape("retrain", run)
    assert outcome.code == 1
    assert str(run / "trajectories") in outcome.err
    assert contents(run) == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: shutil.rmtree(folder / "parameters"),
        lambda folder: [path.write_bytes(b"") for path in folder.rglob("d/*")],
        lambda folder: (folder / "metrics.json").write_text("{"),
        lambda folder: (folder / "metrics.json").write_text('{"epochs": 2, "test_loss": "low"}'),
    ],
    ids=["no parameters", "no values", "no record", "no number"],
)
def test_a_damaged_minimum_is_named_by_readers_and_recomputed_by_train(jaxscape, with_minimum, kept_minimum, damage):
    damage(with_minimum / "minimum")
    outcome = jaxscape("retrain", with_minimum)
    assert outcome.code == 1
    assert f"`jaxscape train {with_minimum}` makes it again" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    outcome = jaxscape("train", with_minimum)
    assert outcome.code == 0, outcome.err
    assert "is damaged" in outcome.out
    found, expected = read_minimum(with_minimum), read_minimum(kept_minimum)
    assert found.metrics == expected.metrics
    np.testing.assert_array_equal(found.params["stem"]["kernel"], expected.params["stem"]["kernel"])


def test_deleted_metrics_of_a_minimum_are_named(jaxscape, with_minimum):
    (with_minimum / "minimum" / "metrics.json").unlink()
    outcome = jaxscape("retrain", with_minimum)
    assert outcome.code == 1
    assert f"{with_minimum}/minimum/metrics.json is missing" in outcome.err


@pytest.mark.parametrize("command", ["embed", "plot"])
def test_a_deleted_index_of_the_store_is_named(jaxscape, run, command):
    (run / "trajectories" / "store.json").unlink()
    outcome = jaxscape(command, run)
    assert outcome.code == 1
    assert f"{run}/trajectories/store.json is missing, which maps rows to members" in outcome.err


@pytest.mark.parametrize("command", ["embed", "plot"])
def test_deleted_metrics_are_named(jaxscape, run, command):
    (run / "metrics.csv").unlink()
    outcome = jaxscape(command, run)
    assert outcome.code == 1
    assert outcome.err == f"jaxscape: {run / 'metrics.csv'} is missing; `jaxscape retrain {run}` makes it again"


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "depth", -1),
        ("train", "padding", -1),
        ("train", "dataset", "text"),
        ("train", "train_size", -1),
        ("retrain", "seeds", []),
        ("retrain", "data_order", "text"),
        ("retrain", "batch_size", -1),
        ("retrain", "strategy", "text"),
    ],
)
@pytest.mark.parametrize("command", ["retrain", "embed", "plot"])
def test_an_edited_record_with_invalid_settings_is_named(jaxscape, run, command, section, name, value):
    record = json.loads((run / "config.json").read_text())
    record.pop("sha256")
    record[section][name] = value
    (run / "config.json").write_text(json.dumps(record))
    before = contents(run)
    outcome = jaxscape(command, run)
    assert outcome.code == 1
    assert f"{run / 'config.json'}, section {section!r}: " in outcome.err
    assert contents(run) == before


@pytest.mark.parametrize("command", ["train", "retrain", "embed", "plot", "info"])
def test_results_without_a_record_are_refused_with_its_name(jaxscape, run, command):
    (run / "config.json").unlink()
    before = contents(run)
    outcome = jaxscape(command, run)
    assert outcome.code == 1
    assert "config.json" in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert contents(run) == before


def test_changed_parameters_of_a_minimum_are_detected(jaxscape, with_minimum):
    record = read_record(with_minimum / "minimum" / "metrics.json")
    (with_minimum / "minimum" / "metrics.json").write_text(json.dumps(record | {"parameters": "0" * 64}))
    outcome = jaxscape("retrain", with_minimum)
    assert outcome.code == 1
    assert "do not match their checksum" in outcome.err


@pytest.mark.parametrize(
    ("section", "value", "words"),
    [
        ("train", {"epochs": "3"}, "epochs must be int, got '3'"),
        ("train", {"epochs": True}, "epochs must be int, got True"),
        ("train", None, "a TrainConfig must be a JSON object, got None"),
        ("train", {"colour": "red"}, "a TrainConfig has no colour"),
        ("train", {"preset": "ugly"}, "preset must be Literal['good', 'bad', 'memorization'], got 'ugly'"),
        ("retrain", {"seeds": 2}, "seeds must be tuple[int, ...], got 2"),
        ("retrain", {"step_sizes": ["a"]}, "step_sizes must be tuple[float, ...], got ['a']"),
        ("retrain", [], "a RetrainConfig must be a JSON object, got []"),
        ("strategy", "loop", 'must hold the name of a strategy as "chosen"'),
        ("strategy", {"chosen": 3}, 'must hold the name of a strategy as "chosen"'),
    ],
)
@pytest.mark.parametrize("command", [["retrain"], ["embed", "--knn", 3], ["plot"]], ids=lambda words: words[0])
def test_a_record_with_wrong_types_is_refused_in_one_line(jaxscape, run, section, value, words, command):
    path = run / "config.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    changed = record[section] | value if isinstance(value, dict) and section != "strategy" else value
    path.write_text(json.dumps(record | {section: changed}))
    outcome = jaxscape(command[0], run, *command[1:])
    assert outcome.code == 1
    assert outcome.err.startswith(f"jaxscape: {path}, section '{section}': ")
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_an_edited_record_is_refused_until_its_checksum_is_removed(jaxscape, run):
    path = run / "config.json"
    path.write_text(path.read_text().replace('"learning_rate": 0.05', '"learning_rate": 0.06'))
    outcome = jaxscape("plot", run)
    assert outcome.code == 1
    assert "is damaged, or was edited" in outcome.err


def test_a_folder_of_the_previous_version_opens_and_keeps_its_pictures(jaxscape, run, finished):
    """It has no checksums, lacks some settings, and has its timings, but no settings of embeddings, in the report."""
    for path in run.rglob("*.json"):
        if "trajectories" not in path.parts and "parameters" not in path.parts:
            record = json.loads(path.read_text())
            record.pop("sha256", None)
            if path.name == "config.json":
                del record["timings"], record["train"]["precision"], record["retrain"]["precision"]
            if path.name == "report.json":
                del record["fingerprint"]
            if path.name == "metrics.json":
                del record["parameters"]
            path.write_text(json.dumps(record))
    (run / "checksums.json").unlink()
    pictures = contents(finished / "embeddings")
    for command in (["train"], ["retrain"], ["embed", "--knn", 3], ["plot"], ["info"]):
        outcome = jaxscape(command[0], run, *command[1:])
        assert outcome.code == 0, outcome.err
    assert "is up to date" in jaxscape("embed", run, "--knn", 3).out
    for path, content in pictures.items():
        if path.suffix == ".csv":
            assert (run / path.relative_to(finished)).read_bytes() == content
    assert numbers(run) == numbers(finished)
