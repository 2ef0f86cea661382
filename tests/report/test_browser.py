"""The page in a real browser, opened from a file: Debian's chromium, headless."""

import base64
import io
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from pages import HOSTILE, hostile_page, page, trajectories
from PIL import Image

from jaxscape.report import render

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

BACKGROUND = "getComputedStyle(document.querySelector('.jaxscape')).backgroundColor"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Watched:
    """An open page, which records everything that it must not do."""

    def __init__(self, browser, file, **settings):
        self.context = browser.new_context(viewport={"width": 900, "height": 760}, **settings)
        self.tab = self.context.new_page()
        self.wrong, self.requests = [], []
        self.tab.on("console", lambda message: self.wrong.append(message.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(file.as_uri())
        self.tab.wait_for_selector("[data-ready]", timeout=10_000)
        self.settle()

    def settle(self):
        """Wait until everything is drawn."""
        self.tab.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, is_so):
        """Wait for a condition; the page's policy forbids playwright's own way of waiting."""
        for _ in range(200):
            if is_so():
                return
            self.tab.wait_for_timeout(20)
        raise AssertionError("waited in vain")

    def picture(self, number=0, kind="live"):
        """Return the pixels of a visible canvas, (height, width, 4)."""
        script = """([number, kind]) => [...document.querySelectorAll(`canvas.${kind}`)]
          .filter((each) => each.clientWidth)[number].toDataURL()"""
        self.settle()
        png = self.tab.evaluate(script, [number, kind]).partition(",")[2]
        with Image.open(io.BytesIO(base64.b64decode(png))) as image:
            return np.array(image.convert("RGBA"))

    def ink(self, number=0):
        """Return the number of drawn pixels of a picture."""
        return int((self.picture(number)[..., 3] > 40).sum())

    def shown(self, number=0):
        return self.tab.locator("canvas.live:visible").nth(number)

    def choose_tab(self, name):
        self.tab.get_by_role("tab", name=name, exact=True).click()
        self.settle()

    def go_to(self, index):
        self.tab.evaluate(
            """(index) => {
              const slider = document.querySelector(".time");
              slider.value = index;
              slider.dispatchEvent(new Event("input", { bubbles: true }));
            }""",
            index,
        )
        self.settle()

    def saved(self, button, folder):
        with self.tab.expect_download() as waiting:
            button.click()
        path = folder / waiting.value.suggested_filename
        waiting.value.save_as(path)
        return path


@pytest.fixture
def opened(browser, tmp_path):
    """Open a page in the browser; at the end check that there was no error, and no request but for the file."""
    all_opened = []

    def open_page(content=None, **settings):
        file = tmp_path / f"page{len(all_opened)}.html"
        if isinstance(content, Path):
            file = content
        else:
            file.write_text(render(content or page()), encoding="utf-8")
        all_opened.append((file, Watched(browser, file, **settings)))
        return all_opened[-1][1]

    yield open_page
    for file, watched in all_opened:
        assert watched.wrong == []
        assert [url for url in watched.requests if not url.startswith("blob:")] == [file.as_uri()]
        watched.context.close()


def test_the_slider_draws_trajectories_up_to_its_time(opened):
    watched = opened()
    whole = watched.ink()
    watched.go_to(2)
    assert watched.tab.locator(".now").inner_text() == "2 of 5"
    part = watched.ink()
    watched.go_to(0)
    assert watched.ink() < part < whole


def test_all_pictures_and_curves_move_together(opened):
    watched = opened()
    before = [watched.picture(number) for number in range(4)]
    watched.go_to(1)
    assert all((watched.picture(number) != picture).any() for number, picture in enumerate(before))


def test_it_plays_and_pauses(opened):
    watched = opened(page([trajectories(epochs=30)]))
    slider = watched.tab.locator(".time")
    watched.tab.get_by_role("button", name="Play").click()
    watched.until(lambda: 2 <= int(slider.input_value()) < 30)
    watched.tab.get_by_role("button", name="Pause").click()
    stopped = int(slider.input_value())
    watched.tab.wait_for_timeout(250)
    assert int(slider.input_value()) == stopped < 30
    watched.go_to(28)
    watched.tab.get_by_role("button", name="Play").click()
    watched.until(lambda: slider.input_value() == "30")
    watched.tab.get_by_role("button", name="Play").wait_for()  # it stops at the end


def places(watched):
    """Return the screen positions of the first picture's rows, (n, 2): the start of its first spoke is the topmost."""
    box = watched.shown().bounding_box()
    alpha = watched.picture()[..., 3] > 40
    rows, columns = np.nonzero(alpha)
    scale = alpha.shape[0] / box["height"]
    return box["x"] + columns / scale, box["y"] + rows / scale


def point_at_the_top(watched):
    x, y = places(watched)
    top = np.argmin(y)
    watched.tab.mouse.move(x[top], y[top] + 3)
    watched.settle()


def test_the_pointer_shows_the_numbers_of_a_trajectory_and_highlights_it_everywhere(opened):
    watched = opened()
    others = [watched.picture(number) for number in (1, 2, 3)]
    point_at_the_top(watched)
    told = watched.tab.locator(".tooltip")
    assert told.is_visible()
    text = told.inner_text()
    assert re.search(r"direction\s+0", text)
    assert re.search(r"step size\s+1\b", text)
    assert re.search(r"distance\s+\S+ norms \(\S+ jumps\)", text)
    assert re.search(r"loss\s+\d", text)
    for number, before in zip((1, 2, 3), others, strict=True):
        assert (watched.picture(number) != before).any()
    watched.tab.mouse.move(3, 3)
    watched.settle()
    assert not told.is_visible()
    np.testing.assert_array_equal(watched.picture(1), others[0])


def test_a_click_selects_a_trajectory_and_an_empty_place_shows_all(opened):
    watched = opened()
    before = watched.picture(3)
    point_at_the_top(watched)
    watched.tab.mouse.down()
    watched.tab.mouse.up()
    assert watched.tab.get_by_role("button", name="Show all").is_visible()
    watched.tab.mouse.move(3, 3)
    assert (watched.picture(3) != before).any()
    box = watched.shown().bounding_box()
    watched.tab.mouse.click(box["x"] + 6, box["y"] + 6)
    watched.tab.mouse.move(3, 3)
    np.testing.assert_array_equal(watched.picture(3), before)


def test_a_tap_shows_the_numbers_and_selects(opened):
    watched = opened(has_touch=True)
    x, y = places(watched)
    top = np.argmin(y)
    watched.tab.touchscreen.tap(x[top], y[top] + 3)
    watched.settle()
    assert watched.tab.locator(".tooltip").is_visible()
    assert watched.tab.get_by_role("button", name="Show all").is_visible()


def test_the_legend_selects(opened):
    watched = opened()
    whole = watched.ink()
    key = watched.tab.locator(".key", has_text="0.5")
    key.click()
    assert key.get_attribute("aria-pressed") == "true"
    assert watched.ink() < whole
    watched.tab.get_by_role("button", name="Show all").click()
    assert key.get_attribute("aria-pressed") == "false"
    assert watched.ink() == whole


def test_every_tab_has_its_pictures(opened):
    watched = opened()
    for name in ("Along and across", "map", "3-D", "Loss", "Norm", "Polar", "Distance"):
        watched.choose_tab(name)
        panel = watched.tab.get_by_role("tabpanel", name=name, exact=True)
        assert panel.is_visible()
        assert panel.locator("canvas.live").count() == 2
        assert min(watched.ink(number) for number in (0, 3)) > 100


def test_tabs_follow_the_arrow_keys(opened):
    watched = opened()
    watched.tab.get_by_role("tab", name="Polar").focus()
    watched.tab.keyboard.press("ArrowRight")
    assert watched.tab.get_by_role("tab", name="Along and across").get_attribute("aria-selected") == "true"
    assert watched.tab.evaluate("document.activeElement.textContent") == "Along and across"
    watched.tab.keyboard.press("End")
    assert watched.tab.get_by_role("tab", name="3-D").get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("color", ["step size", "loss", pytest.param("epoch", marks=pytest.mark.slow)])
def test_colours_follow_the_choice(opened, color):
    watched = opened()
    before = watched.picture()
    watched.tab.locator(".color").select_option(label=color)
    assert (watched.picture() != before).any()
    assert watched.tab.locator(".scale").is_visible() == (color != "step size")


def test_surrogates_can_be_hidden_and_shown(opened):
    watched = opened()
    before = watched.picture()
    watched.tab.get_by_label("null").uncheck()
    assert watched.ink() < (before[..., 3] > 40).sum()
    watched.tab.get_by_label("null").check()
    np.testing.assert_array_equal(watched.picture(), before)


def test_three_dimensions_rotate_and_zoom(opened):
    watched = opened()
    watched.choose_tab("3-D")
    first, neighbour = watched.picture(0), watched.picture(1)
    canvas = watched.shown()
    box = canvas.bounding_box()
    watched.tab.mouse.move(box["x"] + 100, box["y"] + 100)
    watched.tab.mouse.down()
    watched.tab.mouse.move(box["x"] + 160, box["y"] + 120, steps=3)
    watched.tab.mouse.up()
    watched.tab.mouse.move(3, 3)
    assert (watched.picture(0) != first).any()
    np.testing.assert_array_equal(watched.picture(1), neighbour)  # each has its own camera
    canvas.focus()
    for key in ("ArrowLeft", "ArrowUp", "+", "-", "-"):
        before = watched.picture(0)
        watched.tab.keyboard.press(key)
        assert (watched.picture(0) != before).any(), key
    watched.tab.keyboard.press("0")
    np.testing.assert_array_equal(watched.picture(0), first)
    watched.tab.get_by_role("button", name="Zoom in").first.click()
    assert (watched.picture(0) != first).any()
    canvas.focus()
    before = watched.picture(0)
    watched.tab.mouse.move(box["x"] + 5, box["y"] + 5)
    watched.tab.mouse.wheel(0, -200)
    watched.tab.mouse.move(3, 3)
    assert (watched.picture(0) != before).any()


def test_pictures_follow_the_keys(opened):
    watched = opened()
    watched.shown().focus()
    watched.tab.keyboard.press("Home")
    assert watched.tab.locator(".time").input_value() == "0"
    watched.tab.keyboard.press("ArrowRight")
    assert watched.tab.locator(".time").input_value() == "1"
    watched.tab.keyboard.press("ArrowDown")
    assert "trajectory 0" in watched.tab.locator(".spoken").text_content()
    watched.tab.keyboard.press("ArrowDown")
    assert "trajectory 1" in watched.tab.locator(".spoken").text_content()
    watched.tab.keyboard.press("Enter")
    assert watched.tab.get_by_role("button", name="Show all").is_visible()
    watched.tab.keyboard.press("Escape")
    assert not watched.tab.get_by_role("button", name="Show all").is_visible()


def test_light_and_dark(opened):
    watched = opened(color_scheme="dark")
    assert watched.tab.evaluate(BACKGROUND) == "rgb(20, 23, 28)"
    dark = watched.picture()
    watched.tab.get_by_role("button", name="Light or dark").click()
    assert watched.tab.evaluate(BACKGROUND) == "rgb(255, 255, 255)"
    assert (watched.picture() != dark).any()


def test_pictures_are_saved_as_they_are_shown(opened, tmp_path):
    watched = opened()
    watched.go_to(3)
    panel = watched.tab.locator(".panel:visible").first
    svg = watched.saved(panel.get_by_role("button", name="as SVG"), tmp_path)
    root = ET.parse(svg).getroot()
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}title").text == "good: Polar, epoch 3"
    words = [each.text for each in root.iter(f"{SVG}text")]
    assert {"good: Polar, epoch 3", "direction 0", "direction 1", "null"} <= set(words)
    assert len(list(root.iter(f"{SVG}polygon"))) == 5  # one per start, and the minimum
    png = watched.saved(panel.get_by_role("button", name="as PNG"), tmp_path)
    with Image.open(png) as image:
        assert image.size == (3 * int(root.get("width")), 3 * int(root.get("height")))
        assert len(np.unique(np.array(image.convert("RGB")).reshape(-1, 3)[::50], axis=0)) > 20
    assert (svg.name, png.name) == ("good-Polar.svg", "good-Polar.png")


