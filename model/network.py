"""The network that is trained: standardise → LSTM → last valid hidden state → linear. Softmax is left to the loss.

It is written for speed of training. What is served is the same function with more inputs and outputs: `onnx_graph.py`
and `torchscript.py` write it again from these weights, `parity.py` compares both with it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence


@dataclass(frozen=True, slots=True)
class NetworkSize:
    """What a network's parameters' shapes follow from: F features, H units, L layers, D directions, K classes."""

    input_size: int
    hidden_size: int
    num_layers: int
    bidirectional: bool
    num_classes: int

    @property
    def num_directions(self) -> int:
        """D: 2 when bidirectional, else 1."""
        return 2 if self.bidirectional else 1


class LSTMClassifier(nn.Module):
    """Classify sequences by the top LSTM layer's hidden state at each sequence's own last step."""

    mean: Tensor
    std: Tensor

    def __init__(self, size: NetworkSize, *, dropout: float = 0.0, input_noise: float = 0.0) -> None:
        super().__init__()
        self.size = size
        self.input_noise = input_noise
        self.register_buffer("mean", torch.zeros(size.input_size))
        self.register_buffer("std", torch.ones(size.input_size))
        self.lstm = nn.LSTM(
            size.input_size,
            size.hidden_size,
            size.num_layers,
            batch_first=True,
            bidirectional=size.bidirectional,
            dropout=dropout if size.num_layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(size.hidden_size * size.num_directions, size.num_classes)

    def forward(self, sequences: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(B, K)` of right-padded `sequences` `(B, T, F)` float32 with `lengths` `(B)` int64, 1 to T."""
        x = (sequences - self.mean) / self.std  # (B, T, F)
        if self.training and self.input_noise > 0:
            x = x + self.input_noise * torch.randn_like(x)
        last_hidden = self._last_of_both(x, lengths) if self.size.bidirectional else self._last(x, lengths)  # (B, D*H)
        logits: Tensor = self.linear(self.dropout(last_hidden))  # (B, K)
        return logits

    def _last(self, x: Tensor, lengths: Tensor) -> Tensor:
        # Forward in time, padding on the right comes after every valid step and cannot reach it: no need to pack.
        hidden_states, _ = self.lstm(x)  # (B, T, H)
        rows = torch.arange(len(lengths), device=lengths.device)
        last: Tensor = hidden_states[rows, lengths - 1]  # (B, H)
        return last

    def _last_of_both(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, (hn, _) = self.lstm(packed)  # (L*D, B, H)
        return torch.cat([hn[-2], hn[-1]], dim=1)  # (B, 2*H)
