"""The text of the page: self-contained, equal for equal data, and safe whatever the labels hold."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from pages import HOSTILE, hostile_page, page, trajectories

from jaxscape.report import Column, Embedding, Still, Surrogate, Table, render
from jaxscape.report.page import MODULES, ROOM, javascript, page_views


class Elements(HTMLParser):
    """Parser that collects the elements of a page, (name, attributes), and the text in each kind of element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)


def scripts(text):
    return re.findall(r"<script([^>]*)>(.*?)</script>", text, re.DOTALL)


@pytest.mark.parametrize("make", [page, hostile_page])
def test_the_same_page_is_the_same_text(make):
    assert render(make()) == render(make())


def test_it_loads_no_other_resource():
    text = render(page())
    names = {"src", "href", "action", "data", "srcset", "poster"}
    assert not [(tag, attrs) for tag, attrs in Elements(text).elements if names & attrs.keys()]
    assert not re.search(r"@import|url\(|import\s*\(|fetch\(|XMLHttpRequest|WebSocket", text)
    addresses = re.findall(r"https?://[^\s\"'<>)]+", text)
    assert set(addresses) <= {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_the_browser_may_run_only_this_script():
    text = render(page())
    [policy] = [attrs["content"] for tag, attrs in Elements(text).elements if attrs.get("http-equiv")]
    [script] = [content for attributes, content in scripts(text) if "module" in attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'")
    assert f"script-src 'sha256-{digest}'" in policy


def test_stills_are_in_the_page_unchanged_with_escaped_texts():
    png = b"\x89PNG\r\n\x1a\n rest"
    elements = Elements(render(page()._replace(stills=[Still(HOSTILE[0], png, "a < b")])))
    [image] = [attrs for tag, attrs in elements.elements if tag == "img"]
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == png
    assert image["alt"] == f"{HOSTILE[0]}: a < b"
    assert not [attrs for tag, attrs in elements.elements if any(name.startswith("on") for name in attrs)]
    with pytest.raises(ValueError, match=r"^still 'x' must be a PNG picture"):
        render(page()._replace(stills=[Still("x", b"GIF89a")]))


def test_hostile_texts_make_no_elements():
    text = render(hostile_page())
    elements = Elements(text)
    assert len(scripts(text)) == text.count("<script") == 3
    assert not [tag for tag, attrs in elements.elements if tag == "img" or any(name.startswith("on") for name in attrs)]
    assert "49" not in {each.strip() for each in elements.texts["h1"]}
    assert (
        " ".join(HOSTILE).replace("\u2028", " ").split()
        == " ".join(elements.texts["h1"]).replace("\u2028", " ").split()
    )


def test_the_data_are_json_with_the_texts_unchanged():
    [data] = [content for attributes, content in scripts(render(hostile_page())) if "json" in attributes]
    assert not set(data) & set("<>&\u2028\u2029")
    read = json.loads(data)
    assert [run["title"] for run in read["runs"]] == [HOSTILE[0], HOSTILE[3]]
    assert [label for label, _ in read["palette"]["hues"]] == HOSTILE


def test_half_a_surrogate_pair_is_replaced():
    text = render(page([trajectories("a\ud800")], title="b\udcff"))
    text.encode()
    assert text.count("b\ufffd") == 2
    assert '"title":"a\ufffd"' in text


def test_the_views_of_a_page():
    labels = [(view.kind, view.label) for view in page_views(page())]
    assert labels == [
        ("polar", "Polar"),
        ("plane", "Along and across"),
        ("embedding", "map"),
        ("embedding", "3-D"),
        ("curve", "Distance"),
        ("curve", "Loss"),
        ("curve", "Norm"),
    ]


def test_runs_without_jumps_have_separate_exact_views():
    views = page_views(page([trajectories("a"), trajectories("b", begin="initial")]))
    exact = [(view.kind, [panel.run for panel in view.panels]) for view in views if view.kind in ("polar", "plane")]
    assert exact == [("polar", [0]), ("plane", [0]), ("polar", [1]), ("plane", [1])]


def test_an_embedding_that_a_run_lacks_leaves_a_panel_out():
    short = trajectories("a")._replace(embeddings=[])
    views = page_views(page([short, trajectories("b")]))
    assert [panel.run for panel in views[2].panels] == [1]


def test_without_exact_views_or_embeddings_there_are_only_curves():
    bare = trajectories()._replace(exact=None, embeddings=[])
    assert {view.kind for view in page_views(page([bare]))} == {"curve"}
    render(page([bare]))


def test_modules_are_written_in_the_order_of_their_imports():
    assert {path.stem for path in (ROOM / "js").glob("*.js")} == set(MODULES)
    text = javascript()
    assert "import " not in text
    assert not re.search(r"^export", text, re.MULTILINE)
    assert "</script" not in text.lower()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": np.zeros(22)}, "ascend within each trajectory"),
        ({"time": np.zeros(4)}, r"time must have shape \(22,\), got \(4,\)"),
        ({"hue": ["0"]}, "a label for each of 4 trajectories, got 1"),
        ({"hue": ["0", "0", "1", "2"]}, "the palette has no '2'"),
        ({"step_size": np.array([0.5, 1, 0.5, 3])}, "the palette has no 3"),
        ({"member": np.arange(22) % 4}, "must be contiguous"),
        ({"member": np.zeros(0)}, "has no rows"),
    ],
)
def test_invalid_runs_are_rejected(change, message):
    whole = page([trajectories()])
    with pytest.raises(ValueError, match=message):
        render(whole._replace(runs=[whole.runs[0]._replace(**change)]))


