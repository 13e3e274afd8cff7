"""`service.backends.onnx_guard`: what is refused before a runtime opens it, and that no export of ours is."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from factories import make_bundle
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from model.bundle import ONNX, ONNX_INT8, Bundle
from service.backends.onnx_guard import check_graph


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundles"))


@pytest.fixture
def model(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_from_string(bundle.read(ONNX))


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_our_own_exports_pass(tmp_path: Path, num_layers: int, bidirectional: bool) -> None:
    made = make_bundle(tmp_path, num_layers=num_layers, bidirectional=bidirectional)
    for file in (ONNX, ONNX_INT8):
        check_graph(made.read(file))


def refused(model: onnx.ModelProto, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_graph(model.SerializeToString())


def test_data_in_another_file_is_refused(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    refused(model, "a tensor has field 13 ")


def test_data_in_another_file_that_an_attribute_names_is_refused(model: onnx.ModelProto) -> None:
    tensor = TensorProto(name="x", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    model.graph.node[0].attribute.append(helper.make_attribute("value", tensor))
    refused(model, "an? attribute has field 5 ")


def test_a_tensor_of_gigabytes_without_the_data_is_refused(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="x", data_type=1, dims=[2**20, 2**20]))
    refused(model, r"a tensor of shape \[1048576, 1048576\] has 0 bytes")


@pytest.mark.parametrize("size", [2**40, -(2**40), -(2**63)])
def test_a_number_that_makes_a_shape_of_gigabytes_is_refused(model: onnx.ModelProto, size: int) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([size], np.int64), "x"))
    refused(model, "whole number over")


@pytest.mark.parametrize("size", [2**40, -(2**40), -(2**63), [1, 2**40]])
def test_an_attribute_that_makes_a_shape_of_gigabytes_is_refused(model: onnx.ModelProto, size: int | list[int]) -> None:
    model.graph.node[0].attribute.append(helper.make_attribute("hidden_size", size))
    refused(model, "whole number over")


@pytest.mark.parametrize("operator", ["ConstantOfShape", "Loop", "Expand", "Tile", "SequenceMap", "lstm", ""])
def test_an_operator_that_no_export_has_is_refused(model: onnx.ModelProto, operator: str) -> None:
    model.graph.node.add(op_type=operator)
    refused(model, f"operator '{operator}' is not allowed")


def test_subgraphs_functions_and_sparse_tensors_are_refused(bundle: Bundle) -> None:
    content = bundle.read(ONNX)
    for spoil, why in (
        (lambda model: model.functions.add(name="f"), "model has field 25 "),
        (lambda model: model.graph.sparse_initializer.add(), "graph has field 15 "),
        (
            lambda model: model.graph.node[0].attribute.append(AttributeProto(name="body", g=model.graph)),
            "attribute has field 6 ",
        ),
    ):
        spoilt = onnx.load_from_string(content)
        spoil(spoilt)
        refused(spoilt, why)


def test_a_field_that_comes_again_does_not_hide_the_first(bundle: Bundle) -> None:
    node = onnx.NodeProto(op_type="Loop").SerializeToString() + onnx.NodeProto(op_type="Sub").SerializeToString()
    graph = b"\x0a" + bytes([len(node)]) + node
    with pytest.raises(ValueError, match="Loop"):
        check_graph(bundle.read(ONNX) + b"\x3a" + bytes([len(graph)]) + graph)  # another piece of the graph


@given(st.binary(max_size=60))
@example(b"\x3a\x04\x2a\x02\x08\x01")
def test_any_bytes_pass_or_are_refused(content: bytes) -> None:
    with suppress(ValueError):
        check_graph(content)


@pytest.mark.parametrize("content", [b"\xff" * 11, b"\x3a\xff\xff\xff\xff\x0f", b"\x38\x01", b"\x0b", b"\x3a"])
def test_what_is_no_protocol_buffer_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|no protocol buffer|a number stands"):
        check_graph(content)


def test_what_is_cut_off_is_refused_or_a_whole_message(bundle: Bundle) -> None:
    content = bundle.read(ONNX)
    outcomes = set()
    for end in range(0, len(content), 7):
        try:
            check_graph(content[:end])
        except ValueError as error:
            outcomes.add(str(error))
    assert outcomes == {"it is cut off"}
