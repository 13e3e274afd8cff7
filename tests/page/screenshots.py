"""Takes a picture of every view of a running service's page: light, dark, and as wide as a phone.

python tests/page/screenshots.py http://127.0.0.1:8000 FOLDER

`trace-page.png`, which the README shows, is the top of one of them; copy it from FOLDER when the page has changed.
"""

import argparse
from pathlib import Path

from browser import running_browser
from playwright.sync_api import Browser, Page

VIEWS = {
    "flow": "view=flow&model=reference",
    "training": "view=training&model=JapaneseVowels",
    "prediction": "view=prediction&model=reference&example=2&step=6&unit=3",
    "edited": "view=prediction&model=JapaneseVowels&example=3&step=4&edit=3:0:1.9,4:0:2.1",
    "compared": "view=prediction&model=JapaneseVowels&example=3&compare=example:5",
    "shapes": "view=shapes",
    "live": "view=live&model=reference",
}
LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "device_scale_factor": 2},
}


def settle(page: Page, view: str) -> None:
    """Wait until a view shows what it is about."""
    if view == "live":
        page.get_by_role("button", name="Send 200 predictions").click()
        page.get_by_text("inference requests in the time shown").wait_for()
    elif view == "shapes":
        page.locator("#parameter-count").wait_for()
        page.locator(".option").first.wait_for()
    elif view == "flow":
        page.locator(".stage").first.wait_for()
    elif view == "training":
        page.locator("#epochs").wait_for()
    else:
        page.locator(".answer-label:not(:empty)").wait_for()
    page.wait_for_load_state("networkidle")


def take(browser: Browser, url: str, folder: Path) -> None:
    """Take them all, each as long as its page."""
    for look, options in LOOKS.items():
        with browser.new_context(reduced_motion="reduce", **options) as context:
            for name, link in VIEWS.items():
                page = context.new_page()
                page.goto(f"{url}/#{link}")
                settle(page, link.removeprefix("view=").partition("&")[0])
                page.screenshot(path=folder / f"{name}-{look}.png", full_page=True)
                page.close()


def take_top(browser: Browser, url: str, file: Path) -> None:
    """The beginning of a prediction, as far as the network's state over time."""
    with browser.new_context(reduced_motion="reduce", viewport={"width": 1100, "height": 1290}) as context:
        page = context.new_page()
        page.goto(f"{url}/#{VIEWS['prediction']}")
        settle(page, "prediction")
        page.screenshot(path=file)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with running_browser() as browser:
        take(browser, arguments.url.rstrip("/"), arguments.folder)
        take_top(browser, arguments.url.rstrip("/"), arguments.folder / "trace-page.png")


if __name__ == "__main__":
    main()
