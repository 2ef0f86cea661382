"""The page of a run folder shows the numbers of its tables, for every kind of run."""

import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from jaxscape import Run
from jaxscape.cli.parse import parse, retrain_settings, settings_of, train_settings
from jaxscape.report.data import first_rows
from jaxscape.runs.config import compare_preset, embed_config, retrain_preset, train_preset
from jaxscape.runs.embeddings import read_coordinates
from jaxscape.runs.exact import exact_panel
from jaxscape.runs.folder import RunFolder
from jaxscape.runs.invocations import commands
from jaxscape.runs.kept import write_kept
from jaxscape.runs.landscape_config import CurvatureConfig, PathConfig, SurfaceConfig
from jaxscape.runs.methods import BESIDE, NULLS
from jaxscape.runs.page import read_page, trust_words, write_page
from jaxscape.runs.plot import plot_comparison
from jaxscape.runs.tables import read_table
from jaxscape.trajectories.files import write_record

SILENT = Console(quiet=True)


def read(*runs):
    return read_page([run.folder for run in runs], console=SILENT)


def test_rows_are_those_of_the_tables(tiny):
    run = tiny["retrained"]
    [shown] = read(run).runs
    geometry = read_table(run.folder, run.folder.geometry)
    metrics = read_table(run.folder, run.folder.metrics)
    order = np.lexsort((geometry["epoch"], geometry["member"]))
    order = order[geometry["step_size"][order] > 0]  # without the controls
    np.testing.assert_array_equal(shown.member, geometry["member"][order])
    np.testing.assert_array_equal(shown.time, geometry["epoch"][order])
    columns = {column.label: column.values for column in shown.columns}
    np.testing.assert_array_equal(columns["training loss"], metrics["train_loss"][order])
    np.testing.assert_array_equal(columns["norm of the parameters"], geometry["norm"][order])
    assert list(columns)[:3] == ["training loss", "test loss", "epoch loss"]
    assert list(shown.hue) == ["0", "0", "1", "1"]
    assert shown.step_size.tolist() == [0.5, 1.0, 0.5, 1.0]


def test_exact_distances_are_those_of_the_figures(tiny):
    run = tiny["retrained"]
    [shown] = read(run).runs
    panel = exact_panel(run.folder)
    for row, (member, epoch) in enumerate(zip(panel.member, panel.epoch, strict=True)):
        [there] = np.flatnonzero((shown.member == member) & (shown.time == epoch))
        assert shown.exact.distance[there] == panel.distance[row]
        assert shown.exact.surrogates[0].angle[there] == panel.surrogates[0].angle[row]
    assert shown.exact.heading.startswith("4 of 4 ended nearer")


def test_embeddings_are_those_of_the_folder(tiny):
    run = tiny["retrained"]
    [shown] = read(run).runs
    found = {each.name: each for each in shown.embeddings}
    assert list(found) == ["mds-euclidean-3d", "phate-cosine-none-knn2"]
    columns = read_coordinates(run.folder, "mds-euclidean-3d")
    for row, (member, epoch) in enumerate(zip(shown.member, shown.time, strict=True)):
        [there] = np.flatnonzero((columns["member"] == member) & (columns["epoch"] == epoch))
        np.testing.assert_array_equal(found["mds-euclidean-3d"].points[row], [columns[axis][there] for axis in "xyz"])
    assert found["mds-euclidean-3d"].minimum.shape == (3,)
    assert found["phate-cosine-none-knn2"].minimum is None


def test_disconnected_components_have_boxes(tiny):
    run = tiny["retrained"]
    [shown] = read(run).runs
    [found] = [each for each in shown.embeddings if each.name == "phate-cosine-none-knn2"]
    columns = read_coordinates(run.folder, "phate-cosine-none-knn2")
    assert len(found.boxes) == len(set(columns["component"])) > 1
    for row, part in enumerate(found.part):
        inside = [
            all(box[:2] <= found.points[row]) and all(found.points[row] <= box[:2] + box[2]) for box in found.boxes
        ]
        assert sum(inside) == 1
        same = found.part == part
        there = columns["component"] == part
        np.testing.assert_allclose(np.ptp(found.points[same], axis=0), [np.ptp(columns[axis][there]) for axis in "xy"])


