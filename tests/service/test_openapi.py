"""The OpenAPI document is whole, and true of real requests and answers."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import make_bundle
from jsonschema import Draft202012Validator
from serving import BODY, ask, serving

from service.openapi import EXAMPLE_ANSWER, EXAMPLE_REQUEST

Json = dict[str, Any]

MODEL_PATHS = ["/models/{name}", "/models/{name}/versions/{version}"]
PREDICT_PATHS = ["/v1/predict", "/v1/models/{name}/predict", "/v1/models/{name}/versions/{version}/predict"]


@pytest.fixture(scope="module")
def five_features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose model `reference` takes what the documented example holds. Do not write to it."""
    folder = tmp_path_factory.mktemp("reference")
    make_bundle(folder, "reference", input_size=5, hidden_size=8, labels=("falling", "rising", "zigzag"))
    return folder


@pytest.fixture(scope="module")
def document(five_features: Path) -> Json:
    served: Json = ask(five_features, "GET", "/openapi.json").json()
    return served


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def check(document: Json, schema: Json, value: object) -> None:
    """Raise unless `value` is valid against `schema`, whose references point into `document`."""
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def check_answer(document: Json, operation: Json, status: int, answer: Json) -> None:
    response = operation["responses"][str(status)]
    check(document, response["content"]["application/json"]["schema"], answer)


def references(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from references(one)
    elif isinstance(value, list):
        for one in value:
            yield from references(one)


def test_it_is_openapi_3_1_with_every_path_that_is_served(document: Json) -> None:
    assert document["openapi"].startswith("3.1.")
    assert list(document["paths"])[:3] == PREDICT_PATHS
    assert {(method, path) for method, path, _ in operations(document)} == {
        *(("post", path) for path in PREDICT_PATHS),
        ("get", "/v1/models"),
        ("get", "/v1/models/{name}"),
        ("get", "/v1/models/{name}/versions/{version}"),
        ("get", "/v1/models/{name}/examples"),
        ("get", "/v1/models/{name}/versions/{version}/examples"),
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("get", "/metrics"),
        ("post", "/v1/shapes"),
        *(("post", f"/v2{model}/infer") for model in MODEL_PATHS),
        *(("get", f"/v2{model}{what}") for model in MODEL_PATHS for what in ("", "/ready", "/config", "/stats")),
        *(("get", f"/v2{path}") for path in ("", "/health/live", "/health/ready", "/models", "/models/stats")),
        *(("post", f"/v2/repository/{path}") for path in ("index", "models/{name}/load", "models/{name}/unload")),
        *(
            (method, f"/v2{path}")
            for method in ("get", "post")
            for path in ("/logging", "/trace/setting", "/models/{name}/trace/setting")
        ),
    }


def test_every_schema_is_valid_and_every_reference_leads_somewhere(document: Json) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in references(document):
        at: Any = document
        for part in reference.removeprefix("#/").split("/"):
            at = at[part]
    names = {reference.rsplit("/", 1)[1] for reference in references(document)}
    assert names == set(document["components"]["schemas"]), "a schema is missing, or left over"


def test_every_operation_is_named_described_and_lists_its_parameters(document: Json) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and not name.startswith("_") for name in names)
    for _, path, operation in operations(document):
        assert operation["summary"].strip() == operation["summary"] != ""
        assert {f"{{{one['name']}}}" for one in operation.get("parameters", []) if one["in"] == "path"} == {
            part for part in path.split("/") if part.startswith("{")
        }
        assert all(response["description"] for response in operation["responses"].values())


@pytest.mark.parametrize(
    ("path", "errors"),
    [
        *((path, {400, 401, 404, 413, 429, 500, 501, 503, 504}) for path in PREDICT_PATHS),
        ("/v2/models/{name}/infer", {400, 401, 404, 413, 429, 500, 501, 503, 504}),
        ("/v2/models/{name}/config", {401, 404, 500, 503}),
        ("/v2/repository/models/{name}/load", {400, 401, 404, 413, 500, 501, 503}),
        ("/v2/repository/index", {400, 401, 413, 500}),
        ("/v2/health/ready", {500, 503}),
        ("/v1/models", {401, 500, 503}),
        ("/v1/models/{name}", {401, 404, 500, 503}),
        ("/v1/models/{name}/versions/{version}/examples", {401, 404, 500, 503}),
        ("/health/live", {500, 503}),
        ("/health/ready", {500, 503}),
        ("/metrics", {401, 500}),
    ],
)
def test_an_operation_lists_the_errors_that_it_can_end_in(document: Json, path: str, errors: set[int]) -> None:
    (operation,) = document["paths"][path].values()
    assert {int(status) for status in operation["responses"]} == {200, *errors}
    for status in errors:
        check_answer(document, operation, status, {"error": "what was got, what is allowed"})


def test_keys_are_asked_for_everywhere_but_for_health(document: Json) -> None:
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for _, path, operation in operations(document):
        assert operation["security"] == ([] if path.startswith(("/health/", "/v2/health/")) else [{}, {"bearer": []}])


def test_the_example_is_valid_and_a_model_that_takes_it_gives_an_answer_of_the_shape(
    document: Json, five_features: Path
) -> None:
    for path in PREDICT_PATHS:
        operation = document["paths"][path]["post"]
        asked = operation["requestBody"]["content"]["application/json"]
        assert asked["example"] == EXAMPLE_REQUEST
        check(document, asked["schema"], EXAMPLE_REQUEST)
        assert operation["responses"]["200"]["content"]["application/json"]["example"] == EXAMPLE_ANSWER
        check_answer(document, operation, 200, EXAMPLE_ANSWER)
        real = ask(five_features, "POST", path.format(name="reference", version=1), json=EXAMPLE_REQUEST)
        assert real.status_code == 200
        check_answer(document, operation, 200, real.json())
        assert [(key, np.shape(value)) for key, value in real.json().items()] == [
            (key, np.shape(value)) for key, value in EXAMPLE_ANSWER.items()
        ]


@pytest.mark.parametrize("level", ["layers", "gates"])
def test_traced_answers_are_of_the_documented_shape(document: Json, five_features: Path, level: str) -> None:
    answer = ask(five_features, "POST", "/v1/predict", json=EXAMPLE_REQUEST | {"trace": level}).json()
    check_answer(document, document["paths"]["/v1/predict"]["post"], 200, answer)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"sequences": []},
        {"sequences": [[]]},
        {"sequences": [[[]]]},
        {"sequences": [[["1"]]]},
        {"sequences": [[1]]},
        {**BODY, "trace": True},
        {**BODY, "trace": "all"},
        {**BODY, "more": 1},
    ],
    ids=json.dumps,
)
def test_what_the_schema_refuses_the_service_refuses(document: Json, five_features: Path, body: Json) -> None:
    asked = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert not Draft202012Validator({**asked, "components": document["components"]}).is_valid(body)
    assert ask(five_features, "POST", "/v1/predict", json=body).status_code == 400


def test_every_other_answer_is_of_its_documented_shape(document: Json, five_features: Path) -> None:
    async def run() -> None:
        async with serving(five_features) as served:
            for method, path, operation in operations(document):
                if method == "get" and path != "/metrics":
                    response = await served.client.get(path.format(name="reference", version=1))
                    assert response.status_code == 200, path
                    check_answer(document, operation, 200, response.json())

    asyncio.run(run())
