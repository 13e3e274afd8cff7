"""A model's tensors in V2: which there are; from a request's inputs to `Sequences`; from a `Prediction` to outputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.bundle import Manifest
from service.backends import Array
from service.binary_tensors import Tensor
from service.engine import Engine, Prediction
from service.errors import InvalidRequest
from service.open_inference import DescribedInput, RequestedOutput
from service.tensors import Sequences, State
from service.trace import Layer

_FLOATS: Final = ("FP32", "FP16", "BF16", "FP64")
_CLASSIFIABLE: Final = ("probabilities", "logits")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, datatype and shape of a model's input or output; -1 stands for a size that a request chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def inputs_of(manifest: Manifest) -> tuple[TensorInfo, ...]:
    """What a request may bring; all but `sequences` may be left out."""
    state = (manifest.num_layers * manifest.num_directions, -1, manifest.hidden_size)
    return (
        TensorInfo("sequences", "FP32", (-1, -1, manifest.input_size)),
        TensorInfo("lengths", "INT64", (-1,)),
        TensorInfo("h0", "FP32", state),
        TensorInfo("c0", "FP32", state),
    )


def outputs_of(engine: Engine) -> tuple[TensorInfo, ...]:
    """What a request may ask for: the graph's outputs, the label, and every layer of the trace."""
    manifest = engine.manifest
    width, classes = manifest.hidden_size * manifest.num_directions, len(manifest.labels)
    state = (manifest.num_layers * manifest.num_directions, -1, manifest.hidden_size)
    shapes = {
        "probabilities": (-1, classes),
        "logits": (-1, classes),
        "last_hidden": (-1, width),
        "hn": state,
        "cn": state,
        "standardised": (-1, -1, manifest.input_size),
        "step_probabilities": (-1, -1, classes),
    }
    names = (*manifest.outputs, *engine.traced_names)
    described = {name: TensorInfo(name, "FP32", shapes.get(name, (-1, -1, width))) for name in names}
    label = TensorInfo("label", "BYTES", (-1,))
    return (described.pop("probabilities"), label, *described.values())


def check_outputs(wanted: tuple[RequestedOutput, ...], engine: Engine, *, batch: int, steps: int) -> list[TensorInfo]:
    """Raise `InvalidRequest` unless the model has all that is `wanted`; return it, with the real shapes."""
    known = {info.name: info for info in outputs_of(engine)}
    names = [output.name for output in wanted]
    infos = []
    for output in wanted:
        if output.name not in known:
            raise InvalidRequest(f"output {output.name!r}: there is none; allowed are {', '.join(known)}")
        if names.count(output.name) > 1:
            raise InvalidRequest(f"output {output.name!r} is asked for twice")
        if output.classes and output.name not in _CLASSIFIABLE:
            raise InvalidRequest(f"output {output.name!r}: classification is for {' and '.join(_CLASSIFIABLE)} alone")
        open_sizes = iter((batch, steps))
        shape = tuple(next(open_sizes) if size == -1 else size for size in known[output.name].shape)
        infos.append(replace(known[output.name], shape=shape))
    return infos


def check_inputs(inputs: Sequence[DescribedInput], manifest: Manifest) -> tuple[int, ...]:
    """Raise `InvalidRequest` unless the model takes tensors such as these; return the shape of the sequences."""
    allowed = [info.name for info in inputs_of(manifest)]
    by_name = {entry.name: entry for entry in inputs}
    if unknown := sorted(by_name.keys() - set(allowed)):
        raise InvalidRequest(f"input {unknown[0]!r}: there is none; allowed are {', '.join(allowed)}")
    if "sequences" not in by_name:
        raise InvalidRequest("input 'sequences' is missing")
    shape = by_name["sequences"].shape
    if len(shape) != 3 or 0 in shape or shape[2] != manifest.input_size:
        expected = f"(batch, time, {manifest.input_size}), neither of them 0"
        raise InvalidRequest(f"input 'sequences': shape {list(shape)}, must be {expected}")
    batch = shape[0]
    state = (manifest.num_layers * manifest.num_directions, batch, manifest.hidden_size)
    for name, entry in by_name.items():
        datatypes = ("INT64", "INT32") if name == "lengths" else _FLOATS
        if entry.datatype not in datatypes:
            raise InvalidRequest(f"input {name!r}: datatype {entry.datatype}, allowed are {', '.join(datatypes)}")
        must_be = {"sequences": shape, "lengths": (batch,)}.get(name, state)
        if entry.shape != must_be:
            raise InvalidRequest(f"input {name!r}: shape {list(entry.shape)}, must be {list(must_be)}")
    return shape


