import assert from "node:assert/strict";
import test from "node:test";
import { colorAt, contrast, cssColor, luminance, parseColor, visible } from "../../../jaxscape/report/js/colors.js";

test("a parsed colour is written back unchanged", () => {
  assert.equal(cssColor(parseColor("#1F3f9e")), "#1f3f9e");
  assert.throws(() => parseColor("red"), /#rrggbb/);
});

test("a scale begins and ends with its colours and is straight between", () => {
  const scale = [[0, 0, 0], [1, 0, 0], [1, 1, 1]];
  assert.deepEqual(colorAt(scale, 0), [0, 0, 0]);
  assert.deepEqual(colorAt(scale, 0.25), [0.5, 0, 0]);
  assert.deepEqual(colorAt(scale, 1), [1, 1, 1]);
  assert.deepEqual(colorAt([[0.5, 0.5, 0.5]], 0.7), [0.5, 0.5, 0.5]);
});

test("contrast is that of WCAG", () => {
  assert.ok(Math.abs(contrast([0, 0, 0], [1, 1, 1]) - 21) < 1e-9);
  assert.ok(Math.abs(luminance([1, 1, 1]) - 1) < 1e-9);
});

test("a colour with too little contrast is changed until it is visible, others stay", () => {
  const night = parseColor("#14171c");
  assert.ok(contrast(visible([0.1, 0.05, 0.3], night, 3), night) >= 3);
  assert.ok(contrast(visible([1, 1, 0.9], [1, 1, 1], 1.6), [1, 1, 1]) >= 1.6);
  assert.deepEqual(visible([1, 0.8, 0], night, 3), [1, 0.8, 0]);
});