def test_a_comparison_has_exact_views_from_its_initial_points(tiny):
    [shown] = read(tiny["compared"]).runs
    starts = first_rows(shown.member)
    assert (shown.exact.distance[starts] == 0).all()
    assert (np.delete(shown.exact.distance, starts) > 0).all()
    ends = np.append(starts[1:], len(shown.member)) - 1
    np.testing.assert_allclose(shown.exact.angle[ends], 0, atol=1e-6)


def test_diverged_trajectories_have_losses_and_no_positions(tiny):
    run = tiny["diverged"]
    diverged = {each["member"] for each in run.folder.read_report()["diverged"]}
    assert diverged == {1, 3}
    page = read(run)
    [shown] = page.runs
    lost = np.isin(shown.member, list(diverged))
    assert lost.any()
    assert np.isnan(shown.exact.distance[lost]).all()
    assert np.isfinite(shown.exact.distance[~lost]).all()
    assert all(np.isnan(each.points[lost]).all() for each in shown.embeddings)
    assert [fact.lines[0] for fact in page.facts if "left out" in fact.title] == [
        ("trajectory 1", f"diverged in epoch {run.folder.read_report()['diverged'][0]['epoch']}")
    ]


def test_a_comparison_is_grouped_by_optimizer_in_epochs(tiny):
    page = read(tiny["compared"])
    [shown] = page.runs
    assert (page.hue, page.unit, shown.begin) == ("optimizer", "epoch", "initial")
    assert list(shown.hue) == ["sgd", "sgd", "adam", "adam"]
    assert shown.time.max() == 3
    assert shown.step_size is None


def test_a_recorded_training_has_steps_and_needs_no_losses(tiny):
    page = read(tiny["recorded"])
    [shown] = page.runs
    assert (page.unit, shown.begin) == ("step", "first")
    assert shown.time.tolist() == [0, 10, 20, 30, 40]
    assert [column.label for column in shown.columns] == ["norm of the parameters"]


def test_joint_trajectories_keep_their_lengths(tiny):
    page = read(tiny["joined"])
    [shown] = page.runs
    assert page.hue == "run"
    assert list(shown.hue) == ["short", "long"]
    assert np.diff([*first_rows(shown.member), len(shown.member)]).tolist() == [5, 8]


def test_losses_of_joint_runs_are_those_of_each_run(tmp_path):
    runs = []
    for name, loss in (("one", 0.5), ("two", 0.25)):
        with Run(tmp_path / name, quiet=True) as run:
            for step in range(4):
                run.record(step, {"w": np.full(3, step + loss, np.float32)}, {"train_loss": loss})
        runs.append(run)
    joined = Run.join(tmp_path / "both", [run.folder for run in runs], quiet=True)
    [shown] = read(joined).runs
    [losses] = [column.values for column in shown.columns if column.label == "training loss"]
    assert losses.tolist() == [0.5] * 4 + [0.25] * 4


def test_runs_of_different_kinds_count_snapshots(tiny):
    page = read(tiny["retrained"], tiny["recorded"])
    assert page.unit == "snapshot"
    assert [run.time.max() for run in page.runs] == [3, 4]
    assert page.hue == "direction or run"


def test_runs_with_equal_titles_are_titled_by_their_folders(tiny, tmp_path):
    again = shutil.copytree(tiny["retrained"].folder, tmp_path / "again")
    page = read_page([tiny["retrained"].folder, again], console=SILENT)
    assert [run.title for run in page.runs] == ["retrained", "again"]


def test_runs_with_equal_titles_are_titled_by_their_folders_in_every_figure(tiny, tmp_path):
    again = shutil.copytree(tiny["retrained"].folder, tmp_path / "again")
    plot_comparison([tiny["retrained"].folder, again], tmp_path / "figures")
    drawn = {path.stem: path.read_text() for path in (tmp_path / "figures").glob("*.svg")}
    assert drawn.keys() >= {"polar", "plane", "distance"}
    for text in drawn.values():
        assert "<!-- retrained -->" in text
        assert "<!-- again -->" in text


