// The public API, and nothing else: JSON, metrics as text, and traces as V2's binary tensors, which for 500 steps of
// 128 units are a tenth of what they would be as JSON.

const KEY = "lstm-serve-key";
let askForKey = async () => null;

export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

// Where a key comes from when the service asks for one; it is kept for as long as the tab lives.
export function onKeyNeeded(ask) {
  let asking = null;
  askForKey = () => (asking ||= ask().finally(() => (asking = null)));
}

async function call(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key && { authorization: `Bearer ${key}` }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new ApiError("the service does not answer; is it still running?", 0);
  }
  if (response.ok) return response;
  const failure = new ApiError(await reason(response), response.status);
  if (response.status !== 401) throw failure;
  const given = await askForKey(failure.message);
  if (given === null) throw failure;
  sessionStorage.setItem(KEY, given);
  return call(path, options);
}

async function reason(response) {
  try {
    return (await response.json()).error;
  } catch {
    return `the service answered ${response.status}`;
  }
}

async function get(path) {
  return (await call(path)).json();
}

async function post(path, document) {
  return (await call(path, { method: "POST", body: JSON.stringify(document) })).json();
}

// `target`: {model, version}.
function modelPath(api, target) {
  return `${api}/models/${encodeURIComponent(target.model)}/versions/${encodeURIComponent(target.version)}`;
}

export const listModels = () => get("v1/models");
export const describe = (target) => get(modelPath("v1", target));
export const examples = async (target) => (await get(`${modelPath("v1", target)}/examples`)).examples;
export const predict = (target, document) => post(`${modelPath("v1", target)}/predict`, document);
export const shapes = (document) => post("v1/shapes", document);
export const metrics = async () => (await call("metrics")).text();

// The `outputs` by name for a batch of sequences: a Map of {shape, values}. Shorter sequences are padded, and their
// lengths told.
export async function infer(target, sequences, outputs) {
  const steps = Math.max(...sequences.map((one) => one.steps));
  const features = sequences[0].features;
  const padded = new Float32Array(sequences.length * steps * features);
  sequences.forEach((one, row) => padded.set(one.values, row * steps * features));
  const header = new TextEncoder().encode(
    JSON.stringify({
      inputs: [
        {
          name: "sequences",
          datatype: "FP32",
          shape: [sequences.length, steps, features],
          parameters: { binary_data_size: padded.byteLength },
        },
        { name: "lengths", datatype: "INT64", shape: [sequences.length], data: sequences.map((one) => one.steps) },
      ],
      outputs: outputs.map((name) => ({ name, parameters: { binary_data: true } })),
    }),
  );
  const response = await call(`${modelPath("v2", target)}/infer`, {
    method: "POST",
    headers: { "inference-header-content-length": String(header.length) },
    body: new Blob([header, padded]),
  });
  return readTensors(await response.arrayBuffer(), Number(response.headers.get("inference-header-content-length")));
}

function readTensors(buffer, headerLength) {
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 0, headerLength)));
  const tensors = new Map();
  let start = headerLength;
  for (const { name, shape, parameters } of header.outputs) {
    const stop = start + parameters.binary_data_size;
    tensors.set(name, { shape, values: new Float32Array(buffer.slice(start, stop)) });
    start = stop;
  }
  return tensors;
}