def test_pages_without_runs_and_incomplete_tables_are_rejected():
    with pytest.raises(ValueError, match="runs is empty"):
        render(page([]))
    with pytest.raises(ValueError, match="2 columns, and a row"):
        render(page(tables=[Table("t", ("a", "b"), [("1",)])]))


@pytest.mark.parametrize("part", ["points", "minimum"])
def test_embeddings_have_two_or_three_dimensions(part):
    run = trajectories()
    broken = run.embeddings[0]._replace(**{part: np.zeros((22, 4)) if part == "points" else np.zeros(3)})
    with pytest.raises(ValueError, match=r"dimensions, got 4|must have shape"):
        render(page([run._replace(embeddings=[broken])]))


def test_part_and_boxes_are_given_together():
    run = trajectories()
    broken = run.embeddings[0]._replace(part=np.zeros(22))
    with pytest.raises(ValueError, match="must have part and boxes, in 2-D, or neither"):
        render(page([run._replace(embeddings=[broken])]))


def test_three_minima_of_twenty_copies_take_less_than_300_kilobytes():
    random = np.random.default_rng(0)
    runs = []
    for name in ("good", "bad", "memorization"):
        run = trajectories(name, tuple("0123456789"), epochs=50, seed=len(name))
        count = len(run.time)

        def walk(scale, count=count):  # smoother than chance, rougher than what is retrained
            return 5 + np.cumsum(scale * np.convolve(random.standard_normal(count + 4), np.full(5, 0.2), "valid"))

        surrogates = [Surrogate(f"surrogate {k}", walk(0.02), np.clip(walk(0.01) - 4, 0, 3)) for k in range(4)]
        losses = [Column(f"loss {k}", np.exp(walk(0.1)), "") for k in range(10)]
        flat = [Embedding(f"flat {k}", f"flat {k}", np.stack([walk(1), walk(1)], 1)) for k in range(3)]
        solid = [Embedding(f"solid {k}", f"solid {k}", np.stack([walk(1), walk(1), walk(1)], 1)) for k in range(2)]
        exact = run.exact._replace(surrogates=surrogates)
        runs.append(run._replace(exact=exact, columns=losses, embeddings=flat + solid))
    assert len(runs[0].hue) == 20
    assert len(render(page(runs)).encode()) < 300_000