def test_every_kind_of_picture_is_well_formed_svg(opened, tmp_path):
    watched = opened(hostile_page())
    for tab in watched.tab.locator(".tab").all():
        tab.click()
        button = watched.tab.locator(f".view[data-view='{tab.get_attribute('data-view')}'] [data-format=svg]").first
        for element in ET.parse(watched.saved(button, tmp_path)).iter():
            assert element.tag.removeprefix(SVG) in ("svg", "g", "title", "rect", "path", "circle", "polygon", "text")
            assert not [name for name in element.attrib if name.startswith("on")]


def test_hostile_names_are_only_text(opened):
    watched = opened(hostile_page())
    assert watched.tab.evaluate("document.querySelectorAll('img, [onmouseover], [onerror]').length") == 0
    assert watched.tab.locator("script").count() == 3
    assert watched.tab.locator("h3").first.text_content() == HOSTILE[0]
    keys = [key.text_content() for key in watched.tab.locator(".key[data-hue]").all()]
    assert [key.strip() for key in keys] == HOSTILE
    watched.shown().focus()
    watched.tab.keyboard.press("ArrowDown")
    assert HOSTILE[0] in watched.tab.locator(".tooltip").text_content()
    for key in watched.tab.locator(".key[data-hue]").all():
        key.click()
    for option in range(watched.tab.locator(".color option").count()):
        watched.tab.locator(".color").select_option(index=option)
    watched.tab.locator(".alternative:visible summary").first.click()
    watched.tab.locator(".alternative table:visible").first.wait_for()