def test_the_page_is_written_in_the_run_or_beside_the_first_of_several(tiny, tmp_path):
    for name in ("retrained", "recorded"):
        shutil.copytree(tiny[name].folder, tmp_path / name)
    one = write_page([tmp_path / "retrained"], console=SILENT)
    both = write_page([tmp_path / "retrained", tmp_path / "recorded"], console=SILENT)
    assert one == tmp_path / "retrained" / "report.html"
    assert both == tmp_path / "report.html"
    assert one.read_bytes() == write_page([tmp_path / "retrained"], tmp_path / "x.html", console=SILENT).read_bytes()


def test_statistics_are_shown_beside_those_of_surrogates(tiny):
    run = tiny["retrained"]
    [geometry, minima, fidelity] = read(run).tables
    report = run.folder.read_report()
    assert list(geometry.columns) == ["", "retrained", "surrogate", "which surrogate"]
    [row] = [row for row in geometry.rows if row[0] == "return"]
    kind = BESIDE["return"]
    assert row[1].startswith(f"{report['geometry']['real']['return']['mean']:.3f} ±")
    assert row[2:] == (f"{report['geometry']['surrogates'][kind]['return']['mean']:.3f}", NULLS[kind].words)
    assert NULLS[kind].keeps in geometry.meanings[NULLS[kind].words]
    assert "2 unperturbed copies end" in geometry.note
    assert geometry.meanings["return"] == report["statistics"]["return"]
    assert {row[0] for row in minima.rows} == {"training loss", "test loss"}
    assert [row[:2] for row in fidelity.rows] == [
        ("mds-euclidean-3d", ""),
        ("mds-euclidean-3d", "rotated surrogate"),
        ("phate-cosine-none-knn2", ""),
        ("phate-cosine-none-knn2", "rotated surrogate"),
    ]
    assert list(fidelity.meanings) == list(fidelity.columns[2:])
    assert "disparity" in fidelity.columns


def test_groups_have_columns_of_their_own(tiny):
    geometry = read(tiny["compared"]).tables[0]
    assert list(geometry.columns) == ["", "sgd", "surrogate", "adam", "surrogate", "which surrogate"]


@pytest.mark.parametrize(
    ("diagnostics", "words"),
    [
        (
            {"fidelity": {"rank": 0.95, "radius": 0.2, "inward": 0.5}},
            "preserved well (rank correlation 0.95), radii badly",
        ),
        (
            {"fidelity": {"rank": 0.75, "radius": None}},
            "Distances preserved roughly (rank correlation 0.75).",
        ),
        (
            {"fidelity": {"rank": 0.5}, "surrogate": {"kind": "rotated", "same": True}},
            "(rank correlation 0.50), rotated null draws the same.",
        ),
        ({"degenerate": True}, "Degenerate."),
        ({}, ""),
        ({"fidelity": "odd"}, ""),
    ],
)
def test_fidelity_is_summarised(diagnostics, words):
    found = trust_words(diagnostics)
    assert words in found
    assert len(found) < 130  # two lines under an embedding


@pytest.mark.parametrize("runs", [[], ["a", "a"]])
def test_no_runs_and_runs_named_twice_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match="runs must name one or more runs, each once"):
        write_page([tmp_path / run for run in runs], console=SILENT)


