"""The trained network as an ONNX graph, written directly around ONNX's LSTM operator.

Not by torch.onnx: the operator takes the initial state and each sequence's own length, so ragged batches are exact and
no step is a separate node. https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from model.bundle import INPUTS, lower_outputs
from model.network import NetworkSize

OPSET = 17  # read by ONNX Runtime since 1.12
IR_VERSION = 8  # the one that belongs to opset 17

Weights = Mapping[str, NDArray[np.float32]]


def build_onnx(size: NetworkSize, weights: Weights) -> bytes:
    """A bundle's graph from `weights`, float32 by their PyTorch names, checked and serialised."""
    values = constants(size, weights)
    values["W_0"] = values["W_0"] / values["std"]  # instead of a division of every value, see `_prepare`
    nodes = [*_prepare(), *_stack(size), *classify(size, layer_states(size, "hn")[-1])]
    return serialise(size, nodes, values)


def serialise(
    size: NetworkSize, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, NDArray[Any]], *domains: str
) -> bytes:
    """`nodes` as a graph with the bundle's inputs and outputs, checked; `domains`: of operators that ONNX lacks.

    Of `constants` it holds those that the nodes use.
    """
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "lstm_classifier",
        _inputs(size),
        _outputs(size),
        initializer=[
            numpy_helper.from_array(np.ascontiguousarray(value), name)
            for name, value in constants.items()
            if name in used
        ],
        doc_string="Standardise, LSTM, last valid hidden state, linear, softmax. Padding never changes a result.",
    )
    model = helper.make_model(
        graph,
        producer_name="lstm-serve",
        opset_imports=[helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)],
        ir_version=IR_VERSION,
        doc_string="An LSTM sequence classifier; manifest.json beside this file describes it.",
    )
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _inputs(size: NetworkSize) -> list[onnx.ValueInfoProto]:
    state = (size.num_layers * size.num_directions, "batch", size.hidden_size)
    sequences, lengths, h0, c0 = INPUTS
    return [
        _tensor(sequences, ("batch", "time", size.input_size), "right-padded sequences of raw values"),
        helper.make_tensor_value_info(lengths, TensorProto.INT64, ["batch"], "valid steps of each sequence, 1 to time"),
        _tensor(h0, state, "initial hidden state by layer and direction; zeros to begin a sequence"),
        _tensor(c0, state, "initial cell state by layer and direction; zeros to begin a sequence"),
    ]


def _outputs(size: NetworkSize) -> list[onnx.ValueInfoProto]:
    width = size.hidden_size * size.num_directions
    states = ("batch", "time", width)
    state = (size.num_layers * size.num_directions, "batch", size.hidden_size)
    return [
        _tensor("probabilities", ("batch", size.num_classes), "softmax of the logits"),
        _tensor("logits", ("batch", size.num_classes), "a weighted sum of last_hidden for each class"),
        _tensor("last_hidden", ("batch", width), "the top layer's final hidden state, directions side by side"),
        _tensor("hidden_states", states, "the top layer's hidden state at every step, zero in the padding"),
        _tensor("hn", state, "hidden state after each sequence's own last step"),
        _tensor("cn", state, "cell state after each sequence's own last step"),
        *(_tensor(name, states, "as hidden_states, of a lower layer") for name in lower_outputs(size.num_layers)),
    ]


def _tensor(name: str, shape: Sequence[str | int], description: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape, description)


def _prepare() -> list[onnx.NodeProto]:
    """Centre. The first layer's weights hold 1 / std.

    The mean is not folded into its biases: float32 would lose what is small beside it. Padding needs no mask: each
    sequence ends at its own length, and rows never mix.
    """
    return [helper.make_node("Sub", ["sequences", "mean"], ["centred"]), *to_operator("centred")]


def to_operator(prepared: str) -> list[onnx.NodeProto]:
    """What is prepared (B, T, F), and the lengths, as the operator takes them: (T, B, F) and int32."""
    return [
        helper.make_node("Transpose", [prepared], ["lstm_input_0"], perm=[1, 0, 2]),
        helper.make_node("Cast", ["lengths"], ["sequence_lens"], to=TensorProto.INT32),
    ]


def layer_states(size: NetworkSize, state: str) -> list[str]:
    """What each layer's share (D, B, H) of a state (L*D, B, H) is called: a lone layer's is the state."""
    return [state] if size.num_layers == 1 else [f"{state}_{k}" for k in range(size.num_layers)]


