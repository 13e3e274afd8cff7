// Training trace: how the model learnt, how it does on sequences it never saw, on which data, and whether its exported
// graphs agree with PyTorch.

import { el, fixed, heading, newest, whole } from "./dom.js";
import { figure } from "./figure.js";
import { LineChart } from "./linechart.js";

const RUNTIMES = { onnx: "ONNX Runtime", torchscript: "TorchScript",
  auto: "ONNX Runtime or TorchScript, whichever is faster for a batch," };

export function createTraining(panel, app) {
  const latest = newest();
  let drawn = "";

  async function show() {
    const about = await latest(app.about());
    const wanted = `${about.name}/${about.version}`;
    if (wanted === drawn) return;
    drawn = wanted;
    panel.replaceChildren(
      heading(`How ${about.name} learnt`, story(about)),
      tiles(about),
      el("div", { class: "grid" },
        chart(about, "loss", "Loss", "How wrong the network was, on average: lower is better.", "span-6"),
        chart(about, "accuracy", "Accuracy", "Share of sequences it classified correctly: higher is better.", "span-6"),
        epochs(about), confusion(about), facts(about), parity(about)),
    );
  }

  const request = () => ({ path: `v1/models/${app.state.model}/versions/${app.state.version}` });
  return { show, request };
}

function story({ training_trace: trace, manifest }) {
  const first = trace[0], last = trace.at(-1);
  return `In ${trace.length} ${trace.length === 1 ? "epoch" : "epochs"} over ${whole(manifest.data.train_size)} sequences the loss went from ${fixed(first.loss, 3)} to ${fixed(last.loss, 3)} and the accuracy from ${percent(first.accuracy)} to ${percent(last.accuracy)}. Then it was asked ${whole(manifest.data.test_size)} sequences that it had never seen.`;
}

function percent(value) {
  return `${(value * 100).toFixed(1)} %`;
}

function tiles({ manifest: { evaluation, data }, training_trace: trace }) {
  const seconds = trace.reduce((sum, epoch) => sum + epoch.duration_s, 0);
  return el("dl", { class: "tiles" }, ...[
    ["Held-out accuracy", percent(evaluation.accuracy), `of ${whole(data.test_size)} sequences`],
    ["Macro F1", fixed(evaluation.macro_f1), "each class counts alike"],
    ["Training sequences", whole(data.train_size), `of ${range(data.min_length, data.max_length)} steps`],
    ["Epochs", whole(trace.length), `in ${fixed(seconds, 1)} s`],
  ].map(([name, value, note]) => el("div", {}, el("dt", {}, name), el("dd", { class: "number" }, value), el("dd", { class: "note" }, note))));
}

function range(low, high) {
  return low === high ? String(low) : `${low} to ${high}`;
}

function chart({ training_trace: trace }, name, title, sentence, place) {
  const lines = new LineChart({ label: `${title} by epoch`, xName: "epoch", height: 230 });
  const checked = trace.some((epoch) => epoch[`validation_${name}`] !== null);
  const series = [{ name: "training", values: trace.map((epoch) => epoch[name]), colour: name === "loss" ? 1 : 0 }];
  if (checked) series.push({ name: "validation", values: trace.map((epoch) => epoch[`validation_${name}`]), colour: 2, dashed: true });
  const top = Math.max(...series.flatMap((one) => one.values.filter(Number.isFinite)));
  lines.setData(series, { range: name === "loss" ? [0, top * 1.05 || 1] : [0, 1] });
  lines.setCursor(trace.length - 1);
  return figure(title, sentence, lines, { class: `card ${place}` });
}

