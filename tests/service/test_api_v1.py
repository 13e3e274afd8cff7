"""The simple API: the answers that design documents, from the real backend."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_bundle, ragged
from serving import BODY, PREDICT, ask, serving


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model `a` in versions 1 and 2, model `b` in version 1. Do not write to it."""
    folder = tmp_path_factory.mktemp("versions")
    make_bundle(folder, "a", seed=1)
    make_bundle(folder, "a", seed=2)
    make_bundle(folder, "b", labels=("no", "yes"), input_size=1)
    return folder


def predict(repository: Path, path: str, body: dict[str, Any], *arguments: str) -> dict[str, Any]:
    response = ask(repository, "POST", path, *arguments, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer: dict[str, Any] = response.json()
    return answer


def test_an_answer_holds_what_is_documented_and_nothing_else(repository: Path) -> None:
    answer = predict(repository, PREDICT, BODY)
    assert list(answer) == ["model_name", "model_version", "classes", "labels", "probabilities"]
    assert (answer["model_name"], answer["model_version"], answer["classes"]) == ("tiny", "1", ["a", "b", "c"])


def test_probabilities_sum_to_one_and_labels_are_the_most_probable(repository: Path) -> None:
    sent = ragged(np.random.default_rng(0), (1, 7, 3, 3, 12))
    answer = predict(repository, PREDICT, {"sequences": sent})
    probabilities = np.array(answer["probabilities"])
    assert probabilities.shape == (5, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)
    assert answer["labels"] == [answer["classes"][index] for index in probabilities.argmax(axis=1)]


def test_a_sequence_has_the_same_answer_alone_and_in_company(repository: Path) -> None:
    sent = ragged(np.random.default_rng(1), (2, 9, 5))
    together = predict(repository, PREDICT, {"sequences": sent})["probabilities"]
    alone = [predict(repository, PREDICT, {"sequences": [one]})["probabilities"][0] for one in sent]
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "arguments", "expected"),
    [
        ("/v1/predict", [], ("a", "2")),
        ("/v1/models/a/predict", [], ("a", "2")),
        ("/v1/models/a/versions/1/predict", ["--version-policy=all"], ("a", "1")),
        ("/v1/models/a/versions/2/predict", ["--version-policy=all"], ("a", "2")),
        ("/v1/models/a/predict", ["--version-policy=1"], ("a", "1")),
    ],
)
def test_the_path_chooses_model_and_version(
    versions: Path, path: str, arguments: list[str], expected: tuple[str, str]
) -> None:
    answer = predict(versions, path, BODY, *arguments)
    assert (answer["model_name"], answer["model_version"]) == expected


def test_the_default_model_can_be_set(versions: Path) -> None:
    answer = predict(versions, "/v1/predict", {"sequences": [[[0.5]]]}, "--default-model=b")
    assert (answer["model_name"], answer["classes"]) == ("b", ["no", "yes"])


@pytest.mark.parametrize("trace", [None, False, "layers", "gates"])
def test_traces_come_only_when_asked_for(repository: Path, trace: str | bool | None) -> None:
    answer = predict(repository, PREDICT, BODY if trace is None else BODY | {"trace": trace})
    assert ("traces" in answer) == bool(trace)


