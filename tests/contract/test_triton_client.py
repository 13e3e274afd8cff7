"""Every method of `tritonclient.http`, unmodified, against the real service."""

import re
import time
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from processes import ServiceProcess
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

Client = triton.InferenceServerClient
Floats = NDArray[np.float32]

LAYERS = ("hidden_states", "standardised", "input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state")


def tensor(values: NDArray[Any], *, name: str = "sequences", datatype: str = "FP32", binary: bool = True) -> Any:
    return triton.InferInput(name, values.shape, datatype).set_data_from_numpy(values, binary_data=binary)


def v1_probabilities(service: ServiceProcess, sequences: Floats, model: str = "tiny") -> Any:
    body = {"sequences": sequences.tolist()}
    return httpx.post(f"{service.url}/v1/models/{model}/predict", json=body).json()["probabilities"]


def check_refused(status: int, said: str, call: Any) -> None:
    with pytest.raises(InferenceServerException) as raised:
        call()
    assert raised.value.status() == str(status)
    assert said in raised.value.message()


def test_health_is_told(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "9")
    assert not client.is_model_ready("nobody")


def test_the_server_advertises_what_works(client: Client) -> None:
    metadata = client.get_server_metadata()
    assert metadata["name"] == "lstm-serve"
    assert set(metadata["extensions"]) == {
        *("binary_tensor_data", "classification", "logging", "model_configuration", "model_repository"),
        *("parameters", "schedule_policy", "statistics"),
    }


@pytest.mark.parametrize("version", ["", "1"])
def test_metadata_and_configuration_have_the_same_tensors(client: Client, version: str) -> None:
    metadata = client.get_model_metadata("both", version)
    configuration = client.get_model_config("both", version)
    assert metadata["versions"] == ["1"]
    assert metadata["platform"] == configuration["platform"]
    assert metadata["platform"] in {"onnx_onnxv1", "pytorch_torchscript"}
    assert metadata["inputs"][0] == {"name": "sequences", "datatype": "FP32", "shape": [-1, -1, 3]}
    assert metadata["inputs"][2] == {"name": "h0", "datatype": "FP32", "shape": [4, -1, 4]}
    for described, configured in (("inputs", "input"), ("outputs", "output")):
        assert [(one["name"], one["shape"]) for one in metadata[described]] == [
            (one["name"], one["dims"]) for one in configuration[configured]
        ]
    check_refused(404, "'nobody' is not served", lambda: client.get_model_metadata("nobody"))


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_the_default_outputs_are_those_of_v1(
    client: Client, service: ServiceProcess, sequences: Floats, binary: bool
) -> None:
    wanted = (
        None
        if binary
        else [triton.InferRequestedOutput(name, binary_data=False) for name in ("probabilities", "label")]
    )
    answer = client.infer("tiny", [tensor(sequences, binary=binary)], outputs=wanted, model_version="1")
    np.testing.assert_allclose(answer.as_numpy("probabilities"), v1_probabilities(service, sequences), atol=1e-6)
    best = answer.as_numpy("probabilities").argmax(axis=1)
    assert [str(label, "utf-8") if binary else label for label in answer.as_numpy("label")] == ["abc"[i] for i in best]
    assert answer.get_response()["id"]


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("received", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_compression_changes_nothing(client: Client, sent: str | None, received: str | None, binary: bool) -> None:
    sequences = np.random.default_rng(1).normal(size=(9, 40, 3)).astype(np.float32)
    wanted = [triton.InferRequestedOutput("hidden_states", binary_data=binary)]
    plain = client.infer("tiny", [tensor(sequences)], outputs=wanted)
    answer = client.infer(
        "tiny",
        [tensor(sequences, binary=binary)],
        outputs=wanted,
        request_compression_algorithm=sent,
        response_compression_algorithm=received,
        request_id="mine",
    )
    np.testing.assert_allclose(answer.as_numpy("hidden_states"), plain.as_numpy("hidden_states"), atol=1e-6)
    assert answer.get_response()["id"] == "mine"


def test_an_asynchronous_request_gets_the_same_answer(client: Client, sequences: Floats) -> None:
    expected = client.infer("tiny", [tensor(sequences)]).as_numpy("probabilities")
    asked = [client.async_infer("tiny", [tensor(sequences)]) for _ in range(3)]
    for one in asked:
        np.testing.assert_allclose(one.get_result().as_numpy("probabilities"), expected, atol=1e-6)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP64"])
def test_other_floats_are_converted(client: Client, sequences: Floats, datatype: str) -> None:
    exact = np.round(sequences * 4) / 4  # which every datatype holds
    expected = client.infer("tiny", [tensor(exact)]).as_numpy("probabilities")
    answer = client.infer("tiny", [tensor(exact.astype(triton_to_np_dtype(datatype)), datatype=datatype)])
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, atol=1e-6)


