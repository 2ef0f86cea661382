"""The page as a widget of a notebook."""

import sys

import pytest
from pages import page

from jaxscape.report import widget
from jaxscape.report.page import page_parts


def test_it_has_the_data_and_the_modules_of_the_page():
    pytest.importorskip("anywidget")
    shown = widget(page())
    packed, body = page_parts(page())
    assert (shown.text, shown.numbers, shown.body) == (packed.text, packed.numbers, str(body))
    assert "export default" in shown._esm
    assert "class Page" in shown._esm


def test_without_anywidget_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(ImportError, match=r'pip install "jaxscape-phate\[notebook\]"'):
        widget(page())
