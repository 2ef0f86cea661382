"""The page inside a notebook: the same HTML, style and modules, as an anywidget."""

from typing import Any

from jaxscape.report.data import Page
from jaxscape.report.page import javascript, page_parts, stylesheet

_SHOW = """
export default {
  async render({ model, el }) {
    const root = el.attachShadow ? el.attachShadow({ mode: "open" }) : el;
    const style = document.createElement("style");
    style.textContent = model.get("style");
    const body = document.createElement("div");
    body.innerHTML = model.get("body");
    root.append(style, body);
    const page = await startWith(root, model.get("text"), model.get("numbers"));
    return () => page.close();
  },
};
"""


def widget(page: Page) -> Any:
    """Return the page as a widget for Jupyter, JupyterLab, VS Code, Colab or marimo.

    Raises:
        ImportError: if anywidget is not installed; the message says how to install it.
        ValueError: as `jaxscape.report.render`.
    """
    try:
        import anywidget
        import traitlets
    except ImportError:
        raise ImportError('a widget needs anywidget; pip install "jaxscape-phate[notebook]"') from None

    class PageWidget(anywidget.AnyWidget):
        _esm = javascript() + _SHOW
        body = traitlets.Unicode().tag(sync=True)
        style = traitlets.Unicode().tag(sync=True)
        text = traitlets.Unicode().tag(sync=True)
        numbers = traitlets.Unicode().tag(sync=True)

    packed, body = page_parts(page)
    return PageWidget(body=str(body), style=stylesheet(), text=packed.text, numbers=packed.numbers)