@pytest.mark.parametrize("model", ["tiny", "bidirectional"])
def test_lengths_leave_padding_out(client: Client, sequences: Floats, model: str) -> None:
    padded = np.concatenate([sequences, np.full((2, 3, 3), np.nan, np.float32)], axis=1)
    lengths = tensor(np.array([5, 2]), name="lengths", datatype="INT64", binary=False)
    outputs = [triton.InferRequestedOutput(name) for name in ("probabilities", *LAYERS, "step_probabilities")]
    together = client.infer(model, [tensor(padded), lengths], outputs=outputs)
    for row, length in enumerate((5, 2)):
        alone = client.infer(model, [tensor(sequences[row : row + 1, :length])], outputs=outputs)
        for output in outputs:
            name = output.name()
            got, expected = together.as_numpy(name)[row], alone.as_numpy(name)[0]
            if name == "probabilities":
                np.testing.assert_allclose(got, expected, atol=1e-6)
            else:
                assert len(got) == 8
                np.testing.assert_allclose(got[:length], expected, atol=1e-6)
                assert not got[length:].any()


@pytest.mark.parametrize("model", ["tiny", "stacked", "bidirectional", "both"])
def test_every_described_output_has_the_described_shape(client: Client, sequences: Floats, model: str) -> None:
    described = client.get_model_metadata(model)["outputs"]
    wanted = [triton.InferRequestedOutput(output["name"]) for output in described]
    answer = client.infer(model, [tensor(sequences)], outputs=wanted)
    for output in described:
        sizes = iter((2, 5))
        shape = tuple(next(sizes) if size == -1 else size for size in output["shape"])
        assert answer.as_numpy(output["name"]).shape == shape
    np.testing.assert_allclose(
        answer.as_numpy("step_probabilities")[:, -1], answer.as_numpy("probabilities"), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("model", ["tiny", "stacked"])
@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_sequence_in_two_parts_with_its_state_equals_the_whole(
    client: Client, sequences: Floats, model: str, cut: int
) -> None:
    names = [output["name"] for output in client.get_model_metadata(model)["outputs"] if output["name"] != "label"]
    wanted = [triton.InferRequestedOutput(name) for name in names]
    whole = client.infer(model, [tensor(sequences)], outputs=wanted)
    first = client.infer(model, [tensor(sequences[:, :cut])], outputs=wanted)
    states = [tensor(first.as_numpy(last), name=name) for last, name in (("hn", "h0"), ("cn", "c0"))]
    second = client.infer(model, [tensor(sequences[:, cut:]), *states], outputs=wanted)
    for name in names:
        if whole.as_numpy(name).shape[1] == 5:  # has steps
            parts = np.concatenate([first.as_numpy(name), second.as_numpy(name)], axis=1)
        else:
            parts = second.as_numpy(name)
        np.testing.assert_allclose(parts, whole.as_numpy(name), rtol=0, atol=1e-5, err_msg=name)


def test_classification_tells_the_best_classes_with_their_labels(client: Client, sequences: Floats) -> None:
    probabilities = client.infer("tiny", [tensor(sequences)]).as_numpy("probabilities")
    wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
    classes = client.infer("tiny", [tensor(sequences)], outputs=wanted).as_numpy("probabilities")
    assert classes.shape == (2, 2)
    for row, texts in zip(probabilities, classes, strict=True):
        for index, text in zip(np.argsort(-row), texts, strict=False):
            value, number, label = text.decode().split(":")
            assert (float(value), int(number), label) == (pytest.approx(row[index], abs=1e-5), index, "abc"[index])


def test_scheduling_parameters_are_taken_and_a_deadline_holds(client: Client, sequences: Floats) -> None:
    answer = client.infer("tiny", [tensor(sequences)], priority=1, timeout=10_000_000, parameters={"mine": "x"})
    assert answer.as_numpy("label") is not None
    long = tensor(np.zeros((32, 2000, 3), np.float32))  # computes for longer than a clock's tick
    check_refused(504, "time ran out", lambda: client.infer("tiny", [long], timeout=1))


def test_what_is_wrong_is_told(client: Client, sequences: Floats) -> None:
    def infer(*inputs: Any, **more: Any) -> Any:
        return lambda: client.infer("tiny", list(inputs), **more)

    good = tensor(sequences)
    nobody = triton.InferRequestedOutput("nobody")
    check_refused(404, "'nobody' is not served", lambda: client.infer("nobody", [good]))
    check_refused(404, "no served version '9'", infer(good, model_version="9"))
    check_refused(400, "'sequences' is missing", infer(tensor(np.array([1]), name="lengths", datatype="INT64")))
    check_refused(400, "'other': there is none", infer(good, tensor(sequences, name="other")))
    check_refused(400, "'nobody': there is none", infer(good, outputs=[nobody]))
    check_refused(400, "must be (batch, time, 3)", infer(tensor(sequences[:, :, :2])))
    check_refused(400, "must be finite", infer(tensor(sequences * np.float32(np.inf))))
    check_refused(400, "datatype INT64, allowed are FP32", infer(tensor(np.ones((1, 1, 3), int), datatype="INT64")))
    check_refused(400, "from 1 to 5", infer(good, tensor(np.array([5, 6]), name="lengths", datatype="INT64")))
    check_refused(400, "must be [1, 2, 4]", infer(good, tensor(np.zeros((1, 1, 4), np.float32), name="h0")))
    check_refused(400, "no state is kept here", infer(good, sequence_id=5, sequence_start=True))


def test_statistics_count_what_was_inferred(client: Client, sequences: Floats) -> None:
    def stats() -> dict[str, Any]:
        (one,) = client.get_inference_statistics("stacked", "1")["model_stats"]
        return one

    before = stats()
    client.infer("stacked", [tensor(sequences)])
    check_refused(400, "must be", lambda: client.infer("stacked", [tensor(sequences[0])]))
    after = stats()
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] > before["last_inference"]
    for name, by in {"success": 1, "fail": 1, "queue": 1, "compute_input": 1, "compute_infer": 1}.items():
        assert after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] == by
        assert after["inference_stats"][name]["ns"] > before["inference_stats"][name]["ns"]
    assert len(client.get_inference_statistics()["model_stats"]) == 4


