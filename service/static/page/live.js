// Live: what the service does now, from its metrics: requests, latency by stage, batches, padding.

import * as api from "./api.js";
import { BarChart } from "./barchart.js";
import { el, fixed, showError, whole } from "./dom.js";
import { figure } from "./figure.js";
import { LineChart } from "./linechart.js";
import { buckets, parse, quantile, sum } from "./prometheus.js";

const EVERY_MS = 2000, KEPT = 61, SAMPLES = 200, AT_ONCE = 8;
const STAGES = ["decode", "queue", "compute_input", "compute_infer", "compute_output", "encode"];
const REQUESTS = "lstm_request_duration_seconds_count";
const asked = ({ api: name }) => name === "v1" || name === "v2";
const ms = (value) => `${fixed(value, value < 10 ? 2 : 1)} ms`;

export function createLive(panel, app) {
  return new Live(panel, app);
}

class Live {
  constructor(panel, app) {
    this.app = app;
    this.scrapes = [];
    this.error = el("p", { class: "error", role: "alert", hidden: true });
    this.requests = new LineChart({ label: "Requests per second", height: 190, xName: "at", format: (value) => fixed(value, 1) });
    this.latency = new LineChart({ label: "Latency", height: 190, xName: "at", format: ms });
    this.stages = new BarChart({ label: "Median time by stage", format: ms });
    this.tails = new BarChart({ label: "99th percentile by stage", format: ms });
    this.batches = new BarChart({ label: "Batch sizes", format: whole });
    this.padding = new BarChart({ label: "Padding", format: whole });
    this.state = el("p", { class: "lead", role: "status" });
    this.demo = el("button", { type: "button", onclick: () => this.sendSome() }, `Send ${SAMPLES} predictions`);
    this.tiles = el("dl", { class: "tiles" });
    panel.append(
      el("div", { class: "row middle spread" }, el("header", { class: "heading" }, el("h2", {}, "What the service does now"), this.state), this.demo),
      this.error, this.tiles, this.charts());
  }

  charts() {
    return el("div", { class: "grid" },
      figure("Requests per second", "Inference requests and questions about models, answered and refused, every two seconds.", this.requests, { class: "card span-6" }),
      figure("Latency", "From a request's arrival to its answer: half are faster than the median, one in a hundred is slower than the 99th percentile.", this.latency, { class: "card span-6" }),
      figure("Median by stage", "Where the time of a typical request goes.", this.stages, { class: "card span-6" }),
      figure("99th percentile by stage", "Where the slowest in a hundred wait.", this.tails, { class: "card span-6" }),
      figure("Batch sizes", "How many sequences the model read at once, by the number of runs.", this.batches, { class: "card span-6" }),
      figure("Padding", "Which share of a batch's steps only filled up shorter sequences, by the number of runs.", this.padding, { class: "card span-6" }));
  }

  async show() {
    if (this.timer) return;
    this.timer = setInterval(() => this.poll(), EVERY_MS);
    await this.poll();
  }

  leave() {
    clearInterval(this.timer);
    this.timer = null;
  }

  async poll() {
    if (document.hidden) return;
    try {
      const scrape = { at: performance.now(), clock: new Date(), samples: parse(await api.metrics()) };
      if (scrape.at < this.scrapes.at(-1)?.at) return; // it was overtaken
      const earlier = restarted(this.scrapes.at(-1), scrape) ? [] : this.scrapes;
      this.scrapes = [...earlier, scrape].slice(-KEPT);
      showError(this.error, null);
      this.draw();
    } catch (error) {
      showError(this.error, error);
    }
  }

  draw() {
    const { scrapes } = this;
    const last = scrapes.at(-1).samples, first = scrapes[0].samples;
    const steps = scrapes.slice(1).map((now, index) => ({ now, before: scrapes[index] }));
    const labels = steps.map(({ now }) => now.clock.toLocaleTimeString("en-GB"));
    const since = scrapes.length > 1 ? first : null;
    this.drawTiles(last);
    this.drawRates(steps, labels);
    const recent = sum(last, REQUESTS) - (since ? sum(since, REQUESTS) : 0);
    this.state.textContent = scrapes.length > 1 && recent
      ? `${whole(recent)} inference ${recent === 1 ? "request" : "requests"} in the time shown.`
      : "No inference request in the time shown; what is below is since the service started. Send some and watch.";
    this.drawStages(last, recent ? since : null);
    this.drawBatches(last, recent ? since : null);
  }

