// The calls that give what is shown: curl, Python, tritonclient.

import { announce, el, segments } from "./dom.js";

const KINDS = [["curl", "curl"], ["python", "Python"], ["triton", "tritonclient"]];

// The views say what they ask for: {path, body} of the simple API, and `infer`: {rows, outputs} where V2 has it too.
export function showCode(app) {
  const asked = app.views[app.state.view]?.request?.() || { path: "v1/models" };
  const key = Boolean(sessionStorage.getItem("lstm-serve-key"));
  const base = new URL(".", location.href).href;
  const texts = { curl: curl(base, asked, key), python: python(base, asked, key), triton: triton(base, asked, app.target, key) };
  const shown = el("code");
  const show = (kind) => (shown.textContent = texts[kind]);
  const copy = el("button", { class: "primary", type: "button", onclick: () => copyText(copy, shown.textContent) }, "Copy");
  const kinds = KINDS.filter(([kind]) => texts[kind]);
  const dialog = document.getElementById("dialog");
  dialog.replaceChildren(
    el("form", { method: "dialog", class: "stack tight" },
      el("h2", { id: "dialog-title" }, "The same, from a program"),
      kinds.length > 1 ? segments("Client", kinds, "curl", show) : null,
      el("pre", { tabindex: "0", "aria-label": "Code" }, shown),
      el("div", { class: "row" }, copy, el("button", {}, "Close"))),
  );
  show("curl");
  dialog.showModal();
}

async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.closest("form").querySelector("code"));
    button.textContent = "Selected: copy it by hand";
  }
  announce(button.textContent);
}

function curl(base, { path, body }, key) {
  const header = key ? ' \\\n  -H "Authorization: Bearer $KEY"' : "";
  const data = body === undefined ? "" : ` \\\n  -d ${quoted(JSON.stringify(body))}`;
  return `curl -s ${quoted(`${base}${path}`)}${header}${data}`;
}

// A word of the shell, whatever it holds: much of it comes out of the link.
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function python(base, { path, body }, key) {
  const url = JSON.stringify(base + path);
  const headers = key ? ", headers={\"Authorization\": f\"Bearer {key}\"}" : "";
  const call = body === undefined ? `httpx.get(${url}${headers})`
    : `httpx.post(${url}${headers}, json=${literal(body)})`;
  const last = path === "metrics" ? "print(answer.text)" : "print(answer.json())";
  return `${key ? "import os\n\n" : ""}import httpx\n\n${key ? 'key = os.environ["KEY"]\n' : ""}answer = ${call}\nanswer.raise_for_status()\n${last}`;
}

// JSON as Python writes it.
function literal(value) {
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (value && typeof value === "object") {
    return `{${Object.entries(value).map(([name, one]) => `"${name}": ${literal(one)}`).join(", ")}}`;
  }
  return { true: "True", false: "False", null: "None" }[String(value)] ?? JSON.stringify(value);
}

function triton(base, { infer }, target, key) {
  if (!infer) return null;
  const { host, pathname } = new URL(base);
  return [
    "import numpy as np, tritonclient.http as triton",
    key ? 'import os\nheaders = {"Authorization": f"Bearer {os.environ[\'KEY\']}"}' : null,
    "",
    `sequences = np.array([${literal(infer.rows)}], np.float32)  # (1, T, F)`,
    'tensor = triton.InferInput("sequences", sequences.shape, "FP32").set_data_from_numpy(sequences)',
    `wanted = [triton.InferRequestedOutput(name) for name in ${literal(infer.outputs)}]`,
    `client = triton.InferenceServerClient("${host}${pathname.replace(/\/$/, "")}")`,
    `answer = client.infer(${JSON.stringify(target.model)}, [tensor], model_version=${JSON.stringify(target.version)}, outputs=wanted${key ? ", headers=headers" : ""})`,
    "for output in wanted:",
    "    print(output.name(), answer.as_numpy(output.name()).shape)",
  ].filter((line) => line !== null).join("\n");
}
