// Asks for an API key, when the service wants one.

import { el } from "./dom.js";

// Resolves to the key, or to null if none is given.
export function askForKey(reason) {
  const dialog = document.getElementById("dialog");
  const input = el("input", { type: "password", id: "key", autocomplete: "current-password", required: true,
    pattern: "[ -~]+", title: "letters, digits and signs of ASCII: nothing else fits into a header" });
  const form = el("form", { method: "dialog", class: "stack tight" },
    el("h2", { id: "dialog-title" }, "This service asks for a key"),
    el("p", { class: "error" }, reason),
    el("label", { for: "key" }, "API key"),
    input,
    el("p", { class: "note" }, "It is one of the lines of the file in LSTM_API_KEYS_FILE. This tab keeps it until it is closed."),
    el("div", { class: "row" }, el("button", { class: "primary", value: "use" }, "Use this key")));
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "use" ? input.value.trim() : null), { once: true });
  });
}
