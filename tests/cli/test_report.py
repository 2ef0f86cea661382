"""The command `report` writes a page about one run or several."""

import shutil


def test_report_writes_the_page_and_prints_its_path(jaxscape, tiny, tmp_path):
    run = shutil.copytree(tiny["retrained"].folder, tmp_path / "run")
    outcome = jaxscape("report", run)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.replace("\n", "") == str(run / "report.html")
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert "report.html" in jaxscape("info", run).out


def test_report_takes_several_runs_and_an_output_file(jaxscape, tiny, tmp_path):
    outcome = jaxscape("report", tiny["retrained"].folder, tiny["compared"].folder, "--out", tmp_path / "both.html")
    assert outcome.code == 0, outcome.err
    assert 'data-runs="2"' in (tmp_path / "both.html").read_text()


def test_report_needs_trajectories(jaxscape, tmp_path):
    outcome = jaxscape("report", tmp_path / "run")
    assert outcome.code == 1
    assert "has no trajectories; `jaxscape retrain" in outcome.err.replace("\n", " ")
    assert not (tmp_path / "run").exists()


def test_report_needs_a_run(jaxscape):
    outcome = jaxscape("report")
    assert outcome.code == 2
    assert "report needs RUN" in outcome.err
