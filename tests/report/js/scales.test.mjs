import assert from "node:assert/strict";
import test from "node:test";
import { axis, isLogarithmic, logTicks, share, shortNumber, ticks } from "../../../jaxscape/report/js/scales.js";

test("ticks are round, lie within the range, and are about as many as requested", () => {
  assert.deepEqual(ticks(0, 1, 5), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(ticks(-3, 7, 5), [-2, 0, 2, 4, 6]);
  assert.deepEqual(ticks(0.98, 1.13, 3), [1, 1.05, 1.1]);
  assert.deepEqual(ticks(2, 2, 5), [2]);
  for (const [low, high] of [[0, 50], [1e-8, 3e-8], [-1e6, 2e5]]) {
    const found = ticks(low, high, 5);
    assert.ok(found.length >= 2 && found.length <= 7 && found.every((tick) => tick >= low && tick <= high * 1.0001));
  }
});

test("ticks of a logarithmic scale are powers of ten, or halves and fifths of them", () => {
  assert.deepEqual(logTicks(0.001, 10, 5).map(Math.log10).map(Math.round), [-3, -2, -1, 0, 1]);
  assert.deepEqual(logTicks(1, 8, 5), [1, 2, 5]);
});

test("losses over decades are logarithmic, distances are not, nor is what reaches 0", () => {
  assert.ok(isLogarithmic(0.001, 1));
  assert.ok(!isLogarithmic(0.9, 1.1));
  assert.ok(!isLogarithmic(0, 1));
});

test("an axis maps its ends to its ends, and a power to the middle of its square", () => {
  assert.equal(axis(0, 10, 100, 0).at(2.5), 75);
  assert.ok(Math.abs(axis(1, 100, 0, 10, true).at(10) - 5) < 1e-12);
  assert.equal(axis(3, 3, 0, 10).at(3), 0);
});

test("a fraction stays between 0 and 1, and NaN stays NaN", () => {
  assert.equal(share(5, 0, 10), 0.5);
  assert.equal(share(-5, 0, 10), 0);
  assert.ok(Math.abs(share(0.1, 0.01, 1, true) - 0.5) < 1e-12);
  assert.equal(share(0, 0.01, 1, true), 0);
  assert.ok(Number.isNaN(share(NaN, 0, 1)));
  assert.equal(share(3, 3, 3), 0);
});

test("numbers are short and keep every requested digit", () => {
  const expected = [[0, "0"], [1, "1"], [0.123456, "0.123"], [1234.5, "1235"], [50, "50"], [1.5e-7, "1.5e-7"], [-2.5, "-2.5"], [NaN, "-"], [Infinity, "∞"], [123456, "123456"], [12345678, "1.23e7"]];
  for (const [value, text] of expected) assert.equal(shortNumber(value), text);
});
