// Scenes: the contents of a panel and their drawing with a painter, independent of the document.
import { ball, extent, fitEqually, planePlace, polarPlace, project, spokeAngles } from "./geometry.js";
import { axis, isLogarithmic, logTicks, shortNumber, ticks } from "./scales.js";

const MARGIN = 14;
const DOTTED = [1.5, 2.5]; // surrogates without a draw: weight decay alone
const DASHES = [[6, 3], [7, 2, 1.5, 2], [3, 3], [10, 3], [2, 2, 6, 2]]; // the others
const STRAIGHT = { yaw: 0.6, pitch: 0.35, zoom: 1 };

// `random` are the labels of the surrogates that are drawn at random.
export function dashOf(random, label) {
  const number = random.indexOf(label);
  return number < 0 ? DOTTED : DASHES[number % DASHES.length];
}

export function straightCamera() {
  return { ...STRAIGHT };
}

// A panel in data units. `runs` are all runs of the page: panels of one view share their ranges.
export function makeScene(view, panel, runs) {
  const run = runs[panel.run];
  const shared = view.panels.map((each) => runs[each.run]);
  const scene = { kind: view.kind, view, run, panel, surrogates: [], star: null, camera: null };
  return { polar: polarScene, plane: planeScene, embedding: embeddingScene, curve: curveScene }[view.kind](scene, shared);
}

function polarScene(scene, shared) {
  const { run } = scene;
  const { exact } = run;
  const spokes = spokesOf(run);
  const place = ({ distance, angle }) => places(run, (row, i) => polarPlace(distance[row], angle[row], spokes[i], exact.side[i]));
  scene.spokes = spokes;
  scene.half = Math.PI / Math.max(new Set(spokes).size, 3);
  Object.assign(scene, place(exact));
  scene.surrogates = exact.surrogates.map((each) => ({ label: each.label, ...place(each) }));
  scene.reach = 1.06 * extent([0], ...shared.flatMap((each) => distancesOf(each.exact)))[1];
  scene.star = [0, 0];
  return scene;
}

// The spoke of each trajectory: one per hue, or one per trajectory if the copies were not perturbed.
function spokesOf(run) {
  const count = run.hue.length;
  if (run.begin === "jump") {
    const hues = [...new Set(run.hueIndex)].sort((a, b) => a - b);
    const angles = spokeAngles(hues.length);
    return Array.from({ length: count }, (_, i) => angles[hues.indexOf(run.hueIndex[i])]);
  }
  const order = Array.from({ length: count }, (_, i) => i).sort((a, b) => run.hueIndex[a] - run.hueIndex[b] || a - b);
  const angles = spokeAngles(count);
  const angleOf = new Array(count);
  order.forEach((i, place) => (angleOf[i] = angles[place]));
  return angleOf;
}

function distancesOf(exact) {
  return [exact.distance, ...exact.surrogates.map((each) => each.distance)];
}

function planeScene(scene, shared) {
  const planes = shared.map((run) => {
    const units = run.units;
    const place = ({ distance, angle }) => places(run, (row, i) => planePlace(distance[row], angle[row], units[i]));
    return { run, ...place(run.exact), surrogates: run.exact.surrogates.map((each) => ({ label: each.label, ...place(each) })) };
  });
  const all = planes.flatMap((each) => [each, ...each.surrogates]);
  const [left, right] = extent([1], ...all.map((each) => each.u));
  const top = extent([0], ...all.map((each) => each.v))[1];
  const margin = 0.05 * Math.max(right - left, top, 1e-6);
  scene.box = [left - margin, right + margin, 0, top + margin];
  const own = planes.find((each) => each.run === scene.run);
  Object.assign(scene, { u: own.u, v: own.v, surrogates: own.surrogates });
  return scene;
}

function embeddingScene(scene) {
  const embedding = scene.run.embeddings[scene.panel.embedding];
  const dimensions = embedding.axes.length;
  const all = embedding.minimum ? Float64Array.from([...embedding.points, ...embedding.minimum]) : embedding.points;
  Object.assign(scene, { points: embedding.points, minimum: embedding.minimum, dimensions, ...ball(all, dimensions) });
  scene.isDisconnected = embedding.is_disconnected;
  if (dimensions === 3) scene.camera = straightCamera();
  else {
    const count = scene.run.place.length;
    scene.u = Float64Array.from({ length: count }, (_, row) => embedding.points[2 * row]);
    scene.v = Float64Array.from({ length: count }, (_, row) => embedding.points[2 * row + 1]);
    const [x, y] = [extent(scene.u, embedding.minimum ? [embedding.minimum[0]] : []), extent(scene.v, embedding.minimum ? [embedding.minimum[1]] : [])];
    scene.box = [...x, ...y];
    if (embedding.boxes) {
      scene.part = embedding.part;
      scene.boxes = embedding.boxes;
      const edges = (axis) => extent(embedding.boxes.flatMap((each) => [each[axis], each[axis] + each[2]]));
      scene.box = [...edges(0), ...edges(1)];
    }
    scene.star = embedding.minimum ? Array.from(embedding.minimum) : null;
  }
  return scene;
}

