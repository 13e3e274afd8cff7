"""The README tells the truth: its tables are those of the code, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from processes import running_service

from service.metrics import Metrics
from service.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def rows(prefix: str) -> dict[str, list[str]]:
    """The table rows whose first cell is code that begins with `prefix`: first cell → the others."""
    found = {}
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("| `" + prefix):
            found[cells[0].strip("`")] = cells[1:]
    return found


def test_it_is_short() -> None:
    assert len(README.splitlines()) < 200


def test_the_settings_table_is_that_of_the_code() -> None:
    expected = {}
    for name, field in Settings.model_fields.items():
        default = field.default
        text = "" if default is None else f"`{default:g}`" if isinstance(default, float) else f"`{default}`"
        expected["LSTM_" + name.upper()] = [text, str(field.description)]
    assert rows("LSTM_") == expected


def test_the_metrics_table_is_that_of_the_scrape() -> None:
    scraped = dict(re.findall(r"^# HELP (lstm_\S+) (.*)$", Metrics().render().decode(), re.MULTILINE))
    told = {}
    for names, cells in rows("lstm_").items():
        told |= dict(zip(names.split("`, `"), cells[1].split(" · "), strict=True))
    assert told == scraped


def test_every_documented_path_is_answered(repository: Path) -> None:
    names = {"{name}": "tiny", "{version}": "1"}
    with running_service(repository) as service:
        service.wait_until("/health/ready", 200)
        described = httpx.get(service.url + "/openapi.json").json()["paths"]
        paths = re.findall(r"`(GET|POST) (/[^`]*)`", README)
        for method, path in paths:
            filled = re.sub(r"\{\w+\}", lambda found: names[found[0]], path)
            answer = httpx.request(method, service.url + filled)
            needs_a_body = path.endswith(("/predict", "/infer", "/shapes"))
            assert answer.status_code == (400 if needs_a_body else 200), (method, path, answer.text)
        undescribed = {"/", "/docs", "/openapi.json"}
        assert {path for _, path in paths} - undescribed == {path for path in described if "/versions/" not in path}


@pytest.mark.parametrize("command", sorted(set(re.findall(r"python -m (model \w+|service)\b", README))))
def test_every_documented_command_exists(command: str) -> None:
    subprocess.run([sys.executable, "-m", *command.split(), "--help"], check=True, capture_output=True, timeout=60)


def test_every_make_target_and_file_that_is_named_exists() -> None:
    targets = set(re.findall(r"`make (\w+)`", README))
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)
    files = re.findall(r"`((?:model|service|docker|tests|bench)/[\w./-]*)`", README)
    assert files
    assert [file for file in files if not (ROOT / file).exists()] == []