def test_a_model_can_be_unloaded_and_loaded(client: Client, sequences: Floats) -> None:
    assert {one["state"] for one in client.get_model_repository_index()} == {"READY"}
    client.unload_model("both", unload_dependents=True)
    states = {one["name"]: (one["state"], one["reason"]) for one in client.get_model_repository_index()}
    state, reason = states["both"]
    assert state in {"UNLOADING", "UNAVAILABLE"}
    assert reason == "unloaded on request"
    assert not client.is_model_ready("both")
    check_refused(404, "is unloaded", lambda: client.infer("both", [tensor(sequences)]))
    client.load_model("both")
    assert client.is_model_ready("both")
    check_refused(404, "'nobody'", lambda: client.load_model("nobody"))
    check_refused(404, "'nobody'", lambda: client.unload_model("nobody"))
    check_refused(501, "takes no parameters", lambda: client.load_model("both", config="{}"))


def test_settings_of_traces_stay_off(client: Client) -> None:
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.get_trace_settings("tiny")["trace_level"] == ["OFF"]
    assert client.update_trace_settings(settings={"trace_level": ["OFF"], "trace_rate": None})["trace_level"] == ["OFF"]
    check_refused(501, "ask for a layer", lambda: client.update_trace_settings("tiny", {"trace_level": ["TIMESTAMPS"]}))
    check_refused(404, "'nobody'", lambda: client.get_trace_settings("nobody"))


def test_the_log_level_can_be_changed(client: Client, service: ServiceProcess) -> None:
    before = client.get_log_settings()
    assert (before["log_info"], before["log_verbose_level"]) == (True, 0)
    assert client.update_log_settings({"log_verbose_level": 1})["log_verbose_level"] == 1
    client.is_server_live()
    logged = "DEBUG .*/v2/health/live"
    deadline = time.monotonic() + 10
    while not any(re.search(logged, line) for line in service.log):
        assert time.monotonic() < deadline, service.log
        time.sleep(0.01)
    assert client.update_log_settings({"log_verbose_level": 0}) == before
    check_refused(501, "standard error", lambda: client.update_log_settings({"log_file": "/tmp/log"}))
    check_refused(400, "'log_colour': there is none", lambda: client.update_log_settings({"log_colour": True}))


def test_shared_memory_is_refused_in_words(client: Client) -> None:
    for call in (
        client.get_system_shared_memory_status,
        client.get_cuda_shared_memory_status,
        lambda: client.get_system_shared_memory_status("region"),
        lambda: client.register_system_shared_memory("region", "/key", 64),
        lambda: client.register_cuda_shared_memory("region", b"handle", 0, 64),
        client.unregister_system_shared_memory,
        lambda: client.unregister_cuda_shared_memory("region"),
    ):
        check_refused(501, "send them in the request", call)
