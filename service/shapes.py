"""What `torch.nn.LSTM` makes of its arguments: the shapes of what it returns, its parameters, or its error.

Answered from the definition that torch documents, without torch, so that a service of ONNX alone can answer too. Tests
hold every line of it against the real module.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.errors import InvalidRequest

# Ours, not torch's: a machine with enough memory would take more.
MAX_SIZE: Final = 1_000_000
MAX_LAYERS: Final = 64

_WHY: Final = {
    "input_size": "it is the number of features of each time step",
    "hidden_size": "it is how many numbers the LSTM remembers from step to step, and no input can tell it",
    "num_layers": "layers stand on one another, each reads what the one below gave, and one is the fewest",
    "bias": "it says whether the gates have an offset of their own, so it is true or false",
    "batch_first": "it says whether the batch is the first axis, so it is true or false",
    "bidirectional": "it says whether a second LSTM reads the sequence backwards, so it is true or false",
    "sequence_length": "it is the number of time steps of the input, at least one",
    "batch": "it is the number of sequences in the input; null is one sequence without a batch axis",
    "features": "it is the last axis of the input; when left out it is input_size",
}
_TYPES: Final = {bool: "bool", float: "float", str: "str", list: "list", dict: "dict", type(None): "NoneType"}


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a tensor: its size, and what it runs over."""

    size: int
    name: str


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter tensor, by torch's name for it."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LSTMShapes:
    """What one call of an `nn.LSTM` takes and gives. `call` is Python that makes the module."""

    call: str
    input: tuple[Axis, ...]
    output: tuple[Axis, ...]
    h_n: tuple[Axis, ...]
    c_n: tuple[Axis, ...]
    parameters: tuple[Parameter, ...]
    parameter_count: int


def lstm_shapes(given: Mapping[str, Any]) -> LSTMShapes:
    """Answer for the `given` arguments of `nn.LSTM`, and the sizes of its input.

    Takes `input_size`, `hidden_size`, `num_layers`, `bias`, `batch_first`, `bidirectional`, and of the input
    `sequence_length`, `batch` (None: no such axis) and `features`. Raises `InvalidRequest` with torch's own error,
    and its reason, where torch would raise one.
    """
    call = _call(given)
    for name in given:
        if name not in _WHY:
            raise _refusal(call, "TypeError", f"RNNBase.__init__() got an unexpected keyword argument {name!r}", "")
    _check_missing(call, given)
    bias, batch_first = (
        _flag(call, given, name, default) for name, default in (("bias", True), ("batch_first", False))
    )
    input_size, hidden_size = (_size(call, given, name) for name in ("input_size", "hidden_size"))
    num_layers = _size(call, given, "num_layers", default=1, most=MAX_LAYERS)
    directions = 1 + _flag(call, given, "bidirectional", False)
    inputs = _read_input(call, given, input_size, batch_first=batch_first)
    batch = tuple(axis for axis in inputs if axis.name == "batch")
    layers = "layers" if directions == 1 else "layers × directions"
    state = (Axis(num_layers * directions, layers), *batch, Axis(hidden_size, "hidden size"))
    width = Axis(hidden_size * directions, "hidden size" if directions == 1 else "directions × hidden size")
    parameters = _parameters(input_size, hidden_size, num_layers, directions, bias=bias)
    count = sum(math.prod(parameter.shape) for parameter in parameters)
    return LSTMShapes(call, inputs, (*inputs[:-1], width), state, state, parameters, count)


def _parameters(
    input_size: int, hidden_size: int, num_layers: int, directions: int, *, bias: bool
) -> tuple[Parameter, ...]:
    """Four gates of H rows each: from the input, from the hidden state before, and two offsets."""
    rows = 4 * hidden_size
    found = []
    for layer in range(num_layers):
        columns = input_size if layer == 0 else hidden_size * directions
        for suffix in (f"l{layer}", f"l{layer}_reverse")[:directions]:
            found.append(Parameter(f"weight_ih_{suffix}", (rows, columns)))
            found.append(Parameter(f"weight_hh_{suffix}", (rows, hidden_size)))
            if bias:
                found += [Parameter(f"bias_{source}_{suffix}", (rows,)) for source in ("ih", "hh")]
    return tuple(found)


def _read_input(call: str, given: Mapping[str, Any], input_size: int, *, batch_first: bool) -> tuple[Axis, ...]:
    """The axes of the input; a size that torch's module refuses is an error of the call, with the module made."""
    forward = f"{call}(input)"
    steps = _size(forward, given, "sequence_length", default=10, least=0)
    features = _size(forward, given, "features", default=input_size, least=0)
    batch = None if given.get("batch", 1) is None else _size(forward, given, "batch", default=1, least=0)
    if features != input_size:
        message = f"input.size(-1) must be equal to input_size. Expected {input_size}, got {features}"
        raise _refusal(forward, "RuntimeError", message, "the weights have a column for each feature")
    if steps == 0:
        message = "Expected sequence length to be larger than 0 in RNN"
        raise _refusal(forward, "RuntimeError", message, _WHY["sequence_length"])
    time, last = Axis(steps, "time"), Axis(features, "features")
    if batch is None:
        return (time, last)
    first = Axis(batch, "batch")
    return (first, time, last) if batch_first else (time, first, last)


def _check_missing(call: str, given: Mapping[str, Any]) -> None:
    missing = [name for name in ("input_size", "hidden_size") if name not in given]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        names = " and ".join(repr(name) for name in missing)
        message = f"RNNBase.__init__() missing {len(missing)} required positional argument{plural}: {names}"
        raise _refusal(call, "TypeError", message, f"{missing[-1]}: {_WHY[missing[-1]]}")


def _flag(call: str, given: Mapping[str, Any], name: str, default: bool) -> bool:
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise _refusal(call, "TypeError", f"{name} should be of type bool, got: {_type_name(value)}", _WHY[name])
    return value


def _size(
    call: str, given: Mapping[str, Any], name: str, *, default: int | None = None, least: int = 1, most: int = MAX_SIZE
) -> int:
    value = given.get(name, default)
    if type(value) is not int:
        raise _refusal(call, "TypeError", f"{name} should be of type int, got: {_type_name(value)}", _WHY[name])
    if value < least:
        rule = f"{name} must be greater than zero" if least else f"{name} must not be negative"
        raise _refusal(call, "ValueError", rule, f"got {value}; {_WHY[name]}")
    if value > most:
        raise InvalidRequest(f"{name}: got {value}, at most {most} is answered here")
    return value


def _refusal(call: str, kind: str, message: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{call} raises {kind}: {message}{f' ({why})' if why else ''}")


def _type_name(value: object) -> str:
    return _TYPES.get(type(value), "int")


def _call(given: Mapping[str, Any]) -> str:
    """The call as one would write it: sizes by position, and what is not the default by name."""
    defaults = {"num_layers": 1, "bias": True, "batch_first": False, "bidirectional": False}
    words = []
    for name in ("input_size", "hidden_size"):
        if name in given:
            by_name = name == "hidden_size" and "input_size" not in given
            words.append(f"{'hidden_size=' if by_name else ''}{_shown(given[name])}")
    words += [f"{name}={_shown(given[name])}" for name, usual in defaults.items() if given.get(name, usual) != usual]
    return f"nn.LSTM({', '.join(words)})"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
