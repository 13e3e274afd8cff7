// Shape lab: which shapes an nn.LSTM gives, how many parameters it has, and which error it raises; and a quiz on them.

import * as api from "./api.js";
import { el, field, heading, newest, shapeText, showError, whole } from "./dom.js";
import { createQuiz } from "./quiz.js";

const SIZES = [
  ["input_size", "input_size: features a step", 5], ["hidden_size", "hidden_size: units", 8], ["num_layers", "num_layers", 1],
  ["sequence_length", "sequence length", 10], ["batch", "batch; empty: unbatched", 100], ["features", "features; empty: input_size", ""],
];
const FLAGS = [["bidirectional", false], ["batch_first", true], ["bias", true]];
const WORDS = {
  input: "what goes in",
  output: "the hidden state of the top layer at every time step",
  h_n: "the hidden state of every layer after its last step",
  c_n: "the cell state, the memory, of every layer after its last step",
};

export function createShapes(panel, app) {
  const controls = {};
  const form = el("form", { class: "lab-form", "aria-label": "Arguments of nn.LSTM", oninput: () => change(), onsubmit: (event) => event.preventDefault() });
  for (const [name, label, usual] of SIZES) {
    controls[name] = el("input", { type: "text", inputmode: "numeric", id: `lab-${name}`, value: usual, autocomplete: "off", "aria-describedby": "lab-error" });
    form.append(field(label, controls[name]));
  }
  const flags = el("div", { class: "row lab-flags" });
  for (const [name, usual] of FLAGS) {
    controls[name] = el("input", { type: "checkbox", id: `lab-${name}`, checked: usual });
    flags.append(el("label", { class: "choice", for: `lab-${name}` }, controls[name], el("code", {}, name)));
  }
  form.append(flags);
  const error = el("p", { class: "error", role: "alert", id: "lab-error", hidden: true });
  const answer = el("div", { class: "stack tight", id: "lab-answer", "aria-live": "polite" });
  const latest = newest();
  panel.append(
    heading("Shape lab", "Type the arguments of nn.LSTM and the size of its input. The shapes, the number of parameters and the errors are those of PyTorch. Empty a field to leave the argument out."),
    el("div", { class: "grid" },
      el("div", { class: "span-5 stack" }, el("div", { class: "card stack tight" }, form, error), createQuiz()),
      el("div", { class: "card span-7" }, answer)),
  );

  // Fields as JSON has them: numbers, or what was typed, for the service to refuse.
  function read() {
    const wanted = {};
    for (const [name] of SIZES) {
      const text = controls[name].value.trim();
      if (text !== "") wanted[name] = Number.isFinite(Number(text)) ? Number(text) : text;
      else if (name === "batch") wanted[name] = null;
    }
    for (const [name] of FLAGS) wanted[name] = controls[name].checked;
    return wanted;
  }

  function change() {
    app.set({ lab: JSON.stringify(read()) });
  }

  function follow(text) {
    let wanted;
    try {
      wanted = JSON.parse(text);
    } catch {
      return;
    }
    if (typeof wanted !== "object" || !wanted) return;
    for (const [name] of SIZES) controls[name].value = wanted[name] ?? "";
    for (const [name] of FLAGS) controls[name].checked = Boolean(wanted[name]);
  }

  async function show() {
    if (app.state.lab && app.state.lab !== JSON.stringify(read())) follow(app.state.lab);
    const wanted = read();
    try {
      const shapes = await latest(api.shapes(wanted));
      answer.replaceChildren(...draw(shapes));
      showError(error, null);
    } catch (failure) {
      showError(error, failure);
    }
    answer.classList.toggle("stale", !error.hidden);
    for (const [name] of SIZES) controls[name].setAttribute("aria-invalid", String(!error.hidden && blames(error.textContent, name)));
  }

  return { show, request: () => ({ path: "v1/shapes", body: read() }) };
}

// Whether an error is about this field: torch names it first, and the input's own sizes in its words.
function blames(text, name) {
  const said = text.slice(text.indexOf(":") + 1);
  if (name === "features") return said.includes("input.size(-1)");
  if (name === "sequence_length") return said.includes("sequence length") || said.includes(name);
  return !said.includes("input.size(-1)") && said.split("(")[0].includes(name) || said.includes(`'${name}'`);
}

function draw(shapes) {
  const rows = Object.keys(WORDS).map((name) => el("tr", {},
    el("th", { scope: "row", class: "words mono" }, name),
    el("td", { class: "words" }, axes(shapes[name])), el("td", { class: "words note" }, WORDS[name])));
  const parameters = shapes.parameters.map(({ name, shape }) => el("tr", {}, el("td", { class: "words mono" }, name),
    el("td", { class: "shape" }, shapeText(shape)), el("td", {}, whole(shape.reduce((a, b) => a * b, 1)))));
  return [
    el("pre", { class: "call" }, el("code", {}, `lstm = ${shapes.call}\noutput, (h_n, c_n) = lstm(input)`)),
    el("table", { class: "shapes", "aria-label": "Shapes" }, el("tbody", {}, ...rows)),
    el("h3", {}, el("span", { class: "number", id: "parameter-count" }, whole(shapes.parameter_count)), " parameters"),
    el("p", { class: "note" }, "In each weight the four gates stand on one another, so it has 4 × hidden_size rows."),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Parameters" }, el("table", {},
      el("thead", {}, el("tr", {}, ...[["Parameter", "words"], ["Shape"], ["Numbers"]].map(([text, kind]) => el("th", { scope: "col", class: kind }, text)))),
      el("tbody", {}, ...parameters))),
  ];
}

export function axes(list) {
  return el("span", { class: "stage-shape", "aria-label": shapeText(list.map(({ size }) => size)) },
    ...list.map(({ size, name }) => el("span", {}, el("strong", { class: "shape" }, whole(size)), el("small", {}, name))));
}
