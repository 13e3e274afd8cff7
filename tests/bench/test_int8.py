"""What is said of int8: an answer depends on its batch-mates in the graph of ONNX Runtime's tool, and in no other."""

from pathlib import Path

import numpy as np

from bench.graphs import open_onnx, pad
from bench.int8 import quantise, quantise_by_tool
from bench.models import MEDIUM, make_model
from bench.workload import SCENARIOS, requests_of
from model.bundle import ONNX


def test_a_large_batch_mate_changes_an_answer_of_the_tool_s_graph_alone(tmp_path: Path) -> None:
    bundle = make_model(tmp_path, MEDIUM)
    sequence, other = requests_of(SCENARIOS["S3"], MEDIUM)[0][:2]
    content = bundle.read(ONNX)
    for made, is_spoilt in ((content, False), (quantise(bundle), False), (quantise_by_tool(content), True)):
        graph = open_onnx(made)
        alone, beside = (graph(pad(bundle, batch))[0] for batch in ((sequence,), (sequence, other * 1000)))
        assert np.allclose(alone, beside, atol=1e-6) is not is_spoilt
