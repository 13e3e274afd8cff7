// A picture with a title, a sentence that says what one sees, and the buttons that save it.

import { el, svg } from "./dom.js";

// `picture`: an object with `node`, and `saveSvg(name)` or `savePng(name)`, or both.
export function figure(title, sentence, picture, props = {}) {
  const buttons = [
    ["SVG", "saveSvg"],
    ["PNG", "savePng"],
  ].filter(([, method]) => picture[method]).map(([kind, method]) =>
    el("button", { class: "small", type: "button", "aria-label": `Save “${title}” as ${kind}`,
      onclick: () => picture[method](fileName(title)) }, kind),
  );
  const head = el("div", { class: "figure-head" }, el("h3", {}, title), el("div", { class: "saves" }, ...buttons));
  return el("figure", { ...props, class: `figure ${props.class || ""}` }, head,
    el("p", { class: "note" }, sentence), picture.node);
}

function fileName(title) {
  return title.toLowerCase().replaceAll(/[^a-z0-9]+/g, "-").replaceAll(/^-|-$/g, "");
}

export function download(name, blob) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const STYLED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-size",
  "font-weight", "font-family", "text-anchor", "dominant-baseline", "paint-order"];

const LEGEND_HEIGHT = 28;

// `source` as a document of its own: the page's style sheet does not go with it, so what it makes of each element does.
// `legend`: nodes of the page whose texts and colours are written below.
function standalone(source, legend) {
  const copy = source.cloneNode(true);
  const pairs = [...source.querySelectorAll("*")].map((node, index) => [node, copy.querySelectorAll("*")[index]]);
  for (const [node, twin] of pairs) {
    const style = getComputedStyle(node);
    for (const name of STYLED) twin.setAttribute(name, style.getPropertyValue(name));
    twin.removeAttribute("class");
  }
  const box = source.getBoundingClientRect();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", box.width);
  copy.setAttribute("height", box.height + (legend.length ? LEGEND_HEIGHT : 0));
  copy.removeAttribute("viewBox");
  let left = 8;
  for (const entry of legend) {
    const text = svg("text", { x: left, y: box.height + 14, fill: getComputedStyle(entry).color, "font-size": 13,
      "font-family": "system-ui, sans-serif" }, entry.textContent);
    copy.append(text);
    left += 20 + entry.getBoundingClientRect().width;
  }
  copy.prepend(svg("rect", { width: "100%", height: "100%", fill: background() }));
  return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
}

export function background() {
  return getComputedStyle(document.documentElement).getPropertyValue("--card").trim();
}

export function saveSvg(source, name, legend = []) {
  download(`${name}.svg`, standalone(source, legend));
}

// The same, drawn at twice its size.
export async function savePng(source, name, legend = []) {
  const image = new Image();
  image.src = URL.createObjectURL(standalone(source, legend));
  await image.decode();
  const canvas = el("canvas", { width: image.width * 2, height: image.height * 2 });
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  URL.revokeObjectURL(image.src);
  saveCanvas(canvas, name);
}

export function saveCanvas(canvas, name) {
  canvas.toBlob((blob) => download(`${name}.png`, blob), "image/png");
}
