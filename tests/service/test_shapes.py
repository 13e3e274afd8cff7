"""The shape lab says what the real `torch.nn.LSTM` does: shapes, parameters, and errors, word for word."""

import json
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequest
from service.shapes import MAX_LAYERS, MAX_SIZE, LSTMShapes, lstm_shapes

Arguments = dict[str, Any]

OF_THE_INPUT = {"sequence_length", "batch", "features"}
GRID = [
    dict(zip(("num_layers", "bias", "batch_first", "bidirectional", "batch"), values, strict=True))
    for values in product((1, 2, 3), (True, False), (True, False), (True, False), (None, 0, 1, 4))
]

sizes = st.integers(-1, 6)
flags = st.booleans() | st.sampled_from([0, "yes", None])
arguments = st.fixed_dictionaries(
    {},
    optional={
        "input_size": sizes | st.sampled_from([2.5, "5", None, []]),
        "hidden_size": sizes | st.sampled_from([2.5, "8", None, {}]),
        "num_layers": sizes,
        "bias": flags,
        "batch_first": flags,
        "bidirectional": st.booleans(),
        "sequence_length": st.integers(0, 4),
        "batch": st.none() | st.integers(0, 4),
        "features": st.integers(0, 6),
        "proj": st.just(1),
    },
)


def of_torch(given: Arguments) -> tuple[torch.nn.LSTM, list[torch.Tensor]]:
    """Make the module, put zeros through it; return it, its input, and what came out."""
    module = torch.nn.LSTM(**{name: value for name, value in given.items() if name not in OF_THE_INPUT})
    steps, batch = given.get("sequence_length", 10), given.get("batch", 1)
    shape = [steps] if batch is None else [batch, steps] if given.get("batch_first") else [steps, batch]
    inputs = torch.zeros(*shape, given.get("features", given["input_size"]))
    output, (hn, cn) = module(inputs)
    return module, [inputs, output, hn, cn]


def check(given: Arguments, answer: LSTMShapes) -> None:
    module, tensors = of_torch(given)
    axes = (answer.input, answer.output, answer.h_n, answer.c_n)
    assert [tuple(axis.size for axis in one) for one in axes] == [tuple(tensor.shape) for tensor in tensors]
    expected = [(name, tuple(value.shape)) for name, value in module.named_parameters()]
    assert [(one.name, one.shape) for one in answer.parameters] == expected
    assert answer.parameter_count == sum(value.numel() for value in module.parameters())
    again = eval(answer.call, {"nn": torch.nn})  # the call that is shown makes this very module
    assert repr(again) == repr(module)


@pytest.mark.parametrize("given", GRID, ids=json.dumps)
def test_shapes_and_parameters_are_those_of_torch(given: Arguments) -> None:
    for input_size, hidden_size, steps in product((1, 5), (1, 8), (1, 10)):
        every = given | {"input_size": input_size, "hidden_size": hidden_size, "sequence_length": steps}
        check(every, lstm_shapes(every))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(given=arguments)
def test_it_answers_where_torch_does_and_else_gives_its_error(given: Arguments) -> None:
    raised = ""
    try:
        of_torch(given)
    except Exception as error:
        raised = f" raises {type(error).__name__}: {error}"
    if raised:
        with pytest.raises(InvalidRequest) as refusal:
            lstm_shapes(given)
        assert raised in str(refusal.value)
    else:
        check(given, lstm_shapes(given))


@pytest.mark.parametrize(
    ("given", "call", "reason"),
    [
        ({"input_size": 10}, "nn.LSTM(10)", "how many numbers the LSTM remembers"),
        ({}, "nn.LSTM()", "how many numbers the LSTM remembers"),
        ({"hidden_size": 3}, "nn.LSTM(hidden_size=3)", "the number of features of each time step"),
        ({"input_size": 10, "hidden_size": 0}, "nn.LSTM(10, 0)", "got 0"),
        ({"input_size": 10, "hidden_size": 2, "features": 3}, "nn.LSTM(10, 2)(input)", "a column for each feature"),
        ({"input_size": 10, "hidden_size": 2, "sequence_length": 0}, "nn.LSTM(10, 2)(input)", "at least one"),
    ],
)
def test_an_error_is_told_with_its_call_and_its_reason(given: Arguments, call: str, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        lstm_shapes(given)
    assert str(refusal.value).startswith(f"{call} raises ")
    assert reason in str(refusal.value)


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers", "sequence_length", "batch"])
@pytest.mark.parametrize("value", [-1, True, 1.0, "1", MAX_SIZE + 1, [], {}])
def test_a_size_is_a_whole_number_within_limits(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest, match=name):
        lstm_shapes({"input_size": 5, "hidden_size": 8, name: value})


def test_the_largest_that_is_answered_is_answered_at_once() -> None:
    most = {"input_size": MAX_SIZE, "hidden_size": MAX_SIZE, "num_layers": MAX_LAYERS, "batch": MAX_SIZE}
    assert lstm_shapes(most).parameter_count > MAX_SIZE**2
    with pytest.raises(InvalidRequest, match=f"at most {MAX_LAYERS}"):
        lstm_shapes(most | {"num_layers": MAX_LAYERS + 1})
