"""How the page feels: how much is loaded, how soon something is seen, whether it jumps, whether it stays fluid."""

import json
from typing import Any

import numpy as np
import pytest
from conftest import OpenPage
from playwright.sync_api import Page, expect
from processes import ServiceProcess
from screenshots import VIEWS, settle

MOST_BYTES = 300_000
# 300 ms is the aim, and reached by far on an idle machine; a test that shares two cores with others allows this.
FIRST_PAINT_MS = 1000
# A frame takes 16.7 ms if nothing is late; a browser without a GPU on two busy cores is allowed this.
MEDIAN_FRAME_MS = 50
OBSERVE = """
  window.shifts = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
"""


def loaded(page: Page) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = page.evaluate(
        "['navigation', 'resource'].flatMap(kind => performance.getEntriesByType(kind)).map(entry => entry.toJSON())"
    )
    return entries


def test_the_page_weighs_less_than_300_kilobytes(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=JapaneseVowels")
    settle(page, "prediction")
    assert sum(entry["transferSize"] for entry in loaded(page)) < MOST_BYTES
    page.reload()
    settle(page, "prediction")
    again = [entry for entry in loaded(page) if "/static/" in entry["name"]]
    assert again
    assert sum(entry["encodedBodySize"] for entry in again if entry["transferSize"] > 400) == 0, "the browser kept it"


def test_something_is_seen_at_once(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/")
    settle(page, "flow")
    (paint,) = page.evaluate("performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)")
    assert paint < FIRST_PAINT_MS


@pytest.mark.parametrize("view", ["flow", "training", "prediction", "shapes"])
def test_nothing_jumps(service: ServiceProcess, open_page: OpenPage, view: str) -> None:
    page = open_page(f"{service.url}/#{VIEWS[view]}", observe=OBSERVE)
    settle(page, view)
    assert page.evaluate("window.shifts") < 0.1  # what Core Web Vitals call good


def test_a_long_trace_of_a_wide_network_stays_fluid(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=prediction&model=long")
    page.get_by_role("button", name="Paste JSON").click()
    sequence = np.random.default_rng(0).normal(size=(500, 12)).round(3).tolist()
    page.get_by_label("Sequence as JSON").fill(json.dumps(sequence))
    page.get_by_role("button", name="Classify this").click()
    expect(page.get_by_text("step 500 of 500").first).to_be_visible()
    frames: list[float] = page.evaluate(
        """async () => {
          const slider = document.querySelector("input[type=range]");
          const times = [];
          let before = await new Promise(requestAnimationFrame);
          for (let step = 1; step <= 120; step++) {
            slider.value = step * 4;
            slider.dispatchEvent(new Event("input"));
            const now = await new Promise(requestAnimationFrame);
            times.push(now - before);
            before = now;
          }
          return times;
        }"""
    )
    assert float(np.median(frames)) < MEDIAN_FRAME_MS
    expect(page.get_by_text("step 480 of 500").first).to_be_visible()
