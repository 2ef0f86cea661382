// Axes: maps from numbers to pixels, round ticks, and numbers as text.

// Round numbers within [low, high], about `count` of them.
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= rough * (1 - 1e-9)) * power;
  const values = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) values.push(Number((k * step).toPrecision(12)));
  return values;
}

// Powers of ten within [low, high]; if there are too few, also two and five times these.
export function logTicks(low, high, count) {
  const [first, last] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const powers = [];
  const every = Math.max(1, Math.ceil((last - first) / count));
  for (let k = first; k <= last; k++) if ((k - first) % every === 0) powers.push(10 ** k);
  const inside = (values) => values.filter((value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9));
  if (inside(powers).length >= 3) return inside(powers);
  return inside(powers.flatMap((power) => [power, 2 * power, 5 * power]));
}

// Whether a scale is logarithmic: numbers such as losses, which span decades.
export function isLogarithmic(low, high) {
  return low > 0 && high / low > 30;
}

// A map from [low, high] to pixels [from, to].
export function axis(low, high, from, to, logarithmic = false) {
  const f = logarithmic ? Math.log : Number;
  const [a, b] = [f(low), f(high)];
  const factor = (to - from) / (b - a || 1);
  return { low, high, logarithmic, at: (value) => from + factor * (f(value) - a) };
}

// The position between low and high as a fraction from 0 to 1; NaN stays NaN.
export function share(value, low, high, logarithmic = false) {
  if (Number.isNaN(value)) return NaN;
  const part = logarithmic
    ? Math.log(Math.max(value, low) / low) / Math.log(high / low || Math.E)
    : (value - low) / (high - low || 1);
  return Math.min(1, Math.max(0, part));
}

// A number with so many significant digits, without trailing zeros.
export function shortNumber(value, digits = 3) {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "-" : value > 0 ? "∞" : "-∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) {
    const [mantissa, power] = value.toExponential(digits - 1).split("e");
    return `${Number(mantissa)}e${Number(power)}`;
  }
  if (Number.isInteger(value)) return String(value);
  return String(Number(value.toPrecision(Math.max(digits, Math.ceil(Math.log10(size))))));
}
