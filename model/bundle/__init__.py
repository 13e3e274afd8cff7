"""The bundle: one trained version of one model on disk, and the only thing that training and serving share.

    REPOSITORY/NAME/config.pbtxt             describes the model to Triton, which can serve the same folder
    REPOSITORY/NAME/VERSION/manifest.json    what it is, how it was made, the sha256 of every other file
                            manifest.json.sha256    the sha256 of the manifest
                            model.onnx       the graph for ONNX Runtime
                            model.int8.onnx  the same in 8 bits; a bundle may be without it
                            model.pt         the same graph as TorchScript
                            weights.npz      the trained parameters by their PyTorch names, for the trace
                            examples.json    a few held-out sequences with their true labels

Training ends in `publish`, serving starts with `open_bundle`. Nothing here imports torch or a runtime.
"""

from model.bundle.manifest import (
    EXAMPLES,
    INPUTS,
    MANIFEST,
    ONNX,
    ONNX_INT8,
    OUTPUTS,
    PARITY_TOLERANCE,
    SCHEMA_VERSION,
    TORCHSCRIPT,
    WEIGHTS,
    BundleError,
    DataSource,
    Epoch,
    Evaluation,
    Example,
    Examples,
    FileEntry,
    Manifest,
    Parity,
    Quantisation,
    Stage,
    Standardisation,
    TrainingConfig,
    lower_outputs,
    lstm_names,
)
from model.bundle.storage import (
    Bundle,
    Fingerprint,
    check_name,
    check_writable,
    list_models,
    list_versions,
    open_bundle,
    publish,
    survey,
)

__all__ = [
    "EXAMPLES",
    "INPUTS",
    "MANIFEST",
    "ONNX",
    "ONNX_INT8",
    "OUTPUTS",
    "PARITY_TOLERANCE",
    "SCHEMA_VERSION",
    "TORCHSCRIPT",
    "WEIGHTS",
    "Bundle",
    "BundleError",
    "DataSource",
    "Epoch",
    "Evaluation",
    "Example",
    "Examples",
    "FileEntry",
    "Fingerprint",
    "Manifest",
    "Parity",
    "Quantisation",
    "Stage",
    "Standardisation",
    "TrainingConfig",
    "check_name",
    "check_writable",
    "list_models",
    "list_versions",
    "lower_outputs",
    "lstm_names",
    "open_bundle",
    "publish",
    "survey",
]
