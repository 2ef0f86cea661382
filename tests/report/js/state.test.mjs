import assert from "node:assert/strict";
import test from "node:test";
import { drawBase, drawLive, layOut, makeScene } from "../../../jaxscape/report/js/scenes.js";
import { makeColoring, makeLook, prepare, ranksOf, rowAt, trajectoryOf, untilOf } from "../../../jaxscape/report/js/state.js";

const grey = [[0.9, 0.9, 0.9], [0.5, 0.5, 0.5], [0.2, 0.2, 0.2]];

// Two trajectories, of three rows and of two, around a minimum.
function sample(change = {}) {
  const run = {
    title: "r",
    first: [0, 3, 5],
    member: [0, 7],
    times: [0, 1, 4],
    place: Float32Array.of(0, 1, 2, 0, 1),
    hue: ["a", "b"],
    step_size: Float32Array.of(0.5, 1),
    begin: "jump",
    columns: [{ label: "loss", values: Float32Array.of(1, 0.1, 0.01, 2, NaN) }],
    exact: {
      distance: Float32Array.of(1, 1.5, 2, 2, 1),
      angle: Float32Array.of(0, 0.2, 0.4, 0, 0.1),
      side: Float32Array.of(1, -1),
      surrogates: [{ label: "null", distance: Float64Array.of(1, 1, 1, 2, 2), angle: Float64Array.of(0, 0, 0, 0, 0) }],
      unit: "norms",
    },
    embeddings: [{ axes: [0, 1, 2].map((k) => Float64Array.of(k, 1, 2, 3, NaN)), minimum: [0, 0, 0], is_disconnected: false }],
    ...change,
  };
  const panel = { run: 0, embedding: 0 };
  const views = ["polar", "plane", "embedding", "curve"].map((kind) => ({ kind, label: kind, column: "", panels: [panel] }));
  views.push({ kind: "curve", label: "loss", column: "loss", panels: [panel] });
  const palette = { hues: [["a", grey], ["b", grey]], step_sizes: [[0.5, [1, 0, 0]], [1, [0, 0, 1]]], scale: grey, minimum: "#ffd700" };
  return prepare({ hue: "direction", unit: "epoch", palette, views, runs: [run] });
}

const css = { background: "#ffffff", ink: "#222222", grey: "#777777", frame: "#d0d0d0", minimum: "#ffd700" };

function lookOf(data, choice) {
  const look = makeLook(data, css);
  return { ...look, dash: () => [2, 2], coloring: makeColoring(data, choice, look) };
}

test("rows up to a time, and the row at a time, follow each trajectory's own length", () => {
  const { runs: [run] } = sample();
  assert.deepEqual(untilOf(run, 1), [2, 2]);
  assert.deepEqual(untilOf(run, 4), [3, 2]);
  assert.deepEqual([rowAt(run, 0, 3), rowAt(run, 1, 99), rowAt(run, 1, -1)], [1, 4, -1]);
  assert.deepEqual([0, 2, 3, 4].map((row) => trajectoryOf(run, row)), [0, 0, 1, 1]);
});

test("the unit of a trajectory is its jump, or its final displacement", () => {
  assert.deepEqual(sample().runs[0].units, [1, 2]);
  const exact = { ...sample().runs[0].exact, distance: Float32Array.of(0, 1, 3, 0, 2) };
  assert.deepEqual(sample({ begin: "initial", exact }).runs[0].units, [3, 2]);
});

test("selected trajectories stay plain, the marked one is highlighted, the rest are faint", () => {
  const { runs: [run] } = sample();
  const [one, other] = run.keys;
  assert.deepEqual(ranksOf(run, new Set(), null), [1, 1]);
  assert.deepEqual(ranksOf(run, new Set([one]), null), [1, 0]);
  assert.deepEqual(ranksOf(run, new Set([one]), other), [1, 2]);
});

