// Horizontal bars with a name and a value each, from zero to either side, in SVG.

import { fixed, svg } from "./dom.js";
import { savePng, saveSvg } from "./figure.js";

const LABEL_WIDTH = 118, VALUE_WIDTH = 58, ROW = 26;

// `options`: label; format. A bar is {name, value, before (drawn as an outline), strong}.
export class BarChart {
  constructor(options) {
    this.options = { format: fixed, labelWidth: LABEL_WIDTH, row: ROW, ...options };
    this.svg = svg("svg", { class: "chart bars", role: "img" });
    this.node = document.createElement("div");
    this.node.className = "chart-box";
    this.node.append(this.svg);
    this.bars = [];
    new ResizeObserver(() => this.draw()).observe(this.node);
  }

  // `range`: [lowest, highest]; zero is always within.
  setData(bars, { range } = {}) {
    const all = bars.flatMap((bar) => [bar.value, bar.before ?? 0]);
    Object.assign(this, { bars, range: range || [Math.min(0, ...all), Math.max(0, ...all)] });
    const { label, format } = this.options;
    this.svg.setAttribute("aria-label", `${label}: ${bars.map((bar) => `${bar.name} ${format(bar.value)}`).join(", ")}`);
    this.svg.setAttribute("height", bars.length * this.options.row + 4);
    this.draw();
  }

  draw() {
    const width = this.node.clientWidth;
    if (!width || !this.range) return;
    const { row, labelWidth } = this.options;
    const [low, high] = this.range;
    const room = width - labelWidth - VALUE_WIDTH;
    const x = (value) => labelWidth + ((value - low) / (high - low || 1)) * room;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${this.bars.length * row + 4}`);
    this.svg.replaceChildren(
      ...this.bars.map((bar, index) => this.drawBar(bar, index * row + 2, x, width)),
      svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: this.bars.length * row + 4 }),
    );
  }

  drawBar(bar, top, x, width) {
    const { row, format } = this.options;
    const span = (value) => ({ x: Math.min(x(0), x(value)), width: Math.max(1, Math.abs(x(value) - x(0))) });
    const middle = top + row / 2 + 1;
    const name = bar.name.length > 15 ? `${bar.name.slice(0, 14)}…` : bar.name;
    return svg("g", { class: `bar ${bar.strong ? "strong" : ""}` },
      svg("title", {}, `${bar.name}: ${format(bar.value)}`),
      svg("text", { class: "bar-name", x: this.options.labelWidth - 8, y: middle, "text-anchor": "end",
        "dominant-baseline": "middle" }, name),
      svg("rect", { class: `fill ${bar.value < 0 ? "below" : ""}`, y: top + 4, height: row - 8, rx: 2, ...span(bar.value) }),
      bar.before === undefined ? null : svg("rect", { class: "before", y: top + 2, height: row - 4, ...span(bar.before) }),
      svg("text", { class: "bar-value", x: width - 2, y: middle, "text-anchor": "end",
        "dominant-baseline": "middle" }, format(bar.value)));
  }

  saveSvg(name) {
    saveSvg(this.svg, name);
  }

  savePng(name) {
    return savePng(this.svg, name);
  }
}
