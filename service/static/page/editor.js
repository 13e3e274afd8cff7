// The input, to look at and to change: draw a feature with the mouse, move its value at a step with the arrow keys, or
// type a number.

import { el, field, fixed, segments, select, svg } from "./dom.js";
import { figure } from "./figure.js";
import { HeatMap } from "./heatmap.js";
import { LineChart } from "./linechart.js";
import { formatEdits, parseEdits, shortest } from "./sequence.js";
import { indexOf } from "./state.js";

const MOST_POINTS = 120;

export class Editor {
  constructor(app) {
    this.app = app;
    this.lines = new LineChart({ label: "Input sequence", height: 240, decorate: (chart) => this.points(chart) });
    this.map = new HeatMap({ label: "Input sequence as a heat map", height: 240, rowName: "feature",
      onpick: (step, feature) => app.set({ step: step + 1, feature: feature + 1 }) });
    this.feature = select([], 0, { onchange: () => app.set({ feature: Number(this.feature.value) + 1 }) });
    this.value = el("input", { type: "number", step: "any", onchange: () => this.type() });
    this.reset = el("button", { type: "button", class: "quiet", onclick: () => app.set({ edit: undefined, show: undefined }) }, "Undo changes");
    this.changed = el("span", { class: "chip info" });
    this.kinds = segments("Input as", [["lines", "Lines"], ["map", "Heat map"]], "lines", (kind) => this.as(kind));
    this.linesFigure = figure("Input", "Drag the coloured line to draw; with the keyboard, ← → choose a step and ↑ ↓ change its value.", this.lines);
    this.mapFigure = figure("Input", "Each column is a time step, each row a feature; click a value to choose it.", this.map);
    this.node = el("div", { class: "stack tight" }, this.linesFigure, this.mapFigure,
      el("div", { class: "row" }, field("Feature", this.feature), this.valueField = field("Value at step 1", this.value),
        this.reset, this.changed));
    this.as("lines");
    this.listen();
  }

  as(kind) {
    this.linesFigure.hidden = kind !== "lines";
    this.mapFigure.hidden = kind === "lines";
    const shown = kind === "lines" ? this.linesFigure : this.mapFigure;
    shown.querySelector(".saves").prepend(this.kinds);
  }

  // `original` is the sequence before the changes.
  show({ sequence, original }) {
    Object.assign(this, { sequence, original });
    const { features } = sequence;
    this.at = indexOf(this.app.state.feature, features);
    if (this.feature.options.length !== features) {
      this.feature.replaceChildren(...Array.from({ length: features }, (_, index) => el("option", { value: index }, index + 1)));
    }
    this.feature.value = this.at;
    this.draw();
    this.map.setData(sequence.values, features);
    this.edits = parseEdits(this.app.state.edit);
    this.reset.disabled = !this.edits.size;
    this.changed.textContent = this.edits.size ? `${this.edits.size} ${this.edits.size === 1 ? "value" : "values"} changed` : "";
    this.changed.hidden = !this.edits.size;
  }

  draw() {
    const { sequence, original, at } = this;
    const others = Array.from({ length: sequence.features }, (_, feature) => feature).filter((feature) => feature !== at);
    const series = others.map((feature) => ({ name: `feature ${feature + 1}`, values: sequence.column(feature), colour: null, faint: true, hidden: true }));
    if (this.app.state.edit) series.push({ name: "before", values: original.column(at), colour: 1, dashed: true });
    series.push({ name: `feature ${at + 1}`, values: sequence.column(at), colour: 0 });
    if (!this.drawing) this.reach = reachOf(original, sequence);
    this.lines.setData(series, { range: this.reach });
    this.lines.svg.setAttribute("aria-valuemin", this.reach[0]);
    this.lines.svg.setAttribute("aria-valuemax", this.reach[1]);
  }

  // Dots to hold on to.
  points(chart) {
    const column = this.sequence?.column(this.at) || [];
    if (column.length > MOST_POINTS) return [];
    return Array.from(column, (value, step) => svg("circle", { class: "point", r: 4.5, cx: chart.x(step), cy: chart.y(value) }));
  }

  setCursor(step) {
    this.step = step;
    this.lines.setCursor(step);
    this.map.setCursor(step, this.at);
    const value = this.sequence.at(step, this.at);
    this.valueField.firstChild.textContent = `Value at step ${step + 1}`;
    if (document.activeElement !== this.value) this.value.value = shortest(value);
    const { svg: knob } = this.lines;
    knob.setAttribute("aria-valuenow", fixed(value).replace("−", "-"));
    knob.setAttribute("aria-valuetext", `feature ${this.at + 1}, step ${step + 1}: ${fixed(value)}`);
  }

  listen() {
    const { svg: knob } = this.lines;
    knob.setAttribute("tabindex", "0");
    knob.setAttribute("role", "slider");
    knob.classList.add("editable");
    knob.addEventListener("keydown", (event) => this.press(event));
    knob.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      knob.focus({ preventScroll: true });
      knob.setPointerCapture(event.pointerId);
      this.drawing = { step: null };
      this.drag(event);
    });
    knob.addEventListener("pointermove", (event) => this.drawing && this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) knob.addEventListener(end, () => (this.drawing = null));
  }

  // Set the value under the pointer, and those of the steps that it passed since the last time.
  drag(event) {
    const step = this.lines.indexAt(event), value = this.lines.valueAt(event);
    const from = this.drawing.step ?? step, start = this.drawing.value ?? value;
    const changes = [];
    for (let at = Math.min(from, step); at <= Math.max(from, step); at++) {
      const share = step === from ? 1 : (at - from) / (step - from);
      changes.push([at, rounded(start + (value - start) * share)]);
    }
    this.drawing = { step, value };
    this.change(changes, step);
  }

  press(event) {
    const [low, high] = this.reach;
    const nudge = (high - low) * (event.shiftKey ? 0.1 : 0.02);
    const { steps } = this.sequence;
    const step = indexOf(this.app.state.step, steps, steps - 1); // not what is drawn: keys come faster than answers
    const target = { ArrowLeft: step - 1, ArrowRight: step + 1, Home: 0, End: steps - 1 }[event.key];
    const raised = { ArrowUp: nudge, ArrowDown: -nudge }[event.key];
    if (target !== undefined) this.app.set({ step: indexOf(target + 1, steps) + 1 });
    else if (raised) this.change([[step, rounded(this.pending(step) + raised)]], step);
    else return;
    event.preventDefault();
  }

  // The value at `step` of this feature after all changes, of which the last need not have been answered yet.
  pending(step) {
    return parseEdits(this.app.state.edit).get(`${step}:${this.at}`) ?? this.original.at(step, this.at);
  }

  type() {
    if (this.value.value === "") return;
    const value = Math.fround(Number(this.value.value));
    this.value.setCustomValidity(Number.isFinite(value) ? "" : "larger than a 32-bit float can be");
    if (this.value.reportValidity()) this.change([[this.step, value]], this.step);
  }

  change(values, step) {
    const edits = parseEdits(this.app.state.edit);
    for (const [at, value] of values) edits.set(`${at}:${this.at}`, shortest(Math.fround(value)));
    this.app.set({ edit: formatEdits(edits), step: step + 1 });
  }
}

// What is drawn or nudged has no more digits than can be meant.
function rounded(value) {
  return Number(value.toPrecision(4));
}

// The range of the chart: what the sequence holds, with room to draw beyond it.
function reachOf(...sequences) {
  const all = sequences.flatMap(({ values }) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))]);
  const low = Math.min(...all), high = Math.max(...all);
  const room = (high - low || 1) * 0.25;
  return [low - room, high + room];
}
