"""What is said of int8: with it an answer depends on its batch-mates, in float32 it does not."""

from pathlib import Path

import numpy as np

from bench.graphs import open_onnx, pad
from bench.int8 import quantise
from bench.models import MEDIUM, ensure_model
from bench.workload import SCENARIOS, requests_of
from model.bundle import ONNX


def test_a_large_batch_mate_changes_an_answer_in_int8_alone(tmp_path: Path) -> None:
    bundle = ensure_model(tmp_path, MEDIUM)
    sequence, other = requests_of(SCENARIOS["S3"], MEDIUM)[0][:2]
    content = bundle.read(ONNX)
    for graph, is_spoilt in ((open_onnx(content), False), (open_onnx(quantise(content)), True)):
        alone, beside = (graph(pad(bundle, batch))[0] for batch in ((sequence,), (sequence, other * 1000)))
        assert np.allclose(alone, beside, atol=1e-6) is not is_spoilt
