"""Metrics: the names, labels and units of the contract, and what each call books."""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import fake_clock
import numpy as np
import pytest
from fake_clock import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Histogram, generate_latest, values
from prometheus_client.parser import text_string_to_metric_families
from serving import BODY, PREDICT, serving

from service import shared_values
from service.families import NUM_RETIRED
from service.metrics import _BOOKING_INTERVAL_S, Metrics
from service.statistics import Total
from service.timing import STAGES, Timing

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

CONTRACT = {
    "lstm_requests": ("counter", {"model", "version", "api", "code"}),
    "lstm_request_duration_seconds": ("histogram", set()),
    "lstm_stage_duration_seconds": ("histogram", {"stage"}),
    "lstm_batch_size": ("histogram", set()),
    "lstm_batch_padding_ratio": ("histogram", set()),
    "lstm_sequence_length": ("histogram", set()),
    "lstm_queue_size": ("gauge", set()),
    "lstm_rejected": ("counter", {"reason"}),
    "lstm_dropped": ("counter", {"reason"}),
    "lstm_predictions": ("counter", {"model", "version", "label"}),
    "lstm_prediction_confidence": ("histogram", set()),
    "lstm_model_info": ("gauge", {"model", "version", "backend", "device"}),
    "lstm_model_load_duration_seconds": ("histogram", set()),
    "lstm_inferences": ("counter", {"model", "version"}),
    "lstm_executions": ("counter", {"model", "version"}),
    "lstm_last_inference_timestamp_seconds": ("gauge", {"model", "version"}),
    "lstm_model_request_duration_seconds": ("summary", {"model", "version", "outcome"}),
    "lstm_model_stage_duration_seconds": ("summary", {"model", "version", "stage"}),
    "lstm_model_load_failures": ("counter", {"model"}),
    "lstm_repository_readable": ("gauge", set()),
}


def scrape(exposition: bytes) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return scrape(metrics.render())[name, frozenset(labels.items())]


def bounds(metrics: Metrics, name: str) -> list[float]:
    """The finite upper bounds of a histogram's buckets, ascending."""
    found = {float(dict(labels)["le"]) for (sample, labels) in scrape(metrics.render()) if sample == f"{name}_bucket"}
    return sorted(found - {float("inf")})


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.answered(model="m", version="1", api="v1", status=200)
    of_model = made.of_model("m", "1")
    of_model.succeeded(Timing(0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0))
    of_model.failed(7.0)
    made.rejected("queue_full")
    made.dropped("deadline")
    made.queue_changed(3)
    made.queue_changed(-1)
    of_model.ran([np.array([4]), np.array([2, 2])], [np.array([2, 2])])
    of_model.ran([np.array([3])], [np.array([7])])
    of_model.predicted(("a", "b"), np.array([[0.25, 0.75], [0.5, 0.5], [0.125, 0.875]], np.float32))
    made.loaded(model="m", version="1", backend="onnx", device="cpu", duration_s=0.5)
    made.load_failed("m")
    made.looked_at_repository(readable=True)
    return made


