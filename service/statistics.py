"""What each model version has done, read back from the metrics: so it holds for all workers, and is counted once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

_DURATIONS: Final = {
    "lstm_model_request_duration_seconds": ("requests", "outcome"),
    "lstm_model_stage_duration_seconds": ("stages", "stage"),
}


@dataclass(slots=True)
class Total:
    """How many there were, and how long they took together."""

    count: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Statistics:
    """One model version's, since there are series of it. `requests` by outcome, `stages` by name."""

    inferences: int = 0
    executions: int = 0
    last_inference_s: float = 0.0
    requests: dict[str, Total] = field(default_factory=dict)
    stages: dict[str, Total] = field(default_factory=dict)


def collect_statistics(
    samples: Iterable[tuple[str, Mapping[str, str], float]],
) -> dict[tuple[str, str], Statistics]:
    """Statistics by model and version, out of the scrape's `samples`: name, labels, value."""
    collected: dict[tuple[str, str], Statistics] = {}
    for name, labels, value in samples:
        if not {"model", "version"} <= labels.keys():
            continue
        of_model = collected.setdefault((labels["model"], labels["version"]), Statistics())
        metric, _, kind = name.rpartition("_")
        if name == "lstm_inferences_total":
            of_model.inferences = int(value)
        elif name == "lstm_executions_total":
            of_model.executions = int(value)
        elif name == "lstm_last_inference_timestamp_seconds":
            of_model.last_inference_s = value
        elif metric in _DURATIONS:
            group, label = _DURATIONS[metric]
            total = getattr(of_model, group).setdefault(labels[label], Total())
            if kind == "count":
                total.count = int(value)
            else:
                total.seconds = value
    return collected
