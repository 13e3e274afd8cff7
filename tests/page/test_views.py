"""Every view against the API: what it says, in which shapes, and how it gets there."""

import re
from typing import Any

import httpx
import pytest
from conftest import OpenPage
from playwright.sync_api import Page, Route, expect
from processes import ServiceProcess

TABS = ["Data flow", "Training", "Prediction", "Shape lab", "Live"]
MODELS = ["reference", "JapaneseVowels"]


def describe(service: ServiceProcess, model: str) -> dict[str, Any]:
    described: dict[str, Any] = httpx.get(f"{service.url}/v1/models/{model}").json()
    return described


def test_every_tab_shows_its_view_and_a_link_leads_back_to_it(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/")
    expect(page.get_by_role("tab")).to_have_text(TABS)
    for name in TABS:
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tabpanel")).to_have_count(1)
        expect(page.get_by_role("tabpanel", name=name).get_by_role("heading", level=2).first).to_be_visible()
        expect(page.get_by_role("alert")).to_have_count(0)
    page.go_back()
    expect(page.get_by_role("tab", name="Shape lab")).to_have_attribute("aria-selected", "true")
    page.go_back()
    expect(page.get_by_role("tabpanel", name="Prediction").locator(".answer-label")).not_to_be_empty()


def test_the_flow_of_the_reference_model_has_the_shapes_of_the_design(
    service: ServiceProcess, open_page: OpenPage
) -> None:
    page = open_page(f"{service.url}/#view=flow&model=reference")
    expect(page.locator(".chain strong")).to_have_text(["100×10×5", "100×10×8", "100×8", "100×3"])
    expect(page.locator(".stage h3").locator("visible=true")).to_contain_text(["Input sequence"])
    shapes = page.locator(".stage .stage-shape").evaluate_all("nodes => nodes.map(n => n.getAttribute('aria-label'))")
    assert shapes == ["100 × 10 × 5", "100 × 10 × 5", "100 × 10 × 8", "100 × 8", "100 × 3", "100 × 3"]


@pytest.mark.parametrize("model", MODELS)
def test_the_flow_shows_the_values_of_the_chosen_example(
    service: ServiceProcess, open_page: OpenPage, model: str
) -> None:
    example = httpx.get(f"{service.url}/v1/models/{model}/examples").json()["examples"][2]
    answer = httpx.post(
        f"{service.url}/v1/models/{model}/predict", json={"sequences": [example["sequence"]], "trace": "layers"}
    ).json()
    page = open_page(f"{service.url}/#view=flow&model={model}")
    page.get_by_label("Look at example").select_option(index=2)
    expect(page).to_have_url(re.compile("example=3"))
    logits = next(layer["values"] for layer in answer["traces"][0]["layers"] if layer["name"] == "linear")
    for stage, values in (("linear", logits), ("softmax", answer["probabilities"][0])):
        shown = [f"{value:.3f}".replace("-", "−").replace("−0.000", "0.000") for value in values]
        expect(page.locator(f"#stage-{stage} .bar-value")).to_have_text(shown)


def test_another_example_of_the_flow_starts_without_the_changes_of_the_last(
    service: ServiceProcess, open_page: OpenPage
) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1&step=2&edit=0:0:5")
    expect(page.get_by_text("1 value changed")).to_be_visible()
    page.get_by_role("tab", name="Data flow").click()
    page.get_by_label("Look at example").select_option(index=3)
    expect(page).to_have_url(re.compile("example=4"))
    page.get_by_role("tab", name="Prediction").click()
    expect(page.get_by_text("step 10 of 10").first).to_be_visible()
    expect(page.get_by_text("value changed")).to_have_count(0)


def test_a_batch_that_cannot_be_is_told_beside_its_field(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=flow&model=reference")
    batch, alert = page.get_by_label("Sequences in the batch"), page.get_by_role("alert")
    for wrong in ("0", "1000"):
        batch.fill("7")
        batch.press("Enter")
        expect(page.locator(".chain strong").first).to_have_text("7×10×5")
        expect(alert).to_have_count(0)
        batch.fill(wrong)
        batch.press("Enter")
        expect(alert).to_contain_text("1 to 256")
        expect(batch).to_have_attribute("aria-invalid", "true")


def hold(page: Page, pattern: str) -> list[Route]:
    """From now on requests to `pattern` go no further than into this list."""
    held: list[Route] = []

    def keep(route: Route) -> None:
        held.append(route)

    page.route(pattern, keep)
    return held


def test_an_answer_that_comes_after_a_wrong_batch_is_not_shown(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=flow&model=reference")
    batch, alert = page.get_by_label("Sequences in the batch"), page.get_by_role("alert")
    shape = page.locator(".chain strong").first
    expect(shape).to_have_text("100×10×5")
    held = hold(page, "**/infer")
    with page.expect_request("**/infer"):
        batch.fill("8")
        batch.press("Enter")
    batch.fill("1000")
    batch.press("Enter")
    expect(alert).to_contain_text("1 to 256")
    with page.expect_response("**/infer"):
        held[0].continue_()
    page.unroute("**/infer")
    batch.fill("8")
    batch.press("Enter")
    expect(shape).to_have_text("8×10×5")
    expect(alert).to_have_count(0)


def test_what_is_typed_before_the_model_is_known_stays(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=shapes")
    held = hold(page, "**/examples")
    with page.expect_request("**/examples"):
        page.goto(f"{service.url}/#view=flow&model=reference")
    batch = page.get_by_label("Sequences in the batch")
    batch.fill("7")
    held[0].continue_()
    expect(page.locator(".chain strong").first).to_have_text("100×10×5")
    expect(batch).to_have_value("7")
    batch.press("Enter")
    expect(page.locator(".chain strong").first).to_have_text("7×10×5")


def cells(page: Page, table: str) -> list[list[str]]:
    return page.locator(f"{table} tbody tr").evaluate_all("rows => rows.map(r => [...r.cells].map(c => c.textContent))")


@pytest.mark.parametrize("model", MODELS)
def test_the_training_trace_is_that_of_the_api(service: ServiceProcess, open_page: OpenPage, model: str) -> None:
    described = describe(service, model)
    page = open_page(f"{service.url}/#view=training&model={model}")
    page.locator("#epochs").wait_for()
    trace = described["training_trace"]
    rows = cells(page, "#epochs")
    assert [row[:3] for row in rows] == [
        [str(epoch["epoch"]), f"{epoch['loss']:.4f}", f"{epoch['accuracy']:.4f}"] for epoch in trace
    ]
    assert [row[-1] for row in rows] == [epoch["observation"] for epoch in trace]
    manifest = described["manifest"]
    matrix = manifest["evaluation"]["confusion_matrix"]
    assert [row[1:-1] for row in cells(page, "#confusion")] == [[str(count) for count in row] for row in matrix]
    expect(page.locator(".tiles")).to_contain_text(f"{manifest['evaluation']['accuracy'] * 100:.1f} %")
    expect(page.locator(".facts")).to_contain_text(manifest["data"]["source"])
    expect(page.locator(".facts")).to_contain_text(manifest["data"]["licence"])
    assert [row[0] for row in cells(page, "#parity")] == list(manifest["parity"]["max_difference"])
    for name, values in (("Loss", "loss"), ("Accuracy", "accuracy")):
        chart = page.get_by_role("img", name=f"{name} by epoch")
        assert len(re.findall("[ML]", chart.locator("path.line").first.get_attribute("d") or "")) == len(trace)
        chart.hover(position={"x": 47, "y": 60})
        read = page.locator("figure", has=chart).locator(".legend")
        expect(read).to_contain_text(f"epoch 1training {trace[0][values]:.3f}")


def test_model_and_version_can_be_chosen(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=training&model=reference")
    expect(page.get_by_label("Version", exact=True)).to_have_value("2")
    page.get_by_label("Version", exact=True).select_option("1")
    expect(page.locator("#epochs tbody tr")).to_have_count(1)
    page.get_by_label("Model", exact=True).select_option("JapaneseVowels")
    expect(page.get_by_role("heading", name="How JapaneseVowels learnt")).to_be_visible()
    expect(page).to_have_url(re.compile("model=JapaneseVowels"))
    page.reload()
    expect(page.get_by_role("heading", name="How JapaneseVowels learnt")).to_be_visible()


def test_a_description_that_comes_late_is_not_shown(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=shapes&model=reference")
    page.locator("#parameter-count").wait_for()
    held = hold(page, "**/models/JapaneseVowels/**")
    page.get_by_label("Model", exact=True).select_option("JapaneseVowels")
    with page.expect_request("**/JapaneseVowels/**"):
        page.get_by_role("tab", name="Training").click()
    page.get_by_label("Model", exact=True).select_option("reference")
    title = page.get_by_role("heading", name="learnt")
    expect(title).to_have_text("How reference learnt")
    with page.expect_response("**/JapaneseVowels/**/examples"):
        for route in held:
            route.continue_()
    page.wait_for_timeout(300)  # what it must not do, it would do at once
    expect(title).to_have_text("How reference learnt")


def test_live_starts_anew_when_the_service_does(service: ServiceProcess, open_page: OpenPage) -> None:
    counts = iter([500, 510, 3, 4])

    def answer(route: Route) -> None:
        route.fulfill(body=f"lstm_request_duration_seconds_count {next(counts, 4)}\n")

    page = open_page(f"{service.url}/")
    page.route("**/metrics", answer)
    page.get_by_role("tab", name="Live").click()
    expect(page.get_by_text("10 inference requests in the time shown")).to_be_visible()
    expect(page.get_by_text("1 inference request in the time shown")).to_be_visible()


def test_live_counts_what_is_sent(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=live&model=reference")
    tile = page.locator(".tiles dd.number").first
    expect(tile).to_have_text(re.compile(r"^[\d,]+$"))
    before = int(tile.inner_text().replace(",", ""))
    page.get_by_role("button", name="Send 200 predictions").click()
    expect(page.get_by_text("200 inference requests in the time shown")).to_be_visible()
    expect(tile).to_have_text(f"{before + 200:,}")
    runs = page.locator("figure", has_text="Batch sizes").locator(".bar-value").all_text_contents()
    executions = re.findall(r"^lstm_batch_size_count (\S+)", httpx.get(f"{service.url}/metrics").text, re.MULTILINE)
    assert 0 < sum(int(count.replace(",", "")) for count in runs) <= float(executions[0])
    for figure in ("Median by stage", "99th percentile by stage"):
        texts = page.locator("figure", has_text=figure).locator(".bar-value").all_text_contents()
        assert len(texts) == 6
        assert all(text.endswith(" ms") for text in texts)