def test_names_types_and_labels_are_those_of_the_contract(metrics: Metrics) -> None:
    families = {
        family.name: (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
        for family in text_string_to_metric_families(metrics.render().decode())
        if family.name.startswith("lstm_")
    }
    assert families == CONTRACT


def test_each_call_is_booked_in_base_units(metrics: Metrics) -> None:
    assert value(metrics, "lstm_requests_total", model="m", version="1", api="v1", code="200") == 1
    assert value(metrics, "lstm_request_duration_seconds_sum") == 21
    stages = [value(metrics, "lstm_stage_duration_seconds_sum", stage=stage) for stage in STAGES]
    assert stages == [1, 2, 3, 4, 5, 6]
    assert value(metrics, "lstm_rejected_total", reason="queue_full") == 1
    assert value(metrics, "lstm_dropped_total", reason="deadline") == 1
    assert value(metrics, "lstm_queue_size") == 2
    assert value(metrics, "lstm_batch_size_sum") == 4, "in two runs"
    assert value(metrics, "lstm_batch_padding_ratio_sum") == pytest.approx(1 - 8 / 12)
    assert value(metrics, "lstm_sequence_length_sum") == 11, "in full, though a run was of 4 of its 7 steps"
    assert value(metrics, "lstm_sequence_length_count") == 3
    assert value(metrics, "lstm_predictions_total", model="m", version="1", label="a") == 1
    assert value(metrics, "lstm_predictions_total", model="m", version="1", label="b") == 2
    assert value(metrics, "lstm_prediction_confidence_sum") == 2.125
    assert value(metrics, "lstm_model_info", model="m", version="1", backend="onnx", device="cpu") == 1
    assert value(metrics, "lstm_model_load_duration_seconds_sum") == 0.5


def test_statistics_are_read_back_by_model_version(metrics: Metrics) -> None:
    metrics.of_model("m", "2").ran([np.array([1])], [np.array([1])])
    statistics = metrics.statistics()
    first, second = statistics["m", "1"], statistics["m", "2"]
    assert (first.inferences, first.executions, second.inferences, second.executions) == (3, 2, 1, 1)
    assert first.last_inference_s > 1e9
    assert first.requests == {"success": Total(1, 21.0), "fail": Total(1, 7.0)}
    assert first.stages == {stage: Total(1, float(seconds)) for seconds, stage in enumerate(STAGES, 1)}
    assert second.requests["success"] == Total(0, 0.0)


@pytest.mark.parametrize(
    "name", ["lstm_request_duration_seconds", "lstm_stage_duration_seconds", "lstm_model_load_duration_seconds"]
)
def test_duration_buckets_are_geometric_from_100_microseconds(name: str, metrics: Metrics) -> None:
    upper = bounds(metrics, name)
    assert upper[0] == pytest.approx(100e-6)
    assert upper[-1] > 10
    assert np.diff(np.log2(upper)) == pytest.approx(np.ones(len(upper) - 1))


@settings(deadline=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=30))
def test_booking_many_at_once_is_the_same_as_one_by_one(lengths: list[int]) -> None:
    metrics = Metrics()
    name = "lstm_sequence_length"
    one_by_one = Histogram(name, "", buckets=bounds(metrics, name), registry=None)
    for length in lengths:
        one_by_one.observe(length)
    metrics.of_model("m", "1").ran([np.array(lengths)], [np.array(lengths)])
    expected = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in one_by_one.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    assert {key: got for key, got in scrape(metrics.render()).items() if key[0].startswith(name)} == expected


def test_two_sets_of_metrics_share_nothing(metrics: Metrics) -> None:
    other = Metrics()
    assert value(other, "lstm_queue_size") == 0
    assert value(metrics, "lstm_queue_size") == 2


TWO_PROCESSES = """
import os, sys
import numpy as np
from service.metrics import Metrics

def work():
    metrics = Metrics()
    metrics.answered(model="m", version="1", api="v1", status=200)
    metrics.of_model("m", "1").ran([np.array([2, 3])], [np.array([2, 3])])
    metrics.queue_changed(4)
    metrics.loaded(model="m", version="1", backend="onnx", device="cpu", duration_s=0.5)
    return metrics

if (process_id := os.fork()) == 0:
    work().book()
    os._exit(0)
os.waitpid(process_id, 0)
metrics = work()
assert metrics.statistics()["m", "1"].inferences == 4
sys.stdout.buffer.write(metrics.render())
"""


def test_one_scrape_adds_up_all_processes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TWO_PROCESSES],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    samples = scrape(done.stdout)
    labels = frozenset({"model": "m", "version": "1", "api": "v1", "code": "200"}.items())
    assert samples["lstm_requests_total", labels] == 2
    assert samples["lstm_sequence_length_count", frozenset()] == 4
    assert samples["lstm_sequence_length_sum", frozenset()] == 10
    assert samples["lstm_queue_size", frozenset()] == 8
    where = frozenset({"model": "m", "version": "1", "backend": "onnx", "device": "cpu"}.items())
    assert samples["lstm_model_info", where] == 1


def test_a_version_that_is_no_longer_served_has_the_value_0(metrics: Metrics) -> None:
    where = {"model": "m", "version": "1", "backend": "onnx", "device": "cpu"}
    assert value(metrics, "lstm_model_info", **where) == 1
    metrics.unloaded(**where)
    assert value(metrics, "lstm_model_info", **where) == 0


