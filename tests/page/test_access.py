"""For everyone: by keyboard, in the dark, on a phone, and to axe-core, which reads a page as a screen reader does."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import OpenPage
from playwright.sync_api import Page, expect
from processes import ServiceProcess
from screenshots import LOOKS, VIEWS, settle

AXE = (Path(__file__).parent / "axe.min.js").read_text()


def open_view(open_page: OpenPage, service: ServiceProcess, view: str, look: str) -> Page:
    page = open_page(f"{service.url}/#{VIEWS[view]}", **LOOKS[look])
    settle(page, VIEWS[view].removeprefix("view=").partition("&")[0])
    return page


@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_serious_in_any_look(service: ServiceProcess, open_page: OpenPage, view: str) -> None:
    page = open_view(open_page, service, view, "light")
    page.evaluate(AXE)  # not as a script element, which the page's own policy forbids
    for look, options in LOOKS.items():
        page.emulate_media(color_scheme=options["color_scheme"])
        page.set_viewport_size(options["viewport"])
        found: dict[str, Any] = page.evaluate("axe.run({ resultTypes: ['violations'] })")
        assert len(found["passes"]) > 10, "axe has looked at something"
        assert [
            (look, violation["id"], node["target"], node.get("failureSummary"))
            for violation in found["violations"]
            if violation["impact"] in {"serious", "critical"}
            for node in violation["nodes"]
        ] == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_is_wide_enough(service: ServiceProcess, open_page: OpenPage, view: str) -> None:
    page = open_view(open_page, service, view, "phone")
    assert page.evaluate("document.documentElement.scrollWidth") <= LOOKS["phone"]["viewport"]["width"]


@pytest.mark.parametrize("view", VIEWS)
def test_the_narrowest_phone_is_wide_enough(service: ServiceProcess, open_page: OpenPage, view: str) -> None:
    page = open_view(open_page, service, view, "phone")
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_the_dark_is_dark(service: ServiceProcess, open_page: OpenPage) -> None:
    def brightness(look: str) -> float:
        page = open_view(open_page, service, "flow", look)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")  # rgb(1, 2, 3)
        return sum(map(float, re.findall(r"[\d.]+", colour)[:3])) / 3

    assert brightness("dark") < 60
    assert brightness("light") > 200


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def focus_by_tab(page: Page, name: str) -> None:
    """Press Tab until the control whose accessible name or text is `name` has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(
            "() => { const at = document.activeElement;"
            " return at.getAttribute('aria-label') || at.labels?.[0]?.textContent || at.textContent; }"
        )
        if found == name:
            return
    raise AssertionError(f"no way to {name} with the Tab key")


def test_the_whole_way_can_be_gone_by_keyboard(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=flow&model=reference")
    page.locator(".stage").first.wait_for()
    press(page, "Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press(page, "Enter")
    expect(page.locator("main")).to_be_focused()
    expect(page).to_have_url(re.compile("#view=flow&model=reference"))
    press(page, "Shift+Tab")
    focus_by_tab(page, "Data flow")
    press(page, "ArrowRight", "ArrowRight")
    expect(page.get_by_role("tab", name="Prediction")).to_be_focused()
    expect(page.locator(".answer-label")).not_to_be_empty()
    focus_by_tab(page, "Time step")
    press(page, "Home", "ArrowRight", "ArrowRight")
    expect(page.get_by_text("step 3 of 10").first).to_be_visible()
    focus_by_tab(page, "Code for this view")
    press(page, "Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    press(page, "Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.get_by_role("button", name="Code for this view")).to_be_focused()


def test_a_value_can_be_changed_with_the_arrow_keys(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1")
    expect(page.locator(".answer-label")).not_to_be_empty()
    page.locator("svg.editable").focus()
    press(page, "Home", "ArrowRight", "ArrowUp", "ArrowUp")
    expect(page.get_by_text("1 value changed")).to_be_visible()
    expect(page).to_have_url(re.compile("edit=1:0:"))


def test_a_key_that_is_held_loses_no_press(service: ServiceProcess, open_page: OpenPage) -> None:
    sequence = httpx.get(f"{service.url}/v1/models/reference/examples").json()["examples"][0]["sequence"]
    values = [value for step in sequence for value in step]
    nudge = 0.02 * 1.5 * (max(values) - min(values))  # the chart has room for half as much again
    page = open_page(f"{service.url}/#view=prediction&model=reference&example=1&step=1")
    expect(page.locator(".answer-label")).not_to_be_empty()
    knob = page.locator("svg.editable")
    knob.focus()
    press(page, *["ArrowUp"] * 30)
    least = sequence[0][0] + 30 * nudge - 0.02  # rounded to 4 digits, each time
    for _ in range(100):  # the last answer comes when it comes
        if float(knob.get_attribute("aria-valuenow") or 0) >= least:
            break
        page.wait_for_timeout(100)
    assert float(knob.get_attribute("aria-valuenow") or 0) >= least
