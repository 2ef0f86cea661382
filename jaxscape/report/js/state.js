// State derived from the data and the reader's choices: times, colours of rows, and highlighted trajectories.
import { colorAt, cssColor, parseColor, visible } from "./colors.js";
import { countUntil, extent } from "./geometry.js";
import { isLogarithmic, share } from "./scales.js";

const SHADES = 16;
const LEAST_LOSS = 1e-6;

// Add derived quantities to the runs of unpacked data.
export function prepare(data) {
  const hues = data.palette.hues.map(([label]) => label);
  const sizes = data.palette.step_sizes.map(([size]) => size);
  for (const run of data.runs) {
    run.time = Float64Array.from(run.place, (place) => run.times[place]);
    run.hueIndex = run.hue.map((label) => hues.indexOf(label));
    run.stepIndex = run.step_size ? Array.from(run.step_size, (size) => closest(sizes, size)) : null;
    run.keys = keysOf(run);
    if (run.exact) run.units = unitsOf(run);
    for (const each of run.embeddings) each.points = interleave(each.axes);
  }
  data.times = [...new Set(data.runs.flatMap((run) => run.times))].sort((a, b) => a - b);
  data.columns = [...new Set(data.runs.flatMap((run) => run.columns.map((each) => each.label)))];
  const surrogates = data.runs.flatMap((run) => (run.exact ? run.exact.surrogates : []));
  data.surrogates = [...new Set(surrogates.map((each) => each.label))];
  data.random = [...new Set(surrogates.filter((each) => each.is_random).map((each) => each.label))];
  return data;
}

// Points (n, k) from k arrays (n,).
export function interleave(axes) {
  const points = new Float64Array(axes.length * axes[0].length);
  axes.forEach((values, axis) => values.forEach((value, i) => (points[axes.length * i + axis] = value)));
  return points;
}

function closest(values, wanted) {
  const differences = values.map((value) => Math.abs(value - wanted));
  return differences.indexOf(Math.min(...differences));
}

// Trajectories of several runs correspond if hue, step size and their index among those with the same two agree.
function keysOf(run) {
  const seen = new Map();
  return run.hue.map((hue, i) => {
    const both = JSON.stringify([hue, run.stepIndex ? run.stepIndex[i] : 0]);
    const number = seen.get(both) ?? 0;
    seen.set(both, number + 1);
    return `${number} ${both}`;
  });
}

// The unit of the distances of each trajectory: its jump, or its final displacement.
function unitsOf(run) {
  return run.hue.map((_, i) => {
    const own = run.exact.distance.subarray(run.first[i], run.first[i + 1]);
    return run.begin === "jump" ? own[0] : (own.findLast(Number.isFinite) ?? NaN);
  });
}

// The number of rows of each trajectory up to a time.
export function untilOf(run, now) {
  return run.hue.map((_, i) => countUntil(run.time, run.first[i], run.first[i + 1], now));
}

// The row of a trajectory at a time: the last one up to then; -1 before it starts.
export function rowAt(run, i, now) {
  const count = countUntil(run.time, run.first[i], run.first[i + 1], now);
  return count ? run.first[i] + count - 1 : -1;
}

export function trajectoryOf(run, row) {
  return countUntil(run.first, 0, run.first.length, row) - 1;
}

// The rank of each trajectory: 2 highlighted, 1 plain, 0 faint. `chosen` holds keys, none means all; `marked` is a key.
export function ranksOf(run, chosen, marked) {
  return run.keys.map((key) => {
    if (key === marked) return 2;
    if (chosen.size) return chosen.has(key) ? 1 : 0;
    return 1;
  });
}

// All colours for a background: those with too little contrast become lighter or darker.
export function makeLook(data, css) {
  const background = parseColor(css.background);
  const dark = background[0] + background[1] + background[2] < 1.5;
  const seen = (color, least = dark ? 2.2 : 1.25) => cssColor(visible(color, background, least));
  const { palette } = data;
  return {
    ...css,
    dark,
    unit: data.unit,
    edge: css.ink,
    seen,
    hues: palette.hues.map(([, colors]) => seen(colors[Math.floor(colors.length / 2)], dark ? 3 : 1.6)),
    steps: palette.step_sizes.map(([, color]) => cssColor(color)),
    diamond: (index) => 4.2 + (3 * index) / Math.max(palette.step_sizes.length - 1, 1),
  };
}

// The colour of each row: `choice` is { kind: "hue" | "step" | "time" | "column", column }.
export function makeColoring(data, choice, look) {
  const { runs, palette } = data;
  const last = Math.max(...data.times);
  const first = Math.min(...data.times);
  // Copies of a minimum are retrained for equally many epochs; others darken from their own start to their own end.
  const progress = (run, row, i) => {
    if (run.begin === "jump") return share(run.time[row], first, last);
    return share(run.time[row], run.time[run.first[i]], run.time[run.first[i + 1] - 1]);
  };
  let [table, binOf, scale] = [[], null, null];
  if (choice.kind === "step") {
    table = palette.step_sizes.map(([, color]) => look.seen(color));
    binOf = (run, row, i) => (run.stepIndex ? run.stepIndex[i] : 0);
    if (!table.length) table = [look.grey];
  } else if (choice.kind === "hue") {
    // From a tint to a deep shade on white; from the hue to its tint on black.
    const shadeOf = (colors, part) => (look.dark ? colorAt(colors, 0.55 * (1 - part)) : colorAt(colors, part));
    table = palette.hues.flatMap(([, colors]) =>
      Array.from({ length: SHADES }, (_, k) => look.seen(shadeOf(colors, k / (SHADES - 1)), look.dark ? 2.2 : 1.2)));
    binOf = (run, row, i) => run.hueIndex[i] * SHADES + Math.round((SHADES - 1) * progress(run, row, i));
  } else {
    const bins = 2 * SHADES;
    let values = (run) => run.time;
    let [low, high, logarithmic] = [first, last, false];
    if (choice.kind === "column") {
      values = (run) => run.columns.find((each) => each.label === choice.column)?.values ?? null;
      const all = runs.map(values).filter(Boolean);
      [low, high] = extent(...all);
      const least = extent(...all.map((each) => each.filter((value) => value > 0)))[0];
      logarithmic = low >= 0 && isLogarithmic(Math.max(least, LEAST_LOSS), high);
      if (logarithmic) low = Math.max(least, LEAST_LOSS);
    }
    table = Array.from({ length: bins }, (_, k) => look.seen(colorAt(palette.scale, k / (bins - 1))));
    table.push(look.grey);
    binOf = (run, row) => {
      const part = share(values(run)?.[row] ?? NaN, low, high, logarithmic);
      return Number.isNaN(part) ? bins : Math.round((bins - 1) * part);
    };
    scale = { low, high, logarithmic, colors: table.slice(0, bins) };
  }
  const colors = new Map(runs.map((run) => [run, colorsOf(run, table, binOf)]));
  return { color: (run, row) => colors.get(run)[row], scale };
}

function colorsOf(run, table, binOf) {
  const colors = new Array(run.place.length);
  for (let i = 0; i < run.hue.length; i++) {
    for (let row = run.first[i]; row < run.first[i + 1]; row++) colors[row] = table[binOf(run, row, i)];
  }
  return colors;
}
