"""Schemathesis over the OpenAPI document: whatever is sent, the answer is documented, and never a bug of ours."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from processes import IS_SOAK, ServiceProcess, running_service
from schemathesis.checks import CHECKS

Json = dict[str, Any]

EXAMPLES = 1800 if IS_SOAK else 30  # of each operation that takes so many: 700 made 8,504
# Values that lead on into the service more often than chance does. Nothing else asks for `both`, which comes and goes.
SENT = count()
VALUES = {"name": ["tiny", "both", "nobody"], "version": ["1", "9"]}
VALUES_OF_CONTROL = {"name": ["both", "nobody"]}


@pytest.fixture(scope="module")
def fuzzed(repository: Path) -> Iterator[ServiceProcess]:
    with running_service(repository, "--request-timeout-ms=5000") as process:
        process.wait_until("/health/ready", 200)
        yield process


@pytest.fixture(scope="module")
def documented(fuzzed: ServiceProcess) -> Any:
    document: Json = httpx.get(fuzzed.url + "/openapi.json").json()
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", []):
                values = VALUES_OF_CONTROL if "/repository/" in path else VALUES
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string", "enum": values[parameter["name"]]}
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=fuzzed.url)
    return schema


def check(case: schemathesis.Case) -> None:
    next(SENT)
    response = case.call()
    checks = CHECKS.get_by_names(["status_code_conformance", "response_schema_conformance"])
    case.validate_response(response, checks=checks)
    assert response.status_code != 500, case.as_curl_command()
    if response.status_code >= 400:
        assert list(response.json()) == ["error"]
        assert response.json()["error"]


def test_every_answer_is_documented(documented: schemathesis.BaseSchema, subtests: pytest.Subtests) -> None:
    for found in documented.get_all_operations():
        operation = found.ok()
        with subtests.test(operation.label):
            unhurried = list(HealthCheck)
            few = settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=unhurried)
            cases = operation.as_strategy()
            if operation.method == "post":
                cases |= operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)
            few(given(cases)(check))()
    print(f"\n{next(SENT)} requests", end=" ")