function curveScene(scene, shared) {
  const { view } = scene;
  const values = (run) => {
    if (view.column) return { values: run.columns.find((each) => each.label === view.column).values, others: [] };
    const over = ({ distance }) => {
      const scaled = new Float64Array(distance.length);
      places(run, (row, i) => [(scaled[row] = run.begin === "jump" ? distance[row] / run.units[i] : distance[row]), 0]);
      return scaled;
    };
    return {
      values: over(run.exact),
      others: run.exact.surrogates.map((each) => ({ label: each.label, values: over(each) })),
    };
  };
  const all = shared.map(values);
  let [low, high] = extent(...all.flatMap((each) => [each.values, ...each.others.map((other) => other.values)]));
  const positive = view.column ? extent(...all.map((each) => each.values.filter((value) => value > 0))) : [low, high];
  scene.logarithmic = Boolean(view.column) && low >= 0 && isLogarithmic(Math.max(positive[0], 1e-6), high);
  if (scene.logarithmic) low = Math.max(positive[0], 1e-6);
  else [low, high] = [low - 0.04 * (high - low || 1), high + 0.04 * (high - low || 1)];
  const own = values(scene.run);
  const shown = (numbers) => (scene.logarithmic ? Float64Array.from(numbers, (value) => Math.max(value, low)) : numbers);
  scene.range = [low, high];
  scene.times = [0, 1].map((end) => extent(...shared.map((run) => run.time))[end]);
  scene.u = scene.run.time;
  scene.v = shown(own.values);
  scene.surrogates = own.others.map((each) => ({ label: each.label, u: scene.run.time, v: shown(each.values) }));
  return scene;
}

function places(run, placeOf) {
  const count = run.place.length;
  const [u, v] = [new Float64Array(count), new Float64Array(count)];
  for (let i = 0; i < run.hue.length; i++) {
    for (let row = run.first[i]; row < run.first[i + 1]; row++) [u[row], v[row]] = placeOf(row, i);
  }
  return { u, v };
}

// Set the size of a scene in pixels, and with it the positions `x` and `y` of the rows.
export function layOut(scene, width, height) {
  Object.assign(scene, { width, height });
  const frame = { left: MARGIN, top: MARGIN, width: width - 2 * MARGIN, height: height - 2 * MARGIN };
  const whole = { left: 2, top: 2, width: width - 4, height: height - 4 }; // for boxes, which have margins of their own
  let map;
  if (scene.kind === "polar") map = fitEqually([-scene.reach, scene.reach, -scene.reach, scene.reach], frame);
  else if (scene.kind === "plane") map = fitEqually(scene.box, { left: 42, top: MARGIN, width: width - 42 - MARGIN, height: height - MARGIN - 36 });
  else if (scene.kind === "embedding" && scene.camera) return turn(scene);
  else if (scene.boxes) map = fitEqually(scene.box, whole);
  else if (scene.kind === "embedding") map = fitEqually(scene.box, { left: 24, top: 24, width: width - 48, height: height - 48 });
  else {
    scene.across = axis(...scene.times, 46, width - 12);
    scene.up = axis(...scene.range, height - 34, 10, scene.logarithmic);
    map = { x: scene.across.at, y: scene.up.at };
  }
  scene.map = map;
  scene.x = scene.u.map(map.x);
  scene.y = scene.v.map(map.y);
  if (scene.kind === "curve") [scene.x, scene.y] = [Float64Array.from(scene.u, map.x), Float64Array.from(scene.v, map.y)];
  for (const each of scene.surrogates) [each.x, each.y] = [Float64Array.from(each.u, map.x), Float64Array.from(each.v, map.y)];
  return scene;
}

