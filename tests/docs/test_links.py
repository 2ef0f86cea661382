"""Relative links of README and docs lead to files and headings that are there."""

import re

import pytest
from doc_pages import TEXTS, name_of

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def links(path):
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(), flags=re.DOTALL)
    return [link for link in LINK.findall(text) if "://" not in link]


def anchors(path):
    """Return the anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_relative_links_lead_somewhere(path):
    for link in links(path):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{name_of(path)} links to {link}"
        if anchor:
            assert anchor in anchors(target), (
                f"{name_of(path)} links to {link}, and {name_of(target)} has no such heading"
            )


def test_links_are_found_and_anchors_are_made_as_github_does(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A run folder: what, where\n[a](b.md#c) ![d](e.png) `[no](code.md)` [f](https://x.org)\n")
    assert links(page) == ["b.md#c", "e.png"]
    assert anchors(page) == {"a-run-folder-what-where"}
