"""The pages of the experiments are what their committed numbers give."""

import claims
import embedding_map
import optimizers
import valley_page
from records import ROOT, committed, committed_scales
from scales import SCALES


def text(name):
    return (ROOT / "docs" / f"{name}.md").read_text()


def test_valley():
    assert text("valley") == valley_page.page(committed("valley"))


def test_claims():
    assert text("claims") == claims.page(*claims.read_committed())


def test_optimizers():
    assert text("optimizer-paths") == optimizers.page(committed_scales("optimizers"))


def test_the_tables_of_the_embedding_map():
    record = committed("embedding_map")
    tables = embedding_map.page(record["trees"], record["claims"], embedding_map.cells(SCALES["quick"]))
    between = text("embedding").partition(embedding_map.MARKS[0])[2].partition(embedding_map.MARKS[1])[0]
    assert between == f"\n{tables}\n"