// Project a scene in three dimensions with its camera.
export function turn(scene) {
  const { width, height, camera } = scene;
  const scale = (camera.zoom * (Math.min(width, height) / 2 - MARGIN)) / scene.radius;
  const at = (points) => {
    const projected = project(points, camera, scene.centre);
    return { x: projected.x.map((value) => width / 2 + scale * value), y: projected.y.map((value) => height / 2 - scale * value), depth: projected.depth };
  };
  Object.assign(scene, at(scene.points));
  if (scene.minimum) {
    const star = at(scene.minimum);
    scene.starAt = [star.x[0], star.y[0]];
  }
  return scene;
}

// Draw what does not change with time: axes, arcs, and each whole trajectory faintly.
export function drawBase(painter, scene, look) {
  const frames = { polar: polarFrame, plane: planeFrame, embedding: embeddingFrame, curve: curveFrame };
  frames[scene.kind](painter, scene, look);
  const { run } = scene;
  const whole = run.hue.map((_, i) => pointsOf(scene, run.first[i], run.first[i + 1], scene.part));
  painter.lines(whole, { color: look.grey, width: 0.8, alpha: 0.28 });
}

function polarFrame(painter, scene, look) {
  const { map, reach, run } = scene;
  const [x0, y0] = [map.x(0), map.y(0)];
  const far = scene.reach * map.scale;
  const named = new Map(run.hue.map((hue, i) => [scene.spokes[i], { hue, color: look.hues[run.hueIndex[i]] }]));
  for (const [angle, { hue, color }] of named) {
    painter.lines([[x0, y0, x0 + far * Math.cos(angle), y0 - far * Math.sin(angle)]], { color: look.frame, width: 1 });
    if (named.size > 16) continue;
    const name = hue.length > 12 ? `${hue.slice(0, 11)}…` : hue;
    const beside = angle - 11 / far;
    const [x, y] = [x0 + (far - 2) * Math.cos(beside), y0 - (far - 2) * Math.sin(beside)];
    painter.text(x, y, name, { color, size: 11, weight: "600", align: x > x0 + 20 ? "right" : "left", baseline: "middle" });
  }
  const arcs = new Set(run.hue.map((_, i) => `${scene.spokes[i]} ${run.exact.distance[run.first[i]]}`));
  for (const each of arcs) {
    const [spoke, distance] = each.split(" ").map(Number);
    if (!(distance > 0)) continue;
    const [from, to] = [spoke - 0.9 * scene.half, spoke + 0.9 * scene.half];
    painter.circle(x0, y0, distance * map.scale, { stroke: look.grey, width: 0.8, dash: [1, 3], from, to, alpha: 0.9 });
  }
  const length = ticks(0, reach, 5)[1];
  const [left, bottom] = [8, scene.height - 8];
  painter.lines([[left, bottom - 4, left, bottom, left + length * map.scale, bottom, left + length * map.scale, bottom - 4]], { color: look.grey });
  painter.text(left, bottom - 8, `${shortNumber(length)} ${run.exact.unit}`.trim(), { color: look.grey, size: 11 });
}

function planeFrame(painter, scene, look) {
  const { map, width, height } = scene;
  const [left, right, top] = [42, width - MARGIN, MARGIN];
  const bottom = height - 36;
  const value = (x) => (x - map.x(0)) / map.scale;
  const [low, high, most] = [value(left), value(right), (map.y(0) - top) / map.scale];
  const across = ticks(low, high, 5);
  const arcs = ticks(0, Math.hypot(Math.max(Math.abs(low), Math.abs(high)), most), 10);
  for (const distance of new Set([...arcs, 1])) {
    const arc = [];
    for (let k = 0; k <= 90; k++) {
      const [x, y] = polarPlace(distance, (Math.PI * k) / 90, 0, 1);
      if (x < low || x > high || y > most) arc.push(NaN, NaN);
      else arc.push(map.x(x), map.y(y));
    }
    const isStart = distance === 1;
    painter.lines([arc], { color: isStart ? look.ink : look.frame, width: 1, alpha: isStart ? 0.7 : 1 });
  }
  painter.lines([[left, map.y(0), right, map.y(0)]], { color: look.grey });
  for (const each of across) {
    painter.lines([[map.x(each), map.y(0), map.x(each), map.y(0) + 4]], { color: look.grey });
    painter.text(map.x(each), map.y(0) + 7, shortNumber(each), { color: look.grey, align: "center", baseline: "top" });
  }
  for (const each of ticks(0, most, 4).slice(1)) {
    painter.lines([[left - 4, map.y(each), left, map.y(each)]], { color: look.grey });
    painter.text(left - 7, map.y(each), shortNumber(each), { color: look.grey, align: "right", baseline: "middle" });
  }
  const unit = scene.run.begin === "jump" ? "the jump" : "the final displacement";
  painter.text((left + right) / 2, Math.min(map.y(0) + 22, height - 12), `along ${unit}`, { color: look.grey, align: "center", baseline: "top" });
  painter.text(9, (top + bottom) / 2, "across it", { color: look.grey, align: "center", baseline: "middle", turn: -Math.PI / 2 });
}

