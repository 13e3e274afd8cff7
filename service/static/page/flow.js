// Data flow: the pipeline of the model as connected stages, with the shapes of a real batch that has gone through it.

import * as api from "./api.js";
import { BarChart } from "./barchart.js";
import { el, field, fixed, heading, select, shapeText, showError } from "./dom.js";
import { HeatMap } from "./heatmap.js";
import { figure } from "./figure.js";
import { Sequence } from "./sequence.js";
import { indexOf } from "./state.js";
import { argmax, exampleName, lstmLayers } from "./trace.js";

const MOST = 256, USUAL = 100, BARS = 16;

export function createFlow(panel, app) {
  const batch = el("input", { type: "number", min: 1, max: MOST, value: USUAL,
    onchange: () => app.set({ batch: batch.value }) });
  const example = select([], 0, { onchange: () =>
    app.set({ example: Number(example.value) + 1, sequence: undefined, edit: undefined, step: undefined }) });
  const error = el("p", { class: "error", role: "alert", hidden: true });
  const chain = el("ol", { class: "chain", "aria-label": "Shapes from input to answer" });
  const note = el("p", { class: "note" });
  const stages = el("ol", { class: "stages" });
  panel.append(
    heading("From a sequence to an answer", "A batch of sequences goes through these stages, each reads what the one before it gave. The shapes are those of the batch below, which the service has just computed."),
    el("div", { class: "row controls" }, field("Sequences in the batch", batch), field("Look at example", example)),
    error, chain, note, stages,
  );
  let drawn = "", turns = 0;

  async function show() {
    const turn = ++turns;
    const size = app.state.batch || USUAL;
    batch.value = size; // before anything is waited for: what is typed meanwhile stays
    const about = await app.about();
    if (turn !== turns) return; // something else has been asked for since, here as below
    const first = indexOf(app.state.example, about.examples.length);
    const wanted = [about.name, about.version, first, size].join();
    if (wanted === drawn) return;
    example.replaceChildren(...about.examples.map((one, index) => el("option", { value: index }, exampleName(one, index))));
    example.value = first;
    let failure = null;
    try {
      const { sequences, results } = await compute(about, first, size);
      if (turn !== turns) return;
      draw(about, sequences, results);
      drawn = wanted;
    } catch (caught) {
      if (turn !== turns) return;
      failure = caught;
      drawn = ""; // what was drawn before must take the error away
    }
    showError(error, failure);
    batch.setAttribute("aria-invalid", String(!error.hidden));
  }

  async function compute(about, first, typed) {
    const size = Number(typed);
    if (!(Number.isInteger(size) && size >= 1 && size <= MOST)) {
      throw new Error(`a batch of ${typed}: it must hold 1 to ${MOST} sequences`);
    }
    const all = about.examples.map((one) => Sequence.fromRows(one.sequence));
    const sequences = Array.from({ length: size }, (_, row) => all[(first + row) % all.length]);
    const hidden = lstmLayers(about.manifest).map((layer) => layer.hidden);
    const names = ["standardised", ...hidden, "last_hidden", "logits", "probabilities"];
    const tensors = await api.infer(app.target, sequences, names);
    const steps = Math.max(...sequences.map((one) => one.steps));
    const raw = { shape: [size, steps, all[0].features], values: sequences[0].values };
    return { sequences, results: [raw, ...names.map((name) => tensors.get(name))] };
  }

  function draw(about, sequences, results) {
    note.textContent = batchNote(sequences, results[0].shape[1], about.examples.length);
    chain.replaceChildren(...links(about.pipeline, results.map(({ shape }) => shape.join("×"))));
    stages.replaceChildren(...about.pipeline.map((stage, index) =>
      drawStage({ stage, index, about, result: results[index], steps: sequences[0].steps })));
  }

  const request = () => ({ path: `v1/models/${app.state.model}/versions/${app.state.version}` });
  return { show, request };
}

function batchNote(sequences, steps, count) {
  const repeated = sequences.length > count ? `the model's ${count} held-out examples, repeated` : "held-out examples of the model";
  const ragged = sequences.some((one) => one.steps !== steps);
  return `The batch: ${repeated}. ${ragged ? `Shorter sequences are padded to ${steps} steps; padding never changes a result. ` : ""}The values are those of the example that you look at.`;
}

