// Two sequences, or two versions of the model, side by side, at the same step.

import { BarChart } from "./barchart.js";
import { el, field, fixed, select } from "./dom.js";
import { figure } from "./figure.js";
import { HeatMap } from "./heatmap.js";
import { Sequence } from "./sequence.js";
import { exampleName, fetchTrace } from "./trace.js";
import { Unfolding } from "./verdict.js";

export class Compare {
  constructor(app) {
    this.app = app;
    this.choice = select([["", "nothing"]], "", { onchange: () => app.set({ compare: this.choice.value }) });
    this.picker = field("Compare with", this.choice);
    this.sides = [new Side("A", app), new Side("B", app)];
    this.node = el("section", { class: "stack tight", "aria-label": "Side by side", hidden: true },
      el("h2", {}, "Side by side"), el("div", { class: "grid" }, ...this.sides.map((side) => side.node)));
  }

  offer(about) {
    const { model, version } = this.app.target;
    const others = this.app.versionsOf(model).filter((one) => one !== version);
    const options = [["", "nothing"],
      ...others.map((one) => [`version:${one}`, `version ${one}, same sequence`]),
      ...about.examples.map((one, index) => [`example:${index + 1}`, `example ${exampleName(one, index)}`])];
    const shown = JSON.stringify(options);
    if (shown !== this.shown) this.choice.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
    this.shown = shown;
    this.choice.value = this.app.state.compare || "";
  }

  // The other side's {name, trace, truth}; null if there is none.
  async fetch(about, sequence, truth) {
    const [kind, value] = (this.app.state.compare || "").split(":");
    if (kind === "version") {
      const target = { ...this.app.target, version: value };
      const other = await this.app.about(target);
      return { name: `version ${value}`, truth, trace: await fetchTrace(target, other.manifest, sequence) };
    }
    const example = kind === "example" ? about.examples[value - 1] : null;
    if (!example) return null;
    const trace = await fetchTrace(this.app.target, about.manifest, Sequence.fromRows(example.sequence));
    return { name: `example ${value}`, truth: example.label, trace };
  }

  show(mine, other) {
    this.node.hidden = !other;
    this.other = other;
    if (!other) return;
    this.sides.forEach((side, index) => side.show([mine, other][index]));
  }

  setCursor(step) {
    if (this.other) for (const side of this.sides) side.setCursor(step);
  }
}

class Side {
  constructor(letter, app) {
    this.title = el("h3");
    this.answer = el("p", { class: "verdict" });
    this.bars = new BarChart({ label: `Probabilities, ${letter}`, row: 22 });
    this.unfolding = new Unfolding(`Had it ended earlier, ${letter}`, { height: 200, most: 4, onpick: (step) => app.set({ step: step + 1 }) });
    this.states = new HeatMap({ label: `Hidden states, ${letter}`, height: 180, range: 1 });
    this.letter = letter;
    this.node = el("div", { class: "card span-6 stack tight side" }, this.title, this.answer, this.bars.node, this.unfolding.node,
      figure(`Hidden states, ${letter}`, "Of the top layer.", this.states));
  }

  show({ name, trace, truth }) {
    this.steps = trace.sequence.steps;
    this.title.textContent = `${this.letter}: ${name}`;
    const label = trace.labels[trace.answer];
    this.answer.textContent = `${label}, ${fixed(trace.probabilities[trace.answer])}${truth === null ? "" : truth === label ? ", which is correct" : `; in truth ${truth}`}`;
    this.bars.setData(trace.labels.map((one, index) => ({ name: one, value: trace.probabilities[index], strong: index === trace.answer })), { range: [0, 1] });
    this.unfolding.show(trace);
    const { hidden } = trace.layers.at(-1);
    this.states.setData(hidden.values, hidden.columns);
  }

  setCursor(step) {
    const at = Math.min(step, this.steps - 1);
    this.unfolding.setCursor(at);
    this.states.setCursor(at);
  }
}
