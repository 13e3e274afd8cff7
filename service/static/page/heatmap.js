// A matrix (T, W) as colours on a canvas: time runs to the right, units or features downwards. One pixel of the canvas
// is one value and the browser enlarges it, so 500 × 128 values are drawn in a few milliseconds and moving costs nothing.

import { inkOn, onThemeChange, scale } from "./colours.js";
import { el, fixed } from "./dom.js";
import { background, saveCanvas } from "./figure.js";

const MIN_TEXT_WIDTH = 38;

// `options`: label, rowName and columnName (what they are), height, onpick(step, row), range: how large a value has full
// colour.
export class HeatMap {
  constructor(options) {
    this.options = { height: 200, rowName: "unit", columnName: "step", ...options };
    this.canvas = el("canvas", { role: "img", "aria-label": options.label });
    this.numbers = el("div", { class: "cells", "aria-hidden": "true" });
    this.column = el("div", { class: "column", "aria-hidden": "true" });
    this.rowMark = el("div", { class: "row-mark", "aria-hidden": "true" });
    this.stage = el("div", { class: "heat" }, this.canvas, this.numbers, this.column, this.rowMark);
    this.stage.style.height = `${this.options.height}px`;
    this.foot = el("div", { class: "legend heat-legend" });
    this.node = el("div", { class: "chart-box" }, el("div", { class: "heat-frame" },
      el("span", { class: "axis-y", "aria-hidden": "true" }, this.options.columnName === "step" ? this.options.rowName : ""), this.stage), this.foot);
    this.stage.addEventListener("pointermove", (event) => this.readOut(...this.placeOf(event)));
    this.stage.addEventListener("pointerleave", () => this.readOut(this.step, this.row));
    this.stage.addEventListener("click", (event) => this.options.onpick?.(...this.placeOf(event)));
    new ResizeObserver(() => this.drawNumbers()).observe(this.stage);
    onThemeChange(() => this.values && this.draw());
  }

  setData(values, width, { range } = {}) {
    Object.assign(this, { values, width, steps: values.length / width });
    this.range = range || this.options.range || values.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-9);
    this.drawFoot();
    this.draw();
  }

  setCursor(step, row = null) {
    Object.assign(this, { step, row });
    place(this.column, "left", "width", step, this.steps);
    place(this.rowMark, "top", "height", row, this.width);
    this.readOut(step, row);
  }

  at(step, row) {
    return this.values[step * this.width + row];
  }

  draw() {
    const { canvas, steps, width, values, range } = this;
    const colourOf = scale();
    canvas.width = steps;
    canvas.height = width;
    const context = canvas.getContext("2d");
    const picture = context.createImageData(steps, width);
    for (let step = 0; step < steps; step++) {
      for (let row = 0; row < width; row++) {
        const [r, g, b] = colourOf(values[step * width + row] / range);
        picture.data.set([r, g, b, 255], (row * steps + step) * 4);
      }
    }
    context.putImageData(picture, 0, 0);
    this.drawNumbers();
  }

  // The values themselves, where there is room to write them.
  drawNumbers() {
    if (!this.values) return;
    const { steps, width, range } = this;
    const room = this.stage.clientWidth / steps >= MIN_TEXT_WIDTH && this.options.height / width >= 17;
    this.numbers.hidden = !room;
    if (!room) return;
    const colourOf = scale();
    this.numbers.style.gridTemplate = `repeat(${width}, 1fr) / repeat(${steps}, 1fr)`;
    this.numbers.replaceChildren(
      ...Array.from({ length: width * steps }, (_, index) => {
        const value = this.at(index % steps, Math.floor(index / steps));
        const cell = el("span", {}, fixed(value, 2));
        cell.style.color = inkOn(colourOf(value / range));
        return cell;
      }),
    );
  }

  drawFoot() {
    this.reading = el("span", { class: "place" });
    this.foot.replaceChildren(this.reading, el("span", { class: "ramp-box" }, fixed(-this.range, 2),
      el("span", { class: "ramp", "aria-hidden": "true" }), fixed(this.range, 2)));
    this.readOut(this.step, this.row);
  }

  readOut(step, row) {
    if (!this.reading) return;
    const known = step !== null && step !== undefined && step >= 0 && step < this.steps && row !== null && row < this.width;
    const { rowName, columnName } = this.options;
    const rowText = this.width > 1 ? `, ${rowName} ${row + 1}` : "";
    this.reading.textContent = known ? `${columnName} ${step + 1}${rowText}: ${fixed(this.at(step, row))}` : "";
  }

  placeOf(event) {
    const box = this.stage.getBoundingClientRect();
    const index = (at, size, count) => Math.min(count - 1, Math.max(0, Math.floor((at / size) * count)));
    return [index(event.clientX - box.left, box.width, this.steps), index(event.clientY - box.top, box.height, this.width)];
  }

  savePng(name) {
    const large = el("canvas", { width: Math.max(800, this.steps * 4), height: Math.max(400, this.width * 8) });
    const context = large.getContext("2d");
    context.fillStyle = background();
    context.fillRect(0, 0, large.width, large.height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.canvas, 0, 0, large.width, large.height);
    saveCanvas(large, name);
  }
}

function place(mark, side, extent, index, count) {
  mark.hidden = index === null || index === undefined || index >= count;
  if (mark.hidden) return;
  mark.style[side] = `${(index / count) * 100}%`;
  mark.style[extent] = `${100 / count}%`;
}
