"""The shape lab and its quiz: what they show is what the service says, and so is what is right."""

import json
import re
import subprocess
from urllib.parse import quote

import httpx
import pytest
from conftest import OpenPage
from playwright.sync_api import expect
from processes import ServiceProcess


def test_shapes_and_parameters_are_those_of_the_api(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=shapes")
    page.get_by_label("num_layers").fill("2")
    page.get_by_label("bidirectional").check()
    wanted = {"input_size": 5, "hidden_size": 8, "num_layers": 2, "sequence_length": 10, "batch": 100}
    answer = httpx.post(
        f"{service.url}/v1/shapes", json=wanted | {"bidirectional": True, "batch_first": True, "bias": True}
    ).json()
    expect(page.locator("#parameter-count")).to_have_text(f"{answer['parameter_count']:,}")
    for name in ("input", "output", "h_n", "c_n"):
        shape = " × ".join(str(axis["size"]) for axis in answer[name])
        expect(page.get_by_role("row", name=name).locator(".stage-shape")).to_have_attribute("aria-label", shape)
    expect(page.locator("#lab-answer tbody tr td.mono")).to_have_text([one["name"] for one in answer["parameters"]])
    expect(page).to_have_url(re.compile("lab=.*num_layers%22:2"))
    page.reload()
    expect(page.locator("#parameter-count")).to_have_text(f"{answer['parameter_count']:,}")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size: units", "", "missing 1 required positional argument: 'hidden_size'"),
        ("hidden_size: units", "0", "hidden_size must be greater than zero"),
        ("num_layers", "many", "num_layers should be of type int, got: str"),
        ("batch; empty: unbatched", "Infinity", "batch"),
        ("features; empty: input_size", "3", "Expected 5, got 3"),
    ],
)
def test_a_wrong_argument_gets_the_error_of_torch_and_its_reason(
    service: ServiceProcess, open_page: OpenPage, field: str, value: str, message: str
) -> None:
    page = open_page(f"{service.url}/#view=shapes", allowed=("status of 400",))
    page.locator("#parameter-count").wait_for()
    page.get_by_label(field).fill(value)
    expect(page.get_by_role("alert")).to_contain_text(message)
    expect(page.get_by_label(field)).to_have_attribute("aria-invalid", "true")
    page.get_by_label(field).fill("5")
    expect(page.get_by_role("alert")).to_have_count(0)


def test_each_answer_of_the_quiz_is_judged_and_the_right_one_is_what_the_service_says(
    service: ServiceProcess, open_page: OpenPage
) -> None:
    page = open_page(f"{service.url}/#view=shapes")
    quiz = page.get_by_role("region", name="Quiz")
    asked = set()
    for _ in range(4):
        options = quiz.locator(".option")
        options.first.wait_for()
        asked.add(quiz.locator(".question").inner_text())
        assert options.count() >= 2
        assert options.evaluate_all("all => new Set(all.map(one => one.textContent)).size") == options.count()
        wrong = quiz.locator(".option[data-right=false]").first
        wrong.click()
        expect(quiz.get_by_role("status")).to_contain_text("Not quite")
        quiz.locator(".option[data-right=true]").click()
        expect(quiz.get_by_role("status")).to_contain_text("Right")
        before = quiz.locator(".question").inner_text()
        quiz.get_by_role("button", name="Another question").click()
        expect(quiz.locator(".question")).not_to_have_text(before)
    assert len(asked) == 4
    expect(quiz.get_by_text("0 of 4 at first try")).to_be_visible()


def test_the_lab_works_without_torch_in_the_service_and_says_what_torch_says(service: ServiceProcess) -> None:
    torch = pytest.importorskip("torch")
    given = {"input_size": 3, "hidden_size": 7, "num_layers": 2, "bidirectional": True, "batch": 4}
    answer = httpx.post(f"{service.url}/v1/shapes", json=given | {"sequence_length": 6}).json()
    output, (hn, cn) = torch.nn.LSTM(3, 7, 2, bidirectional=True)(torch.zeros(6, 4, 3))
    for name, tensor in (("output", output), ("h_n", hn), ("c_n", cn)):
        assert [axis["size"] for axis in answer[name]] == list(tensor.shape)


def test_the_code_for_a_link_runs_nothing_that_the_link_brings(service: ServiceProcess, open_page: OpenPage) -> None:
    lab = quote(json.dumps({"input_size": 5, "hidden_size": "8'; echo mischief; echo '"}))
    page = open_page(f"{service.url}/#view=shapes&lab={lab}", allowed=("status of 400",))
    expect(page.get_by_role("alert")).to_contain_text("hidden_size")
    page.get_by_role("button", name="Code for this view").click()
    code = page.get_by_role("dialog").locator("pre").inner_text()
    ran = subprocess.run(["bash", "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert "hidden_size" in json.loads(ran.stdout)["error"]


def test_what_was_typed_stays_when_the_model_changes_and_nonsense_in_a_link_is_left_out(
    service: ServiceProcess, open_page: OpenPage
) -> None:
    page = open_page(f"{service.url}/#view=shapes&lab=null")
    expect(page.locator("#parameter-count")).to_have_text("480")
    page.get_by_label("num_layers").fill("2")
    page.get_by_label("Model", exact=True).select_option("both")
    expect(page).to_have_url(re.compile("model=both.*num_layers%22:2"))
