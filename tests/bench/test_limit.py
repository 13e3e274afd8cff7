from pathlib import Path

import numpy as np
import pytest

from bench.graphs import RUNTIMES, open_graph, pad
from bench.limit import BATCH_SIZES, jobs_of, workload_of
from bench.models import TINY, make_model
from bench.workload import SCENARIOS, requests_of
from model.bundle import Bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_model(tmp_path_factory.mktemp("models"), TINY)


def test_both_runtimes_give_the_same_answers_and_padding_changes_none(bundle: Bundle) -> None:
    first, second, *_ = requests_of(SCENARIOS["S3"], TINY)[0]
    graphs = [open_graph(bundle, runtime) for runtime in RUNTIMES]
    together = [graph(pad(bundle, (first, second[:4]))) for graph in graphs]
    alone = graphs[0](pad(bundle, (second[:4],)))
    assert np.allclose(together[0], together[1], atol=1e-5)
    assert np.allclose(together[0][1], alone[0], atol=1e-5)


def test_sequences_have_answers_of_their_own(bundle: Bundle) -> None:
    answers = open_graph(bundle, "onnx")(pad(bundle, requests_of(SCENARIOS["S3"], TINY)[0]))
    assert answers.std(axis=0).min() > 100 * 1e-4  # the tolerance of the check


def test_a_model_of_a_former_run_is_made_anew_by_the_code_of_today(tmp_path: Path) -> None:
    bundle = make_model(tmp_path, TINY)
    exported = bundle.read("model.onnx")
    (bundle.folder / "model.onnx").write_bytes(b"what other code exported")
    assert make_model(tmp_path, TINY).read("model.onnx") == exported
    assert [path.name for path in bundle.folder.parent.glob("[0-9]*")] == ["1"]


def test_one_connection_is_held_against_one_call() -> None:
    assert [workload_of(SCENARIOS[name]) for name in ("S1", "S2", "S4b", "spread-b")] == [
        "single",
        "fixed",
        "fixed",
        "spread",
    ]


def test_every_runtime_is_tried_at_every_batch_size() -> None:
    jobs = jobs_of(("single", "fixed"))
    assert len(jobs) == len(RUNTIMES) * (1 + len(BATCH_SIZES))
    assert len(set(jobs)) == len(jobs)
