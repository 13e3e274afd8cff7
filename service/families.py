"""All metrics as Prometheus sees them: names, labels, buckets, what each is about.

Labels come from closed sets: what a client sends never becomes one.
"""

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

from service.timing import STAGES

# Versions that are no longer served and are still shown, so that a scrape sees their last counts. At least as many more
# are kept unseen: else a scrape would add up what some workers still have of a version, as if counters had been reset.
NUM_RETIRED = 16

_SECONDS = tuple(1e-4 * 2**i for i in range(18))  # 100 us to 13 s
_SIZES = tuple(float(2**i) for i in range(15))
_RATIOS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_CONFIDENCES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)


class BulkHistogram(Histogram):
    """A histogram that takes an array at once."""

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Observe each of `values`."""
        buckets = np.searchsorted(self._upper_bounds, values)
        for bucket, count in enumerate(np.bincount(buckets).tolist()):
            if count:
                self._buckets[bucket].inc(count)
        self._sum.inc(float(values.sum()))


class BulkSummary(Summary):
    """A summary that takes an array at once."""

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Observe each of `values`."""
        self._count.inc(len(values))
        self._sum.inc(float(values.sum()))


class Families:
    """One object for each metric, in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._make_request_metrics(registry)
        self._make_batch_metrics(registry)
        self._make_model_metrics(registry)
        self._make_statistics_metrics(registry)
        self.of_versions = (
            self.requests,
            self.predictions,
            self.model_info,
            self.inferences,
            self.executions,
            self.last_inference,
            self.model_requests,
            self.model_stages,
        )

    def _make_request_metrics(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "lstm_requests",
            "Answers by status; api is v1, v2, or other for what is under no API",
            ("model", "version", "api", "code"),
            registry=registry,
        )
        self.request_duration = BulkHistogram(
            "lstm_request_duration_seconds",
            "From the body's arrival to the encoded answer",
            buckets=_SECONDS,
            registry=registry,
        )
        stages = BulkHistogram(
            "lstm_stage_duration_seconds",
            "Time in one stage of a request; the six add up to its duration",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.stages: list[BulkHistogram] = [stages.labels(stage) for stage in STAGES]
        self.rejected = Counter(
            "lstm_rejected",
            "Inference requests, or requests without a key, that were refused",
            ("reason",),
            registry=registry,
        )
        self.dropped = Counter(
            "lstm_dropped", "Requests given up: the client left, or the time ran out", ("reason",), registry=registry
        )

    def _make_batch_metrics(self, registry: CollectorRegistry) -> None:
        self.batch_size = BulkHistogram(
            "lstm_batch_size", "Sequences in one model run", buckets=_SIZES, registry=registry
        )
        self.padding_ratio = BulkHistogram(
            "lstm_batch_padding_ratio", "Share of a batch's steps that is padding", buckets=_RATIOS, registry=registry
        )
        self.sequence_length = BulkHistogram(
            "lstm_sequence_length", "Time steps of one sequence", buckets=_SIZES, registry=registry
        )
        self.queue_size = Gauge("lstm_queue_size", "Sequences waiting", registry=registry, multiprocess_mode="livesum")

    def _make_model_metrics(self, registry: CollectorRegistry) -> None:
        self.predictions = Counter(
            "lstm_predictions",
            "Sequences by the label they were given",
            ("model", "version", "label"),
            registry=registry,
        )
        self.confidence = BulkHistogram(
            "lstm_prediction_confidence", "Probability of the label given", buckets=_CONFIDENCES, registry=registry
        )
        self.model_info = Gauge(
            "lstm_model_info",
            f"1 for each model version that is served, 0 once it no longer is, until {NUM_RETIRED} more are not",
            ("model", "version", "backend", "device"),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.model_load_duration = Histogram(
            "lstm_model_load_duration_seconds",
            "Reading, checking, loading and warming one model version",
            buckets=_SECONDS,
            registry=registry,
        )
        self.model_load_failures = Counter(
            "lstm_model_load_failures",
            "Model versions that were refused when they were to be served, by each worker, each time",
            ("model",),
            registry=registry,
        )
        self.repository_readable = Gauge(
            "lstm_repository_readable",
            "1 if the repository and each model in it could be listed; else what is loaded goes on being served",
            registry=registry,
            multiprocess_mode="livemin",
        )

    def _make_statistics_metrics(self, registry: CollectorRegistry) -> None:
        labels = ("model", "version")
        self.inferences = Counter("lstm_inferences", "Sequences computed", labels, registry=registry)
        self.executions = Counter("lstm_executions", "Model runs", labels, registry=registry)
        self.last_inference = Gauge(
            "lstm_last_inference_timestamp_seconds",
            "When the model last ran",
            labels,
            registry=registry,
            multiprocess_mode="max",
        )
        self.model_requests = BulkSummary(
            "lstm_model_request_duration_seconds",
            "Inference requests of one model version; outcome is success or fail",
            (*labels, "outcome"),
            registry=registry,
        )
        self.model_stages = BulkSummary(
            "lstm_model_stage_duration_seconds",
            "Time in one stage of those that succeeded",
            (*labels, "stage"),
            registry=registry,
        )
