// The interactive page: pictures, and their control by pointer, keys and controls.
import { nearest } from "./geometry.js";
import { unpack } from "./numbers.js";
import { CanvasPainter, SvgPainter } from "./painters.js";
import { dashOf, drawBase, drawLive, layOut, makeScene, straightCamera, turn } from "./scenes.js";
import { shortNumber } from "./scales.js";
import { makeColoring, makeLook, prepare, ranksOf, rowAt, trajectoryOf, untilOf } from "./state.js";

const NEAR = 18; // distance in pixels within which the pointer selects a point
const STEPS_A_SECOND = 12;
const TOLD = 3; // columns that the tooltip always shows
const LONGEST_FILM = 150; // most steps of playing, for any run
const SAVED = { wide: 640, tall: 640, curve: 360, zoom: 3 }; // size of saved pictures; PNGs have `zoom` times as many pixels

// Start the page of a document, or of a shadow root, from the data in it.
export async function start(root) {
  const page = root.querySelector(".jaxscape");
  try {
    const data = await unpack(root.querySelector("script.data").textContent, root.querySelector("script.numbers").textContent);
    return new Page(page, prepare(data));
  } catch (error) {
    fail(page, error);
    throw error;
  }
}

// Start it in a notebook, where the data are not part of the document.
export async function startWith(root, text, numbers) {
  const page = root.querySelector(".jaxscape");
  try {
    return new Page(page, prepare(await unpack(text, numbers)));
  } catch (error) {
    fail(page, error);
    throw error;
  }
}

function fail(page, error) {
  const notice = page.querySelector(".failed");
  notice.hidden = false;
  notice.textContent = typeof DecompressionStream === "undefined"
    ? "This browser is too old for the pictures: it lacks DecompressionStream. The numbers are below."
    : `The pictures could not be drawn: ${error.message}`;
}

export class Page {
  constructor(element, data) {
    Object.assign(this, { element, data });
    this.index = data.times.length - 1;
    this.choice = { kind: "hue", column: "" };
    this.chosen = new Set();
    this.hover = null; // { run, i, row }
    this.surrogates = new Set(data.surrogates);
    this.panels = [];
    this.all = (selector) => [...element.querySelectorAll(selector)];
    this.one = (selector) => element.querySelector(selector);
    this.#findPanels();
    this.#listen();
    this.#recolor();
    this.#tick();
    element.dataset.ready = "true";
  }

  get now() {
    return this.data.times[this.index];
  }

  // Panels

