"""The main job as a newcomer does it: train with the command line, serve, post sequences. On real data."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from processes import ServiceProcess, running_service

from model.bundle import Bundle, list_versions, open_bundle
from model.data import load

README = (Path(__file__).parent.parent / "README.md").read_text()


def model_command(*arguments: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-m", "model", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a model that `train JapaneseVowels` has just made, without any option."""
    repository = tmp_path_factory.mktemp("trained")
    model_command("train", "JapaneseVowels", "--repository", str(repository))
    return repository


@pytest.fixture(scope="module", params=["onnx", "torchscript"])
def service(trained: Path, request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    with running_service(trained, "--backend", request.param) as process:
        process.wait_until("/health/ready", 200)
        yield process


def published(repository: Path) -> Bundle:
    version = max(list_versions(repository, "JapaneseVowels"))
    return open_bundle(repository / "JapaneseVowels" / str(version))


def test_posted_test_sequences_reach_the_accuracy_that_evaluate_prints(trained: Path, service: ServiceProcess) -> None:
    data = load("JapaneseVowels", seed=0)
    rng = np.random.default_rng(0)
    right, start = 0, 0
    with httpx.Client(base_url=service.url, timeout=30) as client:
        while start < len(data.test.targets):
            rows = range(start, min(start + int(rng.integers(1, 100)), len(data.test.targets)))
            sequences = [data.test.sequences[row].tolist() for row in rows]
            answer = client.post("/v1/models/JapaneseVowels/predict", json={"sequences": sequences}).json()
            right += sum(
                label == data.labels[data.test.targets[row]] for label, row in zip(answer["labels"], rows, strict=True)
            )
            start = rows.stop
    printed = model_command("evaluate", "JapaneseVowels", "JapaneseVowels", "--repository", str(trained))
    accuracies = [float(number) for number in re.findall(r"model\.(?:onnx|pt): accuracy (\d\.\d+)", printed)]
    assert len(accuracies) == 2
    assert accuracies == [round(right / len(data.test.targets), 4)] * 2
    assert right / len(data.test.targets) == published(trained).manifest.evaluation.accuracy
    assert right / len(data.test.targets) >= 0.96


def test_three_seeds_reach_the_accuracy_that_is_promised(trained: Path, tmp_path: Path) -> None:
    accuracies = [published(trained).manifest.evaluation.accuracy]
    for seed in ("1", "2"):
        model_command("train", "JapaneseVowels", "--seed", seed, "--repository", str(tmp_path))
        accuracies.append(published(tmp_path).manifest.evaluation.accuracy)
    assert np.mean(accuracies) >= 0.975


def test_the_readmes_curl_names_the_right_speaker(service: ServiceProcess) -> None:
    command = re.search(r"^curl .*?\]\]\}'$", README, re.DOTALL | re.MULTILINE)
    assert command is not None
    here = command[0].replace("http://127.0.0.1:8000", service.url)
    answered = subprocess.run(["bash", "-c", here], capture_output=True, timeout=30, check=True)
    shown = re.search(r"^```json\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    assert shown is not None
    answer, expected = httpx.Response(200, content=answered.stdout).json(), httpx.Response(200, content=shown[1]).json()
    assert answer.keys() == expected.keys()
    assert answer["labels"] == expected["labels"] == ["3"]
    np.testing.assert_allclose(answer["probabilities"], expected["probabilities"], atol=0.05)


def test_the_readmes_script_gets_probabilities_and_hidden_states(service: ServiceProcess) -> None:
    script = re.search(r"^```python\n(.*?)```", README, re.DOTALL | re.MULTILINE)
    assert script is not None
    assert len(script[1].splitlines()) <= 15
    here = script[1].replace("127.0.0.1:8000", service.url.removeprefix("http://"))
    ran = subprocess.run([sys.executable, "-c", here], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    told = re.match(r"speaker (\d) is taken for (\d)\n", ran.stdout)
    assert told is not None
    assert told[1] == told[2]
    assert re.search(r"\(1, \d+, 64\)\n$", ran.stdout)


def test_examples_can_be_posted_as_they_are(service: ServiceProcess) -> None:
    examples = httpx.get(service.url + "/v1/models/JapaneseVowels/examples").json()["examples"]
    body = {"sequences": [example["sequence"] for example in examples]}
    labels = httpx.post(service.url + "/v1/predict", json=body).json()["labels"]
    right = sum(label == example["label"] for label, example in zip(labels, examples, strict=True))
    assert right >= len(examples) - 1


def test_in_int8_the_held_out_sequences_are_answered_as_the_manifest_says(trained: Path) -> None:
    data, manifest = load("JapaneseVowels", seed=0), published(trained).manifest
    assert manifest.int8 is not None
    body = {"sequences": [sequence.tolist() for sequence in data.test.sequences]}
    found = {}
    for precision in ("float32", "int8"):
        with running_service(trained, "--backend=onnx", "--precision", precision) as process:
            process.wait_until("/health/ready", 200)
            with httpx.Client(base_url=process.url, timeout=60) as client:
                described = client.get("/v1/models/JapaneseVowels").json()
                assert described["runtime"]["precision"] == precision
                found[precision] = client.post("/v1/models/JapaneseVowels/predict", json=body).json()
    right = [data.labels[target] for target in data.test.targets]
    assert np.mean(np.array(found["int8"]["labels"]) == right) == manifest.int8.accuracy
    change = np.subtract(found["int8"]["probabilities"], found["float32"]["probabilities"])
    assert np.abs(change).max() == pytest.approx(manifest.int8.max_difference, abs=1e-5)
