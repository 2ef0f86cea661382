import assert from "node:assert/strict";
import test from "node:test";
import { dashOf } from "../../../jaxscape/report/js/scenes.js";

test("a surrogate without a draw is dotted, whatever is drawn beside it, and the others are dashed", () => {
  const dotted = dashOf(["exchanged", "random"], "decay");
  assert.deepEqual(dashOf([], "decay"), dotted);
  assert.deepEqual(dashOf(["exchanged"], "exchanged"), dashOf(["exchanged", "random"], "exchanged"));
  assert.notDeepEqual(dashOf(["exchanged", "random"], "random"), dashOf(["exchanged", "random"], "exchanged"));
  assert.ok(dashOf(["exchanged"], "exchanged")[0] > 2 * dotted[0]);
});
