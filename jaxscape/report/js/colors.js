// Colours as [red, green, blue] from 0 to 1.

export function parseColor(text) {
  const match = /^#?([0-9a-f]{6})$/i.exec(text.trim());
  if (!match) throw new Error(`a colour must be #rrggbb, got ${text}`);
  const bits = parseInt(match[1], 16);
  return [(bits >> 16) / 255, ((bits >> 8) & 255) / 255, (bits & 255) / 255];
}

export function cssColor(color) {
  const bits = color.map((part) => Math.round(255 * Math.min(1, Math.max(0, part))));
  return `#${bits.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

export function mix(one, other, part) {
  return one.map((value, i) => value + (other[i] - value) * part);
}

// The colour at a fraction of a scale of evenly spaced colours.
export function colorAt(scale, part) {
  const place = Math.min(1, Math.max(0, part)) * (scale.length - 1);
  const low = Math.min(Math.floor(place), Math.max(scale.length - 2, 0));
  return scale.length === 1 ? scale[0] : mix(scale[low], scale[low + 1], place - low);
}

// Relative luminance, as defined by WCAG 2.
export function luminance(color) {
  const [r, g, b] = color.map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

// A colour with enough contrast to a background: mixed with white, or black, until it has it.
export function visible(color, background, least) {
  const towards = luminance(background) < 0.2 ? [1, 1, 1] : [0, 0, 0];
  for (let part = 0; part < 1; part += 0.05) {
    const mixed = mix(color, towards, part);
    if (contrast(mixed, background) >= least) return mixed;
  }
  return towards;
}
