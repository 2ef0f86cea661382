// Decoding of a page's data: JSON whose arrays are in one block of integers (see jaxscape/report/pack.py).

// Integers from the bytes of their zigzag differences, which are grouped by significance, lowest first.
export function unfold(planes) {
  const count = planes.length / 4;
  const integers = new Int32Array(count);
  let last = 0;
  for (let i = 0; i < count; i++) {
    const folded = planes[i] | (planes[count + i] << 8) | (planes[2 * count + i] << 16) | (planes[3 * count + i] << 24);
    last += (folded >>> 1) ^ -(folded & 1);
    integers[i] = last;
  }
  return integers;
}

// Numbers from the first three bytes of their float32 bits.
export function floats(integers) {
  return new Float32Array(Uint32Array.from(integers, (bits) => bits << 8).buffer);
}

// Insert the arrays where the JSON refers to them.
export function attach(value, integers) {
  if (Array.isArray(value)) return value.map((entry) => attach(entry, integers));
  if (value === null || typeof value !== "object") return value;
  if ("array" in value) {
    const [first, count] = value.array;
    return floats(integers.subarray(first, first + count));
  }
  if ("grid" in value) {
    const [first, count, low, step] = value.grid;
    return Float64Array.from(integers.subarray(first, first + count), (line) => (line < 0 ? NaN : low + line * step));
  }
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, attach(entry, integers)]));
}

export async function unpack(text, base64) {
  const deflated = Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
  return attach(JSON.parse(text), unfold(new Uint8Array(await new Response(stream).arrayBuffer())));
}
