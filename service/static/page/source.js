// Where the sequence comes from: an example of the bundle, pasted JSON, or a CSV file. The service judges what comes in,
// and what it says stands beside it.

import * as api from "./api.js";
import { el, field, segments, select, showError } from "./dom.js";
import { Sequence, pack, parseCsv, parseJson } from "./sequence.js";
import { exampleName } from "./trace.js";

const LONGEST_LINK = 16000;

export class Source {
  constructor(app, keep) {
    this.app = app;
    this.keep = keep; // takes a sequence that is too long for a link, gives what stands for it
    this.error = el("p", { class: "error", role: "alert", id: "source-error", hidden: true });
    this.example = select([], 0, { onchange: () => this.useExample() });
    this.text = el("textarea", { rows: 6, spellcheck: "false", "aria-describedby": "source-error", "aria-label": "Sequence as JSON" });
    this.file = el("input", { type: "file", accept: ".csv,.txt,text/csv", "aria-describedby": "source-error",
      onchange: () => this.file.files[0] && this.useFile(this.file.files[0]) });
    this.panes = { example: this.examplePane(), json: this.jsonPane(), csv: this.csvPane() };
    this.kinds = segments("Where the sequence comes from", [["example", "Example"], ["json", "Paste JSON"], ["csv", "Drop a CSV"]],
      "example", (kind) => this.open(kind));
    this.node = el("div", { class: "stack tight" }, this.kinds, ...Object.values(this.panes), this.error);
    this.open("example");
  }

  examplePane() {
    return el("div", {}, field("Held-out example: true class, steps × features", this.example));
  }

  jsonPane() {
    return el("div", { class: "stack tight" },
      el("p", { class: "note", id: "json-help" }, "One list for each time step, with a number for each feature: [[0.1, …], [0.2, …], …]"),
      this.text,
      el("div", { class: "row" }, el("button", { class: "primary", type: "button", onclick: () => this.useText() }, "Classify this"),
        el("button", { type: "button", class: "quiet", onclick: () => this.fillIn() }, "Fill in the current sequence")));
  }

  csvPane() {
    const zone = el("div", { class: "drop" },
      el("p", {}, "Drop a CSV here: one line for each time step, a column for each feature. A header is welcome, ",
        el("code", {}, "sequence_id"), ", ", el("code", {}, "step"), " and ", el("code", {}, "label"), " are left out."),
      el("label", { class: "unseen", for: "csv" }, "CSV file"), this.file);
    this.file.id = "csv";
    const over = (event) => { event.preventDefault(); zone.classList.toggle("over", event.type === "dragover"); };
    for (const kind of ["dragover", "dragleave"]) zone.addEventListener(kind, over);
    zone.addEventListener("drop", (event) => { over(event); if (event.dataTransfer.files[0]) this.useFile(event.dataTransfer.files[0]); });
    return zone;
  }

  open(kind) {
    for (const [name, pane] of Object.entries(this.panes)) pane.hidden = name !== kind;
    this.kinds.setChosen(kind);
    this.fail(null);
  }

  offer(about) {
    const shown = `${about.name}/${about.version}`;
    if (shown !== this.shown) {
      this.example.replaceChildren(...about.examples.map((one, index) => el("option", { value: index }, exampleName(one, index))));
      this.example.value = "";
      this.shown = shown;
    }
  }

  // Show which example is chosen; none is when the sequence came otherwise.
  show({ chosen, sequence }) {
    this.sequence = sequence;
    this.example.value = chosen ?? "";
  }

  useExample() {
    this.app.set({ example: Number(this.example.value) + 1, sequence: undefined, edit: undefined, step: undefined });
    this.fail(null);
  }

  fillIn() {
    if (!this.sequence) return;
    const rows = this.sequence.rows().map((row) => JSON.stringify(row)).join(",\n ");
    this.text.value = `[${rows}]`;
    this.fail(null);
  }

  useText() {
    return this.use(() => parseJson(this.text.value));
  }

  useFile(file) {
    return this.use(async () => parseCsv(await file.text()));
  }

  // Have the service judge what `read` returns; go on with it if it is fine.
  async use(read) {
    try {
      const rows = await read();
      await api.predict(this.app.target, { sequences: [rows] });
      const sequence = Sequence.fromRows(rows);
      const packed = pack(sequence);
      this.app.set({ sequence: packed.length > LONGEST_LINK ? this.keep(sequence) : packed, example: undefined, edit: undefined, step: undefined });
      this.fail(null);
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    showError(this.error, error);
    for (const input of [this.text, this.file]) input.setAttribute("aria-invalid", String(Boolean(error)));
  }
}
