import assert from "node:assert/strict";
import test from "node:test";
import { SvgPainter, xmlText } from "../../../jaxscape/report/js/painters.js";

test("text is escaped for XML, and characters that XML does not allow are replaced", () => {
  assert.equal(xmlText(`</text><script>"&'`), "&lt;/text&gt;&lt;script&gt;&quot;&amp;&#39;");
  assert.equal(xmlText("a\u0000b\ufffe\ud800c"), "a\ufffdb\ufffd\ufffdc");
  assert.equal(xmlText("\u{1f600} \u2028"), "\u{1f600} \u2028");
});

test("a line has a gap at a NaN point", () => {
  const painter = new SvgPainter(10, 10, "#ffffff", "t");
  painter.lines([[0, 0, 1, 1, NaN, 2, 3, 3, 4, 4]], { color: "#000000" });
  assert.match(painter.marks[0], /d="M0 0L1 1M3 3L4 4"/);
});

test("a line without any point is not written", () => {
  const painter = new SvgPainter(10, 10, "#ffffff", "t");
  painter.lines([[NaN, 1]], { color: "#000000" });
  assert.deepEqual(painter.marks, []);
});

test("an arc goes counter-clockwise from its first angle, y upwards", () => {
  const painter = new SvgPainter(10, 10, "#ffffff", "t");
  painter.circle(0, 0, 10, { stroke: "#000000", from: 0, to: Math.PI / 2 });
  assert.match(painter.marks[0], /d="M10 0A10 10 0 0 0 0 -10"/);
});

test("titles and labels cannot leave their elements", () => {
  const painter = new SvgPainter(10, 10, "#ffffff", "</title><script>alert(1)</script>");
  painter.text(1, 1, `"><script>`, { color: "#000000" });
  assert.ok(!String(painter).includes("<script>"));
});
