// Geometry: exact views, rotation and projection, and the nearest point. Arrays in, arrays out.

// The angle of each spoke, clockwise from the top.
export function spokeAngles(count) {
  return Float64Array.from({ length: count }, (_, i) => Math.PI / 2 - (2 * Math.PI * i) / count);
}

// The point [x, y] at a distance and an angle to a spoke, y upwards; side is 1 or -1.
export function polarPlace(distance, angle, spoke, side) {
  const turned = spoke + side * angle;
  return [distance * Math.cos(turned), distance * Math.sin(turned)];
}

// The point along and across, in units of the final displacement or of the jump.
export function planePlace(distance, angle, unit) {
  return [(distance / unit) * Math.cos(angle), (distance / unit) * Math.sin(angle)];
}

// The matrix, row by row, of a rotation first about the vertical axis (yaw), then about the horizontal one (pitch).
export function rotation(yaw, pitch) {
  const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  return [cy, 0, sy, sp * sy, cp, -sp * cy, -cp * sy, sp, cp * cy];
}

// Orthographic projection of points (n, 3) along the third axis: x to the right, y upwards, depth towards the eye.
export function project(points, camera, centre = [0, 0, 0]) {
  const m = rotation(camera.yaw, camera.pitch);
  const count = points.length / 3;
  const [x, y, depth] = [new Float64Array(count), new Float64Array(count), new Float64Array(count)];
  for (let i = 0; i < count; i++) {
    const [a, b, c] = [points[3 * i] - centre[0], points[3 * i + 1] - centre[1], points[3 * i + 2] - centre[2]];
    x[i] = m[0] * a + m[1] * b + m[2] * c;
    y[i] = m[3] * a + m[4] * b + m[5] * c;
    depth[i] = m[6] * a + m[7] * b + m[8] * c;
  }
  return { x, y, depth };
}

// The centre of the bounding box of points (n, k), and the largest distance from it.
export function ball(points, dimensions) {
  const low = new Array(dimensions).fill(Infinity);
  const high = new Array(dimensions).fill(-Infinity);
  points.forEach((value, i) => {
    if (!Number.isFinite(value)) return;
    const axis = i % dimensions;
    low[axis] = Math.min(low[axis], value);
    high[axis] = Math.max(high[axis], value);
  });
  const centre = low.map((value, axis) => (value <= high[axis] ? (value + high[axis]) / 2 : 0));
  let radius = 0;
  for (let i = 0; i < points.length; i += dimensions) {
    let squared = 0;
    for (let axis = 0; axis < dimensions; axis++) squared += (points[i + axis] - centre[axis]) ** 2;
    if (squared > radius) radius = squared;
  }
  return { centre, radius: Math.sqrt(radius) || 1 };
}

// The minimum and the maximum of the finite numbers, [0, 1] if there are none.
export function extent(...arrays) {
  let [low, high] = [Infinity, -Infinity];
  for (const array of arrays) {
    for (const value of array) {
      if (value < low && value > -Infinity) low = value;
      if (value > high && value < Infinity) high = value;
    }
  }
  return low <= high ? [low, high] : [0, 1];
}

// A conformal map from data to pixels: the box [low x, high x, low y, high y] in the centre of a frame.
export function fitEqually(box, frame) {
  const [left, right, bottom, top] = box;
  const scale = Math.min(frame.width / (right - left || 1), frame.height / (top - bottom || 1));
  const x0 = frame.left + frame.width / 2 - (scale * (left + right)) / 2;
  const y0 = frame.top + frame.height / 2 + (scale * (bottom + top)) / 2;
  return { scale, x: (value) => x0 + scale * value, y: (value) => y0 - scale * value };
}

// The row that is nearest to (x, y), among those for which `counts` is true; -1 if none is within the limit.
export function nearest(xs, ys, x, y, limit, counts = () => true) {
  let [row, least] = [-1, limit * limit];
  for (let i = 0; i < xs.length; i++) {
    const squared = (xs[i] - x) ** 2 + (ys[i] - y) ** 2;
    if (squared <= least && counts(i)) [row, least] = [i, squared];
  }
  return row;
}

// The number of the ascending times[first..last) that are at most `now`.
export function countUntil(times, first, last, now) {
  let [low, high] = [first, last];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= now) low = middle + 1;
    else high = middle;
  }
  return low - first;
}
