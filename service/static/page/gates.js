// Inside one LSTM unit: its gates and its cell state over time, and the sum that it does at the chosen step, in numbers.

import { el, fixed } from "./dom.js";
import { figure } from "./figure.js";
import { LineChart } from "./linechart.js";

export class Gates {
  constructor(app) {
    const onpick = (step) => app.set({ step: step + 1 });
    this.gates = new LineChart({ label: "Gates over time", height: 210, onpick });
    this.memory = new LineChart({ label: "Cell state over time", height: 210, onpick });
    this.gatesFigure = figure("Gates of this unit", "Valves between 0, shut, and 1, open: how much to keep, to write, to show.", this.gates, { class: "card span-6" });
    this.memoryFigure = figure("What this unit remembers", "The cell state is its memory; the hidden state is what it shows of it.", this.memory, { class: "card span-6" });
    this.sum = el("div", { class: "sum", role: "group", "aria-label": "What this unit computes at this step" });
    this.title = el("h3");
    this.sumCard = el("div", { class: "card" }, this.title,
      el("p", { class: "note" }, "All that an LSTM unit does at a time step is these two lines, with the numbers of this step."), this.sum);
  }

  // `layer` of the trace and the same layer `before` the changes, if there were any.
  show(layer, before, unit, { units }) {
    Object.assign(this, { layer, unit });
    this.backward = unit >= units;
    const [input, forget, candidate, output] = layer.gates.map((gate) => gate.column(unit));
    const old = (matrix, colour) => before
      ? [{ name: "before", values: matrix.column(unit), colour, dashed: true, hidden: true }] : [];
    this.gates.setData([
      { name: "forget", values: forget, colour: 0 }, { name: "input", values: input, colour: 1 },
      { name: "output", values: output, colour: 2 },
      ...(before ? [1, 0, 3].flatMap((gate, colour) => old(before.gates[gate], colour)) : []),
    ], { range: [0, 1] });
    this.memory.setData([
      { name: "cell state", values: layer.cell.column(unit), colour: 3 },
      { name: "hidden state", values: layer.hidden.column(unit), colour: 5 },
      { name: "candidate", values: candidate, colour: 4, faint: true },
      ...(before ? [...old(before.cell, 3), ...old(before.hidden, 5)] : []),
    ]);
  }

  setCursor(step) {
    this.gates.setCursor(step);
    this.memory.setCursor(step);
    const { layer, unit, backward } = this;
    const [i, f, g, o] = layer.gates.map((gate) => gate.at(step, unit));
    const earlier = backward ? step + 1 : step - 1;
    const old = earlier >= 0 && earlier < layer.cell.steps ? layer.cell.at(earlier, unit) : 0;
    const now = layer.cell.at(step, unit);
    this.title.textContent = `Unit ${unit + 1} at step ${step + 1}${backward ? ", reading backwards" : ""}`;
    this.sum.replaceChildren(
      line("new memory", term("forget", "c0", f), "×", term("old memory", "c3", old), "+", term("input", "c1", i), "×",
        term("candidate", "c4", g), "=", term("cell state", "c3", now)),
      line("what it shows", term("output", "c2", o), "×", term("tanh(cell state)", "c3", Math.tanh(now)), "=",
        term("hidden state", "c5", layer.hidden.at(step, unit))),
    );
  }
}

function line(name, ...parts) {
  return el("p", { class: "sum-line" }, el("span", { class: "sum-name" }, name),
    ...parts.map((part) => (typeof part === "string" ? el("span", { class: "sum-sign" }, part) : part)));
}

function term(name, colour, value) {
  return el("span", { class: `term ${colour}` }, el("b", { class: "number" }, fixed(value)), el("small", {}, name));
}