function epochs({ training_trace: trace }) {
  const checked = trace.some((epoch) => epoch.validation_loss !== null);
  const rows = trace.map((epoch) => el("tr", {},
    el("td", {}, epoch.epoch), el("td", {}, fixed(epoch.loss, 4)), el("td", {}, fixed(epoch.accuracy, 4)),
    checked ? [el("td", {}, fixed(epoch.validation_loss, 4)), el("td", {}, fixed(epoch.validation_accuracy, 4))] : [],
    el("td", { class: "words" }, epoch.observation)));
  const heads = ["Epoch", "Loss", "Accuracy", ...(checked ? ["Validation loss", "Validation accuracy"] : [])];
  return el("div", { class: "card" }, el("h3", {}, "Epoch by epoch"),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of epochs" },
      el("table", { id: "epochs" },
        el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text)),
          el("th", { scope: "col", class: "words" }, "Observation"))),
        el("tbody", {}, ...rows))));
}

function confusion({ manifest: { evaluation, labels } }) {
  const matrix = evaluation.confusion_matrix;
  const rows = matrix.map((row, truth) => {
    const sum = row.reduce((total, count) => total + count, 0);
    const cells = row.map((count, taken) => {
      const cell = el("td", { class: count ? (truth === taken ? "right" : "wrong") : "none" }, whole(count));
      cell.style.setProperty("--share", `${Math.round((count / (sum || 1)) * 100)}%`);
      return cell;
    });
    return el("tr", {}, el("th", { scope: "row" }, labels[truth]), ...cells,
      el("td", { class: "recall" }, sum ? percent(row[truth] / sum) : "–"));
  });
  return el("div", { class: "card span-7" }, el("h3", {}, "Confusion matrix"),
    el("p", { class: "note" }, "Rows are what the held-out sequences were, columns what they were taken for: right answers lie on the diagonal."),
    el("div", { class: "scroll matrix", tabindex: "0", role: "region", "aria-label": "Confusion matrix" },
      el("table", { id: "confusion" },
        el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "was ↓ taken for →"),
          ...labels.map((label) => el("th", { scope: "col" }, label)), el("th", { scope: "col" }, "found"))),
        el("tbody", {}, ...rows))));
}

function facts({ manifest, runtime }) {
  const { data, training } = manifest;
  const directions = manifest.bidirectional ? ", bidirectional" : "";
  const layers = manifest.num_layers > 1 ? `${manifest.num_layers} layers of ` : "";
  return el("div", { class: "card span-5" }, el("h3", {}, "Data and settings"), el("dl", { class: "facts" }, ...[
    ["Data set", data.name],
    ["Source", data.source],
    ["Licence", data.licence],
    ["Network", `LSTM, ${layers}${manifest.hidden_size} units${directions}; ${manifest.input_size} features, ${manifest.labels.length} classes`],
    ["Classes", manifest.labels.join(", ")],
    ["Training", `batches of ${training.batch_size}, learning rate ${training.learning_rate}, seed ${training.seed}, on ${training.device}`],
    ["Served by", `${RUNTIMES[runtime.backend]} on ${runtime.device}`],
  ].flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])));
}

function parity({ manifest: { parity: found, files } }) {
  const rows = Object.entries(found.max_difference).map(([file, difference]) => el("tr", {},
    el("td", { class: "words mono" }, file), el("td", {}, difference.toExponential(1)), el("td", {}, found.tolerance.toExponential(0)),
    el("td", { class: "words" }, el("span", { class: `chip ${difference <= found.tolerance ? "good" : "bad"}` },
      difference <= found.tolerance ? "agrees" : "differs")),
    el("td", {}, `${whole(Math.ceil((files[file]?.size_bytes || 0) / 1024))} kB`)));
  return el("div", { class: "card" }, el("h3", {}, "Parity with PyTorch"),
    el("p", { class: "note" }, `Before the model was published, each exported graph was held against the network it came from, on ${found.cases} batches of sequences of different lengths.`),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Parity by file" },
      el("table", { id: "parity" }, el("thead", {}, el("tr", {},
        ...[["File", "words"], ["Largest difference"], ["Allowed"], ["Verdict", "words"], ["Size"]].map(([text, kind]) =>
          el("th", { scope: "col", class: kind }, text)))), el("tbody", {}, ...rows))));
}
