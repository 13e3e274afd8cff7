"""The trained network as TorchScript, with the same inputs and outputs as the ONNX graph.

`nn.LSTM` gives the final cell state at the end of the padding, and packing, which would give it at each sequence's own
end, copies the batch and cannot be frozen. Here each layer and direction is an `nn.LSTM` with one more input: a flag
that is 1 in the padding, with a weight of -1e4 into the input and output gates and +1e4 into the forget gate. The gates
saturate to exactly 0 and 1: in the padding the cell state is carried on unchanged, and the hidden state is zero.
"""

import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.network import NetworkSize

_SATURATE = 1e4
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


class Direction(nn.Module):
    """One direction of one layer. A sequence is read backwards within its own length when `backward`."""

    def __init__(self, input_size: int, hidden_size: int, *, backward: bool) -> None:
        super().__init__()
        self.backward = backward
        self.lstm = nn.LSTM(input_size + 1, hidden_size)

    def forward(
        self, x: Tensor, backwards: Tensor, last: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Hidden states `(T, B, H)`; `hn`, `cn` `(1, B, H)` after each sequence's last step.

        `x` is `(T, B, F + 1)`: what the layer reads, zero where it is padding, and the flag.
        """
        if self.backward:
            x = x.gather(0, backwards.expand(-1, -1, x.size(2)))
        states, (_, cn) = self.lstm(x, state)  # (T, B, H)
        hn = states.gather(0, last.expand(-1, -1, states.size(2)))  # (1, B, H)
        if self.backward:
            states = states.gather(0, backwards.expand(-1, -1, states.size(2)))
        return states, hn, cn


class TorchScriptGraph(nn.Module):
    """The network with the state as input and everything that a trace shows as output.

    Time comes first until the end, since it does in what computes the LSTM: of a batch of 64 each copy is megabytes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: NetworkSize) -> None:
        super().__init__()
        self.num_directions = size.num_directions
        self.register_buffer("mean", torch.zeros(size.input_size))
        self.register_buffer("std", torch.ones(size.input_size))
        width = size.hidden_size * size.num_directions
        self.directions = nn.ModuleList(
            Direction(width if layer else size.input_size, size.hidden_size, backward=direction == 1)
            for layer in range(size.num_layers)
            for direction in range(size.num_directions)
        )
        self.linear = nn.Linear(width, size.num_classes)

    def forward(self, sequences: Tensor, lengths: Tensor, h0: Tensor, c0: Tensor) -> list[Tensor]:
        """Shapes and order as in `onnx_graph.py`; TorchScript has no tuple whose length depends on the stack.

        The layers' states are not contiguous, and what is zero in their padding may have a sign.
        """
        steps = torch.arange(sequences.size(1), device=sequences.device).view(-1, 1, 1)  # (T, 1, 1)
        ends = lengths.view(1, -1, 1)  # (1, B, 1)
        padding = steps >= ends  # (T, B, 1)
        backwards = torch.where(padding, steps, ends - 1 - steps)  # (T, B, 1)
        flag = padding.to(sequences.dtype)
        x = ((sequences.transpose(0, 1) - self.mean) / self.std).masked_fill(padding, 0.0)  # (T, B, F)
        layers: list[Tensor] = []
        sides: list[Tensor] = []
        hn: list[Tensor] = []
        cn: list[Tensor] = []
        for index, direction in enumerate(self.directions):
            if len(sides) == 0:
                x = torch.cat([x, flag], dim=2)  # (T, B, F + 1)
            states, h, c = direction(x, backwards, ends - 1, (h0[index : index + 1], c0[index : index + 1]))
            sides.append(states)
            hn.append(h)
            cn.append(c)
            if len(sides) == self.num_directions:
                x = sides[0] if self.num_directions == 1 else torch.cat(sides, dim=2)  # (T, B, D*H)
                sides.clear()
                layers.append(x.transpose(0, 1))
        last_hidden = torch.cat(hn[-self.num_directions :], dim=2).squeeze(0)  # (B, D*H)
        logits = self.linear(last_hidden)  # (B, K)
        outputs = [torch.softmax(logits, dim=1), logits, last_hidden, layers[-1], torch.cat(hn), torch.cat(cn)]
        return outputs + layers[:-1]


def build_torchscript(size: NetworkSize, weights: Mapping[str, NDArray[np.float32]]) -> bytes:
    """A bundle's graph from `weights`, float32 by their PyTorch names, scripted, frozen, serialised."""
    graph = TorchScriptGraph(size)
    graph.load_state_dict(_graph_weights(size, weights))
    buffer = io.BytesIO()
    with torchscript_deprecated():
        scripted = torch.jit.script(graph.eval())
        torch.jit.save(torch.jit.freeze(scripted), buffer)
    return _without_source_positions(buffer.getvalue())


@contextmanager
def torchscript_deprecated() -> Iterator[None]:
    """Silence torch's notice that TorchScript is deprecated: it is one of the two formats that a bundle promises."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
        yield


def _graph_weights(size: NetworkSize, weights: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    names = ("mean", "std", "linear.weight", "linear.bias")
    converted = {name: torch.from_numpy(weights[name]) for name in names}
    hidden_size = size.hidden_size
    flag = torch.cat(  # input, forget, candidate, output gate: (4*H, 1)
        [torch.full((hidden_size, 1), value) for value in (-_SATURATE, _SATURATE, 0.0, -_SATURATE)]
    )
    for layer in range(size.num_layers):
        for direction, suffix in enumerate(("", "_reverse")[: size.num_directions]):
            target = f"directions.{layer * size.num_directions + direction}.lstm"
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                value = torch.from_numpy(weights[f"lstm.{kind}_l{layer}{suffix}"])
                converted[f"{target}.{kind}_l0"] = torch.cat([value, flag], dim=1) if kind == "weight_ih" else value
    return converted


def _without_source_positions(content: bytes) -> bytes:
    """The archive without `*.debug_pkl`, which hold the paths of the machine that trained it and differ by machine."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(entry.filename, _ZIP_DATE), old.read(entry))
    return buffer.getvalue()
