// One input sequence (T, F), and the ways it comes in: from an example, JSON, CSV, a link, or a change by hand.

export class Sequence {
  constructor(values, features) {
    this.values = values;
    this.features = features;
    this.steps = values.length / features;
  }

  static fromRows(rows) {
    return new Sequence(Float32Array.from(rows.flat()), rows[0].length);
  }

  at(step, feature) {
    return this.values[step * this.features + feature];
  }

  // The same sequence with some values changed: `edits` is a Map of `step:feature` to value.
  edited(edits) {
    const values = this.values.slice();
    for (const [place, value] of edits) {
      const [step, feature] = place.split(":").map(Number);
      if (step < this.steps && feature < this.features) values[step * this.features + feature] = value;
    }
    return new Sequence(values, this.features);
  }

  column(feature) {
    return Float32Array.from({ length: this.steps }, (_, step) => this.at(step, feature));
  }

  // Rows of the shortest decimals that are the same 32-bit floats.
  rows() {
    return Array.from({ length: this.steps }, (_, step) =>
      Array.from({ length: this.features }, (_, feature) => shortest(this.at(step, feature))),
    );
  }
}

export function shortest(value) {
  for (let digits = 6; digits < 9; digits++) {
    const rounded = Number(value.toPrecision(digits));
    if (Math.fround(rounded) === value) return rounded;
  }
  return value;
}

// `3:1:0.5,4:1:0.6` in a link.
export function parseEdits(text) {
  const edits = new Map();
  for (const part of (text || "").split(",").filter(Boolean)) {
    const [step, feature, value] = part.split(":").map(Number);
    if ([step, feature, value].every(Number.isFinite)) edits.set(`${step}:${feature}`, value);
  }
  return edits;
}

export function formatEdits(edits) {
  return [...edits].map(([place, value]) => `${place}:${shortest(Math.fround(value))}`).join(",");
}

// A whole sequence in a link: F, then its bytes, base64url.
export function pack(sequence) {
  const bytes = new Uint8Array(sequence.values.buffer, sequence.values.byteOffset, sequence.values.byteLength);
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return `${sequence.features}.${btoa(text).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`;
}

export function unpack(text) {
  const [features, packed] = text.split(".");
  const bytes = Uint8Array.from(atob(packed.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
  const sequence = new Sequence(new Float32Array(bytes.buffer), Number(features));
  if (!(sequence.steps >= 1 && Number.isInteger(sequence.steps))) throw new Error("the link's sequence is cut off");
  return sequence;
}

// The rows of one sequence in pasted JSON: (T, F), or (1, T, F), or a predict request. What the rows hold is for the
// service to judge.
export function parseJson(text) {
  let found;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw new Error(`this is not JSON: ${error.message}`);
  }
  if (found?.sequences !== undefined) found = found.sequences;
  if (!Array.isArray(found?.[0]?.[0])) return found;
  if (found.length > 1) throw new Error(`these are ${found.length} sequences; one can be looked at`);
  return found[0];
}

const NO_FEATURES = new Set(["sequence_id", "step", "label"]);

// The rows of a CSV: one line a time step, a header or none; of the long form that training reads, the first sequence.
export function parseCsv(text) {
  const lines = text.trim().split(/\r?\n/).map((line) => line.split(/[,;\t]/).map((cell) => cell.trim()));
  if (!lines[0].some((cell) => cell !== "" && Number.isNaN(Number(cell)))) return lines.map((line) => line.map(number));
  const [names, ...rest] = lines;
  const id = names.indexOf("sequence_id");
  const rows = id < 0 ? rest : rest.filter((line) => line[id] === rest[0][id]);
  const kept = names.map((name, column) => [name, column]).filter(([name]) => !NO_FEATURES.has(name));
  return rows.map((line) => kept.map(([, column]) => number(line[column])));
}

function number(cell) {
  return cell === "" || cell === undefined || Number.isNaN(Number(cell)) ? cell ?? null : Number(cell);
}
