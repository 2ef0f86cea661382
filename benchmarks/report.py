"""The page compared with a plotly page with the same lines: their sizes, and the time of a move of the slider.

Both are opened in one headless chromium. Each shows the polar view and the distances of every run, with surrogates, and
draws every trajectory up to the slider's epoch; ours also has starts, arcs and fading colours. A move is timed in the
page, from the input event until the changed frame is painted, including the wait for that frame (16.7 ms at 60 Hz). The
arms are interleaved. Plotly is not a dependency of the project:

    uv run --with plotly python benchmarks/report.py RUN RUN RUN --json benchmarks/results/report.json
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from records import replace_records, run_facts
from rich.console import Console

from jaxscape.report import Page, render
from jaxscape.report.data import first_rows
from jaxscape.runs.page import read_page

MOVES = 30
SIZE = {"width": 1400, "height": 1000}

# Times each move: the frame that follows the input event has drawn when its callbacks have run and it is painted.
TIME = """async (moves) => {
  const painted = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = done;
    channel.port2.postMessage(null);
  }));
  const slider = document.querySelector("input[type=range]");
  const last = Number(slider.max);
  const times = [];
  for (let move = 0; move < moves; move++) {
    await painted();
    slider.value = String((17 * move + 5) % (last + 1));
    const started = performance.now();
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    if (globalThis.drawn) await globalThis.drawn;
    await painted();
    times.push(performance.now() - started);
  }
  return times;
}"""

SLIDER = """
const plot = document.querySelector(".plotly-graph-div");
const whole = plot.data.map((trace) => ({ ...trace, x: Array.from(trace.x), y: Array.from(trace.y) }));
const slider = document.createElement("input");
Object.assign(slider, { type: "range", min: 0, max: LAST, value: LAST });
document.body.prepend(slider);
slider.addEventListener("input", () => {
  const count = Number(slider.value) + 1;
  const data = whole.map((trace) => ({ ...trace, x: trace.x.slice(0, count), y: trace.y.slice(0, count) }));
  globalThis.drawn = Plotly.react(plot, data, plot.layout);
});
document.body.dataset.ready = "true";
"""


def lines(page: Page) -> list[list[tuple[np.ndarray, np.ndarray, str, bool]]]:
    """Return the lines of each panel as the page draws them: x, y, colour, and whether it is a surrogate."""
    polar, distance = [], []
    for run in page.runs:
        firsts = first_rows(run.member)
        hues = list(dict.fromkeys(run.hue))
        own: list[tuple[np.ndarray, np.ndarray, str, bool]] = []
        curves: list[tuple[np.ndarray, np.ndarray, str, bool]] = []
        assert run.exact is not None
        for each in (*run.exact.surrogates, run.exact):
            is_surrogate = each is not run.exact
            for number, rows in enumerate(np.split(np.arange(len(run.member)), firsts[1:])):
                spoke = np.pi / 2 - 2 * np.pi * hues.index(run.hue[number]) / len(hues)
                angle = spoke + run.exact.side[number] * each.angle[rows]
                red, green, blue = page.palette.hues[run.hue[number]][1]
                color = "#777777" if is_surrogate else f"rgb({255 * red:.0f},{255 * green:.0f},{255 * blue:.0f})"
                radius = each.distance[rows]
                own.append((radius * np.cos(angle), radius * np.sin(angle), color, is_surrogate))
                curves.append((run.time[rows], radius / radius[0], color, is_surrogate))
        polar.append(own)
        distance.append(curves)
    return polar + distance


def plotly_page(page: Page, kind: str) -> str:
    """Return the same panels as a plotly page, whose slider cuts every line."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    runs = len(page.runs)
    figure = make_subplots(rows=2, cols=runs)
    trace = {"svg": go.Scatter, "webgl": go.Scattergl}[kind]
    for number, panel in enumerate(lines(page)):
        for x, y, color, is_surrogate in panel:
            line = {"color": color, "width": 1 if is_surrogate else 2, "dash": "dot" if is_surrogate else "solid"}
            figure.add_trace(
                trace(x=x.tolist(), y=y.tolist(), mode="lines", line=line, showlegend=False),
                row=1 + number // runs,
                col=1 + number % runs,
            )
    figure.update_layout(width=SIZE["width"] - 40, height=SIZE["height"] - 80)
    last = max(int(np.unique(run.time).size) for run in page.runs) - 1
    return figure.to_html(include_plotlyjs=True, post_script=SLIDER.replace("LAST", str(last)))


def measure(pages: dict[str, Path], repeats: int) -> tuple[dict[str, list[list[float]]], str]:
    """Return the milliseconds of each move, [repeat][move] by arm, and the browser."""
    from playwright.sync_api import sync_playwright

    times: dict[str, list[list[float]]] = {arm: [] for arm in pages}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(repeats + 1):  # the first one warms up
            for arm, path in pages.items():
                tab = browser.new_page(viewport=SIZE)
                tab.goto(path.as_uri())
                tab.wait_for_selector("[data-ready]", timeout=60_000)
                times[arm].append(tab.evaluate(TIME, MOVES))
                tab.close()
        name = f"chromium {browser.version}, headless"
        browser.close()
    return {arm: found[1:] for arm, found in times.items()}, name


def main() -> None:
    """Write the pages, measure, print, and write the records, replacing those of the same arms and device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="finished runs around minima")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    page = read_page(options.runs, console=Console(quiet=True))
    texts = {"ours": render(page), "plotly, SVG": plotly_page(page, "svg"), "plotly, WebGL": plotly_page(page, "webgl")}
    drawn = lines(page)
    load = os.getloadavg()[0]  # the load by other processes
    with tempfile.TemporaryDirectory() as folder:
        paths = {arm: Path(folder) / f"{number}.html" for number, arm in enumerate(texts)}
        for arm, text in texts.items():
            paths[arm].write_text(text, encoding="utf-8")
        times, browser = measure(paths, options.repeats)
    facts = run_facts(("plotly", "playwright", "jinja2")) | {"browser": browser, "load_average": load}
    records: list[dict[str, Any]] = []
    for arm, repeats in times.items():
        medians = [statistics.median(moves) for moves in repeats]
        records.append(
            {
                "arm": arm,
                "bytes": len(texts[arm].encode()),
                "gzip_bytes": len(
                    subprocess.run(["gzip", "-9"], input=texts[arm].encode(), capture_output=True).stdout
                ),
                "move_ms": statistics.median(medians),
                "move_ms_least": min(medians),
                "move_ms_most": max(medians),
                "moves": MOVES,
                "repeats": options.repeats,
                "runs": len(page.runs),
                "panels": len(drawn),
                "lines": sum(map(len, drawn)),
                "points": sum(len(x) for panel in drawn for x, _, _, _ in panel),
            }
            | facts
        )
        record = records[-1]
        print(f"{arm:14} {record['bytes'] / 1e3:8.0f} kB {record['move_ms']:7.1f} ms a move {medians}")
    if options.json:
        replace_records(options.json, records, same=("arm", "device"))


if __name__ == "__main__":
    main()
