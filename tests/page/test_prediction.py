"""The prediction view: choosing, stepping, editing, comparing, saving; its numbers are the API's."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OpenPage
from playwright.sync_api import Page, expect
from processes import ServiceProcess

MODELS = ["reference", "JapaneseVowels"]
TERMS = ["forget_gate", None, "input_gate", "cell_candidate", "cell_state", "output_gate", None, None]

Layers = dict[str, Any]


def shown(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if f"{value:.3f}" != "-0.000" else "0.000"


def example(service: ServiceProcess, model: str, index: int) -> dict[str, Any]:
    return httpx.get(f"{service.url}/v1/models/{model}/examples").json()["examples"][index]


def ask(service: ServiceProcess, model: str, sequence: list[list[float]]) -> tuple[dict[str, Any], Layers]:
    answer = httpx.post(
        f"{service.url}/v1/models/{model}/predict", json={"sequences": [sequence], "trace": "gates"}
    ).json()
    return answer, {layer["name"]: layer["values"] for layer in answer["traces"][0]["layers"]}


def check_answer(page: Page, answer: dict[str, Any]) -> None:
    expect(page.locator(".answer-label")).to_have_text(answer["labels"][0])
    bars = page.get_by_role("region", name="Answer").locator(".bar-value")
    expect(bars).to_have_text([shown(value) for value in answer["probabilities"][0]])


def check_step(page: Page, layers: Layers, *, step: int, unit: int) -> None:
    """The sums, the legend and the slider say what the API says of this step and unit, counted from zero."""
    expect(page.get_by_role("slider", name="Time step")).to_have_value(str(step + 1))
    terms = page.locator(".sum .term b")
    expected = [None if name is None else shown(layers[name][step][unit]) for name in TERMS]
    expected[1] = shown(layers["cell_state"][step - 1][unit]) if step else "0.000"
    expected[7] = shown(layers["lstm"][step][unit])
    for index, text in enumerate(expected):
        if text is not None:
            expect(terms.nth(index)).to_have_text(text)
    legend = page.locator("figure", has_text="Had the sequence ended earlier").locator(".read")
    probabilities = layers["step_probabilities"][step]
    for index, value in enumerate(probabilities):  # of an edited sequence the answer before comes after them
        expect(legend.nth(index)).to_have_text(shown(value))


@pytest.mark.parametrize("model", MODELS)
def test_an_example_can_be_stepped_through_and_shows_the_numbers_of_the_api(
    service: ServiceProcess, open_page: OpenPage, model: str
) -> None:
    chosen = example(service, model, 3)
    answer, layers = ask(service, model, chosen["sequence"])
    page = open_page(f"{service.url}/#view=prediction&model={model}")
    page.get_by_label("Held-out example").select_option(index=3)
    check_answer(page, answer)
    expect(page.get_by_role("region", name="Answer").locator(".chip")).to_have_text(
        "correct" if answer["labels"][0] == chosen["label"] else f"true class: {chosen['label']}"
    )
    last = len(chosen["sequence"]) - 1
    check_step(page, layers, step=last, unit=0)
    slider = page.get_by_role("slider", name="Time step")
    slider.press("Home")
    check_step(page, layers, step=0, unit=0)
    slider.press("ArrowRight")
    check_step(page, layers, step=1, unit=0)
    page.get_by_label("Unit", exact=True).fill("5")
    page.get_by_label("Unit", exact=True).press("Enter")
    check_step(page, layers, step=1, unit=4)
    expect(page).to_have_url(re.compile("example=4.*step=2.*unit=5"))
    page.reload()
    check_step(page, layers, step=1, unit=4)


@pytest.mark.parametrize("model", MODELS)
def test_the_moment_the_model_makes_up_its_mind_is_marked(
    service: ServiceProcess, open_page: OpenPage, model: str
) -> None:
    page = open_page(f"{service.url}/#view=prediction&model={model}")
    for index in range(4):
        answer, layers = ask(service, model, example(service, model, index)["sequence"])
        found = [row.index(max(row)) for row in layers["step_probabilities"]]
        settled = max([step + 1 for step in range(len(found)) if found[step] != found[-1]], default=0)
        page.get_by_label("Held-out example").select_option(index=index)
        check_answer(page, answer)
        words = f"at step {settled + 1} of {len(found)}" if settled else "From the first step on"
        expect(page.locator(".when")).to_contain_text(words)
        expect(page.locator(".mark-text").first).to_have_text(f"settled: {answer['labels'][0]}")


def test_playing_runs_to_the_end_and_stops(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference&step=8")
    page.get_by_role("button", name="Play").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(page.get_by_role("slider", name="Time step")).to_have_value("10")
    expect(page.get_by_role("button", name="Play")).to_be_visible()


def test_a_value_that_is_typed_changes_the_answer_and_the_difference_is_shown(
    service: ServiceProcess, open_page: OpenPage
) -> None:
    sequence = example(service, "reference", 0)["sequence"]
    before, _ = ask(service, "reference", sequence)
    sequence[4][2] = 3.5
    after, layers = ask(service, "reference", sequence)
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1&step=5")
    page.get_by_label("Feature", exact=True).select_option(index=2)
    value = page.get_by_label("Value at step 5")
    value.fill("3.5")
    value.press("Enter")
    check_answer(page, after)
    check_step(page, layers, step=4, unit=0)
    expect(page.locator(".before-note")).to_contain_text(
        f"{before['labels'][0]}, {shown(max(before['probabilities'][0]))}"
    )
    expect(page.get_by_text("1 value changed")).to_be_visible()
    page.get_by_role("button", name="Difference").click()
    expect(page).to_have_url(re.compile("edit=4:2:3.5.*show=difference|show=difference.*edit=4:2:3.5"))
    page.reload()
    check_answer(page, after)
    page.get_by_role("button", name="Undo changes").click()
    check_answer(page, before)


def test_a_feature_can_be_drawn_with_the_mouse(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1")
    expect(page.locator(".answer-label")).not_to_be_empty()
    chart = page.locator("svg.editable")
    box = chart.bounding_box()
    assert box
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 40, steps=4)
    page.mouse.up()
    expect(page.get_by_text(re.compile("[4-7] values changed"))).to_be_visible()
    expect(page).to_have_url(re.compile("edit="))
    edits = re.findall(r"(\d+):0:(-?[\d.]+)", page.url)
    sequence = example(service, "reference", 0)["sequence"]
    for step, value in edits:
        sequence[int(step)][0] = float(value)
    check_answer(page, ask(service, "reference", sequence)[0])


def test_pasted_json_is_classified(service: ServiceProcess, open_page: OpenPage) -> None:
    sequence = example(service, "reference", 2)["sequence"][:7]
    page = open_page(f"{service.url}/#view=prediction&model=reference")
    page.get_by_role("button", name="Paste JSON").click()
    page.get_by_label("Sequence as JSON").fill(json.dumps({"sequences": [sequence]}))
    page.get_by_role("button", name="Classify this").click()
    check_answer(page, ask(service, "reference", sequence)[0])
    expect(page.get_by_role("region", name="Answer").locator(".chip")).to_have_text("true class unknown")
    expect(page).to_have_url(re.compile("sequence=5"))
    page.reload()
    check_answer(page, ask(service, "reference", sequence)[0])


def paste(page: Page, sequence: list[list[float]]) -> None:
    page.get_by_label("Sequence as JSON").fill(json.dumps(sequence))
    page.get_by_role("button", name="Classify this").click()


def test_sequences_that_are_too_long_for_a_link_are_told_apart(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=JapaneseVowels")
    page.get_by_role("button", name="Paste JSON").click()
    for steps, value in ((600, 0.1), (700, -0.5)):
        sequence = [[value] * 12] * steps
        paste(page, sequence)
        expect(page.get_by_text(f"step {steps} of {steps}").first).to_be_visible()
        check_answer(page, ask(service, "JapaneseVowels", sequence)[0])
    expect(page).to_have_url(re.compile(r"sequence=kept\d+"))
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("too long for a link")
    expect(page.get_by_role("button", name="Save the trace as JSON")).to_be_disabled()
    page.get_by_role("button", name="Paste JSON").click()
    page.get_by_role("button", name="Fill in the current sequence").click()
    page.get_by_role("button", name="Example", exact=True).click()
    page.get_by_role("button", name="Code for this view").click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text("v1/models")
    page.keyboard.press("Escape")
    page.get_by_label("Held-out example").select_option(index=1)
    check_answer(page, ask(service, "JapaneseVowels", example(service, "JapaneseVowels", 1)["sequence"])[0])
    expect(page.get_by_role("alert")).to_have_count(0)


def test_what_is_typed_is_taken_as_it_is_or_refused(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1&step=5")
    value = page.get_by_label("Value at step 5")
    value.fill("0.123456")
    value.press("Enter")
    expect(page).to_have_url(re.compile(r"edit=4:0:0\.123456(&|$)"))
    value.fill("1e39")
    value.press("Enter")
    assert "32-bit float" in value.evaluate("node => node.validationMessage")
    unit = page.get_by_label("Unit", exact=True)
    unit.fill("9999")
    unit.press("Enter")
    expect(unit).to_have_value("8")
    expect(page).to_have_url(re.compile(r"edit=4:0:0\.123456(&|$).*unit=8"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[1, 2", "this is not JSON"),
        ('{"sequences": [[[1, 2, 3, 4, 5]], [[1, 2, 3, 4, 5]]]}', "these are 2 sequences"),
        ("[[1, 2, 3, 4, 5], [1, 2]]", "sequences[0][1]: 2 features, the model takes 5"),
        ('[[1, 2, 3, 4, "x"]]', "sequences[0][0][4]: must be a number, got 'x'"),
        ("[]", "sequences[0]: must not be empty"),
        ("7", "sequences[0]: must be a list of time steps"),
    ],
)
def test_an_error_stands_beside_the_input_that_caused_it(
    service: ServiceProcess, open_page: OpenPage, text: str, message: str
) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference", allowed=("status of 400",))
    page.get_by_role("button", name="Paste JSON").click()
    area = page.get_by_label("Sequence as JSON")
    area.fill(text)
    page.get_by_role("button", name="Classify this").click()
    alert = page.get_by_role("region", name="Sequence", exact=True).get_by_role("alert")
    expect(alert).to_contain_text(message)
    expect(area).to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Fill in the current sequence").click()
    page.get_by_role("button", name="Classify this").click()
    expect(alert).to_have_count(0)


@pytest.mark.parametrize(
    "header", ["sequence_id,step,a,b,c,d,e,label\n", "a,b,c,d,e\n", ""], ids=["long", "names", "bare"]
)
def test_a_csv_is_read(service: ServiceProcess, open_page: OpenPage, tmp_path: Path, header: str) -> None:
    sequence = example(service, "reference", 1)["sequence"]
    lines = [",".join(map(str, step)) for step in sequence]
    if "label" in header:
        lines = [f"s1,{step},{line},rising" for step, line in enumerate(lines)] + ["s2,0,9,9,9,9,9,falling"]
    file = tmp_path / "one.csv"
    file.write_text(header + "\n".join(lines) + "\n")
    page = open_page(f"{service.url}/#view=prediction&model=reference")
    page.get_by_role("button", name="Drop a CSV").click()
    page.get_by_label("CSV file").set_input_files(file)
    expect(page.get_by_text("true class unknown")).to_be_visible()
    check_answer(page, ask(service, "reference", sequence)[0])


@pytest.mark.parametrize(
    ("other", "title"), [("example:4", "B: example 4"), ("version:1", "B: version 1")], ids=["sequence", "version"]
)
def test_two_sequences_or_versions_stand_side_by_side(
    service: ServiceProcess, open_page: OpenPage, other: str, title: str
) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1")
    page.get_by_label("Compare with").select_option(other)
    side = page.get_by_role("region", name="Side by side")
    expect(side.get_by_role("heading", name=title)).to_be_visible()
    kind, number = other.split(":")
    index, path = (3, "reference") if kind == "example" else (0, f"reference/versions/{number}")
    answer, _ = ask(service, path, example(service, "reference", index)["sequence"])
    expect(side.locator(".side").nth(1).locator(".bar-value")).to_have_text(
        [shown(value) for value in answer["probabilities"][0]]
    )


def test_every_layer_and_direction_of_a_stack_can_be_looked_into(service: ServiceProcess, open_page: OpenPage) -> None:
    sequence = [[0.5] * 3, [1.0] * 3]
    _, layers = ask(service, "both", sequence)
    page = open_page(f"{service.url}/#view=prediction&model=both&step=2")
    page.get_by_label("LSTM layer").select_option(index=1)
    page.get_by_label("Unit", exact=True).fill("6")
    page.get_by_label("Unit", exact=True).press("Enter")
    expect(page.get_by_role("heading", name="Unit 6 at step 2, reading backwards")).to_be_visible()
    terms = page.locator(".sum .term b")
    expect(terms.nth(0)).to_have_text(shown(layers["forget_gate_1"][1][5]))
    expect(terms.nth(1)).to_have_text("0.000")
    expect(terms.nth(4)).to_have_text(shown(layers["cell_state_1"][1][5]))
    page.get_by_role("slider", name="Time step").press("Home")
    expect(terms.nth(1)).to_have_text(shown(layers["cell_state_1"][1][5]))


def test_pictures_and_the_trace_can_be_saved(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1")
    expect(page.locator(".answer-label")).not_to_be_empty()
    for name, magic in (
        ("Save “Had the sequence ended earlier” as SVG", b"<svg"),
        ("Save “Had the sequence ended earlier” as PNG", b"\x89PNG"),
        ("Save “The network's state over time” as PNG", b"\x89PNG"),
    ):
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        assert download.value.path().read_bytes().startswith(magic)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the trace as JSON").click()
    saved = json.loads(download.value.path().read_text())
    assert saved == ask(service, "reference", example(service, "reference", 0)["sequence"])[0]


def test_the_code_that_is_shown_gives_the_answer_that_is_shown(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1")
    expect(page.locator(".answer-label")).not_to_be_empty()
    page.get_by_role("button", name="Code for this view").click()
    dialog = page.get_by_role("dialog")
    expected, _ = ask(service, "reference", example(service, "reference", 0)["sequence"])
    assert json.loads(run("bash", dialog.locator("pre").inner_text()))["traces"] == expected["traces"]
    dialog.get_by_role("button", name="Python").click()
    assert eval(run("python", dialog.locator("pre").inner_text()))["labels"] == expected["labels"]
    dialog.get_by_role("button", name="tritonclient").click()
    assert "step_probabilities (1, 10, 3)" in run("python", dialog.locator("pre").inner_text())
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def run(language: str, code: str) -> str:
    command = ["bash", "-c", code] if language == "bash" else [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
