"""The trace: what every layer computed for one sequence, as named arrays in pipeline order.

Hidden states, logits and probabilities are what the graph gave in the very run that answered the request. What a graph
keeps inside the LSTM operator (gates and cell states) follows from them and the weights by the definition that
`torch.nn.LSTM` documents, for all steps at once, since the hidden states are known:

In int8, too, the hidden states are those of the run; the gates are what the float32 weights make of them, which differs
from what the operator kept inside by the rounding.

    i_t, f_t, o_t = sigmoid(W x_t + U h_(t-1) + b)    g_t = tanh(W x_t + U h_(t-1) + b)    c_t = f_t c_(t-1) + i_t g_t
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast
from zipfile import BadZipFile

import numpy as np
from numpy.lib.npyio import NpzFile

from model.bundle import WEIGHTS, Bundle, BundleError, lower_outputs, lstm_names
from service.backends import Array
from service.errors import InvalidRequest
from service.tensors import Sequences, State, TraceLevel

# In the order in which PyTorch stacks them in `weight_ih_l*` and `weight_hh_l*`.
_GATES = ("input_gate", "forget_gate", "cell_candidate", "output_gate")


@dataclass(frozen=True, slots=True)
class Layer:
    """One named array of a trace."""

    name: str
    values: Array


@dataclass(frozen=True, slots=True)
class _Direction:
    """One direction of one LSTM layer, H hidden units, I inputs."""

    weight_ih: Array  # (4H, I)
    weight_hh: Array  # (4H, H)
    bias: Array  # (4H)


class Tracer:
    """Computes traces for one model; holds its weights. Safe to call from several threads."""

    def __init__(self, bundle: Bundle) -> None:
        """Read `bundle`'s weights; raise `BundleError` if they are not there."""
        self._manifest = bundle.manifest
        content = io.BytesIO(bundle.read(WEIGHTS))
        suffixes = ("", "_reverse")[: self._manifest.num_directions]
        try:
            with np.load(content, allow_pickle=False) as weights:
                self._layers = [
                    [_direction(weights, f"l{layer}{suffix}") for suffix in suffixes]
                    for layer in range(self._manifest.num_layers)
                ]
                self._linear: tuple[Array, Array] = weights["linear.weight"], weights["linear.bias"]
        except (ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BundleError(f"{bundle.folder / WEIGHTS}: does not hold the model's weights: {error}") from error
        self._mean = np.array(self._manifest.standardisation.mean, np.float32)
        self._std = np.array(self._manifest.standardisation.std, np.float32)

    @property
    def names(self) -> tuple[str, ...]:
        """The layers that a trace shows and no graph output does."""
        suffixes = [name.removeprefix("lstm") for name in lstm_names(self._manifest.num_layers)]
        per_layer = [name + suffix for suffix in suffixes for name in (*_GATES, "cell_state")]
        return "standardised", *per_layer, "step_probabilities"

    def outputs(self) -> frozenset[str]:
        """The graph outputs that a trace is made from."""
        lower = lower_outputs(self._manifest.num_layers)
        return frozenset({"probabilities", "logits", "last_hidden", "hidden_states", *lower})

    def size(self, sequences: Sequences, level: TraceLevel) -> int:
        """How many numbers the traces of `sequences` hold."""
        manifest = self._manifest
        width = manifest.hidden_size * manifest.num_directions
        classes = len(manifest.labels)
        # Of each LSTM layer its hidden states, and with the gates its cell states.
        arrays, classes_per_step = (1, 0) if level == "layers" else (2 + len(_GATES), classes)
        per_step = 2 * manifest.input_size + manifest.num_layers * width * arrays + classes_per_step
        return len(sequences.values) * per_step + len(sequences) * (width + 2 * classes)

    def trace(
        self, sequence: Array, row: dict[str, Array], level: TraceLevel, *, state: State | None, ends: Array | None
    ) -> list[Layer]:
        """Trace one `sequence` (T, F) from its `row` of the graph's outputs, each without the batch axis, cut to T.

        `state`: what this one sequence began with, if not with zeros.
        `ends` (T, K): the probabilities if the sequence ended at each step, where they do not follow from the hidden
        states because a backward direction has read on; else None.
        """
        with np.errstate(over="ignore"):
            standardised = (sequence - self._mean) / self._std
        if not np.isfinite(standardised).all():
            raise InvalidRequest("values too large to trace: standardised they are infinite")
        layers = [Layer("input_sequence", sequence), Layer("standardised", standardised)]
        inputs = standardised
        names = lstm_names(self._manifest.num_layers)
        for index, name in enumerate(names):
            hidden = row[(*lower_outputs(len(names)), "hidden_states")[index]]
            layers.append(Layer(name, hidden))
            if level == "gates":
                layers += self._gates(index, inputs, hidden, state, suffix=name.removeprefix("lstm"))
            inputs = hidden
        layers += [
            Layer("last_hidden", row["last_hidden"]),
            Layer("linear", row["logits"]),
            Layer("softmax", row["probabilities"]),
        ]
        if level == "gates":
            weight, bias = self._linear
            layers.append(
                Layer("step_probabilities", softmax(cast("Array", inputs @ weight.T + bias)) if ends is None else ends)
            )
        return layers

    def _gates(self, index: int, inputs: Array, hidden: Array, state: State | None, *, suffix: str) -> Iterator[Layer]:
        """Gates and cell states (T, D*H) of one LSTM layer that read `inputs` (T, I) and gave `hidden` (T, D*H)."""
        size = self._manifest.hidden_size
        directions = []
        zeros = np.zeros(size, np.float32)
        for number, direction in enumerate(self._layers[index]):
            order = slice(None, None, -1 if number else 1)
            states = hidden[order, number * size : (number + 1) * size]
            place = index * self._manifest.num_directions + number
            h0, c0 = (zeros, zeros) if state is None else (state.h0[place, 0], state.c0[place, 0])
            directions.append([array[order] for array in _unroll(direction, inputs[order], states, h0=h0, c0=c0)])
        for name, *arrays in zip((*_GATES, "cell_state"), *directions, strict=True):
            yield Layer(name + suffix, np.concatenate(arrays, axis=1))


def softmax(logits: Array) -> Array:
    """Probabilities (…, K) of `logits` (…, K), shifted by their maximum so that no exponential overflows."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast("Array", exponentials / exponentials.sum(axis=-1, keepdims=True))


def _unroll(direction: _Direction, inputs: Array, hidden: Array, *, h0: Array, c0: Array) -> list[Array]:
    """The four gates and the cell state, each (T, H), of steps that read `inputs` (T, I) and gave `hidden` (T, H).

    They began with `h0` and `c0` (H).
    """
    previous = np.concatenate([h0[None], hidden[:-1]])
    sums = inputs @ direction.weight_ih.T + previous @ direction.weight_hh.T + direction.bias
    before_i, before_f, before_g, before_o = np.split(cast("Array", sums), len(_GATES), axis=1)
    i, f, g, o = _sigmoid(before_i), _sigmoid(before_f), np.tanh(before_g), _sigmoid(before_o)
    cells: Array = i * g
    cells[0] += f[0] * c0
    for step in range(1, len(cells)):
        cells[step] += f[step] * cells[step - 1]
    return [i, f, g, o, cells]


def _sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, without its overflow."""
    return cast("Array", 0.5 + 0.5 * np.tanh(0.5 * x))


def _direction(weights: NpzFile, suffix: str) -> _Direction:
    return _Direction(
        weights[f"lstm.weight_ih_{suffix}"],
        weights[f"lstm.weight_hh_{suffix}"],
        weights[f"lstm.bias_ih_{suffix}"] + weights[f"lstm.bias_hh_{suffix}"],
    )