def join_directions(size: NetworkSize, source: str, target: str, *, batch_first: bool) -> list[onnx.NodeProto]:
    """From a layer's hidden states (T, D, B, H) to (B, T, D*H) or (T, B, D*H)."""
    if not (size.bidirectional or batch_first):  # nothing is to be moved
        return [helper.make_node("Reshape", [source, "side_by_side"], [target])]
    perm = [2, 0, 1, 3] if batch_first else [0, 2, 1, 3]
    return [
        helper.make_node("Transpose", [source], [f"{target}_apart"], perm=perm),
        helper.make_node("Reshape", [f"{target}_apart", "side_by_side"], [target]),
    ]


def _stack(size: NetworkSize) -> list[onnx.NodeProto]:
    node = helper.make_node
    h0s, c0s, hns, cns = (layer_states(size, state) for state in ("h0", "c0", "hn", "cn"))
    nodes = []
    for k, states in enumerate([*lower_outputs(size.num_layers), "hidden_states"]):
        lstm = node(
            "LSTM",
            [f"lstm_input_{k}", f"W_{k}", f"R_{k}", f"B_{k}", "sequence_lens", h0s[k], c0s[k]],
            [f"Y_{k}", hns[k], cns[k]],  # (T, D, B, H), (D, B, H), (D, B, H)
            name=f"lstm_{k}",
            hidden_size=size.hidden_size,
            direction="bidirectional" if size.bidirectional else "forward",
        )
        nodes += [lstm, *join_directions(size, f"Y_{k}", states, batch_first=True)]
        if k + 1 < size.num_layers:
            nodes += join_directions(size, f"Y_{k}", f"lstm_input_{k + 1}", batch_first=False)
    if size.num_layers == 1:
        return nodes
    split = [node("Split", [state, "directions"], layer_states(size, state), axis=0) for state in ("h0", "c0")]
    join = [node("Concat", layer_states(size, state), [state], axis=0) for state in ("hn", "cn")]
    return [*split, *nodes, *join]


def classify(size: NetworkSize, final: str) -> list[onnx.NodeProto]:
    """From `final`, the top layer's final hidden state (D, B, H), to the probabilities."""
    node = helper.make_node
    nodes = []
    if size.bidirectional:
        nodes.append(node("Transpose", [final], ["last_by_direction"], perm=[1, 0, 2]))  # (B, D, H)
        final = "last_by_direction"
    return [
        *nodes,
        node("Reshape", [final, "one_row"], ["last_hidden"]),  # (B, D*H)
        node("Gemm", ["last_hidden", "linear_weight", "linear_bias"], ["logits"], transB=1),  # (B, K)
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]


def constants(size: NetworkSize, weights: Weights) -> dict[str, NDArray[Any]]:
    """The weights in ONNX's order, and the few numbers that the nodes need, by the names that the nodes use."""
    width = size.hidden_size * size.num_directions
    values: dict[str, NDArray[Any]] = {
        "mean": weights["mean"],
        "std": weights["std"],
        "linear_weight": weights["linear.weight"],
        "linear_bias": weights["linear.bias"],
        "directions": np.full(size.num_layers, size.num_directions, np.int64),
        "side_by_side": np.array([0, -1, width], np.int64),
        "one_row": np.array([-1, width], np.int64),
    }
    suffixes = ("", "_reverse")[: size.num_directions]
    for k in range(size.num_layers):
        by_direction = [
            {kind: weights[f"lstm.{kind}_l{k}{suffix}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
            for suffix in suffixes
        ]
        values[f"W_{k}"] = np.stack([_to_onnx_gates(w["weight_ih"]) for w in by_direction])  # (D, 4*H, F)
        values[f"R_{k}"] = np.stack([_to_onnx_gates(w["weight_hh"]) for w in by_direction])  # (D, 4*H, H)
        values[f"B_{k}"] = np.stack(  # (D, 8*H)
            [np.concatenate([_to_onnx_gates(w["bias_ih"]), _to_onnx_gates(w["bias_hh"])]) for w in by_direction]
        )
    return values


def _to_onnx_gates(parameter: NDArray[np.float32]) -> NDArray[np.float32]:
    """From PyTorch's order of the gates along the first axis (i, f, g, o) to ONNX's (i, o, f, c)."""
    i, f, g, o = np.split(parameter, 4)
    return np.concatenate([i, o, f, g])
