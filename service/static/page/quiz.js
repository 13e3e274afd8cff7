// A quiz on shapes. Every question is drawn anew; its right answer is what the service says for the drawn numbers, and the
// wrong ones are what it says for the mistake that one is likely to make, so each can be told what it would be right for.

import * as api from "./api.js";
import { el, showError, whole } from "./dom.js";

const pick = (list) => list[Math.floor(Math.random() * list.length)];
const shape = (name) => (answer) => `(${answer[name].map(({ size }) => size).join(", ")})`;
const count = (answer) => `${whole(answer.parameter_count)} parameters`;
const inputShape = shape("input");

// Each: what is asked, what of the answer counts, and the mistakes: [changed arguments, what was overlooked].
const QUESTIONS = [
  (given, base) => ({
    ask: `A batch of shape ${inputShape(base)} goes through ${base.call}. What is the shape of output?`,
    read: shape("output"),
    why: "output has the top layer's hidden state for every step: the input's shape, with the last axis now hidden_size times the directions.",
    mistakes: [
      [{ bidirectional: !given.bidirectional }, given.bidirectional ? "two directions stand side by side in the last axis" : "there is one direction here"],
      [{ batch_first: !given.batch_first }, "look where the batch axis is: batch_first says it"],
      [{ hidden_size: given.input_size }, "the last axis is no longer the input's, the LSTM has made its own numbers"],
    ],
  }),
  (given, base) => ({
    ask: `${base.call} has read a batch of ${given.batch} sequences. What is the shape of h_n?`,
    read: shape("h_n"),
    why: "h_n has one state for each layer and direction, then the batch, whatever batch_first says, then hidden_size.",
    mistakes: [
      [{ num_layers: given.num_layers === 1 ? 2 : 1 }, "count the layers: each ends with a state of its own"],
      [{ bidirectional: !given.bidirectional }, "each direction has a state of its own, and they stand behind each other here"],
      [{ batch: given.sequence_length }, "time is gone from h_n: it is the state after the last step"],
    ],
  }),
  (given, base) => ({
    ask: `How many parameters does ${base.call} have?`,
    read: count,
    why: "four gates, each with a weight for every input feature, one for every hidden unit, and two biases; bias=False leaves those out.",
    mistakes: [
      [{ bias: !given.bias }, given.bias ? "the gates have biases too, two of each" : "bias=False leaves the biases out"],
      [{ num_layers: given.num_layers === 1 ? 2 : 1 }, "count the layers"],
      [{ input_size: given.hidden_size, hidden_size: given.input_size }, "input and hidden size have changed places"],
    ],
  }),
  (given, base) => ({
    ask: `The batch has ${given.sequence_length} steps. Now it gets ${given.sequence_length * 3}. How many parameters must ${base.call} have to read it?`,
    read: count,
    why: "the same weights are used at every step, so the length of the sequence plays no part.",
    mistakes: [
      [{ hidden_size: given.hidden_size * 3 }, "more steps need no more units"],
      [{ num_layers: given.num_layers * 3 }, "steps are no layers"],
      [{ input_size: given.input_size * 3 }, "a step has as many features as before"],
    ],
  }),
];

function draw() {
  const sizes = [2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20];
  const drawn = {};
  for (const name of ["input_size", "hidden_size", "sequence_length", "batch"]) {
    drawn[name] = pick(sizes.filter((size) => !Object.values(drawn).includes(size)));
  }
  const flags = { bidirectional: pick([true, false]), batch_first: pick([true, false]), bias: pick([true, true, false]) };
  return { ...drawn, num_layers: pick([1, 2, 3]), ...flags };
}

// The options, the right one first: {text, right, feedback}. A mistake that makes no difference is no option.
async function optionsOf({ read, why, mistakes }, given, base) {
  const answers = await Promise.all(mistakes.map(([changed]) => api.shapes({ ...given, ...changed })));
  const options = [{ text: read(base), right: true, feedback: `Right: ${why}` }];
  answers.forEach((answer, index) => {
    const text = read(answer);
    const of = answer.call === base.call ? "" : ` It would be right for ${answer.call}.`;
    const feedback = `Not quite: ${mistakes[index][1]}.${of}`;
    if (options.every((one) => one.text !== text)) options.push({ text, right: false, feedback });
  });
  return options;
}

export function createQuiz() {
  const question = el("p", { class: "question" });
  const options = el("div", { class: "options", role: "group", "aria-label": "Answers" });
  const feedback = el("p", { class: "feedback", role: "status" });
  const error = el("p", { class: "error", hidden: true });
  const score = el("span", { class: "chip", hidden: true });
  const again = el("button", { type: "button", onclick: () => next() }, "Another question");
  let tally = { right: 0, asked: 0 }, turn = Math.floor(Math.random() * QUESTIONS.length);

  async function next() {
    const given = draw();
    try {
      const base = await api.shapes(given);
      const asked = QUESTIONS[turn++ % QUESTIONS.length](given, base);
      const found = await optionsOf(asked, given, base);
      question.textContent = asked.ask;
      feedback.textContent = "";
      feedback.className = "feedback";
      let open = true;
      options.replaceChildren(...found.toSorted(() => Math.random() - 0.5).map((one) =>
        el("button", { type: "button", class: "option", "data-right": String(one.right), onclick: (event) => {
          if (open) tally = { right: tally.right + (one.right ? 1 : 0), asked: tally.asked + 1 };
          open = false;
          judge(event.currentTarget, one);
        } }, one.text)));
      showError(error, null);
    } catch (failure) {
      showError(error, failure);
    }
  }

  function judge(button, one) {
    button.classList.add(one.right ? "right" : "wrong");
    feedback.textContent = one.feedback;
    feedback.className = `feedback ${one.right ? "good" : "bad"}`;
    score.hidden = false;
    score.textContent = `${tally.right} of ${tally.asked} at first try`;
  }

  next();
  return el("section", { class: "card quiz stack tight", "aria-label": "Quiz" }, el("div", { class: "row middle" }, el("h3", {}, "Quiz"), score),
    question, options, feedback, error, el("div", {}, again));
}