  #findPanels() {
    for (const tab of this.all(".view")) {
      const view = this.data.views[Number(tab.dataset.view)];
      for (const figure of tab.querySelectorAll(".panel")) {
        const panel = { view, tab, figure, record: view.panels[Number(figure.dataset.panel)], scene: null, stale: true };
        panel.run = this.data.runs[panel.record.run];
        this.#furnish(panel);
        this.panels.push(panel);
        this.#listenTo(panel);
      }
    }
    this.#watch = new ResizeObserver(() => {
      for (const panel of this.panels) if (this.#isShown(panel)) this.#resize(panel);
      this.draw();
    });
    for (const panel of this.panels) this.#watch.observe(panel.base.parentElement);
  }

  // Create canvases and tools, which need the script, from the templates of the page.
  #furnish(panel) {
    const { figure, view } = panel;
    const copy = (name) => this.one(`template.${name}`).content.cloneNode(true);
    figure.querySelector(".picture").append(copy("picture-parts"));
    figure.append(copy("tool-parts"));
    [panel.base, panel.live] = figure.querySelectorAll("canvas");
    const dimensions = view.kind === "embedding" ? panel.run.embeddings[panel.record.embedding].axes.length : 2;
    if (dimensions < 3) for (const button of figure.querySelectorAll(".zoom")) button.remove();
    const texts = [...figure.querySelectorAll("h3, .heading, .words")].map((each) => each.textContent);
    panel.live.setAttribute("aria-label", `${[view.label, ...texts].join(". ")}. The table below the picture has its numbers.`);
  }

  #watch;

  #isShown(panel) {
    return !panel.tab.hidden && panel.base.clientWidth > 0;
  }

  #resize(panel) {
    const [width, height] = [panel.base.clientWidth, panel.base.clientHeight];
    const ratio = Math.min(globalThis.devicePixelRatio || 1, 2);
    if (panel.scene?.width === width && panel.scene?.height === height && panel.ratio === ratio) return;
    panel.scene ??= makeScene(panel.view, panel.record, this.data.runs);
    panel.ratio = ratio;
    for (const canvas of [panel.base, panel.live]) {
      [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    }
    layOut(panel.scene, width, height);
    panel.stale = true;
  }

  // Draw all visible panels, once, before the next frame.
  draw() {
    this.#waiting ??= requestAnimationFrame(() => {
      this.#waiting = null;
      this.drawNow();
    });
  }

  #waiting = null;

  drawNow() {
    for (const panel of this.panels) {
      if (!this.#isShown(panel)) continue;
      this.#resize(panel);
      if (panel.stale) this.#paint(panel.base, panel.ratio, (painter) => drawBase(painter, panel.scene, this.look));
      panel.stale = false;
      this.#paint(panel.live, panel.ratio, (painter) => drawLive(painter, panel.scene, this.look, this.#shownIn(panel)));
    }
    this.element.dataset.drawn = String(Number(this.element.dataset.drawn ?? 0) + 1);
  }

  #paint(canvas, ratio, work) {
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    work(new CanvasPainter(context));
  }

  #shownIn(panel) {
    const { run } = panel;
    const marked = this.hover && this.hover.run.keys[this.hover.i];
    const i = marked ? run.keys.indexOf(marked) : -1;
    let row = -1;
    if (i >= 0) row = this.hover.run === run ? this.hover.row : rowAt(run, i, this.hover.run.time[this.hover.row]);
    if (row >= 0 && !Number.isFinite(panel.scene.y[row])) row = -1;
    return { now: this.now, until: this.#until.get(run), rank: ranksOf(run, this.chosen, marked), row, surrogates: this.surrogates };
  }

  #until = new Map();

  // Time

  goTo(index) {
    const last = this.data.times.length - 1;
    this.index = Math.min(last, Math.max(0, index));
    this.#tick();
  }

  #tick() {
    this.#until = new Map(this.data.runs.map((run) => [run, untilOf(run, this.now)]));
    const slider = this.one(".time");
    const last = this.data.times.length - 1;
    [slider.max, slider.value] = [String(last), String(this.index)];
    const words = `${shortNumber(this.now, 6)} of ${shortNumber(this.data.times[last], 6)}`;
    slider.setAttribute("aria-valuetext", `${this.data.unit} ${words}`);
    slider.style.setProperty("--part", `${(100 * this.index) / (last || 1)}%`);
    this.one(".now").textContent = words;
    this.draw();
  }

  get playing() {
    return this.#timer !== null;
  }

  #timer = null;

  play() {
    if (this.playing) return this.pause();
    const last = this.data.times.length - 1;
    const stride = Math.max(1, Math.ceil(last / LONGEST_FILM));
    if (this.index >= last) this.goTo(0);
    this.#timer = setInterval(() => {
      this.goTo(this.index + stride);
      if (this.index >= last) this.pause();
    }, 1000 / STEPS_A_SECOND);
    return this.#showPlaying();
  }

  pause() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#showPlaying();
  }

  #showPlaying() {
    const button = this.one(".play");
    button.setAttribute("aria-label", this.playing ? "Pause" : "Play");
    button.firstElementChild.textContent = this.playing ? "❚❚" : "▶";
  }

  // Colours

  #recolor() {
    const style = getComputedStyle(this.element);
    const read = (name) => style.getPropertyValue(`--${name}`).trim();
    const css = { background: read("paper"), ink: read("ink"), grey: read("grey"), frame: read("frame"), minimum: this.data.palette.minimum };
    this.look = makeLook(this.data, css);
    this.look.dash = (label) => dashOf(this.data.random, label);
    this.look.coloring = makeColoring(this.data, this.choice, this.look);
    for (const panel of this.panels) panel.stale = true;
    for (const line of this.all(".surrogate")) {
      const dashed = line.parentElement.querySelector(".dash");
      dashed.setAttribute("stroke-dasharray", this.look.dash(this.data.surrogates[line.dataset.label]).join(" "));
    }
    this.#drawScale();
    this.draw();
  }

  #drawScale() {
    const { scale } = this.look.coloring;
    const box = this.one(".scale");
    box.hidden = !scale;
    if (!scale) return;
    const bar = this.one(".bar");
    [bar.width, bar.height] = [scale.colors.length, 1];
    const context = bar.getContext("2d");
    scale.colors.forEach((color, k) => {
      context.fillStyle = color;
      context.fillRect(k, 0, 1, 1);
    });
    const name = this.choice.kind === "column" ? this.choice.column : this.data.unit;
    this.one(".least").textContent = `${name} ${shortNumber(scale.low, scale.logarithmic ? 2 : 4)}`;
    this.one(".greatest").textContent = `${shortNumber(scale.high, 4)}${scale.logarithmic ? " (logarithmic)" : ""}`;
  }

  // Selection

  choose(keys) {
    const all = [...keys].every((key) => this.chosen.has(key));
    for (const key of keys) this.chosen[all ? "delete" : "add"](key);
    this.#showChoice();
  }

  showAll() {
    this.chosen.clear();
    this.#showChoice();
  }

  #showChoice() {
    for (const button of this.all(".key")) {
      const keys = this.#keysOf(button);
      button.setAttribute("aria-pressed", String(keys.size > 0 && [...keys].every((key) => this.chosen.has(key))));
    }
    this.one(".clear").hidden = !this.chosen.size;
    this.draw();
  }

  #keysOf(button) {
    const { hue, step } = button.dataset;
    const belongs = (run, i) => (hue === undefined ? run.stepIndex && run.stepIndex[i] === Number(step) : run.hueIndex[i] === Number(hue));
    return new Set(this.data.runs.flatMap((run) => run.keys.filter((_, i) => belongs(run, i))));
  }

  mark(hover, x = null, y = null) {
    const same = hover && this.hover && hover.run === this.hover.run && hover.row === this.hover.row;
    this.hover = hover;
    this.#tell(x, y);
    if (!same) this.draw();
  }

  // The data of the highlighted row, as lines with a name and a value.
  facts({ run, i, row }) {
    const { data } = this;
    const lines = [[data.hue, run.hue[i]]];
    if (run.step_size) lines.push(["step size", shortNumber(data.palette.step_sizes[run.stepIndex[i]][0], 6)]);
    lines.push(["trajectory", String(run.member[i])], [data.unit, shortNumber(run.time[row], 6)]);
    if (run.exact && Number.isFinite(run.exact.distance[row])) {
      const { distance, unit } = run.exact;
      const share = run.begin === "jump" ? ` (${shortNumber(distance[row] / run.units[i])} jumps)` : "";
      lines.push(["distance", `${shortNumber(distance[row])} ${unit}${share}`]);
    }
    for (const { label, values } of this.#toldColumns(run)) if (Number.isFinite(values[row])) lines.push([label, shortNumber(values[row], 4)]);
    return lines;
  }

  // The first columns, those whose curve is visible, and the one that gives the colours.
  #toldColumns(run) {
    const wanted = new Set(this.panels.filter((panel) => !panel.tab.hidden).map((panel) => panel.view.column));
    return run.columns.filter(({ label }, i) => i < TOLD || wanted.has(label) || label === this.choice.column);
  }

  #tell(x, y) {
    const tip = this.one(".tooltip");
    tip.hidden = !this.hover;
    if (!this.hover) return;
    const facts = this.facts(this.hover);
    const title = document.createElement("strong");
    title.textContent = this.hover.run.title;
    const list = document.createElement("dl");
    for (const [name, value] of facts) {
      const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
      [dt.textContent, dd.textContent] = [name, value];
      list.append(dt, dd);
    }
    tip.replaceChildren(title, list);
    if (x !== null) {
      const [wide, tall] = [tip.offsetWidth, tip.offsetHeight];
      const [left, top] = [x + 16 + wide > innerWidth ? x - 16 - wide : x + 16, Math.min(y + 16, innerHeight - tall - 8)];
      [tip.style.left, tip.style.top] = [`${Math.max(left, 8)}px`, `${Math.max(top, 8)}px`];
    }
  }

  #speak() {
    if (this.hover) this.one(".spoken").textContent = this.facts(this.hover).map((fact) => fact.join(" ")).join(", ");
  }

  // Pointer and keys

  #rowUnder(panel, event) {
    const box = panel.live.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const until = this.#until.get(panel.run);
    const there = (row) => {
      const i = trajectoryOf(panel.run, row);
      return row - panel.run.first[i] < until[i];
    };
    const row = nearest(panel.scene.x, panel.scene.y, x, y, NEAR, there);
    return row < 0 ? null : { run: panel.run, i: trajectoryOf(panel.run, row), row };
  }

  #listenTo(panel) {
    const { live } = panel;
    const pointers = new Map();
    let moved = 0;
    live.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, event);
      moved = 0;
      if (panel.scene?.camera) live.setPointerCapture(event.pointerId);
      if (event.pointerType === "touch" && panel.scene) this.mark(this.#rowUnder(panel, event), event.clientX, event.clientY);
    });
    live.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (before && panel.scene?.camera) {
        this.#drag(panel, pointers, before, event);
        moved += Math.abs(event.clientX - before.clientX) + Math.abs(event.clientY - before.clientY);
        pointers.set(event.pointerId, event);
        this.mark(null);
      } else if (panel.scene) this.mark(this.#rowUnder(panel, event), event.clientX, event.clientY);
    });
    const end = (event) => pointers.delete(event.pointerId);
    live.addEventListener("pointerup", end);
    live.addEventListener("pointercancel", end);
    live.addEventListener("pointerleave", (event) => event.pointerType === "touch" || this.mark(null));
    live.addEventListener("click", (event) => {
      if (moved > 4) return;
      const hit = this.#rowUnder(panel, event);
      if (hit) this.choose([hit.run.keys[hit.i]]);
      else this.showAll();
    });
    live.addEventListener("wheel", (event) => {
      if (!panel.scene?.camera || (panel.live.getRootNode().activeElement !== live && !event.ctrlKey)) return;
      event.preventDefault();
      this.#zoom(panel, Math.exp(-event.deltaY / 500));
    }, { passive: false });
    live.addEventListener("keydown", (event) => this.#key(panel, event));
    live.addEventListener("blur", () => this.mark(null));
    for (const button of panel.figure.querySelectorAll(".save")) {
      button.addEventListener("click", () => this.save(panel, button.dataset.format));
    }
    for (const button of panel.figure.querySelectorAll(".zoom")) {
      button.addEventListener("click", () => this.#zoom(panel, Number(button.dataset.zoom)));
    }
    const table = panel.figure.querySelector(".alternative");
    table.addEventListener("toggle", () => {
      if (table.open) table.querySelector(".scroll").replaceChildren(this.#table(panel));
    });
  }

  #drag(panel, pointers, before, event) {
    const others = [...pointers.values()].filter((each) => each.pointerId !== event.pointerId);
    if (others.length) {
      const [other] = others;
      const gap = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY) || 1;
      return this.#zoom(panel, gap(event) / gap(before));
    }
    return this.#turn(panel, (event.clientX - before.clientX) / 120, (event.clientY - before.clientY) / 120);
  }

  #turn(panel, yaw, pitch) {
    const { camera } = panel.scene;
    camera.yaw += yaw;
    camera.pitch = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, camera.pitch + pitch));
    this.#turned(panel);
  }

  #zoom(panel, factor) {
    const { camera } = panel.scene;
    camera.zoom = Math.min(50, Math.max(0.2, camera.zoom * factor));
    this.#turned(panel);
  }

  #turned(panel) {
    turn(panel.scene);
    panel.stale = true;
    this.draw();
  }

  #key(panel, event) {
    if (event.ctrlKey || event.metaKey) return;
    const turns = { ArrowLeft: [-0.12, 0], ArrowRight: [0.12, 0], ArrowUp: [0, -0.12], ArrowDown: [0, 0.12] };
    const three = panel.scene?.camera && !event.altKey;
    const actions = {
      ArrowLeft: () => this.#step(-1),
      ArrowRight: () => this.#step(1),
      ArrowUp: () => this.#go(panel, -1),
      ArrowDown: () => this.#go(panel, 1),
      Home: () => this.goTo(0),
      End: () => this.goTo(this.data.times.length - 1),
      Enter: () => this.hover && this.choose([this.hover.run.keys[this.hover.i]]),
      Escape: () => {
        this.mark(null);
        this.showAll();
      },
      " ": () => this.play(),
    };
    if (three) {
      for (const [name, [yaw, pitch]] of Object.entries(turns)) actions[name] = () => this.#turn(panel, yaw, pitch);
      actions["+"] = actions["="] = () => this.#zoom(panel, 1.25);
      actions["-"] = () => this.#zoom(panel, 0.8);
      actions["0"] = () => {
        panel.scene.camera = straightCamera();
        this.#turned(panel);
      };
    }
    const action = Object.hasOwn(actions, event.key) ? actions[event.key] : null;
    if (!action) return;
    event.preventDefault();
    action();
  }

  #step(by) {
    this.goTo(this.index + by);
    if (!this.hover) return;
    const { run, i } = this.hover;
    const row = rowAt(run, i, this.now);
    this.mark(row < 0 ? null : { run, i, row });
    this.#speak();
  }

  // Select the next trajectory of a panel, by keys.
  #go(panel, by) {
    const { run, scene, live } = panel;
    const count = run.hue.length;
    let i = this.hover?.run === run ? this.hover.i : by > 0 ? -1 : count;
    for (let tried = 0; tried < count; tried++) {
      i = (i + by + count) % count;
      const row = rowAt(run, i, this.now);
      if (row < 0 || !Number.isFinite(scene.x[row]) || !Number.isFinite(scene.y[row])) continue;
      const box = live.getBoundingClientRect();
      this.mark({ run, i, row }, box.left + scene.x[row], box.top + scene.y[row]);
      this.#speak();
      return;
    }
  }

  // Controls

  #listen() {
    const on = (selector, name, work) => this.all(selector).forEach((each) => each.addEventListener(name, (event) => work(each, event)));
    on(".time", "input", (slider) => {
      this.index = Number(slider.value);
      this.#tick();
    });
    on(".play", "click", () => this.play());
    on(".color", "change", (select) => {
      const option = select.selectedOptions[0];
      this.choice = { kind: select.value, column: this.data.columns[option.dataset.column] ?? "" };
      this.#recolor();
    });
    on(".surrogate", "change", (box) => {
      this.surrogates[box.checked ? "add" : "delete"](this.data.surrogates[box.dataset.label]);
      this.draw();
    });
    on(".key", "click", (button) => this.choose(this.#keysOf(button)));
    on(".clear", "click", () => this.showAll());
    on(".theme", "click", () => this.setTheme(this.look.dark ? "light" : "dark"));
    on(".tab", "click", (tab) => this.#openTab(tab));
    on(".tab", "keydown", (tab, event) => this.#tabKey(tab, event));
    const listen = (target, name, work) => target.addEventListener(name, work, { signal: this.#closing.signal });
    listen(globalThis.matchMedia("(prefers-color-scheme: dark)"), "change", () => this.#recolor());
    listen(globalThis, "beforeprint", () => this.#prepareToPrint());
    listen(globalThis, "afterprint", () => this.#afterPrint());
  }

  #closing = new AbortController();

  // Remove all listeners, when a notebook closes the output.
  close() {
    this.pause();
    this.#closing.abort();
    this.#watch.disconnect();
  }

  setTheme(theme) {
    if (theme) this.element.dataset.theme = theme;
    else delete this.element.dataset.theme;
    this.#recolor();
  }

  #openTab(tab) {
    const section = tab.closest(".view-set");
    for (const each of section.querySelectorAll(".tab")) {
      each.setAttribute("aria-selected", String(each === tab));
      each.tabIndex = each === tab ? 0 : -1;
    }
    for (const view of section.querySelectorAll(".view")) view.hidden = view.dataset.view !== tab.dataset.view;
    this.mark(null);
    this.draw();
  }

  #tabKey(tab, event) {
    const tabs = [...tab.parentElement.children];
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const to = { Home: tabs[0], End: tabs.at(-1) }[event.key] ?? (by && tabs[(tabs.indexOf(tab) + by + tabs.length) % tabs.length]);
    if (!to) return;
    event.preventDefault();
    to.focus();
    this.#openTab(to);
  }

  // For printing: white background, and all tabs.
  #prepareToPrint() {
    this.#beforePrinting = { theme: this.element.dataset.theme, hidden: this.all(".view").map((view) => [view, view.hidden]) };
    for (const [view] of this.#beforePrinting.hidden) view.hidden = false;
    this.element.dataset.printing = "true";
    this.setTheme("light");
    this.drawNow();
  }

  #beforePrinting = null;

  #afterPrint() {
    if (!this.#beforePrinting) return;
    for (const [view, hidden] of this.#beforePrinting.hidden) view.hidden = hidden;
    delete this.element.dataset.printing;
    this.setTheme(this.#beforePrinting.theme);
    this.#beforePrinting = null;
  }

  // Show a picture as a table: each trajectory at its start, now, and at its end.
  #table(panel) {
    const { run, view } = panel;
    const columns = this.#columnsOf(panel);
    const table = document.createElement("table");
    const caption = table.createCaption();
    caption.textContent = `${view.label}, ${run.title}: at the start, at ${this.data.unit} ${shortNumber(this.now, 6)}, at the end`;
    const head = table.createTHead().insertRow();
    const names = [this.data.hue, ...(run.step_size ? ["step size"] : []), "trajectory", ...columns.flatMap(([name]) => [`${name}, start`, "now", "end"])];
    for (const name of names) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = name;
      head.append(cell);
    }
    const body = table.createTBody();
    run.hue.forEach((hue, i) => {
      const row = body.insertRow();
      const rows = [run.first[i], rowAt(run, i, this.now), run.first[i + 1] - 1];
      const texts = [hue, ...(run.step_size ? [shortNumber(this.data.palette.step_sizes[run.stepIndex[i]][0], 6)] : []), run.member[i]];
      const numbers = columns.flatMap(([, value]) => rows.map((each) => (each < 0 ? "-" : shortNumber(value(each, i), 4))));
      for (const text of [...texts, ...numbers]) row.insertCell().textContent = text;
    });
    return table;
  }

  #columnsOf({ run, view, record }) {
    if (view.kind === "curve" && view.column) {
      const { values } = run.columns.find((each) => each.label === view.column);
      return [[view.column, (row) => values[row]]];
    }
    if (view.kind === "embedding") {
      const { axes } = run.embeddings[record.embedding];
      return axes.map((values, axis) => ["xyz"[axis], (row) => values[row]]);
    }
    const { distance, angle } = run.exact;
    const distances = ["distance", run.begin === "jump" ? (row, i) => distance[row] / run.units[i] : (row) => distance[row]];
    return view.kind === "curve" ? [distances] : [distances, ["angle", (row) => angle[row]]];
  }

  // Save a picture as it is shown, with its title and a legend.
  async save(panel, format) {
    const [width, height] = [SAVED.wide, panel.view.kind === "curve" ? SAVED.curve : SAVED.tall];
    const scene = layOut(Object.assign(makeScene(panel.view, panel.record, this.data.runs), panel.scene.camera && { camera: panel.scene.camera }), width, height);
    const shown = { ...this.#shownIn({ ...panel, scene }), row: -1 };
    const legend = this.#legend();
    const [head, foot] = [30, legend.at(-1).y + 22];
    const title = `${panel.run.title}: ${panel.view.label}, ${this.data.unit} ${shortNumber(this.now, 6)}`;
    const paint = (painter, at) => {
      painter.text(12, 20, title, { color: this.look.ink, size: 14, weight: "600" });
      at(head, () => {
        drawBase(painter, scene, this.look);
        drawLive(painter, scene, this.look, shown);
      });
      for (const { words, color, dash, x, y } of legend) {
        const middle = head + height + y + 12;
        if (dash) painter.lines([[x - 6, middle, x + 10, middle]], { color, dash });
        else painter.circle(x, middle, 4.5, { fill: color });
        painter.text(x + 14, middle, words, { color: this.look.ink, baseline: "middle" });
      }
    };
    const name = `${panel.run.title} ${panel.view.label}`.normalize("NFKD").replace(/[^\w.]+/g, "-").replace(/^-+|-+$/g, "").slice(0, 80) || "picture";
    if (format === "svg") {
      const painter = new SvgPainter(width, head + height + foot, this.look.background, title);
      paint(painter, (top, work) => {
        painter.marks.push(`<g transform="translate(0 ${top})">`);
        work();
        painter.marks.push("</g>");
      });
      return offer(new Blob([String(painter)], { type: "image/svg+xml" }), `${name}.svg`);
    }
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [width * SAVED.zoom, (head + height + foot) * SAVED.zoom];
    const context = canvas.getContext("2d");
    context.scale(SAVED.zoom, SAVED.zoom);
    context.fillStyle = this.look.background;
    context.fillRect(0, 0, width, head + height + foot);
    paint(new CanvasPainter(context), (top, work) => {
      context.translate(0, top);
      work();
      context.translate(0, -top);
    });
    return offer(await new Promise((done) => canvas.toBlob(done, "image/png")), `${name}.png`);
  }

  #legend() {
    const { palette, hue } = this.data;
    const marks = [];
    const { scale } = this.look.coloring;
    if (scale) {
      marks.push({ words: this.one(".least").textContent, color: scale.colors[0] }, { words: this.one(".greatest").textContent, color: scale.colors.at(-1) });
    } else if (this.choice.kind === "step") palette.step_sizes.forEach(([size], k) => marks.push({ words: `step size ${shortNumber(size, 6)}`, color: this.look.steps[k] }));
    else palette.hues.forEach(([label], k) => marks.push({ words: `${hue} ${label}`, color: this.look.hues[k] }));
    for (const label of this.data.surrogates) {
      if (this.surrogates.has(label)) marks.push({ words: label, color: this.look.grey, dash: this.look.dash(label) });
    }
    let [x, y] = [16, 0];
    return marks.map((mark) => {
      const words = mark.words.length > 40 ? `${mark.words.slice(0, 39)}…` : mark.words;
      const length = 7 * words.length + 34; // upper bound for text of 11 pixels
      if (x > 16 && x + length > SAVED.wide) [x, y] = [16, y + 20];
      const place = { ...mark, words, x, y };
      x += length;
      return place;
    });
  }
}

function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
