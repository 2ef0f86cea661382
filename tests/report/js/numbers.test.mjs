import assert from "node:assert/strict";
import test from "node:test";
import { attach, floats, unfold } from "../../../jaxscape/report/js/numbers.js";

test("zigzag differences decode to integers of any size and sign", () => {
  const integers = [5, 3, 3, -1, 16_777_215, 0];
  const planes = new Uint8Array(4 * integers.length);
  integers.forEach((value, i) => {
    const step = value - (i ? integers[i - 1] : 0);
    const folded = ((step << 1) ^ (step >> 31)) >>> 0;
    for (let plane = 0; plane < 4; plane++) planes[plane * integers.length + i] = (folded >>> (8 * plane)) & 255;
  });
  assert.deepEqual([...unfold(planes)], integers);
});

test("three bytes of a float are a float", () => {
  assert.deepEqual([...floats(Int32Array.of(0x3f8000, 0xbf8000, 0x7fc000, 0))], [1, -1, NaN, 0]);
});

test("arrays and grids are inserted where the JSON refers to them, and nothing else changes", () => {
  const found = attach({ a: [{ array: [1, 1] }, null, "x"], b: { grid: [2, 3, 10, 0.5] } }, Int32Array.of(9, 0x3f8000, 0, 4, -1));
  assert.deepEqual([...found.a[0]], [1]);
  assert.deepEqual(found.a.slice(1), [null, "x"]);
  assert.deepEqual([...found.b], [10, 12, NaN]);
});
