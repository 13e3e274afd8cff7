// The answer, and how it came about over time: what the model would have said if the sequence had ended earlier.

import { BarChart } from "./barchart.js";
import { el, fixed } from "./dom.js";
import { figure } from "./figure.js";
import { LineChart } from "./linechart.js";

const COLOURS = 9;

// The class that was found, whether it is true, and all probabilities.
export class Answer {
  constructor() {
    this.label = el("strong", { class: "answer-label" });
    this.confidence = el("span", { class: "answer-share number" });
    this.truth = el("span", { class: "chip" });
    this.when = el("p", { class: "when" });
    this.before = el("p", { class: "note before-note" });
    this.bars = new BarChart({ label: "Probabilities" });
    this.node = el("div", { class: "stack tight" },
      el("div", { class: "answer", "aria-live": "polite" }, this.label, this.confidence, this.truth), this.when, this.before,
      figure("Probabilities", "How sure the model is of each class; together they make one.", this.bars));
  }

  show({ trace, before, truth }) {
    const name = trace.labels[trace.answer];
    this.label.textContent = name;
    this.confidence.textContent = fixed(trace.probabilities[trace.answer]);
    this.truth.textContent = truth === null ? "true class unknown" : truth === name ? "correct" : `true class: ${truth}`;
    this.truth.className = `chip ${truth === null ? "" : truth === name ? "good" : "bad"}`;
    this.when.textContent = moment(trace);
    this.before.textContent = before
      ? `Before your changes: ${before.labels[before.answer]}, ${fixed(before.probabilities[before.answer])}.`
      : "";
    this.bars.setData(
      trace.labels.map((label, index) => ({ name: label, value: trace.probabilities[index],
        before: before?.probabilities[index], strong: index === trace.answer })),
      { range: [0, 1] },
    );
  }
}

// `most`: how many classes get a colour and a place in the legend. Probabilities over time, with the step from which on the answer no longer changes.
export class Unfolding {
  constructor(title, { height = 250, most = COLOURS, onpick, ...props } = {}) {
    this.most = most;
    this.chart = new LineChart({ label: title, height, onpick });
    this.node = figure(title, "The probability of each class, had the sequence ended at that step.", this.chart, props);
  }

  show(trace, before) {
    const { columns } = trace.stepProbabilities;
    const shown = strongest(trace.stepProbabilities, this.most);
    const series = Array.from({ length: columns }, (_, index) => {
      const place = shown.indexOf(index);
      return { name: trace.labels[index], values: trace.stepProbabilities.column(index),
        colour: place < 0 ? null : index % COLOURS, faint: place < 0, hidden: place < 0 };
    });
    if (before) {
      const { answer } = before;
      series.push({ name: `${before.labels[answer]} before`, values: before.stepProbabilities.column(answer), colour: answer % COLOURS, dashed: true });
    }
    const { settled, answer, labels } = trace;
    this.chart.setData(series, { range: [0, 1], marks: [{ index: settled, text: `settled: ${labels[answer]}` }] });
  }

  setCursor(step) {
    this.chart.setCursor(step);
  }
}

export function moment({ settled, answer, labels, sequence }) {
  return settled === 0
    ? `From the first step on, ${labels[answer]} is the most probable class.`
    : `It makes up its mind at step ${settled + 1} of ${sequence.steps}: from there on, ${labels[answer]} stays the most probable class.`;
}

// The columns that at some step come highest, so many at most.
function strongest(matrix, most) {
  const peaks = Array.from({ length: matrix.columns }, (_, column) => [Math.max(...matrix.column(column)), column]);
  return peaks.sort((a, b) => b[0] - a[0]).slice(0, most).map(([, column]) => column);
}
