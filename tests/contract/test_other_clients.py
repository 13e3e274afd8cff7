"""KServe's and MLServer's clients, unmodified. They need other versions of our libraries, so they run apart."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import ServiceProcess
from tritonclient import http as triton

Floats = NDArray[np.float32]

KSERVE = """
import asyncio, json, sys
import numpy as np
from kserve import InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

async def main(url, binary):
    client = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))
    sequences = np.array(json.load(sys.stdin), np.float32)
    tensor = InferInput("sequences", list(sequences.shape), "FP32")
    tensor.set_data_from_numpy(sequences, binary_data=binary)
    outputs = [RequestedOutput(name, {"binary_data": binary}) for name in ("probabilities", "hidden_states")]
    request = InferRequest("tiny", [tensor], request_outputs=outputs)
    answer = await client.infer(url, request, model_name="tiny")
    print(json.dumps({
        "live": await client.is_server_live(url),
        "ready": await client.is_server_ready(url),
        "model_ready": await client.is_model_ready(url, "tiny"),
        "named": [answer.model_name, bool(answer.id)],
        **{output.name: output.as_numpy().tolist() for output in answer.outputs},
    }))
    await client.close()

asyncio.run(main(sys.argv[1], sys.argv[2] == "binary"))
"""


def expected(address: str, sequences: Floats) -> Any:
    with triton.InferenceServerClient(address) as client:
        tensor = triton.InferInput("sequences", sequences.shape, "FP32").set_data_from_numpy(sequences)
        wanted = [triton.InferRequestedOutput(name) for name in ("probabilities", "hidden_states")]
        return client.infer("tiny", [tensor], outputs=wanted)


@pytest.mark.parametrize("form", ["json", "binary"])
def test_kserves_client_gets_the_same_answer(
    service: ServiceProcess, address: str, clients: Path, sequences: Floats, form: str
) -> None:
    ended = subprocess.run(
        [clients / "python", "-c", KSERVE, service.url, form],
        input=json.dumps(sequences.tolist()),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout.splitlines()[-1])
    assert (answer["live"], answer["ready"], answer["model_ready"]) == (True, True, True)
    assert answer["named"] == ["tiny", True]
    for name in ("probabilities", "hidden_states"):
        np.testing.assert_allclose(answer[name], expected(address, sequences).as_numpy(name), atol=1e-6)


@pytest.mark.parametrize("binary", [[], ["--binary-data"]], ids=["json", "binary"])
def test_mlservers_infer_command_gets_the_same_answer(
    address: str, clients: Path, sequences: Floats, binary: list[str], tmp_path: Path
) -> None:
    asked, answered = tmp_path / "asked.jsonl", tmp_path / "answered.jsonl"
    tensor = {"name": "sequences", "shape": sequences.shape, "datatype": "FP32", "data": sequences.tolist()}
    asked.write_text((json.dumps({"inputs": [tensor]}) + "\n") * 3)
    command = [clients / "mlserver", "infer", "-u", address, "-m", "tiny", "-i", asked, "-o", answered, *binary]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in answered.read_text().splitlines()]
    assert len(lines) == 3
    for line in lines:
        outputs = {output["name"]: output["data"] for output in line["outputs"]}
        probabilities = np.reshape(outputs["probabilities"], (2, 3))
        np.testing.assert_allclose(probabilities, expected(address, sequences).as_numpy("probabilities"), atol=1e-6)