// The chain of shapes: a link for each that differs from the one before it.
function links(pipeline, shapes) {
  const kept = pipeline.map(({ name }, index) => ({ name, shape: shapes[index] }))
    .filter(({ shape }, index) => shape !== shapes[index - 1] || pipeline[index].name.startsWith("lstm"));
  return kept.map(({ name, shape }) =>
    el("li", {}, el("a", { href: `#stage-${name}`, onclick: (event) => jump(event, name) },
      el("strong", { class: "shape" }, shape), el("span", {}, name === "linear" ? "Logits, probabilities" : titleOf(name)))));
}

function jump(event, name) {
  event.preventDefault();
  const card = document.getElementById(`stage-${name}`);
  card.scrollIntoView({ block: "center" });
  card.focus({ preventScroll: true });
}

function drawStage({ stage, index, about, result, steps }) {
  const axes = stage.shape.map((size) => ({ B: "batch", T: "time" })[size] || axisOf(stage.name));
  const shape = el("p", { class: "stage-shape", "aria-label": shapeText(result.shape) },
    ...result.shape.map((size, axis) => el("span", {}, el("strong", { class: "shape" }, size), el("small", {}, axes[axis]))));
  const words = el("div", { class: "stage-words" }, el("h3", {}, titleOf(stage.name)),
    el("p", {}, sentence(stage, about.manifest)), shape);
  return el("li", { id: `stage-${stage.name}`, class: "stage card", tabindex: "-1" },
    el("span", { class: "stage-number", "aria-hidden": "true" }, index + 1), words, sample(stage, result, steps, about));
}

function axisOf(name) {
  if (name.startsWith("lstm") || name === "last_hidden") return "hidden size";
  return name === "linear" || name === "softmax" ? "classes" : "features";
}

export function titleOf(name) {
  const titles = { input_sequence: "Input sequence", standardised: "Standardise", last_hidden: "Last hidden state",
    linear: "Linear: logits", softmax: "Softmax: probabilities" };
  return titles[name] || name.replace(/^lstm_?/, (_) => (name === "lstm" ? "LSTM" : "LSTM layer "));
}

function sentence({ name, description }, { input_size, hidden_size, labels, bidirectional }) {
  const width = hidden_size * (bidirectional ? 2 : 1);
  const both = bidirectional ? " A second LSTM reads from the end to the start, and both summaries stand side by side." : "";
  const words = {
    input_sequence: `The sequence as it came: one row for each time step, ${input_size} measured values in each.`,
    standardised: "Each feature minus its mean in the training data, over its deviation there, so that all of them count alike.",
    last_hidden: `Only the hidden state at a sequence's last step goes on: ${width} numbers that sum up all of it. The time axis is gone.`,
    linear: `For each of the ${labels.length} classes a score, called logit: a weighted sum of those ${width} numbers.`,
    softmax: "The scores become probabilities that add up to one; the class with the highest is the answer.",
  };
  if (/^lstm(_0)?$/.test(name)) {
    return `Reads the steps in order. At each it decides what to forget and what to keep, and gives ${hidden_size} numbers, the hidden state: its summary of all it has read so far.${both}`;
  }
  if (name.startsWith("lstm")) return `Reads the hidden states of the layer below in the same way, and gives ${hidden_size} numbers a step of its own.${both}`;
  return words[name] || description;
}

// A picture of the first sequence's values.
function sample(stage, { shape, values }, steps, { manifest }) {
  const width = shape.at(-1);
  const title = `${titleOf(stage.name)}: values`;
  if (shape.length === 3) {
    const map = new HeatMap({ label: `${title}, ${steps} steps of ${width}`, height: Math.min(200, Math.max(90, width * 20)),
      rowName: axisOf(stage.name) === "features" ? "feature" : "unit" });
    map.setData(values.subarray(0, steps * width), width);
    map.setCursor(null);
    return figure(title, "", map, { class: "sample" });
  }
  const row = Array.from(values.subarray(0, width));
  const names = axisOf(stage.name) === "classes" ? manifest.labels : row.map((_, unit) => `unit ${unit + 1}`);
  const bars = new BarChart({ label: title, row: width > 6 ? 20 : 26 });
  const best = argmax(row);
  const kept = row.map((value, index) => ({ name: names[index], value, strong: stage.name === "softmax" && index === best }));
  bars.setData(kept.slice(0, BARS), { range: stage.name === "softmax" ? [0, 1] : undefined });
  const rest = width > BARS ? `The first ${BARS} of ${width}; the largest is ${fixed(Math.max(...row))}.` : "";
  return figure(title, rest, bars, { class: "sample" });
}
