"""The page when not all is well: a key is asked for, there is no model yet, a link names what is no longer there."""

import re
from pathlib import Path

from conftest import OpenPage
from factories import make_bundle
from playwright.sync_api import expect
from processes import ONNX_ALONE, ServiceProcess, running_service


def test_a_key_is_asked_for_and_kept_for_the_tab(tmp_path: Path, open_page: OpenPage) -> None:
    make_bundle(tmp_path / "bundles", "tiny")
    keys = tmp_path / "keys"
    keys.write_text("open-sesame\n")
    keys.chmod(0o600)
    with running_service(tmp_path / "bundles", ONNX_ALONE, f"--api-keys-file={keys}") as service:
        service.wait_until("/health/ready", 200)
        page = open_page(f"{service.url}/#view=prediction", allowed=("status of 401",))
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_text("a valid API key is needed")).to_be_visible()
        page.get_by_role("button", name="Try again").click()
        for key in ("wrong", "schlüssel€", "open-sesame"):  # no header could hold the second
            dialog.get_by_label("API key").fill(key)
            dialog.get_by_role("button", name="Use this key").click()
        expect(page.locator(".answer-label")).not_to_be_empty()
        page.reload()
        expect(page.locator(".answer-label")).not_to_be_empty()
        expect(dialog).to_have_count(0)


def test_without_a_model_it_says_what_to_run_and_notices_when_there_is_one(tmp_path: Path, open_page: OpenPage) -> None:
    with running_service(tmp_path, ONNX_ALONE, "--reload-interval-s=0.2") as service:
        page = open_page(f"{service.url}/", allowed=("status of 503",))
        expect(page.get_by_role("heading", name="There is no model yet")).to_be_visible()
        expect(page.locator("pre")).to_contain_text("python -m model train reference")
        page.get_by_role("tab", name="Shape lab").click()
        expect(page.locator("#parameter-count")).to_have_text("480")
        page.get_by_role("tab", name="Data flow").click()
        make_bundle(tmp_path, "tiny")
        expect(page.locator(".stage").first).to_be_visible(timeout=15_000)


def test_a_version_that_is_published_meanwhile_can_be_chosen(tmp_path: Path, open_page: OpenPage) -> None:
    make_bundle(tmp_path, "tiny")
    # Of several workers one lists what is new a moment before another.
    settings = (ONNX_ALONE, "--reload-interval-s=0.2", "--version-policy=all", "--workers=1")
    with running_service(tmp_path, *settings) as service:
        service.wait_until("/health/ready", 200)
        page = open_page(f"{service.url}/#view=flow")
        version = page.get_by_label("Version", exact=True)
        expect(version.locator("option")).to_have_text(["1"])
        make_bundle(tmp_path, "tiny", seed=1)
        service.wait_until("/v1/models", 200, lambda listed: listed.json()["models"][0]["versions"] == ["1", "2"])
        page.get_by_role("tab", name="Training").click()
        expect(version.locator("option")).to_have_text(["2", "1"])
        expect(version).to_have_value("1")


def test_a_link_to_what_is_gone_leads_to_what_is_there(service: ServiceProcess, open_page: OpenPage) -> None:
    page = open_page(f"{service.url}/#view=training&model=gone&version=7&example=3&edit=0:0:5")
    expect(page.locator("#epochs")).to_be_visible()
    expect(page).to_have_url(re.compile("model=(?!gone)"))
    expect(page).not_to_have_url(re.compile("example=|edit="))  # they were another model's
