import assert from "node:assert/strict";
import test from "node:test";
import { ball, countUntil, extent, fitEqually, nearest, planePlace, polarPlace, project, rotation, spokeAngles } from "../../../jaxscape/report/js/geometry.js";

const near = (found, expected, tolerance = 1e-12) =>
  [...found].forEach((value, i) => assert.ok(Math.abs(value - expected[i]) < tolerance, `${[...found]} is not ${expected}`));

test("spokes go clockwise from the top", () => near(spokeAngles(4), [Math.PI / 2, 0, -Math.PI / 2, -Math.PI]));

test("the radius is the distance and the angle is that to the spoke, on either side", () => {
  for (const side of [1, -1]) {
    const [x, y] = polarPlace(2, 0.3, 1.1, side);
    assert.ok(Math.abs(Math.hypot(x, y) - 2) < 1e-12);
    assert.ok(Math.abs(Math.atan2(y, x) - (1.1 + side * 0.3)) < 1e-12);
  }
});

test("a start lies at (1, 0) of the plane, and the hypotenuse is the distance in units of the jump", () => {
  near(planePlace(3, 0, 3), [1, 0]);
  const [along, across] = planePlace(4, 0.7, 2);
  assert.ok(Math.abs(Math.hypot(along, across) - 2) < 1e-12 && across > 0);
});

test("a rotation keeps lengths and angles", () => {
  const m = rotation(0.7, -0.4);
  for (let i = 0; i < 3; i++) {
    for (let j = 0; j < 3; j++) {
      const product = [0, 1, 2].reduce((sum, k) => sum + m[3 * i + k] * m[3 * j + k], 0);
      assert.ok(Math.abs(product - (i === j ? 1 : 0)) < 1e-12);
    }
  }
});

test("a quarter turn to the side shows depth as width; one up shows depth as height", () => {
  const side = project([0, 0, 1], { yaw: Math.PI / 2, pitch: 0 });
  near([side.x[0], side.y[0], side.depth[0]], [1, 0, 0]);
  const above = project([0, 0, 1], { yaw: 0, pitch: Math.PI / 2 });
  near([above.x[0], above.y[0], above.depth[0]], [0, -1, 0]);
});

test("projection is seen from the centre", () => near(Object.values(project([4, 5, 6], { yaw: 1, pitch: 1 }, [4, 5, 6])).map(([value]) => value), [0, 0, 0]));

test("a ball contains every point and ignores NaN", () => {
  const { centre, radius } = ball([0, 0, 4, 2, NaN, NaN], 2);
  near(centre, [2, 1]);
  assert.ok(Math.abs(radius - Math.hypot(2, 1)) < 1e-12);
  assert.equal(ball([NaN, NaN], 2).radius, 1);
});

test("the extent ignores NaN and infinity", () => {
  assert.deepEqual(extent([3, NaN, -1], [Infinity, 2]), [-1, 3]);
  assert.deepEqual(extent([NaN]), [0, 1]);
});

test("a map with equal scales puts the centre of the box into the centre of the frame, and y upwards", () => {
  const map = fitEqually([0, 2, 0, 1], { left: 10, top: 20, width: 100, height: 100 });
  assert.equal(map.scale, 50);
  near([map.x(1), map.y(0.5)], [60, 70]);
  assert.ok(map.y(1) < map.y(0));
});

test("the nearest row must be within the limit and eligible", () => {
  const [xs, ys] = [[0, 10, NaN], [0, 0, 0]];
  assert.equal(nearest(xs, ys, 9, 1, 5), 1);
  assert.equal(nearest(xs, ys, 5, 40, 5), -1);
  assert.equal(nearest(xs, ys, 9, 1, 20, (row) => row !== 1), 0);
});

test("rows up to a time include that time", () => {
  const times = [0, 1, 2, 0, 5];
  assert.equal(countUntil(times, 0, 3, 1), 2);
  assert.equal(countUntil(times, 3, 5, 4), 1);
  assert.equal(countUntil(times, 0, 3, -1), 0);
  assert.equal(countUntil(times, 0, 3, 99), 3);
});
