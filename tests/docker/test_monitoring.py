"""The dashboard and the alerts against the metrics that the service has.

`docker/smoke.sh` runs the same queries against a live Prometheus, and tests/docker/alerts.test.yml with promtool.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "docker/grafana/dashboards/lstm-serve.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((ROOT / "docker/alerts.yml").read_text(encoding="utf-8"))
ENDINGS = {
    "Counter": ("_total",),
    "Gauge": ("",),
    "Histogram": ("_bucket", "_sum", "_count"),
    "Summary": ("_sum", "_count"),
}


def metrics() -> dict[str, tuple[str, ...]]:
    """Name as declared → the names of its series."""
    source = (ROOT / "service/families.py").read_text(encoding="utf-8")
    declared = re.findall(r"(Counter|Gauge|Histogram|Summary)\(\s*\"(lstm_[a-z_]+)\"", source)
    return {name: tuple(name + ending for ending in ENDINGS[kind]) for kind, name in declared}


def panel_queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel.get("targets", []))


def alert_queries() -> Iterator[str]:
    for group in ALERTS["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def series(queries: Iterator[str]) -> set[str]:
    return set(re.findall(r"\blstm_[a-z_]+\b", " ".join(queries)))


def test_panels_and_alerts_ask_only_for_series_that_exist() -> None:
    existing = {name for names in metrics().values() for name in names}
    assert series(panel_queries()) | series(alert_queries()) <= existing


def test_the_dashboard_shows_every_metric() -> None:
    shown = series(panel_queries())
    assert [name for name, names in metrics().items() if not shown & set(names)] == []


def test_alerts_name_reasons_that_exist() -> None:
    existing = re.findall(r"reason.* = \"(\w+)\"", (ROOT / "service/errors.py").read_text(encoding="utf-8"))
    named = re.findall(r"reason=\"(\w+)\"", " ".join(alert_queries()))
    assert named
    assert set(named) <= set(existing)


def test_every_alert_has_a_case() -> None:
    cases = (ROOT / "tests/docker/alerts.test.yml").read_text(encoding="utf-8")
    names = [rule["alert"] for group in ALERTS["groups"] for rule in group["rules"]]
    assert [name for name in names if f'alertname="{name}"' not in cases] == []


def test_panels_use_the_provisioned_data_source_and_do_not_overlap() -> None:
    provisioned = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text("utf-8"))
    uids = {source["uid"] for source in provisioned["datasources"]}
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        assert panel["type"] == "row" or panel["datasource"]["uid"] in uids
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
