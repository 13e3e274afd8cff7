"""`NAME/config.pbtxt`: what makes the repository one that Triton serves as well, with its ONNX Runtime backend.

Triton reads `NAME/config.pbtxt` and `NAME/VERSION/model.onnx` and passes over our other files. The schema is
ModelConfig of https://github.com/triton-inference-server/common, protobuf/model_config.proto.
"""

from collections.abc import Iterator

from model.bundle.manifest import Manifest, lower_outputs

CONFIG = "config.pbtxt"

Shape = tuple[int, ...]


def triton_config(manifest: Manifest) -> str:
    """The configuration of `manifest`'s model, as protobuf text."""
    lines = [
        "# Written by lstm-serve for Triton, which serves this folder with the same inputs and outputs.",
        "# The graph batches along its own axis (the second one of the states), so Triton leaves batching to it.",
        f'name: "{manifest.name}"',
        'platform: "onnxruntime_onnx"',
        'backend: "onnxruntime"',
        "max_batch_size: 0",
        "version_policy { latest { num_versions: 1 } }",
        *_tensors("input", _inputs(manifest)),
        *_tensors("output", {name: ("FP32", shape) for name, shape in _outputs(manifest).items()}),
    ]
    return "\n".join(lines) + "\n"


def _inputs(manifest: Manifest) -> dict[str, tuple[str, Shape]]:
    return {
        "sequences": ("FP32", (-1, -1, manifest.input_size)),
        "lengths": ("INT64", (-1,)),
        "h0": ("FP32", _state(manifest)),
        "c0": ("FP32", _state(manifest)),
    }


def _outputs(manifest: Manifest) -> dict[str, Shape]:
    width, classes = manifest.hidden_size * manifest.num_directions, len(manifest.labels)
    return {
        "probabilities": (-1, classes),
        "logits": (-1, classes),
        "last_hidden": (-1, width),
        "hidden_states": (-1, -1, width),
        "hn": _state(manifest),
        "cn": _state(manifest),
        **dict.fromkeys(lower_outputs(manifest.num_layers), (-1, -1, width)),
    }


def _state(manifest: Manifest) -> Shape:
    return manifest.num_layers * manifest.num_directions, -1, manifest.hidden_size


def _tensors(kind: str, tensors: dict[str, tuple[str, Shape]]) -> Iterator[str]:
    for name, (datatype, shape) in tensors.items():
        yield f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {list(shape)} }}'
