// Lines over steps, epochs or seconds, in SVG: with a cursor, a legend that reads out the values under it, and marks.

import { el, fixed, svg } from "./dom.js";
import { savePng, saveSvg } from "./figure.js";

const MARGIN = { top: 20, right: 14, bottom: 26, left: 46 };

// `options`: label (for screen readers), height, xName, format (of values), first (the number of index 0), onpick.
// A series is {name, values, colour (0 to 8), dashed, faint}; colour `null` is the ink.
export class LineChart {
  constructor(options) {
    this.options = { height: 220, first: 1, xName: "step", format: fixed, ...options };
    this.series = [];
    this.marks = [];
    this.cursor = null;
    this.svg = svg("svg", { class: "chart", role: "img", "aria-label": options.label, height: this.options.height });
    this.legend = el("div", { class: "legend" });
    this.node = el("div", { class: "chart-box" }, this.svg, this.legend);
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => this.readOut(this.cursor));
    this.svg.addEventListener("click", (event) => this.options.onpick?.(this.indexAt(event)));
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  // `range`: [lowest, highest] of the y axis; without one it follows the values.
  setData(series, { range, marks = [], labels } = {}) {
    Object.assign(this, { series, marks, labels, range: range || spread(series) });
    this.count = Math.max(0, ...series.map((one) => one.values.length));
    this.drawLegend();
    this.draw();
  }

  setCursor(index) {
    this.cursor = index;
    this.placeCursor();
    this.readOut(index);
  }

  saveSvg(name) {
    saveSvg(this.svg, name, [...this.legend.querySelectorAll(".entry")]);
  }

  savePng(name) {
    return savePng(this.svg, name, [...this.legend.querySelectorAll(".entry")]);
  }

  x(index) {
    const width = this.width - MARGIN.left - MARGIN.right;
    return MARGIN.left + (this.count > 1 ? (index / (this.count - 1)) * width : width / 2);
  }

  y(value) {
    const [low, high] = this.range;
    return MARGIN.top + ((high - value) / (high - low)) * (this.options.height - MARGIN.top - MARGIN.bottom);
  }

  valueAt(event) {
    const [low, high] = this.range;
    const share = (event.clientY - this.svg.getBoundingClientRect().top - MARGIN.top) /
      (this.options.height - MARGIN.top - MARGIN.bottom);
    return high - Math.min(1, Math.max(0, share)) * (high - low);
  }

  indexAt(event) {
    const share = (event.clientX - this.svg.getBoundingClientRect().left - MARGIN.left) /
      (this.width - MARGIN.left - MARGIN.right);
    return Math.min(this.count - 1, Math.max(0, Math.round(share * (this.count - 1))));
  }

  draw() {
    this.width = this.node.clientWidth;
    if (!this.width || !this.range) return;
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.options.height}`);
    this.line = svg("line", { class: "cursor", y1: MARGIN.top, y2: this.options.height - MARGIN.bottom });
    this.svg.replaceChildren(...this.drawAxes(), ...this.marks.flatMap((mark) => this.drawMark(mark)),
      ...this.series.map((one) => this.drawLine(one)), this.line, ...(this.options.decorate?.(this) || []));
    this.placeCursor();
  }

  drawAxes() {
    const right = this.width - MARGIN.right, bottom = this.options.height - MARGIN.bottom;
    const parts = ticks(this.range).flatMap((value) => [
      svg("line", { class: "grid-line", x1: MARGIN.left, x2: right, y1: this.y(value), y2: this.y(value) }),
      svg("text", { class: "tick", x: MARGIN.left - 6, y: this.y(value) + 4, "text-anchor": "end" }, tickText(value)),
    ]);
    for (const index of indexTicks(this.count, (right - MARGIN.left) / 46)) {
      parts.push(svg("text", { class: "tick", x: this.x(index), y: bottom + 17, "text-anchor": "middle" }, this.nameOf(index)));
    }
    return parts;
  }

  drawLine({ values, colour, dashed, faint }) {
    const shape = [];
    values.forEach((value, index) => {
      if (!Number.isFinite(value)) return;
      const joined = index && Number.isFinite(values[index - 1]);
      shape.push(`${joined ? "L" : "M"}${this.x(index).toFixed(1)} ${this.y(value).toFixed(1)}`);
    });
    const dot = values.length === 1 && shape.length ? "h.01" : "";
    return svg("path", { class: `line ${ink(colour)} ${faint ? "faint" : ""} ${dot && "dot"}`,
      d: shape.join("") + dot, "stroke-dasharray": dashed ? "4 4" : colour > 5 ? "9 3" : null });
  }

  // A vertical line with a word above it; the word keeps inside.
  drawMark({ index, text }) {
    const x = this.x(index), late = x > this.width * 0.6;
    return [
      svg("line", { class: "mark-line", x1: x, x2: x, y1: MARGIN.top, y2: this.options.height - MARGIN.bottom }),
      svg("text", { class: "mark-text", x: x + (late ? 4 : -4), y: MARGIN.top - 6,
        "text-anchor": late ? "end" : "start" }, text),
    ];
  }

  drawLegend() {
    this.place = el("span", { class: "place" });
    this.reads = this.series.map(() => el("span", { class: "read" }));
    const entries = this.series.map(({ name, colour, dashed, hidden }, index) => hidden ? null :
      el("span", { class: `entry ${ink(colour)} ${dashed ? "dashed" : ""}` },
        el("span", { class: "key", "aria-hidden": "true" }), `${name} `, this.reads[index]));
    this.legend.replaceChildren(this.place, ...entries.filter(Boolean));
    this.readOut(this.cursor);
  }

  hover(event) {
    if (this.count) this.readOut(this.indexAt(event));
  }

  readOut(index) {
    if (!this.place) return;
    const known = index !== null && index < this.count;
    this.place.textContent = known ? `${this.options.xName} ${this.nameOf(index)}` : "";
    this.series.forEach(({ values }, row) => {
      const value = known ? values[index] : null;
      this.reads[row].textContent = Number.isFinite(value) ? this.options.format(value) : "";
    });
  }

  nameOf(index) {
    return this.labels ? this.labels[index] : String(index + this.options.first);
  }

  placeCursor() {
    if (!this.line) return;
    const shown = this.cursor !== null && this.cursor < this.count;
    this.line.setAttribute("visibility", shown ? "visible" : "hidden");
    if (shown) for (const end of ["x1", "x2"]) this.line.setAttribute(end, this.x(this.cursor));
  }
}

function ink(colour) {
  return colour === null || colour === undefined ? "ink" : `c${colour}`;
}

function spread(series) {
  let low = Infinity, high = -Infinity;
  for (const { values } of series) {
    for (const value of values) {
      if (!Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  if (low > high) return [0, 1];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

// About five round numbers within `range`.
export function ticks([low, high]) {
  const rough = (high - low) / 4;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step) found.push(at);
  return found;
}

function tickText(value) {
  return String(Number(value.toPrecision(6))).replace("-", "−");
}

function indexTicks(count, most) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].find((one) => count / one <= most) || count;
  const found = [];
  for (let index = step === 1 ? 0 : step - 1; index < count; index += step) found.push(index);
  return found;
}
