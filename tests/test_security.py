"""SECURITY.md tells the truth: each test that it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROWS = re.findall(r"^\| (?!threat|---)(.+?) \| .+ \| (.+) \|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)


def test_there_are_threats() -> None:
    assert len(ROWS) > 10


@pytest.mark.parametrize(("threat", "tests"), ROWS)
def test_each_threat_has_tests_that_exist(threat: str, tests: str) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
    assert named, threat
    for file, name in named:
        sources = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        assert any(re.search(rf"^def {name}\(", source, re.MULTILINE) for source in sources), f"{file}::{name}"