def test_a_run_without_trajectories_is_refused_and_shows_a_line_in_a_notebook(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no trajectories"):
        write_page([tmp_path / "new"], console=SILENT)
    shown = Run(tmp_path / "<new>", quiet=True)._repr_html_()
    assert shown.startswith("<p>")
    assert "&lt;new&gt;" in shown
    assert "has no trajectories" in shown


def test_a_notebook_gets_the_page_in_a_sandboxed_frame(tiny):
    shown = tiny["recorded"]._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert 'sandbox="allow-scripts allow-downloads"' in shown
    assert shown.count('"') == 2 * shown.count('="') or "=&quot;" in shown


def test_older_runs_have_a_page(tmp_path):
    older = shutil.copytree(Path(__file__).parents[1] / "data" / "run-0.1", tmp_path / "older")
    assert write_page([older], console=SILENT).stat().st_size > 50_000


# The commands of a page are parsed by the command line, and result in the settings of the record.

ASKED = [
    train_preset("good"),
    train_preset("memorization", seed=3),
    train_preset("bad", dataset="cifar10"),
    replace(train_preset("good", protocol="paper"), epochs=7, decay_epochs=(), augmentation="none", weight_decay=3e-5),
    replace(train_preset("bad", dataset="mnist", protocol="digits"), data_unchecked=True, optimizer="adam"),
]


@pytest.mark.parametrize("asked", ASKED, ids=range(len(ASKED)))
def test_commands_reproduce_the_recorded_settings(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, copies = RunFolder("a run"), replace(retrain_preset(asked), seeds=(2, 5), epochs=9, learning_rate=1 / 3)
    run.record_settings("train", asked, results=())
    run.record_settings("retrain", copies, results=())
    train, retrain = map(shlex.split, commands(run))
    fresh = [word.replace("a run", "fresh") for word in train]
    assert train_settings(parse(fresh[1:]))[Path("fresh")] == asked
    RunFolder("fresh").record_settings("train", asked, results=())
    fresh = [word.replace("a run", "fresh") for word in retrain]
    assert retrain_settings(parse(fresh[1:]))[Path("fresh")] == copies


def test_the_command_of_a_comparison_reproduces_the_recorded_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = replace(compare_preset(), seeds=(4,), optimizers=("sgd", "adam"), steps=5)
    RunFolder("run").record_settings("compare", asked, results=())
    [line] = commands(RunFolder("run"))
    words = [word.replace("run", "fresh") for word in shlex.split(line)]
    read = parse(words[1:])
    assert replace(settings_of(read, Path("fresh")).compare, seeds=read.command.seed_list) == asked


def test_commands_reproduce_the_embeddings(tiny):
    lines = [shlex.split(line) for line in commands(tiny["retrained"].folder) if " embed " in line]
    names = [embed_config(**parse(words[1:]).given_settings("config")).name for words in lines]
    assert names == ["mds-euclidean-3d", "phate-cosine-none-knn2"]


def test_a_run_started_from_python_is_a_comment(tiny):
    assert commands(tiny["retrained"].folder)[0].startswith("# ")
    assert commands(tiny["recorded"].folder)[0].startswith("# ")
    assert " --into " in commands(tiny["joined"].folder)[0]


MEASUREMENTS = [
    SurfaceConfig(plane="trajectory", axes=(1,), extent=0.5, points=4, every=2, statistics="kept"),
    SurfaceConfig(seeds=(3, 4), split="test"),
    CurvatureConfig(matrix="gauss_newton", k=2, leaves=("group1*", "head/*"), at="starts", seed=5),
    PathConfig(kind="polygon", bends=2, learning_rate=1 / 3, train_batch=7, match=False),
    PathConfig(),
]


@pytest.mark.parametrize("asked", MEASUREMENTS, ids=range(len(MEASUREMENTS)))
@pytest.mark.parametrize("problem", [{}, {"source": "module:function", "arguments": {"depth": 10}}])
def test_commands_reproduce_the_landscape(tmp_path, monkeypatch, asked, problem):
    monkeypatch.chdir(tmp_path)
    run = RunFolder("a run")
    write_record(run.config, {"problem": problem} if problem else {})
    folders = {"SurfaceConfig": run.surfaces, "PathConfig": run.paths, "CurvatureConfig": run.curvature}
    made_of = {"setting": asdict(replace(asked, strategy=None)), "problem": problem, "matched": False}
    folder = folders[type(asked).__name__] / "name"
    write_kept(folder, {}, made_of, **({"other": "/another run"} if isinstance(asked, PathConfig) else {}))
    [line] = commands(run)
    read = parse(shlex.split(line)[1:])
    assert (read.command.run, read.command.config) == (Path("a run"), asked)
    if isinstance(asked, PathConfig):
        assert read.command.other == Path("/another run")
    if problem:
        assert (read.own.problem, read.own.problem_args) == ("module:function", ("depth=10",))
    (folder / "record.json").write_text("{")
    assert commands(run) == []


def test_a_measurement_from_python_is_a_comment(tmp_path):
    run = RunFolder(tmp_path / "run")
    write_record(run.config, {"problem": {"describe": {}}})
    write_kept(run.surfaces / "line", {}, {"setting": asdict(SurfaceConfig()), "problem": {"describe": {}}})
    assert commands(run)[-1] == f"# surface line of {str(run)!r} was measured from Python: Run.surface"
