// Prometheus' text format, as far as the charts need it: samples, rates between two scrapes, quantiles of histograms.

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

// A Map from metric name to its samples, each {labels, value}.
export function parse(text) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const match = line.startsWith("#") ? null : SAMPLE.exec(line);
    if (!match) continue;
    const labels = Object.fromEntries([...(match[2] || "").matchAll(LABEL)].map(([, name, value]) => [name, value]));
    if (!found.has(match[1])) found.set(match[1], []);
    found.get(match[1]).push({ labels, value: Number(match[3].replace("Inf", "Infinity")) });
  }
  return found;
}

// The sum of the samples of `name` for whose labels `keep` holds.
export function sum(scrape, name, keep = () => true) {
  return (scrape.get(name) || []).filter(({ labels }) => keep(labels)).reduce((total, { value }) => total + value, 0);
}

// The buckets of a histogram between two scrapes: [{top, count}], ascending, each with what fell between it and the last.
export function buckets(now, before, name, keep = () => true) {
  const cumulated = new Map();
  for (const [scrape, sign] of [[now, 1], [before, -1]]) {
    for (const { labels, value } of scrape?.get(`${name}_bucket`) || []) {
      if (!keep(labels)) continue;
      const top = Number(labels.le.replace("Inf", "Infinity"));
      cumulated.set(top, (cumulated.get(top) || 0) + sign * value);
    }
  }
  let below = 0;
  return [...cumulated].sort(([a], [b]) => a - b).map(([top, total]) => {
    const count = Math.max(0, total - below);
    below = Math.max(below, total);
    return { top, count };
  });
}

// The value below which a `share` of all falls, between the edges of its bucket in proportion; NaN if there are none.
export function quantile(found, share) {
  const total = found.reduce((all, { count }) => all + count, 0);
  if (!total) return NaN;
  let seen = 0, bottom = 0;
  for (const { top, count } of found) {
    if (count && seen + count >= share * total) {
      return top === Infinity ? bottom : bottom + (top - bottom) * ((share * total - seen) / count);
    }
    seen += count;
    bottom = top;
  }
  return bottom;
}
