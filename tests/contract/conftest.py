"""Fixtures of the contract tests: the real service, in a process of its own, before real clients of other servers."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import ServiceProcess, running_service
from tritonclient import http as triton

CLIENTS = Path(__file__).parent.parent.parent / ".venv-clients" / "bin"


@pytest.fixture(scope="session", params=["onnx", "torchscript"])
def service(repository: Path, request: pytest.FixtureRequest) -> Iterator[ServiceProcess]:
    with running_service(repository, "--workers", "1", "--backend", request.param) as process:
        process.wait_until("/health/ready", 200)
        yield process


@pytest.fixture
def address(service: ServiceProcess) -> str:
    return service.url.removeprefix("http://")


@pytest.fixture
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(address) as made:
        yield made


@pytest.fixture
def sequences() -> NDArray[np.float32]:
    """Two sequences of five steps."""
    return np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def clients() -> Path:
    """The programs of the clients that cannot be installed beside the service."""
    if not CLIENTS.exists():
        pytest.skip(f"{CLIENTS.parent} is not there; `make test` builds it")
    return CLIENTS
