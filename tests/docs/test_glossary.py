"""The glossary has the words of the tables, captions and legends."""

import re

import pytest
from doc_pages import DOCS

from jaxscape.embedding.fidelity import Fidelity
from jaxscape.runs.measure import STATISTICS
from jaxscape.runs.methods import NULLS

GLOSSARY = (DOCS / "glossary.md").read_text().split(":::{glossary}\n")[1].rpartition(":::")[0]
ENTRIES = dict(re.findall(r"^(\S.*)\n((?:  .*\n)+)", GLOSSARY, re.MULTILINE))


def words():
    """Return every term of the glossary, and every name in backticks."""
    terms = {term.strip() for line in ENTRIES for term in line.split(", ")}
    return terms | set(re.findall(r"`([^`]+)`", GLOSSARY))


@pytest.mark.parametrize("name", [*STATISTICS, *Fidelity._fields])
def test_the_glossary_has_every_number_of_the_tables(name):
    assert {name, name.replace("_", " ")} & words()


@pytest.mark.parametrize("null", NULLS.values(), ids=[*NULLS])
def test_the_glossary_has_every_kind_of_null_trajectories_as_legends_call_it(null):
    assert {null.words, null.words.replace("exchanged null", "exchange null")} & words()


@pytest.mark.parametrize(
    "word", ["disparity", "movements", "radii", "star", "cross", "diamond", "dot", "arc", "spoke", "bar"]
)
def test_the_glossary_has_what_figures_and_captions_say_without_explanation(word):
    assert word in words()


def test_terms_are_in_alphabetical_order_and_have_a_meaning():
    terms = [line for line in GLOSSARY.splitlines() if line and not line.startswith(" ")]
    assert terms == sorted(terms, key=str.lower)
    assert len(set(terms)) == len(terms) == len(ENTRIES)
