"""The compose file, read as compose reads it but without Docker: what it must never lose."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.fixture(params=SERVICES)
def container(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SERVICES[request.param]


def test_every_container_is_unprivileged_with_a_read_only_root(container: dict[str, Any]) -> None:
    assert int(container["user"].split(":")[0]) > 0
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not container.keys() & {"privileged", "cap_add", "devices", "pid", "ipc"}
    assert container.get("network_mode") != "host"


def test_every_container_is_bounded(container: dict[str, Any]) -> None:
    assert container["mem_limit"]
    assert container["pids_limit"] > 0
    assert all("size=" in tmpfs for tmpfs in container["tmpfs"])
    assert container["logging"]["options"]["max-size"]


def test_nothing_is_published_beyond_loopback(container: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in container.get("ports", []))


def test_images_of_others_are_pinned_and_can_be_replaced() -> None:
    for name in ("prometheus", "grafana"):
        assert re.fullmatch(rf"\${{{name.upper()}_IMAGE:-[\w/.-]+:v?\d+\.\d+\.\d+}}", SERVICES[name]["image"])


def test_the_service_waits_for_a_trainer_that_needs_no_network() -> None:
    assert SERVICES["service"]["depends_on"]["trainer"] == {"condition": "service_completed_successfully"}
    assert SERVICES["trainer"]["network_mode"] == "none"
    assert SERVICES["trainer"]["restart"] == "no"


def test_docker_kills_the_service_only_after_its_drain_timeout() -> None:
    grace_s = float(SERVICES["service"]["stop_grace_period"].removesuffix("s"))
    assert grace_s > float(SERVICES["service"]["environment"]["LSTM_DRAIN_TIMEOUT_S"])


def test_every_setting_in_the_containers_exists() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    in_image = re.findall(rf"\b({PREFIX}[A-Z_]+)=", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    in_compose = [name for name in SERVICES["service"]["environment"] if name.startswith(PREFIX)]
    assert in_image
    assert in_compose
    assert {*in_image, *in_compose} <= known
