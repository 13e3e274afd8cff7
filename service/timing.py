"""One record of when each stage of a request ended; header, histogram and trace are views of it.

The marks are taken where the stage really ends, so that the six stages are measured, never booked as a remainder, and
their sum is the request's duration by construction.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from time import perf_counter

STAGES = ("decode", "queue", "compute_input", "compute_infer", "compute_output", "encode")


@dataclass(slots=True, eq=False)  # one of its kind, however short
class Run:
    """When one run of a model was begun, its input ready, and over."""

    dispatched: float
    prepared: float
    inferred: float


@dataclass(slots=True)
class Timing:
    """Marks in seconds of `time.perf_counter`. It is made when a request's body has arrived in full.

    What was computed in several runs, one after another, was in the queue between them.
    """

    received: float = field(default_factory=perf_counter)
    decoded: float = 0.0
    dispatched: float = 0.0
    prepared: float = 0.0
    inferred: float = 0.0
    completed: float = 0.0
    encoded: float = 0.0

    def ran(self, runs: Collection[Run]) -> None:
        """Take the marks of the runs that computed it, as if they had been one that ended with the last."""
        if len(runs) > 1:
            runs = (_as_one(runs),)
        (run,) = runs
        self.dispatched, self.prepared, self.inferred = run.dispatched, run.prepared, run.inferred

    @property
    def duration_s(self) -> float:
        """Seconds from the body's arrival to the encoded answer."""
        return self.encoded - self.received

    def stages_s(self) -> tuple[float, ...]:
        """Seconds in each of `STAGES`, in order."""
        return tuple(end - begin for begin, end in pairwise(marks_of(self)))

    def header(self) -> bytes:
        """The stages as a `Server-Timing` header's value, in milliseconds (W3C Server Timing)."""
        received, decoded, dispatched, prepared, inferred, completed, encoded = marks_of(self)
        return _HEADER % (
            (decoded - received) * 1e3,
            (dispatched - decoded) * 1e3,
            (prepared - dispatched) * 1e3,
            (inferred - prepared) * 1e3,
            (completed - inferred) * 1e3,
            (encoded - completed) * 1e3,
        )


def _as_one(runs: Collection[Run]) -> Run:
    inferred = max(run.inferred for run in runs)
    prepared = inferred - sum(run.inferred - run.prepared for run in runs)
    return Run(prepared - sum(run.prepared - run.dispatched for run in runs), prepared, inferred)


# The marks of a `Timing` in order: one more than there are stages.
marks_of = attrgetter("received", "decoded", "dispatched", "prepared", "inferred", "completed", "encoded")
_HEADER = b", ".join(stage.encode() + b";dur=%.3f" for stage in STAGES)
