// The data of a page: JSON whose arrays stand in one block of numbers (see jaxscape/report/pack.py).

// Join the bytes of float32 numbers that were sorted by significance, lowest first.
export function joinPlanes(planes) {
  const count = planes.length / 4;
  const bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < 4; plane++) {
    for (let i = 0; i < count; i++) bytes[4 * i + plane] = planes[plane * count + i];
  }
  return new Float32Array(bytes.buffer);
}

// Put the arrays back where JSON names them.
export function attach(value, numbers) {
  if (Array.isArray(value)) return value.map((entry) => attach(entry, numbers));
  if (value === null || typeof value !== "object") return value;
  if ("array" in value) return numbers.subarray(value.array[0], value.array[0] + value.array[1]);
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, attach(entry, numbers)]));
}

export async function unpack(text, base64) {
  const deflated = Uint8Array.from(atob(base64.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  return attach(JSON.parse(text), joinPlanes(planes));
}