def read_sequences(inputs: Mapping[str, Tensor], manifest: Manifest) -> Sequences:
    """The sequences of inputs that were checked, without their padding, and the states they begin in."""
    sequences = _floats(inputs["sequences"])
    batch, steps, features = sequences.shape
    if "lengths" in inputs:
        lengths = _lengths(inputs["lengths"], steps)
        values = sequences[np.arange(steps) < lengths[:, None]]
    else:
        lengths = np.array([steps] * batch)  # for a few rows a fifth of what numpy.full takes
        values = sequences.reshape(-1, features)
    _check_finite("sequences", values)
    if not {"h0", "c0"} & inputs.keys():
        return Sequences(values, lengths)
    shape = (manifest.num_layers * manifest.num_directions, batch, manifest.hidden_size)
    h0, c0 = (_state(inputs[name]) if name in inputs else np.zeros(shape, np.float32) for name in ("h0", "c0"))
    return Sequences(values, lengths, State(h0, c0))


def _floats(tensor: Tensor) -> Array:
    if tensor.datatype == "FP32":
        return tensor.values
    with np.errstate(over="ignore"):
        return tensor.values.astype(np.float32)


def _state(tensor: Tensor) -> Array:
    values = _floats(tensor)
    _check_finite(tensor.name, values)
    return values


def _check_finite(name: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise InvalidRequest(f"input {name!r}: every value must be finite as a 32-bit float")


def _lengths(tensor: Tensor, steps: int) -> NDArray[np.int64]:
    lengths = tensor.values.astype(np.int64)
    if (lengths < 1).any() or (lengths > steps).any():
        raise InvalidRequest(f"input 'lengths': each must be from 1 to {steps}, the steps in 'sequences'")
    return lengths


def make_output(wanted: RequestedOutput, prediction: Prediction, labels: tuple[str, ...], *, steps: int) -> Tensor:
    """One output as a tensor, padded with zeros to as many `steps` as the request's sequences have."""
    if wanted.name == "label":
        chosen = prediction.probabilities.argmax(axis=1).tolist()
        return Tensor("label", "BYTES", np.array([labels[index].encode() for index in chosen], object))
    if wanted.name in prediction.outputs:
        values = prediction.outputs[wanted.name]
    else:
        values = _stack(wanted.name, prediction.traces or [])
    if wanted.classes:
        return Tensor(wanted.name, "BYTES", _classify(values, labels, wanted.classes))
    if values.ndim == 3 and wanted.name not in {"hn", "cn"} and values.shape[1] < steps:
        values = np.pad(values, ((0, 0), (0, steps - values.shape[1]), (0, 0)))
    return Tensor(wanted.name, "FP32", values)


def _stack(name: str, traces: list[list[Layer]]) -> Array:
    """Layer `name` of every trace, (B, T, …), T the longest of them."""
    rows = [next(layer.values for layer in layers if layer.name == name) for layers in traces]
    stacked = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
    for row, values in enumerate(rows):
        stacked[row, : len(values)] = values
    return stacked


def _classify(values: Array, labels: tuple[str, ...], count: int) -> NDArray[Any]:
    """The `count` highest of each row of `values` (B, K) as `value:index:label`, highest first (B, count)."""
    best = np.argsort(-values, axis=1, kind="stable")[:, :count].tolist()
    texts = [
        [f"{row[index]:f}:{index}:{labels[index]}".encode() for index in order]
        for row, order in zip(values, best, strict=True)
    ]
    return np.array(texts, object)