function embeddingFrame(painter, scene, look) {
  const { width, height } = scene;
  for (const [left, low, side] of scene.boxes ?? []) {
    const [x0, x1, y0, y1] = [scene.map.x(left), scene.map.x(left + side), scene.map.y(low), scene.map.y(low + side)];
    painter.lines([[x0, y0, x1, y0, x1, y1, x0, y1, x0, y0]], { color: look.frame });
  }
  if (scene.boxes) return;
  const box = [1, 1, width - 1, 1, width - 1, height - 1, 1, height - 1, 1, 1];
  painter.lines([box], { color: scene.isDisconnected ? look.grey : look.frame, dash: scene.isDisconnected ? [14, 10] : [] });
  if (scene.isDisconnected && width > 300) {
    painter.text(8, height - 9, "disconnected components, arranged arbitrarily", { color: look.grey, size: 11 });
  }
}

function curveFrame(painter, scene, look) {
  const { across, up, width, height } = scene;
  const bottom = height - 34;
  const values = scene.logarithmic ? logTicks(...scene.range, 5) : ticks(...scene.range, 4);
  for (const each of values) {
    painter.lines([[46, up.at(each), width - 12, up.at(each)]], { color: look.frame, alpha: 0.7 });
    painter.text(40, up.at(each), shortNumber(each), { color: look.grey, align: "right", baseline: "middle" });
  }
  if (!scene.view.column && scene.run.begin === "jump") painter.lines([[46, up.at(1), width - 12, up.at(1)]], { color: look.ink, alpha: 0.7 });
  painter.lines([[46, bottom, width - 12, bottom]], { color: look.grey });
  for (const each of ticks(...scene.times, Math.max(2, Math.floor(width / 90)))) {
    painter.lines([[across.at(each), bottom, across.at(each), bottom + 4]], { color: look.grey });
    painter.text(across.at(each), bottom + 7, shortNumber(each, 6), { color: look.grey, align: "center", baseline: "top" });
  }
  painter.text(width - 12, height - 2, look.unit, { color: look.grey, align: "right", baseline: "bottom" });
}

// The positions of rows as a line, with a gap where it would cross between boxes.
function pointsOf(each, first, last, part = null) {
  const points = [];
  for (let row = first; row < last; row++) {
    if (part && row > first && part[row] !== part[row - 1]) points.push(NaN, NaN);
    points.push(each.x[row], each.y[row]);
  }
  return points;
}

// Draw what changes with time, colours and selection. `shown` has for each trajectory the number of rows up to now
// (`until`) and its `rank` (0 faint, 1 plain, 2 highlighted); `look.coloring` has the colours of rows.
export function drawLive(painter, scene, look, shown) {
  const { run } = scene;
  const order = Array.from(run.hue, (_, i) => i);
  if (scene.depth) order.sort((a, b) => depthOf(scene, a) - depthOf(scene, b));
  if (scene.kind === "curve" && shown.now !== null) {
    const x = scene.across.at(shown.now);
    painter.lines([[x, 10, x, scene.height - 34]], { color: look.ink, width: 1, alpha: 0.35 });
  }
  drawSurrogates(painter, scene, look, shown);
  for (const rank of [0, 1, 2]) {
    const chosen = order.filter((i) => shown.rank[i] === rank && shown.until[i] > 0);
    if (!chosen.length) continue;
    const style = [{ width: 1, alpha: 0.16 }, { width: 1.7, alpha: 1 }, { width: 3, alpha: 1 }][rank];
    for (const [color, lines] of linesByColor(scene, chosen, shown.until, look.coloring)) painter.lines(lines, { color, ...style });
    for (const i of chosen) drawEnds(painter, scene, look, i, run.first[i] + shown.until[i] - 1, style.alpha, rank);
  }
  const star = scene.camera ? scene.starAt : scene.star && [scene.map.x(scene.star[0]), scene.map.y(scene.star[1])];
  if (star) painter.shape(starAt(...star, 8), { fill: look.minimum, stroke: look.edge, width: 0.8 });
  if (shown.row >= 0) painter.circle(scene.x[shown.row], scene.y[shown.row], 7, { stroke: look.ink, width: 1.5 });
  if (scene.camera) drawAxes(painter, scene, look);
}

