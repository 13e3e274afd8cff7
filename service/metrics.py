"""What is counted and timed while the service runs: noted, booked, and shown to whoever scrapes.

A `Metrics` is made by the process that serves, never at import. What happens to a request is only noted, and booked a
little later together with what happened to others: booking 17 values one by one takes 35 us, as long as all the rest
of a small request. A scrape books first. With several workers the values are in files of a shared folder
(`PROMETHEUS_MULTIPROC_DIR`, set by `service.workers`), and any worker's answer to a scrape adds them all up.
"""

import asyncio
import os
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain, islice, product
from time import time

import numpy as np
from numpy.typing import NDArray
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service import shared_values
from service.families import NUM_RETIRED, BulkSummary, Families
from service.statistics import Statistics, collect_statistics
from service.timing import STAGES, Timing, marks_of

CONTENT_TYPE = CONTENT_TYPE_LATEST

# How long what was noted may wait until it is booked: another worker's scrape is behind by no more. To book anything
# takes 75 us, and each answer 0.7 us more; several times that on a slow core with cold caches.
_BOOKING_INTERVAL_S = 0.25
_MANY = 256  # answers that are booked at once: 1,024 took 2.6 ms, for which the event loop heard nobody


class Metrics:
    """The service's counters, gauges and histograms, in a registry of their own."""

    def __init__(self) -> None:
        # A creation time beside every counter would double the scrape.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client's
        self._registry = CollectorRegistry()
        self._multiprocess = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        if self._multiprocess:
            shared_values.share_values()
        else:
            ProcessCollector(registry=self._registry)
            PlatformCollector(registry=self._registry)
        self._current: Tally[tuple[str, str]] = Tally()  # engines of a version: two while one replaces the other
        self._retired: deque[tuple[str, str]] = deque()
        self._answers: Tally[tuple[str, str, str, int]] = Tally()
        self._queue_change = 0
        self._noted: list[ModelMetrics] = []
        self._timer: asyncio.TimerHandle | None = None
        self.families = Families(self._registry)

    def answered(self, *, model: str, version: str, api: str, status: int) -> None:
        """Count an answer. `model` and `version` are empty unless they are served."""
        self._answers[model, version, api, status] += 1
        self._book_soon()

    def rejected(self, reason: str) -> None:
        """Count a request that was refused; `reason` is a `ServiceError.reason`."""
        self.families.rejected.labels(reason).inc()

    def dropped(self, reason: str) -> None:
        """Count a request that was given up; `reason` is a `ServiceError.reason`."""
        self.families.dropped.labels(reason).inc()

    def queue_changed(self, by: int) -> None:
        """Add to the number of waiting sequences, over all models."""
        self._queue_change += by
        self._book_soon()

    def loaded(self, *, model: str, version: str, backend: str, device: str, duration_s: float) -> None:
        """Book a model version that is served from now on."""
        self.families.model_info.labels(model, version, backend, device).set(1)
        self.families.model_load_duration.observe(duration_s)

    def unloaded(self, *, model: str, version: str, backend: str, device: str) -> None:
        """Book that a model version is no longer served."""
        self.families.model_info.labels(model, version, backend, device).set(0)

    def retired(self, model: str, version: str) -> None:
        """Hear that one `of_model` books nothing more. If it was its version's last, the series go some time after."""
        self._current[model, version] -= 1
        if self._current[model, version] > 0:
            return
        del self._current[model, version]
        self._retired.append((model, version))
        if len(self._retired) > 3 * NUM_RETIRED:
            with suppress(OSError):  # no descriptor is free: with the next one
                self._forget({*islice(self._retired, NUM_RETIRED)})
                for _ in range(NUM_RETIRED):
                    self._retired.popleft()

    def load_failed(self, model: str) -> None:
        """Count a version of `model` that was refused."""
        self.families.model_load_failures.labels(model).inc()

    def looked_at_repository(self, *, readable: bool) -> None:
        """Book whether the repository could be listed."""
        self.families.repository_readable.set(readable)

    def of_model(self, model: str, version: str) -> "ModelMetrics":
        """What is booked for one model version. It is shown from now on."""
        self._current[model, version] += 1
        if (model, version) in self._retired:
            self._retired.remove((model, version))
        return ModelMetrics(self, model=model, version=version)

    def statistics(self) -> dict[tuple[str, str], Statistics]:
        """By model and version, what the metrics hold for each, over all workers."""
        self.book()
        families = self.collect()
        return collect_statistics((s.name, s.labels, s.value) for family in families for s in family.samples)

    def render(self) -> bytes:
        """The text exposition of all metrics, of all workers."""
        self.book()
        return generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """All metrics of all workers, of the versions that are shown. Satisfies prometheus_client's `Collector`."""
        collector: Collector = self._registry
        if self._multiprocess:
            collector = MultiProcessCollector(None)  # type: ignore[no-untyped-call]  # prometheus_client's
        families = [*collector.collect()]
        served = {  # maybe by another worker alone
            (sample.labels["model"], sample.labels["version"])
            for family in families
            for sample in family.samples
            if sample.name == "lstm_model_info" and sample.value
        }
        shown = {*self._current, *served, *islice(reversed(self._retired), NUM_RETIRED), ("", "")}
        for family in families:
            family.samples = [
                sample
                for sample in family.samples
                if not {"model", "version"} <= sample.labels.keys()
                or (sample.labels["model"], sample.labels["version"]) in shown
            ]
            yield family

    def will_book(self, model: "ModelMetrics") -> None:
        """Remember that `model` has noted something."""
        self._noted.append(model)
        self._book_soon()

    def book(self) -> None:
        """Book all that was noted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._noted:  # one that fails is left out, and those behind it are still noted
            self._noted.pop().book()
        answers, self._answers = self._answers, Tally()
        for (name, version, api, status), count in answers.items():
            self.families.requests.labels(name, version, api, str(status)).inc(count)
        change, self._queue_change = self._queue_change, 0
        if change:
            self.families.queue_size.inc(change)

    def _book_soon(self) -> None:
        if self._timer is None:
            with suppress(RuntimeError):  # no loop runs: at the next scrape
                self._timer = asyncio.get_running_loop().call_later(_BOOKING_INTERVAL_S, self.book)

    def _forget(self, versions: set[tuple[str, str]]) -> None:
        self.book()
        for metric, (model, version) in product(self.families.of_versions, versions):
            metric.remove_by_labels({"model": model, "version": version})
        if self._multiprocess:
            shared_values.forget(versions)


class ModelMetrics:
    """What is noted, and then booked, of one model version: its metrics' labels are looked up once."""

    def __init__(self, metrics: Metrics, *, model: str, version: str) -> None:
        self._all = metrics
        self._families = families = metrics.families
        self._labels = (model, version)
        self._inferences = families.inferences.labels(model, version)
        self._executions = families.executions.labels(model, version)
        self._last_inference = families.last_inference.labels(model, version)
        self._success: BulkSummary = families.model_requests.labels(model, version, "success")
        self._failure = families.model_requests.labels(model, version, "fail")
        self._stages: list[BulkSummary] = [families.model_stages.labels(model, version, stage) for stage in STAGES]
        self._is_noted = False
        self._last_run_s = 0.0
        self._runs: list[Sequence[NDArray[np.int64]]] = []
        self._ended: list[NDArray[np.int64]] = []
        self._answers: list[tuple[Sequence[str], NDArray[np.float32]]] = []
        self._timings: list[Timing] = []

    def queue_changed(self, by: int) -> None:
        """Add to the number of waiting sequences."""
        self._all.queue_changed(by)

    def ran(self, lengths: Sequence[NDArray[np.int64]], ended: Sequence[NDArray[np.int64]]) -> None:
        """Note one model run, and how many steps of each sequence (B) it was of, request by request.

        `ended` are the sequences that are now computed: their lengths in full.
        """
        self._runs.append(lengths)
        self._ended += ended
        self._last_run_s = time()
        self._note()

    def predicted(self, labels: Sequence[str], probabilities: NDArray[np.float32]) -> None:
        """Note the most probable label of each row of `probabilities` (B, K), and how probable it was."""
        self._answers.append((labels, probabilities))
        self._note()

    def succeeded(self, timing: Timing) -> None:
        """Note a successful inference request's duration and stages."""
        self._timings.append(timing)
        self._note()
        if len(self._timings) >= _MANY:
            self._all.book()

    def failed(self, duration_s: float) -> None:
        """Book an inference request that did not succeed."""
        self._failure.observe(duration_s)

    def book(self) -> None:
        """Book all that was noted."""
        self._is_noted = False
        runs, self._runs = self._runs, []
        ended, self._ended = self._ended, []
        answers, self._answers = self._answers, []
        timings, self._timings = self._timings, []
        if runs:
            self._book_runs(runs)
        if ended:
            self._families.sequence_length.observe_all(np.concatenate(ended).astype(np.float64))
            self._inferences.inc(sum(map(len, ended)))
        if answers:
            self._book_answers(answers)
        if timings:
            self._book_timings(timings)

    def _note(self) -> None:
        if not self._is_noted:
            self._is_noted = True
            self._all.will_book(self)

    def _book_runs(self, runs: list[Sequence[NDArray[np.int64]]]) -> None:
        lengths = np.concatenate(list(chain.from_iterable(runs)))
        sizes = np.array([sum(map(len, parts)) for parts in runs])
        starts = np.concatenate([[0], sizes.cumsum()[:-1]])
        padded = sizes * np.maximum.reduceat(lengths, starts)
        self._families.batch_size.observe_all(sizes.astype(np.float64))
        self._families.padding_ratio.observe_all(1 - np.add.reduceat(lengths, starts) / padded)
        self._executions.inc(len(runs))
        self._last_inference.set(self._last_run_s)

    def _book_answers(self, answers: list[tuple[Sequence[str], NDArray[np.float32]]]) -> None:
        labels = answers[0][0]  # a model's own, the same for all its answers
        probabilities = np.concatenate([rows for _, rows in answers])
        for index, count in enumerate(np.bincount(probabilities.argmax(axis=1)).tolist()):
            if count:
                self._families.predictions.labels(*self._labels, labels[index]).inc(count)
        self._families.confidence.observe_all(probabilities.max(axis=1).astype(np.float64))

    def _book_timings(self, timings: list[Timing]) -> None:
        marks = np.array([marks_of(timing) for timing in timings])  # (N, 7)
        stages, durations = np.diff(marks), marks[:, -1] - marks[:, 0]
        self._families.request_duration.observe_all(durations)
        self._success.observe_all(durations)
        for column, of_all, of_model in zip(stages.T, self._families.stages, self._stages, strict=True):
            of_all.observe_all(column)
            of_model.observe_all(column)
