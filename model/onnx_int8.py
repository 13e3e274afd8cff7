"""The ONNX graph with its LSTM weights in 8 bits, computed by ONNX Runtime's DynamicQuantizeLSTM on the CPU.

The operator also rounds what it multiplies the weights with, to 256 levels between the smallest and the largest value
of the whole batch. As it stands, an answer would depend on its batch-mates, and one with values a thousand times as
large as usual would leave nothing of the others'. So every batch is given the same range:

    two features more, always -input_bound and +input_bound; what is beyond them is clipped
    two units more in every layer, always -1 and +1, between which a hidden state lies; an initial one is clipped

Their weights are zero and they leave the graph where they would be seen. An answer is then the same to the last bit,
whoever shares its batch.
https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md#com.microsoft.DynamicQuantizeLSTM
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from model.bundle import lower_outputs
from model.network import NetworkSize
from model.onnx_graph import Weights, classify, constants, join_directions, serialise, to_operator

_DOMAIN = "com.microsoft"
# Not 127: where the processor has no VNNI, two products of 8 bits are added in 16, and 2 * 255 * 64 is what they hold.
_LARGEST = 64
_ANCHORS = 2
# ONNX's order of the gates: i, o, f, c. With these biases a unit keeps its cell state, and shows its tanh.
_ANCHOR_BIASES = (-50, 50, 50, 0)
_ANCHOR_CELL = 20  # its tanh is 1


def build_onnx_int8(size: NetworkSize, weights: Weights, *, input_bound: float) -> bytes:
    """The graph of `build_onnx` in 8 bits; standardised values are clipped to `input_bound`."""
    nodes = [*_prepare(), *_anchor(), *_stack(size), *classify(size, f"hn_{size.num_layers - 1}")]
    return serialise(size, nodes, _quantised_constants(size, weights, input_bound), _DOMAIN)


def _prepare() -> list[onnx.NodeProto]:
    """Standardise, and put zero in the padding: no garbage, not even NaN, may reach what is rounded with the batch."""
    node = helper.make_node
    return [
        node("Sub", ["sequences", "mean"], ["centred"]),
        node("Div", ["centred", "std"], ["standardised"]),  # (B, T, F)
        node("Shape", ["sequences"], ["time_axis"], start=1, end=2),
        node("Squeeze", ["time_axis"], ["time"]),
        node("Range", ["zero", "time", "one"], ["steps"]),
        node("Reshape", ["steps", "all_steps"], ["steps_row"]),  # (1, T, 1)
        node("Reshape", ["lengths", "all_sequences"], ["lengths_column"]),  # (B, 1, 1)
        node("Less", ["steps_row", "lengths_column"], ["valid"]),  # (B, T, 1)
        node("Where", ["valid", "standardised", "no_value"], ["prepared"]),
        *to_operator("prepared"),
    ]


def _anchor() -> list[onnx.NodeProto]:
    """Clip, and append the constants, to the first layer's input (T, B, F) and to the state (L*D, B, H)."""
    node = helper.make_node
    return [
        node("Clip", ["lstm_input_0", "-bound", "+bound"], ["clipped_input"]),
        *_append("clipped_input", "anchored_input_0", "bound"),  # (T, B, F+2)
        node("Clip", ["h0", "-one", "+one"], ["clipped_h0"]),
        *_append("clipped_h0", "anchored_h0", "one"),  # (L*D, B, H+2)
        *_append("c0", "anchored_c0", "cell"),  # (L*D, B, H+2)
    ]


def _append(source: str, target: str, value: str) -> list[onnx.NodeProto]:
    half = f"{target}_half"
    return [
        helper.make_node("Pad", [source, "one_at_the_end", f"-{value}"], [half]),
        helper.make_node("Pad", [half, "one_at_the_end", f"+{value}"], [target]),
    ]


