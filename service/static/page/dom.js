// Makes elements, and writes numbers the same way everywhere.

const SVG = "http://www.w3.org/2000/svg";

// An HTML element. `props`: properties and attributes; `on…` are listeners, `class` and `for` are what they say.
export function el(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

// The same for SVG.
export function svg(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// A `<select>` of `[value, text]` pairs.
export function select(options, chosen, props = {}) {
  const node = el("select", props);
  setOptions(node, options, chosen);
  return node;
}

export function setOptions(node, options, chosen) {
  node.replaceChildren(...options.map(([value, text]) => el("option", { value }, text)));
  node.value = String(chosen);
}

// Buttons of which one is pressed. `setChosen` of the returned node changes it.
export function segments(label, options, chosen, onchoose) {
  const node = el("div", { class: "segments", role: "group", "aria-label": label });
  node.setChosen = (value) => {
    for (const button of node.children) button.setAttribute("aria-pressed", String(button.dataset.value === value));
  };
  node.append(
    ...options.map(([value, text]) =>
      el("button", { type: "button", "data-value": value, onclick: () => { node.setChosen(value); onchoose(value); } }, text),
    ),
  );
  node.setChosen(chosen);
  return node;
}

// A labelled control, with room for an error below it.
export function field(label, control) {
  control.id ||= `field-${label.toLowerCase().replaceAll(/\W+/g, "-")}`;
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control);
}

// A view's title and what one does there.
export function heading(title, lead) {
  return el("header", { class: "heading" }, el("h2", {}, title), el("p", { class: "lead" }, lead));
}

// Three decimals, as tables and read-outs show them; a real minus sign, so that columns line up.
export function fixed(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−");
}

export function whole(value) {
  return value.toLocaleString("en");
}

export function shapeText(sizes) {
  return sizes.join(" × ");
}

// Say something to those who listen to the page instead of looking at it.
export function announce(text) {
  document.getElementById("status").textContent = text;
}

export function showError(node, error) {
  node.hidden = !error;
  node.textContent = error ? error.message : "";
}

// Only the newest of several calls may go on: `await latest(promise)` of an older one never returns.
export function newest() {
  let turn = 0;
  return async (promise) => {
    const mine = ++turn;
    let value, failure;
    try {
      value = await promise;
    } catch (error) {
      failure = error;
    }
    if (mine !== turn) return new Promise(() => {});
    if (failure) throw failure;
    return value;
  };
}
