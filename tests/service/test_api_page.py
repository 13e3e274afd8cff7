"""The page's files as they are served, and the shape lab's endpoint; what the page does is tested in tests/page."""

import asyncio
import gzip
import json
import re
from pathlib import Path

import pytest
from serving import ask, serving

from service.api_page import Asset

PAGE = Path(__file__).parents[2] / "service" / "static" / "page"
FILES = sorted(path.name for path in PAGE.iterdir())
MAX_WEIGHT_BYTES = 300_000


def test_the_page_is_served_with_a_strict_policy_and_holds_nothing_inline(repository: Path) -> None:
    answer = ask(repository, "GET", "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.text == (PAGE / "index.html").read_text()
    assert not re.search(r"<style|<script(?![^>]* src=)| style=| on\w+=|https?://", answer.text)


def test_every_file_of_the_page_is_served_and_compressed(repository: Path) -> None:
    async def run() -> int:
        weight = 0
        async with serving(repository) as served:
            for file in FILES:
                answer = await served.client.get(f"/static/page/{file}", headers={"accept-encoding": "gzip"})
                assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
                assert answer.content == (PAGE / file).read_bytes()
                weight += int(answer.headers["content-length"])
                plain = await served.client.get(f"/static/page/{file}", headers={"accept-encoding": "identity"})
                assert plain.content == answer.content
                assert "content-encoding" not in plain.headers
        return weight

    assert asyncio.run(run()) < MAX_WEIGHT_BYTES


def test_a_file_that_the_client_has_is_not_sent_again(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            etag = (await served.client.get("/")).headers["etag"]
            for held in (etag, f"W/{etag}", f'"other", {etag}'):
                answer = await served.client.get("/", headers={"if-none-match": held})
                assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
            assert (await served.client.get("/", headers={"if-none-match": '"other"'})).status_code == 200

    asyncio.run(run())


def test_the_etag_is_of_the_content(tmp_path: Path) -> None:
    file = tmp_path / "one.js"
    file.write_text("let one")
    first = Asset.read(file)
    assert Asset.read(file) == first
    assert (first.media_type.endswith("javascript"), gzip.decompress(first.compressed)) == (True, b"let one")
    file.write_text("let two")
    assert Asset.read(file).etag != first.etag


@pytest.mark.parametrize("file", ["nothing.js", "..%2F..%2Fapp.py", "%2e%2e"])
def test_nothing_else_is_served_under_the_page(repository: Path, file: str) -> None:
    answer = ask(repository, "GET", f"/static/page/{file}")
    assert answer.status_code == 404
    assert list(answer.json()) == ["error"]


def test_the_shape_lab_answers_with_shapes_whose_axes_have_names(repository: Path) -> None:
    answer = ask(repository, "POST", "/v1/shapes", json={"input_size": 5, "hidden_size": 8, "batch": 100})
    assert answer.status_code == 200
    document = answer.json()
    assert document["call"] == "nn.LSTM(5, 8)"
    assert document["output"] == [
        {"size": 10, "name": "time"},
        {"size": 100, "name": "batch"},
        {"size": 8, "name": "hidden size"},
    ]
    assert document["parameter_count"] == 480
    assert document["parameters"][0] == {"name": "weight_ih_l0", "shape": [32, 5]}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (json.dumps({"input_size": 10}), "missing 1 required positional argument: 'hidden_size'"),
        ("", "missing 2 required positional arguments"),
        ("[1]", "the body must be empty or a JSON object"),
        ("{", "malformed JSON"),
    ],
)
def test_a_wrong_entry_gets_the_error_and_its_reason(repository: Path, body: str, message: str) -> None:
    answer = ask(repository, "POST", "/v1/shapes", content=body)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert message in answer.json()["error"]


def test_the_shape_lab_needs_no_model(tmp_path: Path) -> None:
    assert ask(tmp_path, "POST", "/v1/shapes", json={"input_size": 1, "hidden_size": 1}).status_code == 200
    assert ask(tmp_path, "GET", "/").status_code == 200