def _stack(size: NetworkSize) -> list[onnx.NodeProto]:
    node = helper.make_node
    layers = range(size.num_layers)
    names = {name: [f"{name}_{k}" for k in layers] for name in ("h0", "c0", "hn", "cn")}
    states = [*lower_outputs(size.num_layers), "hidden_states"]
    nodes = [node("Split", [f"anchored_{name}", "directions"], names[name], axis=0) for name in ("h0", "c0")]
    for k in layers:
        inputs = [f"anchored_input_{k}", f"W_{k}", f"R_{k}", f"B_{k}", "sequence_lens", f"h0_{k}", f"c0_{k}", ""]
        nodes += [
            node(
                "DynamicQuantizeLSTM",
                [*inputs, f"W_scale_{k}", f"W_zero_{k}", f"R_scale_{k}", f"R_zero_{k}"],
                [f"anchored_{name}_{k}" for name in ("Y", "hn", "cn")],  # (T, D, B, H+2), (D, B, H+2), (D, B, H+2)
                name=f"lstm_{k}",
                domain=_DOMAIN,
                hidden_size=size.hidden_size + _ANCHORS,
                direction="bidirectional" if size.bidirectional else "forward",
            ),
            *(
                node("Slice", [f"anchored_{name}_{k}", "first", "units", "last_axis"], [f"{name}_{k}"])
                for name in ("Y", "hn", "cn")
            ),
            *join_directions(size, f"Y_{k}", states[k], batch_first=True),
        ]
        if k + 1 < size.num_layers:
            nodes += [
                node("Transpose", [f"anchored_Y_{k}"], [f"time_first_{k}"], perm=[0, 2, 1, 3]),
                node("Reshape", [f"time_first_{k}", "join_anchored"], [f"anchored_input_{k + 1}"]),  # (T, B, D*(H+2))
            ]
    return [*nodes, *(node("Concat", names[name], [name], axis=0) for name in ("hn", "cn"))]  # (L*D, B, H)


def _quantised_constants(size: NetworkSize, weights: Weights, input_bound: float) -> dict[str, NDArray[Any]]:
    directions = size.num_directions
    values = constants(size, weights) | {
        "no_value": np.zeros((), np.float32),
        "zero": np.array(0, np.int64),
        "one": np.array(1, np.int64),
        "all_steps": np.array([1, -1, 1], np.int64),
        "all_sequences": np.array([-1, 1, 1], np.int64),
        "one_at_the_end": np.array([0, 0, 0, 0, 0, 1], np.int64),
        "first": np.array([0], np.int64),
        "units": np.array([size.hidden_size], np.int64),
        "last_axis": np.array([-1], np.int64),
    }
    for name, value in {"bound": input_bound, "one": 1, "cell": _ANCHOR_CELL}.items():
        values |= {f"-{name}": np.array(-value, np.float32), f"+{name}": np.array(value, np.float32)}
    if size.num_layers > 1:
        values["join_anchored"] = np.array([0, 0, directions * (size.hidden_size + _ANCHORS)], np.int64)
    for k in range(size.num_layers):
        blocks = 1 if k == 0 else directions  # each direction of the layer below brings its own anchors
        for name, inputs in ((f"W_{k}", blocks), (f"R_{k}", 1)):
            anchored = _with_anchors(_with_anchors(values[name], axis=2, blocks=inputs), axis=1, blocks=4)
            kind = name[0]
            values[name], values[f"{kind}_scale_{k}"], values[f"{kind}_zero_{k}"] = _quantise(anchored)
        bias = _with_anchors(values[f"B_{k}"], axis=1, blocks=8).reshape(directions, 8, -1)
        bias[:, :4, -_ANCHORS:] = np.array(_ANCHOR_BIASES)[:, None]
        values[f"B_{k}"] = bias.reshape(directions, -1)  # (D, 8*(H+2))
    return values


def _with_anchors(parameter: NDArray[np.float32], *, axis: int, blocks: int) -> NDArray[np.float32]:
    """`parameter` with two zeros at the end of each of `blocks` equal parts of an axis."""
    parts = np.split(parameter, blocks, axis)
    padding = [(0, _ANCHORS if at == axis else 0) for at in range(parameter.ndim)]
    return np.concatenate([np.pad(part, padding) for part in parts], axis)


def _quantise(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.int8]]:
    """Whole numbers (D, I, 4*H) for `weight` (D, 4*H, I), and of each of its rows the scale and zero point (D, 4*H)."""
    largest = np.abs(weight).max(axis=2)
    scale = np.where(largest > 0, largest, 1).astype(np.float32) / np.float32(_LARGEST)
    rounded = np.rint(weight / scale[:, :, None]).astype(np.int8)
    return rounded.transpose(0, 2, 1), scale, np.zeros(scale.shape, np.int8)
