"""The pages of the experiments are what their committed numbers give."""

import json

import claims
import embedding_map
import optimizers
import valley_page
from records import ROOT
from scales import SCALES


def numbers(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def text(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def test_valley():
    assert text("valley") == valley_page.page(numbers("valley"))


def test_claims():
    assert text("claims") == claims.page(*claims.read_committed())


def test_optimizers():
    record = numbers("optimizers")
    assert text("optimizer-paths") == optimizers.page(record, optimizers.decide(record["claims"]))


def test_the_tables_of_the_embedding_map():
    record = numbers("embedding_map")
    tables = embedding_map.page(record["trees"], record["claims"], embedding_map.cells(SCALES["quick"]))
    between = text("embedding").partition(embedding_map.MARKS[0])[2].partition(embedding_map.MARKS[1])[0]
    assert between == f"\n{tables}\n"
