// What is shown instead of a model: what to run while there is none, and what went wrong if the service did not say which
// there are.

import * as api from "./api.js";
import { el } from "./dom.js";

const EVERY_MS = 2000;

// It goes away by itself when there is a model.
export function showMissing(panel, error, onfound) {
  panel.replaceChildren(
    el("h2", {}, "There is no model yet"),
    el("p", { class: "lead" }, "This page shows how a trained network reaches its answers, so it needs one. Train the reference model; it takes seconds:"),
    el("pre", {}, el("code", {}, "python -m model train reference\npython -m model train JapaneseVowels --seed 1")),
    el("p", { class: "note" }, "Run it where the service runs. The service notices a new model by itself, and so does this page. The shape lab works without one."),
    el("p", { class: "error" }, `The service says: ${error.message}`),
  );
  const ask = async () => {
    try {
      await api.listModels();
    } catch {
      setTimeout(ask, EVERY_MS);
      return;
    }
    panel.hidden = true;
    onfound();
  };
  setTimeout(ask, EVERY_MS);
}

export function showFailure(panel, error, again) {
  panel.replaceChildren(
    el("h2", {}, "The service did not say which models it serves"),
    el("p", { class: "error", role: "alert" }, error.message),
    el("div", { class: "row" }, el("button", { class: "primary", type: "button", onclick: again }, "Try again")),
  );
}