  drawTiles(last) {
    const of = (name) => sum(last, name);
    const runs = of("lstm_executions_total"), sequences = of("lstm_inferences_total");
    this.tiles.replaceChildren(...[
      ["Inferences", whole(sequences), "sequences computed since the start"],
      ["Model runs", whole(runs), runs ? `${fixed(sequences / runs, 1)} sequences in each` : "none yet"],
      ["Waiting", whole(of("lstm_queue_size")), "sequences in the queue now"],
      ["Refused", whole(of("lstm_rejected_total") + of("lstm_dropped_total")), "requests refused or given up"],
    ].map(([name, value, note]) => el("div", {}, el("dt", {}, name), el("dd", { class: "number" }, value), el("dd", { class: "note" }, note))));
  }

  drawRates(steps, labels) {
    const rate = (keep) => steps.map(({ now, before }) =>
      Math.max(0, sum(now.samples, "lstm_requests_total", keep) - sum(before.samples, "lstm_requests_total", keep)) / ((now.at - before.at) / 1e3));
    const fine = rate((of) => asked(of) && of.code < "400"), refused = rate((of) => asked(of) && of.code >= "400");
    const most = Math.max(1, ...fine, ...refused);
    this.requests.setData([{ name: "answered", values: fine, colour: 0 }, { name: "refused or failed", values: refused, colour: 1 }],
      { range: [0, most * 1.05], labels });
    const at = (share) => steps.map(({ now, before }) =>
      quantile(buckets(now.samples, before.samples, "lstm_request_duration_seconds"), share) * 1e3);
    const lines = [["median", 0.5, 0], ["90 %", 0.9, 2], ["99 %", 0.99, 1]].map(([name, share, colour]) => ({ name, values: at(share), colour }));
    const slowest = Math.max(0, ...lines.flatMap(({ values }) => values.filter(Number.isFinite)));
    this.latency.setData(lines, { range: [0, slowest * 1.1 || 1], labels });
    for (const chart of [this.requests, this.latency]) chart.setCursor(steps.length ? steps.length - 1 : null);
  }

  drawStages(last, since) {
    const bars = (share) => STAGES.map((stage) => ({ name: stage.replace("_", " "),
      value: quantile(buckets(last, since, "lstm_stage_duration_seconds", (of) => of.stage === stage), share) * 1e3 || 0 }));
    this.stages.setData(bars(0.5));
    this.tails.setData(bars(0.99));
  }

  drawBatches(last, since) {
    const bars = (name, text) => {
      let bottom = null;
      return buckets(last, since, name).map(({ top, count }) => {
        const bar = { name: text(bottom, top), value: count };
        bottom = top;
        return bar;
      });
    };
    const sizes = bars("lstm_batch_size", (bottom, top) => between(bottom === null ? 1 : bottom + 1, top));
    this.batches.setData(upToLast(sizes));
    const percent = (value) => Math.round(value * 100);
    this.padding.setData(upToLast(bars("lstm_batch_padding_ratio", (bottom, top) =>
      bottom === null ? `${percent(top)} %` : `${percent(bottom)} to ${percent(top)} %`)));
  }

  // Something to see, for whoever shows the service to others.
  async sendSome() {
    this.demo.disabled = true;
    try {
      const { examples } = await this.app.about();
      const { target } = this.app;
      let left = SAMPLES;
      await Promise.all(Array.from({ length: AT_ONCE }, async () => {
        while (left-- > 0) await api.predict(target, { sequences: [examples[left % examples.length].sequence] });
      }));
      await this.poll();
    } catch (error) {
      showError(this.error, error);
    }
    this.demo.disabled = false;
  }

  request() {
    return { path: "metrics" };
  }
}

// Counters fall only when the service starts anew.
function restarted(before, now) {
  return before !== undefined && sum(now.samples, REQUESTS) < sum(before.samples, REQUESTS);
}

function between(low, high) {
  if (high === Infinity) return `over ${whole(low - 1)}`;
  return low >= high ? whole(high) : `${whole(low)} to ${whole(high)}`;
}

// Without the empty buckets at the end; a few remain, so that the chart keeps its place.
function upToLast(bars) {
  const last = bars.findLastIndex(({ value }) => value > 0);
  return bars.slice(0, Math.max(5, last + 1));
}