def test_a_picture_has_a_table_with_its_numbers(opened):
    watched = opened()
    watched.go_to(0)
    watched.tab.locator(".alternative:visible summary").first.click()
    watched.tab.locator(".alternative table:visible").first.wait_for()
    rows = watched.tab.locator(".alternative table tr:visible").all_inner_texts()
    assert len(rows) == 5
    assert rows[1].split("\t")[:6] == ["0", "0.5", "0", "1", "1", "0.7"]
    label = watched.shown().get_attribute("aria-label")
    assert label.startswith("Polar. good. 95 % accuracy; 4 of 4 ended nearer")


def test_it_is_one_column_on_a_phone(opened):
    watched = opened()
    watched.tab.set_viewport_size({"width": 390, "height": 800})
    watched.settle()
    assert watched.tab.evaluate("document.documentElement.scrollWidth") <= 390
    left = [watched.shown(number).bounding_box()["x"] for number in range(4)]
    assert len(set(left)) == 1


def test_a_printed_page_is_white_and_has_every_picture(opened):
    watched = opened(color_scheme="dark")
    watched.tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    watched.tab.emulate_media(media="print", color_scheme="dark")
    assert watched.tab.locator(".view:visible").count() == 7
    assert watched.tab.locator("button:visible:not(.key), input:visible").count() == 0
    assert (
        watched.tab.evaluate("getComputedStyle(document.querySelector('.jaxscape')).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert min(watched.ink(number) for number in range(14)) > 40
    watched.tab.emulate_media(media="screen", color_scheme="dark")
    watched.tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert watched.tab.locator(".view:visible").count() == 2


def test_trajectories_that_start_at_their_reference(opened):
    watched = opened(page([trajectories("adam", ("adam", "sgd"), begin="initial")], hue="optimizer", unit="step"))
    for name in ("Polar", "Along and across", "Distance"):
        watched.choose_tab(name)
        watched.go_to(1)
        assert watched.ink() > 100
    watched.shown().focus()
    watched.tab.keyboard.press("ArrowDown")
    told = watched.tab.locator(".spoken").text_content()
    assert "optimizer adam" in told
    assert "jumps" not in told


@pytest.mark.parametrize(
    "kind",
    [
        "retrained",
        "joined",
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("diverged", "compared", "recorded")),
    ],
)
def test_every_kind_of_run_has_a_page(opened, tiny, kind, tmp_path):
    watched = opened(tiny[kind].page(tmp_path / f"{kind}.html"))
    assert min(watched.ink(number) for number in (0, 1)) > 50
    for tab in watched.tab.locator(".tab").all():
        tab.click()
        watched.settle()
    for option in range(watched.tab.locator(".color option").count()):
        watched.tab.locator(".color").select_option(index=option)
        watched.settle()
    for index in range(int(watched.tab.locator(".time").get_attribute("max")) + 1):
        watched.go_to(index)
    watched.shown().focus()
    for _ in range(5):
        watched.tab.keyboard.press("ArrowDown")
    assert watched.tab.locator(".tooltip").is_visible()


def test_a_notebook_shows_the_page_in_a_frame(opened, tiny, tmp_path):
    file = tmp_path / "notebook.html"
    watched = opened()
    file.write_text(f"<!doctype html><meta charset=utf-8>{tiny['recorded']._repr_html_()}", encoding="utf-8")
    tab = watched.context.new_page()
    failed = []
    tab.on("pageerror", lambda error: failed.append(str(error)))
    tab.on("console", lambda message: failed.append(message.text))
    tab.goto(file.as_uri())
    tab.frame_locator("iframe").locator("[data-ready]").wait_for(timeout=10_000)
    assert failed == []


def test_the_widget_starts_itself(opened, tiny, tmp_path):
    pytest.importorskip("anywidget")
    shown = tiny["retrained"].widget()
    traits = {name: getattr(shown, name) for name in ("body", "style", "text", "numbers")}
    watched = opened()
    script = """async ([code, traits]) => {
      const module = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
      const el = document.createElement("div");
      document.body.append(el);
      const close = await module.default.render({ model: { get: (name) => traits[name] }, el });
      await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
      const ready = el.shadowRoot.querySelector("[data-ready]") !== null;
      close();
      const canvases = [...el.shadowRoot.querySelectorAll("canvas.live")];
      return [ready, canvases.some((each) => each.width > 0 && each.clientWidth > 0)];
    }"""
    tab = watched.context.new_page()
    tab.goto("about:blank")
    assert tab.evaluate(script, [shown._esm, traits]) == [True, True]
