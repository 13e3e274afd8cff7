// Colours of heat maps, from the theme's tokens: orange below zero, blue above, the paper's own between.

function token(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16));
}

// A function from a number in [-1, 1] to [red, green, blue].
export function scale() {
  const [low, mid, high] = ["--low", "--mid", "--high"].map(token);
  return (value) => {
    const share = Math.min(1, Math.abs(value));
    const end = value < 0 ? low : high;
    return mid.map((from, channel) => from + (end[channel] - from) * share);
  };
}

// Black or white, whichever is read better on `rgb`.
export function inkOn(rgb) {
  const [r, g, b] = rgb.map((channel) => (channel / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.19 ? "#14181c" : "#ffffff";
}

// Call `redraw` when the reader turns the lights on or off.
const dark = matchMedia("(prefers-color-scheme: dark)");
const redraws = new Set();
dark.addEventListener("change", () => redraws.forEach((redraw) => redraw()));

export function onThemeChange(redraw) {
  redraws.add(redraw);
}
