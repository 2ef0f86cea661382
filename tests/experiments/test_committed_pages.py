"""The pages of the experiments are what their committed numbers give."""

import claims
import embedding_map
import generalization
import optimizers
import paperlike
import pytest
import records
import study_page
import study_results
import valley
import valley_page
from records import ROOT, committed, committed_scales
from rich.console import Console
from scales import SCALES
from stages import Experiment


def text(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def test_pages_say_if_the_checkout_had_uncommitted_changes():
    assert records.commit_text({"commit": "abc"}) == "abc"
    assert records.commit_text({"commit": "abc-dirty"}) == "abc-dirty (with uncommitted changes in the checkout)"


def test_valley():
    assert text("valley") == valley_page.page(committed("valley"))


def test_claims():
    assert text("claims") == claims.page(*claims.read_committed())


def test_optimizers():
    assert text("optimizer-paths") == optimizers.page(committed_scales("optimizers"))


def test_generalization():
    results = {name: study_results.read_result(name, generalization.RESULTS) for name in ("fashion", "digits")}
    figures = generalization.figure_names("generalization", results)
    assert text("generalization") == study_page.page(results, figures)


def test_paperlike():
    assert text("paperlike") == paperlike.page(committed("paperlike"))


@pytest.mark.parametrize("script", [valley, paperlike])
def test_publishing_another_data_set_is_refused_before_any_work(script, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    monkeypatch.setattr(Experiment, "run", None)  # any work would fail
    (tmp_path / f"{script.__name__}.json").write_text('{"dataset": "another"}')
    experiment = Experiment(script.__name__, SCALES["smoke"], tmp_path, {}, Console(quiet=True), publish=True)
    with pytest.raises(ValueError, match=f"would replace docs/{script.__name__}.md, .* results on another, .* digits;"):
        script.main(experiment)


def test_the_tables_of_the_embedding_map():
    record = committed("embedding_map")
    tables = embedding_map.page(record["trees"], record["claims"], embedding_map.cells(SCALES["quick"]))
    between = text("embedding").partition(embedding_map.MARKS[0])[2].partition(embedding_map.MARKS[1])[0]
    assert between == f"\n{tables}\n"
