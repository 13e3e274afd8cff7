// The bar that moves through time: play, a slider, and which layer and unit are looked at.

import { el, field, segments, select } from "./dom.js";
import { indexOf } from "./state.js";

const LAP_MS = 7000, SLOWEST_MS = 600, FASTEST_MS = 40;

export class Transport {
  constructor(app) {
    this.app = app;
    this.play = el("button", { type: "button", class: "primary play", onclick: () => this.toggle() }, "Play");
    this.slider = el("input", { type: "range", min: 1, step: 1, "aria-label": "Time step", oninput: () => this.go(Number(this.slider.value)) });
    this.place = el("output", { class: "number" });
    this.layer = select([], 0, { onchange: () => app.set({ layer: Number(this.layer.value) + 1 }) });
    this.unit = el("input", { type: "number", min: 1, onchange: () => this.choose(indexOf(this.unit.value, this.units) + 1) });
    this.layerField = field("LSTM layer", this.layer);
    this.shown = segments("Which values", [["now", "Now"], ["before", "Before"], ["difference", "Difference"]], "now",
      (show) => app.set({ show: show === "now" ? undefined : show }));
    this.node = el("div", { class: "transport", role: "group", "aria-label": "Step through time" },
      this.play, this.slider, this.place, this.layerField, field("Unit", this.unit), this.shown);
  }

  show({ steps, units, layers, edited }) {
    Object.assign(this, { steps, units });
    this.slider.max = steps;
    this.unit.max = units;
    this.layerField.hidden = layers.length < 2;
    if (this.layer.options.length !== layers.length) {
      this.layer.replaceChildren(...layers.map((_, index) => el("option", { value: index }, index + 1)));
    }
    this.shown.hidden = !edited;
    this.shown.setChosen(this.app.state.show || "now");
  }

  setCursor(step, layer, unit) {
    this.slider.value = step + 1;
    this.slider.setAttribute("aria-valuetext", `step ${step + 1} of ${this.steps}`);
    this.place.textContent = `step ${step + 1} of ${this.steps}`;
    this.layer.value = layer;
    if (document.activeElement !== this.unit) this.unit.value = unit + 1;
  }

  choose(unit) {
    this.unit.value = unit; // what was typed may be no unit's number
    this.app.set({ unit });
  }

  go(step) {
    this.app.set({ step });
  }

  toggle() {
    if (this.timer) return this.stop();
    if (Number(this.slider.value) >= this.steps) this.go(1);
    this.play.textContent = "Pause";
    const pause = Math.min(SLOWEST_MS, Math.max(FASTEST_MS, LAP_MS / this.steps));
    this.timer = setInterval(() => this.advance(), pause);
  }

  advance() {
    const at = Number(this.slider.value);
    if (at >= this.steps) this.stop();
    else this.go(at + 1);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "Play";
  }
}
