"""`config.pbtxt`: Triton's own schema accepts it, and it says of the graph what the graph says of itself."""

import importlib.util
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from factories import make_bundle
from google.protobuf import text_format

from model.bundle import ONNX, list_models, list_versions, survey


@pytest.fixture(scope="module")
def schema() -> ModuleType:
    """Triton's `model_config_pb2`, out of its client package, whose own way to it needs grpc."""
    spec = importlib.util.find_spec("tritonclient")
    assert spec is not None
    assert spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    module_spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


def shapes(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[str, list[int]]]:
    """Each tensor of a graph as Triton would write it: -1 for what varies."""
    return {
        value.name: (
            "TYPE_INT64" if value.type.tensor_type.elem_type == onnx.TensorProto.INT64 else "TYPE_FP32",
            [size.dim_value if size.HasField("dim_value") else -1 for size in value.type.tensor_type.shape.dim],
        )
        for value in values
    }


@pytest.mark.parametrize("name", ["tiny", "stacked", "bidirectional", "both"])
def test_triton_reads_it_and_it_describes_the_graph(repository: Path, schema: ModuleType, name: str) -> None:
    text = (repository / name / "config.pbtxt").read_text()
    config = text_format.Parse(text, schema.ModelConfig())
    graph = onnx.load(repository / name / "1" / ONNX).graph
    assert (config.name, config.backend, config.max_batch_size) == (name, "onnxruntime", 0)
    assert config.version_policy.latest.num_versions == 1
    for tensors, expected in ((config.input, shapes(graph.input)), (config.output, shapes(graph.output))):
        datatypes = schema.DataType.Name
        assert {one.name: (datatypes(one.data_type), list(one.dims)) for one in tensors} == expected
        assert [one.name for one in tensors] == list(expected)


def test_it_describes_the_newest_version_and_is_taken_for_none(tmp_path: Path, schema: ModuleType) -> None:
    for input_size in (3, 5):
        make_bundle(tmp_path, "m", input_size=input_size)
    config = text_format.Parse((tmp_path / "m" / "config.pbtxt").read_text(), schema.ModelConfig())
    assert list(config.input[0].dims) == [-1, -1, 5]
    assert list_models(tmp_path) == ("m",)
    assert list_versions(tmp_path, "m") == (1, 2)
    assert [*survey(tmp_path)["m"]] == [1, 2]
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["1", "2", "config.pbtxt"]