@pytest.fixture
def in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Metrics]:
    """The metrics of one of several workers; the files are in `tmp_path`."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)  # to have it back after the test
    monkeypatch.setattr(shared_values, "_files", {})
    yield Metrics()
    for file in shared_values._files.values():
        file._content.close()


@pytest.fixture(params=["in memory", "in files"])
def maybe_shared(request: pytest.FixtureRequest) -> Metrics:
    """The metrics of one process, and those of one of several workers."""
    return Metrics() if request.param == "in memory" else request.getfixturevalue("in_files")


def serve_and_retire(metrics: Metrics, version: int, *, retire: bool = True) -> None:
    where = {"model": "m", "version": str(version), "backend": "onnx", "device": "cpu"}
    metrics.loaded(**where, duration_s=0.5)
    of_model = metrics.of_model("m", str(version))
    of_model.ran([np.array([4])], [np.array([4])])
    of_model.predicted(("a", "b"), np.array([[0.25, 0.75]], np.float32))
    of_model.succeeded(Timing(0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0))
    of_model.failed(1.0)
    metrics.answered(model="m", version=str(version), api="v1", status=200)
    if retire:
        metrics.unloaded(**where)
        metrics.retired("m", str(version))


def versions(samples: Samples) -> dict[str, int]:
    """How many series there are of each version of `m`."""
    return Counter(dict(labels)["version"] for _, labels in samples if ("model", "m") in labels)


def test_the_series_of_a_version_go_some_versions_after_it(maybe_shared: Metrics) -> None:
    serve_and_retire(maybe_shared, 1, retire=False)
    for version in range(2, 100):
        serve_and_retire(maybe_shared, version)
    kept = [1, *range(100 - NUM_RETIRED, 100)]
    samples = scrape(maybe_shared.render())
    assert versions(samples) == dict.fromkeys(map(str, kept), 1 + 1 + 1 + 3 + 4 + 12)
    served = {"model": "m", "version": "1"}
    assert value(maybe_shared, "lstm_inferences_total", **served) == 1
    assert value(maybe_shared, "lstm_model_info", **served, backend="onnx", device="cpu") == 1
    assert samples["lstm_batch_size_count", frozenset()] == 99  # what counts all versions goes on counting


def test_a_version_that_is_served_again_goes_on_where_it_was(maybe_shared: Metrics) -> None:
    for version in (1, 2):
        serve_and_retire(maybe_shared, version)
    serve_and_retire(maybe_shared, 1, retire=False)
    for version in range(3, 100):
        serve_and_retire(maybe_shared, version)
    assert value(maybe_shared, "lstm_inferences_total", model="m", version="1") == 2
    serve_and_retire(maybe_shared, 2)
    assert value(maybe_shared, "lstm_inferences_total", model="m", version="2") == 1  # forgotten in between


def test_what_another_worker_counted_is_seen_as_long_as_one_serves_the_version(
    in_files: Metrics, tmp_path: Path
) -> None:
    serve_and_retire(in_files, 1, retire=False)
    in_files.book()
    for file in [*tmp_path.iterdir()]:
        shutil.copy(file, file.with_name(re.sub(r"\d+", "99999999", file.name)))
    assert value(in_files, "lstm_inferences_total", model="m", version="1") == 2
    in_files.unloaded(model="m", version="1", backend="onnx", device="cpu")
    in_files.retired("m", "1")
    for version in range(2, 100):
        serve_and_retire(in_files, version)
    assert value(in_files, "lstm_inferences_total", model="m", version="1") == 1
    shared_values.forget_gauges(99999999)  # the other worker has ended
    assert "1" not in versions(scrape(in_files.render()))
    assert value(in_files, "lstm_batch_size_count") == 2 + 98


def test_the_series_of_a_version_stay_while_one_of_its_engines_books(maybe_shared: Metrics) -> None:
    serve_and_retire(maybe_shared, 1, retire=False)
    serve_and_retire(maybe_shared, 1)  # as one that was replaced by other content
    for version in range(2, 100):
        serve_and_retire(maybe_shared, version)
    assert value(maybe_shared, "lstm_inferences_total", model="m", version="1") == 2


def test_files_of_forgotten_series_stay_small(in_files: Metrics, tmp_path: Path) -> None:
    sizes = []
    for version in range(300):
        serve_and_retire(in_files, version)
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert max(sizes) == max(sizes[: 3 * NUM_RETIRED + 2])
    assert {file.suffix for file in tmp_path.iterdir()} == {".db"}


def test_what_goes_wrong_with_the_repository_is_booked(metrics: Metrics) -> None:
    assert value(metrics, "lstm_model_load_failures_total", model="m") == 1
    assert value(metrics, "lstm_repository_readable") == 1
    metrics.looked_at_repository(readable=False)
    assert value(metrics, "lstm_repository_readable") == 0


def booked(metrics: Metrics) -> Samples:
    """What whoever reads the registry sees, without the booking that a scrape begins with."""
    return scrape(generate_latest(metrics._registry))


def test_what_was_noted_is_complete_in_a_scrape_however_much_it_is() -> None:
    metrics = Metrics()
    models = [metrics.of_model("m", version) for version in ("1", "2")]
    for number in range(100):
        of_model = models[number % 2]
        metrics.queue_changed(1)
        of_model.ran([np.array([2, 3]), np.array([1])], [np.array([2, 3]), np.array([1])])
        of_model.predicted(("a", "b"), np.array([[0.25, 0.75]] * 3, np.float32))
        of_model.succeeded(Timing(0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0))
        metrics.answered(model="m", version=str(number % 2 + 1), api="v1", status=200)
        if number == 30:
            metrics.render()  # a scrape in between takes nothing away, and counts nothing twice
    for _ in range(2):
        assert value(metrics, "lstm_queue_size") == 100
        assert value(metrics, "lstm_batch_size_count") == 100
        assert value(metrics, "lstm_batch_size_sum") == 300
        assert value(metrics, "lstm_sequence_length_sum") == 600
        assert value(metrics, "lstm_request_duration_seconds_sum") == 2100
        assert value(metrics, "lstm_prediction_confidence_sum") == 225
        for version in ("1", "2"):
            assert value(metrics, "lstm_executions_total", model="m", version=version) == 50
            assert value(metrics, "lstm_predictions_total", model="m", version=version, label="b") == 150
            assert value(metrics, "lstm_requests_total", model="m", version=version, api="v1", code="200") == 50
            stages = [
                value(metrics, "lstm_model_stage_duration_seconds_sum", model="m", version=version, stage=stage)
                for stage in STAGES
            ]
            assert stages == [50 * seconds for seconds in range(1, 7)]


def test_what_was_noted_is_booked_within_its_interval_without_a_scrape() -> None:
    answered = "lstm_requests_total", frozenset({"model": "", "version": "", "api": "v1", "code": "400"}.items())

    async def test(clock: FakeClock) -> None:
        metrics = Metrics()
        for count in (1, 2):  # and again after a pause
            metrics.answered(model="", version="", api="v1", status=400)
            await clock.advance(_BOOKING_INTERVAL_S * 0.9)
            metrics.queue_changed(5)  # puts nothing off
            assert booked(metrics).get(answered, 0) == count - 1
            await clock.advance(_BOOKING_INTERVAL_S * 0.1)
            assert booked(metrics)[answered] == count
            assert booked(metrics)["lstm_queue_size", frozenset()] == 5 * count

    fake_clock.run(test)


@pytest.mark.parametrize(
    ("note", "sample"),
    [
        (lambda metrics: metrics.answered(model="m", version="1", api="v1", status=200), "lstm_requests_total"),
        (lambda metrics: metrics.queue_changed(1), "lstm_queue_size"),
        (lambda metrics: metrics.of_model("m", "1").ran([np.array([1])], []), "lstm_executions_total"),
        (lambda metrics: metrics.of_model("m", "1").predicted(("a",), np.ones((1, 1))), "lstm_predictions_total"),
        (lambda metrics: metrics.of_model("m", "1").succeeded(Timing()), "lstm_request_duration_seconds_count"),
    ],
)
def test_whatever_is_noted_needs_nothing_else_to_be_booked(note: Callable[[Metrics], None], sample: str) -> None:
    def total(metrics: Metrics) -> float:
        return sum(count for (name, _), count in booked(metrics).items() if name == sample)

    async def test(clock: FakeClock) -> None:
        metrics = Metrics()
        note(metrics)
        assert total(metrics) == 0
        await clock.advance(_BOOKING_INTERVAL_S)
        assert total(metrics) == 1

    fake_clock.run(test)


def test_there_is_one_timer_for_all_that_is_noted_and_none_after_a_scrape() -> None:
    async def test(_: FakeClock) -> None:
        metrics = Metrics()
        for _ in range(3):
            metrics.of_model("m", "1").ran([np.array([1])], [np.array([1])])
            metrics.queue_changed(1)
        metrics.render()
        timers: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
        assert [timer for timer in timers if not timer.cancelled()] == []

    fake_clock.run(test)


def test_what_was_noted_just_before_a_worker_ends_is_not_lost(repository: Path) -> None:
    async def test(_: FakeClock) -> None:
        async with serving(repository, "--reload-interval-s=0") as served:
            await served.client.post(PREDICT, json=BODY)
            metrics = served.service._metrics
            labels = frozenset({"model": "tiny", "version": "1"}.items())
            assert booked(metrics)["lstm_inferences_total", labels] == 0
        assert booked(metrics)["lstm_inferences_total", labels] == 2

    fake_clock.run(test)


def test_one_whose_booking_fails_keeps_no_other_from_being_booked(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    models = [metrics.of_model(name, "1") for name in "abc"]
    for failing in models:
        for model in models:
            model.ran([np.array([1])], [np.array([1])])
        with monkeypatch.context() as patched:
            patched.setattr(failing, "_book_runs", Mock(side_effect=OSError("no descriptor")))
            with pytest.raises(OSError, match="no descriptor"):
                metrics.book()
    for name in "abc":
        assert value(metrics, "lstm_inferences_total", model=name, version="1") == 2, "all but what failed"
