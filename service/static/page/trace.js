// A trace: what every layer computed for one sequence, fetched as binary tensors.

import * as api from "./api.js";
import { shapeText } from "./dom.js";

export const GATES = ["input_gate", "forget_gate", "cell_candidate", "output_gate"];

// The LSTM layers of a model: name in the pipeline, suffix of its gates' names, output that holds its hidden states.
export function lstmLayers({ num_layers: count }) {
  if (count === 1) return [{ name: "lstm", suffix: "", hidden: "hidden_states" }];
  return Array.from({ length: count }, (_, index) => ({
    name: `lstm_${index}`,
    suffix: `_${index}`,
    hidden: index === count - 1 ? "hidden_states" : `hidden_states_${index}`,
  }));
}

export function traceOutputs(manifest) {
  const layers = lstmLayers(manifest);
  return [
    "probabilities", "logits", "last_hidden", "step_probabilities",
    ...layers.map((layer) => layer.hidden),
    ...layers.flatMap(({ suffix }) => [...GATES, "cell_state"].map((name) => name + suffix)),
  ];
}

// A matrix of floats: `columns` wide, one row a time step.
export class Matrix {
  constructor(values, columns) {
    this.values = values;
    this.columns = columns;
    this.steps = values.length / columns;
  }

  at(step, column) {
    return this.values[step * this.columns + column];
  }

  column(index) {
    return Float32Array.from({ length: this.steps }, (_, step) => this.at(step, index));
  }

  minus(other) {
    return new Matrix(this.values.map((value, index) => value - (other.values[index] ?? 0)), this.columns);
  }
}

export class Trace {
  constructor(sequence, manifest, tensors) {
    this.sequence = sequence;
    this.labels = manifest.labels;
    this.probabilities = tensors.get("probabilities").values;
    this.logits = tensors.get("logits").values;
    this.lastHidden = tensors.get("last_hidden").values;
    const matrix = (name) => new Matrix(tensors.get(name).values, tensors.get(name).shape.at(-1));
    this.stepProbabilities = matrix("step_probabilities");
    this.layers = lstmLayers(manifest).map(({ name, suffix, hidden }) => ({
      name,
      hidden: matrix(hidden),
      cell: matrix(`cell_state${suffix}`),
      gates: GATES.map((gate) => matrix(gate + suffix)),
    }));
  }

  get answer() {
    return argmax(this.probabilities);
  }

  // The first step from which on the most probable class stays what it is in the end.
  get settled() {
    let step = this.sequence.steps - 1;
    while (step > 0 && this.answerAt(step - 1) === this.answer) step--;
    return step;
  }

  answerAt(step) {
    const { values, columns } = this.stepProbabilities;
    return argmax(values.subarray(step * columns, (step + 1) * columns));
  }
}

export async function fetchTrace(target, manifest, sequence) {
  return new Trace(sequence, manifest, await api.infer(target, [sequence], traceOutputs(manifest)));
}

export function argmax(values) {
  return values.indexOf(Math.max(...values));
}

export function exampleName(example, index) {
  return `${index + 1}: ${example.label}, ${shapeText([example.sequence.length, example.sequence[0].length])}`;
}
