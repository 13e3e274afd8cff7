// The frame around the views: tabs, the choice of model and version, the link that keeps it all, keys, and what is
// shown when there is no model.

import * as api from "./api.js";
import { showCode } from "./code.js";
import { announce, el, setOptions, showError } from "./dom.js";
import { createFlow } from "./flow.js";
import { askForKey } from "./key.js";
import { createLive } from "./live.js";
import { showFailure, showMissing } from "./missing.js";
import { createPrediction } from "./prediction.js";
import { createShapes } from "./shapes.js";
import { linkTo, readLink, writeLink } from "./state.js";
import { createTraining } from "./training.js";

const VIEWS = {
  flow: createFlow,
  training: createTraining,
  prediction: createPrediction,
  shapes: createShapes,
  live: createLive,
};
const WITHOUT_MODEL = new Set(["shapes", "live"]);
const node = (id) => document.getElementById(id);

class App {
  constructor() {
    this.state = readLink();
    this.models = [];
    this.cache = new Map();
    this.views = {};
  }

  // The version that is looked at: {model, version}.
  get target() {
    return { model: this.state.model, version: this.state.version };
  }

  versionsOf(model) {
    return this.models.find((one) => one.name === model)?.versions || [];
  }

  // Description and examples of a version, asked for once.
  about(target = this.target) {
    const place = `${target.model}/${target.version}`;
    if (!this.cache.has(place)) {
      const asked = Promise.all([api.describe(target), api.examples(target)])
        .then(([description, examples]) => ({ ...description, examples }));
      asked.catch(() => this.cache.delete(place));
      this.cache.set(place, asked);
    }
    return this.cache.get(place);
  }

  // Change what is shown. Another model or version starts from its first example; what is served may have changed when
  // another view is opened.
  set(changes) {
    const entry = "view" in changes && changes.view !== this.state.view;
    const moved = ["model", "version"].some((name) => name in changes && changes[name] !== this.state[name]);
    this.state = { ...(moved ? withoutExample(this.state) : this.state), ...changes };
    writeLink(this.state, { entry });
    this.show();
    if (entry && this.models.length) this.refresh();
  }

  async refresh() {
    try {
      await this.load();
    } catch (error) {
      if (!(error instanceof api.ApiError)) throw error;
      return; // what is there is shown; a view that needs more says what is wrong
    }
    writeLink(this.state, { entry: false });
    await this.show();
  }

  async show() {
    const { view } = this.state;
    for (const tab of document.querySelectorAll("[role=tab]")) {
      const chosen = tab.dataset.view === view;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
    }
    const missing = !this.models.length && !WITHOUT_MODEL.has(view);
    for (const name of Object.keys(VIEWS)) {
      const shown = name === view && !missing;
      if (!shown && !node(name).hidden) this.views[name]?.leave?.();
      node(name).hidden = !shown;
    }
    node("missing").hidden = !missing;
    this.showChooser();
    if (missing) return;
    this.views[view] ||= VIEWS[view](node(view), this);
    try {
      await this.views[view].show();
      showError(node("notice"), null);
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    if (!(error instanceof api.ApiError)) console.error(error);
    showError(node("notice"), error);
  }

  showChooser() {
    const { model, version } = this.state;
    const shown = JSON.stringify([this.models, model, version]);
    if (shown === this.chooser) return;
    this.chooser = shown;
    setOptions(node("model"), this.models.map(({ name }) => [name, name]), model);
    const versions = this.versionsOf(model).toReversed();
    setOptions(node("version"), versions.map((one) => [one, one]), version);
    node("model").disabled = node("version").disabled = !this.models.length;
  }

  // Ask what is served; keep to the link's model where it is.
  async load() {
    const { default_model: usual, models } = await api.listModels();
    this.models = models;
    const { model, version } = this.state;
    const known = this.versionsOf(model).length ? model : usual ?? models[0].name;
    const versions = this.versionsOf(known);
    const gone = (model && known !== model) || (version && !versions.includes(version));
    const kept = gone ? withoutExample(this.state) : this.state;
    this.state = { ...kept, model: known, version: versions.includes(version) ? version : versions.at(-1) };
    if (known !== model && model) announce(`${model} is not served; this is ${known}`);
  }

  async start() {
    this.listen();
    try {
      await this.load();
    } catch (error) {
      const show = error.status === 503 ? showMissing : showFailure;
      show(node("missing"), error, () => this.start());
      if (!(error instanceof api.ApiError)) console.error(error);
    }
    writeLink(this.state, { entry: false });
    await this.show();
  }

  listen() {
    if (this.listening) return;
    this.listening = true;
    const tabs = [...document.querySelectorAll("[role=tab]")];
    for (const tab of tabs) {
      tab.addEventListener("click", () => this.set({ view: tab.dataset.view }));
      tab.addEventListener("keydown", (event) => moveFocus(event, tabs));
    }
    node("model").addEventListener("change", ({ target }) =>
      this.set({ model: target.value, version: this.versionsOf(target.value).at(-1) }));
    node("version").addEventListener("change", ({ target }) => this.set({ version: target.value }));
    node("code").addEventListener("click", () => showCode(this));
    node("link").addEventListener("click", () => copyLink(linkTo(this.state)));
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the link keeps the view
      node("content").focus();
    });
    addEventListener("hashchange", () => this.follow());
  }

  // The link was changed by hand, or by going back.
  async follow() {
    this.state = readLink();
    try {
      await this.load();
    } catch (error) {
      this.fail(error);
    }
    writeLink(this.state, { entry: false });
    await this.show();
  }
}

// What is left when another model or version is looked at: an example, and what was done to it, belong to one.
function withoutExample({ view, model, version, lab }) {
  return { view, model, version, lab };
}

function moveFocus(event, tabs) {
  const at = tabs.indexOf(event.target);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const tab = tabs[(to + tabs.length) % tabs.length];
  tab.focus();
  tab.click();
}

async function copyLink(hash) {
  try {
    await navigator.clipboard.writeText(new URL(hash, location.href).href);
    flash("Copied");
  } catch {
    flash("It is in the address bar");
  }
}

function flash(text) {
  const button = node("link"), usual = "Copy link to this view";
  button.replaceChildren(el("span", {}, text));
  announce(text);
  setTimeout(() => button.replaceChildren(usual), 1500);
}

api.onKeyNeeded(askForKey);
new App().start();
