"""Hold the exported graphs against eager PyTorch over ragged batches, and refuse those that differ.

The reference is `nn.LSTM` on packed sequences in float64: a formulation that neither graph shares, and without the
rounding of its own that would use up half of the tolerance. Large weights amplify rounding, step by step: of such a
network a graph may be off by some times what PyTorch itself is in float32.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from model.bundle import PARITY_TOLERANCE, Parity, lower_outputs
from model.graphs import Arrays, Batch, Graph
from model.network import LSTMClassifier, NetworkSize

BATCH_SIZES = (1, 2, 5, 8)
STEPS = (1, 2, 7, 24)
# How often as far off as eager PyTorch in float32 a graph may be: its sums are in another order.
ROUNDINGS, MAX_TOLERANCE = 4, 1e-3
GARBAGE = (np.float32(np.finfo(np.float32).max), np.float32(np.nan))


class ExportError(RuntimeError):
    """An exported graph that does not compute what the trained network does; nothing is published."""


def check_parity(network: LSTMClassifier, graphs: Mapping[str, Graph], *, seed: int) -> Parity:
    """Compare every output of each of `graphs` with `network`; raise `ExportError` beyond `PARITY_TOLERANCE`.

    Where eager PyTorch in float32 is off by more than a quarter of that, `ROUNDINGS` times as much is the tolerance,
    up to `MAX_TOLERANCE`.
    """
    reference = copy.deepcopy(network).cpu().double().eval()
    batches = [*parity_batches(network, np.random.default_rng(seed))]
    stacks = _lower_stacks(reference)
    worst, where = dict.fromkeys(graphs, 0.0), dict.fromkeys(graphs, "")
    for batch in batches:
        expected = eager(reference, batch, stacks)
        for file, graph in graphs.items():
            actual = graph(batch)
            for name, values in expected.items():
                difference = largest_difference(actual.get(name), values)
                if difference > worst[file]:
                    worst[file] = difference
                    where[file] = f"{name} with lengths {batch.lengths.tolist()} and shape {list(values.shape)}"
    tolerance, hint = PARITY_TOLERANCE, ""
    if tolerance < max(worst.values()) < math.inf:
        own = _rounding(network, reference, batches, stacks)
        tolerance = max(tolerance, min(ROUNDINGS * own, MAX_TOLERANCE))
        hint = (
            f"; PyTorch in float32 is off by {own:.2g}: less where weights are smaller, by weight decay or fewer epochs"
        )
    for file, difference in worst.items():
        if difference > tolerance:
            told = f"{file}: differs by {difference:.2g} from PyTorch, {tolerance:.2g} is allowed, in {where[file]}"
            raise ExportError(told + hint)
    return Parity(tolerance=tolerance, cases=len(batches), max_difference=worst)


def _rounding(
    network: LSTMClassifier, reference: LSTMClassifier, batches: Sequence[Batch], stacks: Sequence[nn.LSTM]
) -> float:
    """The largest difference between eager PyTorch in float32 and `reference`, the same network in float64."""
    plain = copy.deepcopy(network).cpu().eval()
    plain_stacks = _lower_stacks(plain)
    return max(
        largest_difference(actual, expected)
        for batch in batches
        for actual, expected in zip(
            eager(plain, batch, plain_stacks).values(), eager(reference, batch, stacks).values(), strict=True
        )
    )


def parity_batches(network: LSTMClassifier, random: np.random.Generator) -> Iterator[Batch]:
    """Ragged batches over a grid of (B, T), from a zero and from a random state, with garbage in the padding."""
    mean, std = network.mean.cpu().numpy(), network.std.cpu().numpy()
    size = network.size
    for (batch_size, steps), garbage, state in product(product(BATCH_SIZES, STEPS), GARBAGE, (0.0, 1.0)):
        sequences = (mean + std * random.standard_normal((batch_size, steps, size.input_size))).astype(np.float32)
        lengths = random.integers(1, steps, batch_size, endpoint=True)
        lengths[0] = steps
        lengths[1:2] = 1
        sequences[np.arange(steps) >= lengths[:, None]] = garbage
        h0, c0 = (state * random.standard_normal((2, *state_shape(size, batch_size)))).astype(np.float32)
        yield Batch(sequences, lengths, h0, c0)


def state_shape(size: NetworkSize, batch_size: int) -> tuple[int, int, int]:
    """The shape `(L*D, B, H)` of `h0`, `c0`, `hn`, `cn`."""
    return (size.num_layers * size.num_directions, batch_size, size.hidden_size)


@torch.inference_mode()
def eager(network: LSTMClassifier, batch: Batch, lower_stacks: Sequence[nn.LSTM] | None = None) -> Arrays:
    """What `network`, in its own precision, computes for `batch`: all outputs of the exported graphs, by name.

    `lower_stacks`: its lowest layers as networks of their own, of which the top one gives what a lower layer hands on.
    """
    dtype = network.mean.dtype
    sequences, h0, c0 = (torch.from_numpy(array).to(dtype) for array in (batch.sequences, batch.h0, batch.c0))
    lengths = torch.from_numpy(batch.lengths)
    standardised = (sequences - network.mean) / network.std
    packed = pack_padded_sequence(standardised, lengths, batch_first=True, enforce_sorted=False)
    hidden_states, hn, cn = _run(network.lstm, packed, h0, c0)
    last_hidden = torch.cat([*hn[-network.size.num_directions :]], dim=1)  # (B, D*H)
    logits = network.linear(last_hidden)  # (B, K)
    outputs = {
        "probabilities": torch.softmax(logits, dim=1),
        "logits": logits,
        "last_hidden": last_hidden,
        "hidden_states": hidden_states,
        "hn": hn,
        "cn": cn,
    }
    stacks = _lower_stacks(network) if lower_stacks is None else lower_stacks
    for lstm, name in zip(stacks, lower_outputs(network.size.num_layers), strict=True):
        rows = lstm.num_layers * network.size.num_directions
        outputs[name], _, _ = _run(lstm, packed, h0[:rows], c0[:rows])
    return {name: value.numpy() for name, value in outputs.items()}


def _run(lstm: nn.LSTM, packed: PackedSequence, h0: Tensor, c0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    output, (hn, cn) = lstm(packed, (h0, c0))
    hidden_states, _ = pad_packed_sequence(output, batch_first=True)  # (B, T, D*H), zero in the padding
    return hidden_states, hn, cn


def _lower_stacks(network: LSTMClassifier) -> list[nn.LSTM]:
    """The lowest layer, the two lowest, and so on, up to all but the top one, each as a stack of its own."""
    size, weights = network.size, network.lstm.state_dict()
    stacks = []
    for count in range(1, size.num_layers):
        lstm = nn.LSTM(size.input_size, size.hidden_size, count, batch_first=True, bidirectional=size.bidirectional)
        lstm = lstm.to(network.mean.dtype).eval()
        lstm.load_state_dict({name: weights[name] for name in lstm.state_dict()})
        stacks.append(lstm)
    return stacks


def largest_difference(actual: NDArray[np.float32] | None, expected: NDArray[np.float64]) -> float:
    """The largest difference, as a fraction of its vector's largest value if that is above 1.

    Infinite for another shape, or a value that is not a number. Cell states and logits have no bound, and float32
    holds 1e-5 of a value above 100 no more, nor of a small one that is what large ones leave when they are summed.
    """
    if actual is None or actual.shape != expected.shape:
        return float("inf")
    scale = np.maximum(np.abs(expected).max(axis=-1, keepdims=True), 1.0)
    difference = float((np.abs(actual - expected) / scale).max())
    return float("inf") if math.isnan(difference) else difference
