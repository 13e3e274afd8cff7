// Prediction trace: one sequence, the answer to it, and what every layer did on the way. Choosing a sequence, a version or
// a change asks the service; moving through time only moves what is there.

import * as api from "./api.js";
import { el, heading, showError } from "./dom.js";
import { Compare } from "./compare.js";
import { Editor } from "./editor.js";
import { download } from "./figure.js";
import { Gates } from "./gates.js";
import { Layers } from "./layers.js";
import { Sequence, parseEdits, unpack } from "./sequence.js";
import { Source } from "./source.js";
import { indexOf } from "./state.js";
import { fetchTrace, traceOutputs } from "./trace.js";
import { Transport } from "./transport.js";
import { Answer, Unfolding } from "./verdict.js";

export function createPrediction(panel, app) {
  return new Prediction(panel, app);
}

class Prediction {
  constructor(panel, app) {
    this.app = app;
    this.kept = new Map(); // sequences that are too long for a link, by what it has in their place
    this.source = new Source(app, (sequence) => this.keep(sequence));
    this.editor = new Editor(app);
    this.answer = new Answer();
    this.compare = new Compare(app);
    this.transport = new Transport(app);
    this.unfolding = new Unfolding("Had the sequence ended earlier", { class: "card", onpick: (step) => app.set({ step: step + 1 }) });
    this.layers = new Layers(app);
    this.gates = new Gates(app);
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.build(panel);
  }

  build(panel) {
    this.save = el("button", { type: "button", class: "quiet", disabled: true, onclick: () => this.saveTrace() }, "Save the trace as JSON");
    panel.append(
      heading("One sequence, step by step", "Choose a sequence, see the answer, then follow it backwards: what every layer computed, gate by gate, and when the model made up its mind."),
      el("div", { class: "grid top" },
        el("section", { class: "card span-7 stack tight", "aria-label": "Sequence" }, this.source.node, this.error, this.editor.node),
        el("section", { class: "card span-5 stack", "aria-label": "Answer" }, this.answer.node,
          el("div", { class: "row" }, this.compare.picker, this.save))),
      this.transport.node, this.compare.node, this.unfolding.node, this.layers.statesFigure,
      el("div", { class: "grid" }, this.gates.gatesFigure, this.gates.memoryFigure, this.gates.sumCard),
      this.layers.tail,
    );
  }

  keep(sequence) {
    const name = `kept${Date.now()}`; // never one of a link from before the page was loaded
    this.kept.set(name, sequence);
    return name;
  }

  // Calls that come while the service is asked are put together into one.
  show() {
    this.wanted = true;
    this.running ||= this.run().finally(() => (this.running = null));
    return this.running;
  }

  async run() {
    while (this.wanted) {
      this.wanted = false;
      try {
        await this.once();
        showError(this.error, null);
      } catch (error) {
        if (!(error instanceof api.ApiError || error instanceof RangeError)) throw error;
        showError(this.error, error);
      }
    }
  }

  async once() {
    const about = await this.app.about();
    const { model, version, example, sequence, edit, compare, values, show, layer, feature } = this.app.state;
    if (about.name !== model || about.version !== version) return; // another was chosen meanwhile, and is asked for next
    this.source.offer(about);
    const place = [model, version, example, sequence, edit, compare].join("|");
    if (place !== this.place) {
      this.place = null; // of what fails nothing is left, so that the same can be asked for again
      await this.fetch(about);
      this.place = place;
      this.drawn = null;
    }
    const shown = [values, show, layer, feature, this.app.state.unit].join("|");
    if (shown !== this.drawn) this.draw(about);
    this.drawn = shown;
    this.move();
  }

  async fetch(about) {
    const { app } = this;
    const given = this.given(about);
    const edits = parseEdits(app.state.edit);
    const sequence = edits.size ? given.original.edited(edits) : given.original;
    const ask = (one) => fetchTrace(app.target, about.manifest, one);
    const [trace, before, other] = await Promise.all([
      ask(sequence), edits.size ? ask(given.original) : null, this.compare.fetch(about, sequence, given.truth),
    ]);
    Object.assign(this, given, { about, sequence, trace, before, other });
    this.source.show({ chosen: given.chosen, sequence });
    this.save.disabled = false;
  }

  // The sequence that the link names, and its true class, if that is known.
  given(about) {
    const { sequence, example } = this.app.state;
    if (sequence) return { original: sequence.startsWith("kept") ? this.keptAs(sequence) : unpackOr(sequence), truth: null };
    const chosen = indexOf(example, about.examples.length);
    const original = Sequence.fromRows(about.examples[chosen].sequence);
    return { original, chosen, truth: about.examples[chosen].label };
  }

  keptAs(name) {
    const sequence = this.kept.get(name);
    if (!sequence) throw new RangeError("this sequence is too long for a link; paste it again, or choose another");
    return sequence;
  }

  draw(about) {
    const { trace, before, truth, sequence, original, other, app } = this;
    const difference = Boolean(before) && app.state.show === "difference";
    const shown = before && app.state.show === "before" ? before : trace;
    const layer = this.layer = indexOf(app.state.layer, trace.layers.length);
    const units = trace.layers[layer].hidden.columns;
    this.unit = indexOf(app.state.unit, units);
    this.editor.show({ sequence, original });
    this.answer.show({ trace, before, truth });
    this.compare.offer(about);
    this.compare.show({ name: "this sequence", trace, truth }, other);
    this.transport.show({ steps: sequence.steps, units, layers: trace.layers, edited: Boolean(before) });
    this.unfolding.show(shown, before && shown === trace ? before : null);
    this.layers.show({ trace: shown, before, layer, difference });
    this.gates.show(shown.layers[layer], before && shown === trace ? before.layers[layer] : null, this.unit,
      { units: about.manifest.hidden_size });
  }

  move() {
    const step = indexOf(this.app.state.step, this.sequence.steps, this.sequence.steps - 1);
    this.transport.setCursor(step, this.layer, this.unit);
    this.editor.setCursor(step);
    this.unfolding.setCursor(step);
    this.layers.setCursor(step, this.unit);
    this.gates.setCursor(step);
    this.compare.setCursor(step);
  }

  leave() {
    this.transport.stop();
  }

  request() {
    if (!this.sequence) return null;
    const { model, version } = this.app.target;
    const rows = this.sequence.rows();
    return {
      path: `v1/models/${model}/versions/${version}/predict`,
      body: { sequences: [rows], trace: "gates" },
      infer: { rows, outputs: traceOutputs(this.about.manifest) },
    };
  }

  // The trace as the simple API gives it.
  async saveTrace() {
    try {
      const answer = await api.predict(this.app.target, this.request().body);
      download(`trace-${this.app.target.model}.json`, new Blob([JSON.stringify(answer, null, 1)], { type: "application/json" }));
    } catch (error) {
      showError(this.error, error);
    }
  }
}

function unpackOr(text) {
  try {
    return unpack(text);
  } catch {
    throw new RangeError("the sequence in this link is cut off; choose another");
  }
}
