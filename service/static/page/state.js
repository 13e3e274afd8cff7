// What the page shows, as the link to it: `#view=prediction&model=reference&version=1&example=2&step=4`.

const VIEWS = ["flow", "training", "prediction", "shapes", "live"];

export function readLink() {
  clearTimeout(later);
  const found = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!VIEWS.includes(found.view)) found.view = found.model && found.example ? "prediction" : VIEWS[0];
  return found;
}

// Browsers refuse more than some 6 changes a second, and playing makes 25.
const PAUSE_MS = 250;
let later = null;

// Replaces the link without a new entry in the history, but for a change of view. Soon, or with `entry` at once.
export function writeLink(state, { entry }) {
  clearTimeout(later);
  later = null;
  if (entry) write(state, "pushState");
  else later = setTimeout(() => write(state, "replaceState"), PAUSE_MS);
}

function write(state, method) {
  const hash = linkTo(state);
  if (hash !== location.hash) history[method](null, "", hash);
}

export function linkTo(state) {
  const kept = Object.entries(state).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return `#${new URLSearchParams(kept).toString().replaceAll("%3A", ":").replaceAll("%2C", ",")}`;
}

// What the link counts from one, as an index below `count`.
export function indexOf(text, count, otherwise = 0) {
  const value = Number.parseInt(text, 10);
  return Number.isInteger(value) ? Math.min(count, Math.max(1, value)) - 1 : otherwise;
}
