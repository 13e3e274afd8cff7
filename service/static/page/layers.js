// What the layers computed: hidden states over time as a heat map, then the last hidden state, logits and probabilities.

import { BarChart } from "./barchart.js";
import { el } from "./dom.js";
import { figure } from "./figure.js";
import { HeatMap } from "./heatmap.js";
import { Matrix, argmax } from "./trace.js";

const GATE_NAMES = [["hidden", "Hidden"], ["cell", "Cell state"], ["forget", "Forget gate"], ["input", "Input gate"],
  ["candidate", "Candidate"], ["output", "Output gate"]];

const HANDED_ON = "What the LSTM hands on: one number a unit, after the last step.";
const CHANGED = "By how much your changes moved what the LSTM hands on; blue is up, orange down.";
const STATES = "Each column is a time step, each row a unit; blue is above zero, orange below.";
const CHANGED_STATES = "By how much your changes moved each unit at each time step; blue is up, orange down.";

export class Layers {
  constructor(app) {
    this.app = app;
    const pick = (step, unit) => app.set({ step: step + 1, unit: unit + 1 });
    this.states = new HeatMap({ label: "Hidden states over time", height: 300, onpick: pick });
    this.what = el("select", { "aria-label": "Values shown", onchange: () => app.set({ values: this.what.value }) },
      ...GATE_NAMES.map(([value, text]) => el("option", { value }, text)));
    this.last = new HeatMap({ label: "Last hidden state", height: 44, columnName: "unit" });
    this.logits = new BarChart({ label: "Logits" });
    this.softmax = new BarChart({ label: "Probabilities after softmax" });
    this.statesFigure = figure("The network's state over time", STATES, this.states, { class: "card" });
    this.statesFigure.querySelector(".saves").prepend(this.what);
    this.lastFigure = figure("Last hidden state", HANDED_ON, this.last, { class: "card" });
    this.tail = el("div", { class: "grid" }, this.lastFigure,
      figure("Logits", "A weighted sum of the last hidden state for each class.", this.logits, { class: "card span-6" }),
      figure("Softmax", "Logits as shares of one: exponentials, scaled.", this.softmax, { class: "card span-6" }));
  }

  // `difference`: show by how much each value changed.
  show({ trace, before, layer, difference }) {
    const what = this.app.state.values || "hidden";
    this.what.value = what;
    const from = (source) => matrixOf(source.layers[layer], what);
    const matrix = difference ? from(trace).minus(from(before)) : from(trace);
    this.states.setData(matrix.values, matrix.columns, { range: difference || what === "cell" ? undefined : 1 });
    const last = difference ? new Matrix(trace.lastHidden, trace.lastHidden.length).minus(new Matrix(before.lastHidden, 1)).values : trace.lastHidden;
    this.last.setData(last, 1, { range: difference ? undefined : 1 });
    this.last.setCursor(null);
    this.lastFigure.querySelector(".note").textContent = difference ? CHANGED : HANDED_ON;
    this.statesFigure.querySelector(".note").textContent = `${difference ? CHANGED_STATES : STATES} Click one to look inside.`;
    const bars = (values, old) => trace.labels.map((name, index) =>
      ({ name, value: values[index], before: old?.[index], strong: index === argmax(trace.probabilities) }));
    this.logits.setData(bars(trace.logits, before?.logits));
    this.softmax.setData(bars(trace.probabilities, before?.probabilities), { range: [0, 1] });
  }

  setCursor(step, unit) {
    this.states.setCursor(step, unit);
  }
}

function matrixOf(layer, what) {
  const gate = ["input", "forget", "candidate", "output"].indexOf(what);
  return gate < 0 ? layer[what] : layer.gates[gate];
}