@pytest.mark.parametrize(
    ("model", "level", "names"),
    [
        ("tiny", "layers", ["lstm"]),
        ("stacked", "layers", ["lstm_0", "lstm_1"]),
        ("tiny", "gates", ["lstm", "input_gate", "forget_gate", "cell_candidate", "output_gate", "cell_state"]),
    ],
)
def test_a_trace_has_the_documented_layers_each_of_its_shape(
    repository: Path, model: str, level: str, names: list[str]
) -> None:
    answer = predict(repository, f"/v1/models/{model}/predict", BODY | {"trace": level})
    ends = ["step_probabilities"] if level == "gates" else []
    for trace, sequence, probabilities in zip(
        answer["traces"], BODY["sequences"], answer["probabilities"], strict=True
    ):
        layers = {layer["name"]: layer for layer in trace["layers"]}
        assert list(layers) == ["input_sequence", "standardised", *names, "last_hidden", "linear", "softmax", *ends]
        assert all(list(np.shape(layer["values"])) == layer["shape"] for layer in layers.values())
        steps = len(sequence)
        assert layers["input_sequence"]["shape"] == [steps, 3]
        assert all(layers[name]["shape"] == [steps, 4] for name in names)
        assert [layers[name]["shape"] for name in ("last_hidden", "linear", "softmax")] == [[4], [3], [3]]
        assert all(layers[name]["shape"] == [steps, 3] for name in ends)
        np.testing.assert_allclose(layers["input_sequence"]["values"], sequence, atol=1e-6)
        assert layers["softmax"]["values"] == probabilities


def test_the_list_names_every_model_its_versions_and_the_default(versions: Path) -> None:
    assert ask(versions, "GET", "/v1/models", "--version-policy=all").json() == {
        "default_model": "a",
        "models": [{"name": "a", "versions": ["1", "2"]}, {"name": "b", "versions": ["1"]}],
    }


@pytest.mark.parametrize("name", ["predict", "infer"])
def test_a_model_may_have_the_name_of_a_verb(tmp_path: Path, name: str) -> None:
    make_bundle(tmp_path, name)
    for path in (f"/v1/models/{name}", f"/v2/models/{name}"):
        answer = ask(tmp_path, "GET", path)
        assert (answer.status_code, answer.json()["name"]) == (200, name)
    assert predict(tmp_path, f"/v1/models/{name}/predict", BODY)["model_name"] == name


@pytest.mark.parametrize("name", ["layers", "gates"])
def test_what_is_infinite_when_standardised_is_not_traced(repository: Path, name: str) -> None:
    answer = ask(repository, "POST", PREDICT, json={"sequences": [[[3.4e38] * 3]], "trace": name})
    assert (answer.status_code, "too large to trace" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(("path", "version"), [("/v1/models/a", "2"), ("/v1/models/a/versions/1", "1")])
def test_a_model_is_described_from_its_manifest(versions: Path, path: str, version: str) -> None:
    answer = ask(versions, "GET", path, "--version-policy=all").json()
    manifest = json.loads((versions / "a" / version / "manifest.json").read_text())
    assert list(answer) == ["name", "version", "runtime", "pipeline", "training_trace", "manifest"]
    assert (answer["name"], answer["version"]) == ("a", version)
    timings = answer["runtime"].pop("timings")
    assert answer["runtime"] == {"backend": "onnx", "device": "cpu", "precision": "float32"}
    assert list(timings) == ["onnx"]
    assert {(run["sequences"], run["steps"]) for run in timings["onnx"]} >= {(1, 64), (4, 64)}
    assert all(run["seconds"] > 0 for run in timings["onnx"])
    assert answer["training_trace"] == manifest.pop("trace")
    assert answer["manifest"] == manifest
    assert [(stage["name"], stage["shape"]) for stage in answer["pipeline"]] == [
        ("input_sequence", ["B", "T", 3]),
        ("standardised", ["B", "T", 3]),
        ("lstm", ["B", "T", 4]),
        ("last_hidden", ["B", 4]),
        ("linear", ["B", 3]),
        ("softmax", ["B", 3]),
    ]


@pytest.mark.parametrize("path", ["/v1/models/tiny/examples", "/v1/models/tiny/versions/1/examples"])
def test_examples_can_be_posted_as_they_are(repository: Path, path: str) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            examples = (await served.client.get(path)).json()["examples"]
            assert [example["label"] for example in examples] == ["a"]
            body = {"sequences": [example["sequence"] for example in examples]}
            assert (await served.client.post(PREDICT, json=body)).status_code == 200

    asyncio.run(run())