test("every colouring gives every row a colour, and NaN the neutral one", () => {
  const data = sample();
  const [run] = data.runs;
  for (const choice of [{ kind: "hue" }, { kind: "step" }, { kind: "time" }, { kind: "column", column: "loss" }]) {
    const { coloring } = lookOf(data, choice);
    for (let row = 0; row < 5; row++) assert.match(coloring.color(run, row), /^#[0-9a-f]{6}$/);
  }
  const { coloring } = lookOf(data, { kind: "column", column: "loss" });
  assert.equal(coloring.color(run, 4), css.grey);
  assert.deepEqual([coloring.scale.logarithmic, coloring.scale.low < 0.0101, coloring.scale.high], [true, true, 2]);
});

// What is drawn, as [name of the call, ...].
function recorder() {
  const calls = [];
  const note = (name) => (...given) => calls.push([name, ...given]);
  return { calls, lines: note("lines"), shape: note("shape"), circle: note("circle"), text: note("text") };
}

test("every view is drawn at every time, at finite positions", () => {
  const data = sample();
  for (const view of data.views) {
    const scene = layOut(makeScene(view, view.panels[0], data.runs), 300, 200);
    const look = lookOf(data, { kind: "hue" });
    for (const now of data.times) {
      const painter = recorder();
      drawBase(painter, scene, look);
      const shown = { now, until: untilOf(data.runs[0], now), rank: [1, 0], row: 0, surrogates: new Set(["null"]) };
      drawLive(painter, scene, look, shown);
      assert.ok(painter.calls.length > 4);
      for (const [name, ...given] of painter.calls) if (name === "circle") assert.ok(given.slice(0, 3).every(Number.isFinite));
    }
  }
});

test("a polar view has the distances as radii, on one scale for all, and the angle to the spoke", () => {
  const data = sample();
  const scene = layOut(makeScene(data.views[0], data.views[0].panels[0], data.runs), 400, 400);
  const [run] = data.runs;
  const [x0, y0] = [scene.map.x(0), scene.map.y(0)];
  for (let row = 0; row < 5; row++) {
    const i = trajectoryOf(run, row);
    const [x, y] = [scene.x[row] - x0, y0 - scene.y[row]];
    assert.ok(Math.abs(Math.hypot(x, y) / scene.map.scale - run.exact.distance[row]) < 1e-6);
    const off = Math.atan2(y, x) - scene.spokes[i];
    assert.ok(Math.abs(Math.cos(off) - Math.cos(run.exact.angle[row])) < 1e-6);
  }
});

test("a trajectory is drawn up to the current time", () => {
  const data = sample();
  const scene = layOut(makeScene(data.views[0], data.views[0].panels[0], data.runs), 400, 400);
  const painter = recorder();
  drawLive(painter, scene, lookOf(data, { kind: "step" }), { now: 1, until: untilOf(data.runs[0], 1), rank: [1, 1], row: -1, surrogates: new Set() });
  const drawn = painter.calls.filter(([name]) => name === "lines").flatMap(([, lines]) => lines);
  assert.deepEqual(drawn.map((line) => line.length / 2), [2, 2]);
});

test("no line crosses between boxes", () => {
  const embedding = { axes: [Float64Array.of(0, 1, 5, 0, 1), Float64Array.of(0, 1, 5, 0, 1)], minimum: null, is_disconnected: true, part: [0, 0, 1, 0, 0], boxes: [[0, 0, 2], [4, 4, 2]] };
  const data = sample({ embeddings: [embedding] });
  const scene = layOut(makeScene(data.views[2], data.views[2].panels[0], data.runs), 300, 200);
  const look = lookOf(data, { kind: "step" });
  const [base, live] = [recorder(), recorder()];
  drawBase(base, scene, look);
  drawLive(live, scene, look, { now: 4, until: untilOf(data.runs[0], 4), rank: [1, 1], row: -1, surrogates: new Set() });
  const drawn = live.calls.filter(([name]) => name === "lines").flatMap(([, lines]) => lines);
  assert.deepEqual(drawn.map((line) => line.length / 2), [2, 2]);
  const [, whole] = base.calls.filter(([name]) => name === "lines").at(-1);
  assert.ok(Number.isNaN(whole[0][4]));
  assert.equal(base.calls.filter(([name]) => name === "lines").length, 3); // two boxes, and the trajectories
});
