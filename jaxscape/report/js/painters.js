// Painters: the same calls paint on a canvas or write SVG. Lines are flat lists x, y, x, y; NaN is a gap.

export class CanvasPainter {
  constructor(context) {
    this.context = context;
    context.lineJoin = "round";
    context.lineCap = "round";
  }

  lines(all, { color, width = 1, dash = [], alpha = 1 }) {
    const context = this.context;
    context.globalAlpha = alpha;
    context.strokeStyle = color;
    context.lineWidth = width;
    context.setLineDash(dash);
    context.lineCap = dash.length ? "butt" : "round";
    context.beginPath();
    for (const points of all) {
      let open = false;
      for (let i = 0; i < points.length; i += 2) {
        const [x, y] = [points[i], points[i + 1]];
        if (!(x - x === 0 && y - y === 0)) open = false;
        else if (open) context.lineTo(x, y);
        else {
          context.moveTo(x, y);
          open = true;
        }
      }
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  shape(points, { fill = null, stroke = null, width = 1, alpha = 1 }) {
    const context = this.context;
    context.globalAlpha = alpha;
    context.setLineDash([]);
    context.beginPath();
    for (let i = 0; i < points.length; i += 2) context[i ? "lineTo" : "moveTo"](points[i], points[i + 1]);
    context.closePath();
    this.#inked(fill, stroke, width);
  }

  circle(x, y, radius, { fill = null, stroke = null, width = 1, alpha = 1, dash = [], from = 0, to = 2 * Math.PI }) {
    const context = this.context;
    context.globalAlpha = alpha;
    context.setLineDash(dash);
    context.beginPath();
    context.arc(x, y, radius, -to, -from);
    this.#inked(fill, stroke, width);
  }

  text(x, y, words, { color, size = 11, align = "left", baseline = "alphabetic", turn = 0, weight = "normal" }) {
    const context = this.context;
    context.save();
    context.translate(x, y);
    context.rotate(turn);
    context.fillStyle = color;
    context.font = `${weight} ${size}px system-ui, sans-serif`;
    context.textAlign = align;
    context.textBaseline = baseline;
    context.fillText(words, 0, 0);
    context.restore();
  }

  #inked(fill, stroke, width) {
    const context = this.context;
    if (fill) {
      context.fillStyle = fill;
      context.fill();
    }
    if (stroke) {
      context.strokeStyle = stroke;
      context.lineWidth = width;
      context.stroke();
    }
    context.globalAlpha = 1;
  }
}

// Text for XML: special characters escaped, and characters that XML does not allow replaced.
export function xmlText(text) {
  const marks = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return String(text)
    .replace(/[&<>"']/g, (mark) => marks[mark])
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd")
    .replace(/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd");
}

export class SvgPainter {
  constructor(width, height, background, title) {
    this.size = [width, height];
    this.background = background;
    this.title = title;
    this.marks = [];
  }

  lines(all, { color, width = 1, dash = [], alpha = 1 }) {
    let path = "";
    for (const points of all) {
      let open = false;
      for (let i = 0; i < points.length; i += 2) {
        const here = Number.isFinite(points[i]) && Number.isFinite(points[i + 1]);
        if (here) path += `${open ? "L" : "M"}${short(points[i])} ${short(points[i + 1])}`;
        open = here;
      }
    }
    if (!path) return;
    const dashed = dash.length ? ` stroke-dasharray="${dash.join(" ")}"` : "";
    const cap = dash.length ? "butt" : "round";
    this.marks.push(`<path d="${path}" fill="none" stroke="${color}" stroke-width="${short(width)}"${dashed}` +
      ` stroke-linecap="${cap}" stroke-linejoin="round"${faint(alpha)}/>`);
  }

  shape(points, { fill = null, stroke = null, width = 1, alpha = 1 }) {
    const places = Array.from(points, short).join(" ");
    this.marks.push(`<polygon points="${places}"${inked(fill, stroke, width)}${faint(alpha)}/>`);
  }

  circle(x, y, radius, { fill = null, stroke = null, width = 1, alpha = 1, dash = [], from = 0, to = 2 * Math.PI }) {
    const dashed = dash.length ? ` stroke-dasharray="${dash.join(" ")}"` : "";
    const style = `${inked(fill, stroke, width)}${faint(alpha)}${dashed}`;
    if (to - from >= 2 * Math.PI - 1e-9) {
      this.marks.push(`<circle cx="${short(x)}" cy="${short(y)}" r="${short(radius)}"${style}/>`);
      return;
    }
    const at = (angle) => `${short(x + radius * Math.cos(angle))} ${short(y - radius * Math.sin(angle))}`;
    const large = to - from > Math.PI ? 1 : 0;
    this.marks.push(`<path d="M${at(from)}A${short(radius)} ${short(radius)} 0 ${large} 0 ${at(to)}"${style}/>`);
  }

  text(x, y, words, { color, size = 11, align = "left", baseline = "alphabetic", turn = 0, weight = "normal" }) {
    const anchor = { left: "start", center: "middle", right: "end" }[align];
    const shift = { alphabetic: 0, middle: 0.35, top: 0.8, bottom: -0.2 }[baseline] * size;
    const degrees = (turn * 180) / Math.PI;
    const turned = turn ? ` transform="rotate(${short(degrees)} ${short(x)} ${short(y)})"` : "";
    this.marks.push(`<text x="${short(x)}" y="${short(y + shift)}" fill="${color}" font-size="${short(size)}"` +
      ` text-anchor="${anchor}" font-weight="${weight}"${turned}>${xmlText(words)}</text>`);
  }

  toString() {
    const [width, height] = this.size;
    return `<?xml version="1.0" encoding="UTF-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" width="${width}"` +
      ` height="${height}" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif">\n` +
      `<title>${xmlText(this.title)}</title>\n<rect width="${width}" height="${height}" fill="${this.background}"/>\n` +
      `${this.marks.join("\n")}\n</svg>\n`;
  }
}

function short(value) {
  return String(Number(value.toFixed(2)));
}

function faint(alpha) {
  return alpha < 1 ? ` opacity="${short(alpha)}"` : "";
}

function inked(fill, stroke, width) {
  return ` fill="${fill ?? "none"}"${stroke ? ` stroke="${stroke}" stroke-width="${short(width)}"` : ""}`;
}