function drawSurrogates(painter, scene, look, shown) {
  const { run } = scene;
  for (const each of scene.surrogates) {
    if (!shown.surrogates.has(each.label)) continue;
    for (const faint of [true, false]) {
      const chosen = Array.from(run.hue, (_, i) => i).filter((i) => (shown.rank[i] === 0) === faint && shown.until[i] > 0);
      const style = { color: look.grey, width: 1, alpha: faint ? 0.12 : 0.9 };
      const lines = chosen.map((i) => pointsOf(each, run.first[i], run.first[i] + shown.until[i]));
      if (!lines.length) continue;
      painter.lines(lines, { ...style, dash: look.dash(each.label) });
      if (scene.kind === "curve") continue;
      const crosses = chosen.flatMap((i) => {
        const row = run.first[i] + shown.until[i] - 1;
        const [x, y] = [each.x[row], each.y[row]];
        return [[x - 2.5, y - 2.5, x + 2.5, y + 2.5], [x - 2.5, y + 2.5, x + 2.5, y - 2.5]];
      });
      painter.lines(crosses, style);
    }
  }
}

// Segments in the colour of their end points, joined where neighbours have the same colour.
function linesByColor(scene, chosen, until, coloring) {
  const { run } = scene;
  const lines = new Map();
  for (const i of chosen) {
    let [line, color] = [null, null];
    for (let row = run.first[i] + 1; row < run.first[i] + until[i]; row++) {
      if (scene.part && scene.part[row] !== scene.part[row - 1]) {
        color = null;
        continue;
      }
      const next = coloring.color(run, row);
      if (next !== color) {
        line = [scene.x[row - 1], scene.y[row - 1]];
        color = next;
        if (!lines.has(color)) lines.set(color, []);
        lines.get(color).push(line);
      }
      line.push(scene.x[row], scene.y[row]);
    }
  }
  return lines;
}

function drawEnds(painter, scene, look, i, last, alpha, rank) {
  const { run } = scene;
  const first = run.first[i];
  const curve = scene.kind === "curve";
  if (!curve && run.step_size) {
    const size = run.step_size.length ? look.diamond(run.stepIndex[i]) : 4;
    const [x, y] = [scene.x[first], scene.y[first]];
    if (Number.isFinite(x) && Number.isFinite(y)) {
      painter.shape([x, y - size, x + size, y, x, y + size, x - size, y], { fill: look.steps[run.stepIndex[i]], stroke: look.edge, width: 0.8, alpha });
    }
  } else if (!curve && scene.kind === "embedding") {
    const [x, y] = [scene.x[first], scene.y[first]];
    if (Number.isFinite(x)) painter.circle(x, y, 2.2, { fill: look.background, stroke: look.coloring.color(run, first), width: 1.2, alpha });
  }
  let row = last;
  while (row > first && !Number.isFinite(scene.y[row])) row--;
  if (row > first && Number.isFinite(scene.y[row])) {
    painter.circle(scene.x[row], scene.y[row], (curve ? 2.2 : 3.2) + (rank === 2 ? 1.2 : 0), { fill: look.coloring.color(run, row), alpha });
  }
}

function depthOf(scene, i) {
  const { run } = scene;
  let [sum, count] = [0, 0];
  for (let row = run.first[i]; row < run.first[i + 1]; row++) {
    if (Number.isFinite(scene.depth[row])) [sum, count] = [sum + scene.depth[row], count + 1];
  }
  return count ? sum / count : -Infinity;
}

function starAt(x, y, size) {
  return Array.from({ length: 10 }, (_, k) => {
    const radius = k % 2 ? size * 0.42 : size;
    const angle = (Math.PI * k) / 5;
    return [x + radius * Math.sin(angle), y - radius * Math.cos(angle)];
  }).flat();
}

function drawAxes(painter, scene, look) {
  const { x, y } = project([1, 0, 0, 0, 1, 0, 0, 0, 1], scene.camera);
  const [x0, y0, length] = [34, scene.height - 34, 20];
  ["x", "y", "z"].forEach((name, k) => {
    painter.lines([[x0, y0, x0 + length * x[k], y0 - length * y[k]]], { color: look.grey });
    painter.text(x0 + (length + 7) * x[k], y0 - (length + 7) * y[k], name, { color: look.grey, size: 10, align: "center", baseline: "middle" });
  });
}
