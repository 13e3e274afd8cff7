"""What tests of `service.batcher` share: a batcher before a fake backend, and requests whose answers are known."""

import asyncio
import math
from collections.abc import Callable

import numpy as np
from fake_backend import EVERY_OUTPUT, STATE_SHAPE, FakeBackend, expected
from hypothesis import strategies as st

from service.backends import Array
from service.batcher import SHORT_RUN_S, Batcher, QueueLimits
from service.errors import ServiceError
from service.metrics import Metrics
from service.parts import Computed, Outputs
from service.policy import Cost, Limits
from service.tensors import Sequences, State
from service.timing import Timing

Answer = asyncio.Task[Outputs]

# The lengths of several requests' sequences, and the steps that one run may have.
requests = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=12)
bounds = st.none() | st.integers(1, 20)


class Setup:
    """A batcher, its backend, and short words for what tests do with them."""

    def __init__(
        self,
        backend: FakeBackend | None = None,
        *,
        max_rows: int = 4,
        max_steps: int = 1000,
        max_delay_s: float = 0.0,
        queue_rows: int = 100,
        queue_steps: int = 10_000,
        cost: Cost | None = None,
        max_run_steps: int | None = None,
    ) -> None:
        self.backend = backend or FakeBackend()
        self.metrics = Metrics()
        self.batcher = Batcher(
            self.backend,
            STATE_SHAPE,
            limits=Limits(max_rows, max_steps, max_delay_s),
            queue_limits=QueueLimits(queue_rows, queue_steps),
            metrics=self.metrics.of_model("m", "1"),
            cost=cost,
            max_run_steps=max_run_steps,
        )

    def ask(self, *sequences: Array, timeout_s: float = 30.0, priority: int = 0) -> Answer:
        return asyncio.create_task(
            self.batcher.infer(
                request(*sequences), EVERY_OUTPUT, timeout_s=timeout_s, timing=Timing(), priority=priority
            )
        )

    async def ask_while_busy(self) -> Answer:
        """Keep the backend busy with a request whose value is 0, until its gate is opened."""
        self.backend.gate.close()
        answer = self.ask(row(0))
        await self.backend.gate.has_been_entered()
        return answer

    def waiting(self) -> float:
        (line,) = [line for line in self.metrics.render().decode().splitlines() if line.startswith("lstm_queue_size ")]
        return float(line.split()[1])


def row(value: float, length: int = 1) -> Array:
    """A sequence that counts on from `value`."""
    return np.arange(value, value + length, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)


def request(*sequences: Array, state: State | None = None) -> Sequences:
    return Sequences(np.concatenate(sequences), np.array([len(sequence) for sequence in sequences], np.int64), state)


def answers(outputs: Outputs, *sequences: Array) -> bool:
    """Whether these are the outputs for just these sequences, in this order, and nothing beyond them."""
    longest = max(len(sequence) for sequence in sequences)
    rows = [expected(sequence, longest=longest) for sequence in sequences]
    return outputs.keys() == EVERY_OUTPUT and all(
        np.array_equal(array, np.stack([one[name] for one in rows], axis=1 if name in {"hn", "cn"} else 0))
        for name, array in outputs.items()
    )


def short(rows: int, steps: int) -> float:  # noqa: ARG001
    return SHORT_RUN_S


def long(rows: int, steps: int) -> float:  # noqa: ARG001
    return math.nextafter(SHORT_RUN_S, 1)


class Taker:
    """Waits for what it submitted, and notes what it is told, and in which order with others."""

    def __init__(self, said: list[object] | None = None, then: Callable[[], object] | None = None) -> None:
        self.said: list[object] = []
        self.order = [] if said is None else said
        self._then = then
        self.gave_up = False

    def done(self) -> bool:
        return self.gave_up or bool(self.said)

    def set_result(self, result: Computed) -> None:
        self._take(result.outputs)

    def set_exception(self, error: ServiceError) -> None:
        self._take(error)

    def _take(self, what: object) -> None:
        self.said.append(what)
        self.order.append(self)
        if self._then is not None:
            self._then()

    @property
    def outputs(self) -> Outputs:
        (what,) = self.said
        assert isinstance(what, dict)
        return what


def submit(setup: Setup, taker: Taker, *sequences: Array, timeout_s: float = 30.0, priority: int = 0) -> bool:
    return setup.batcher.submit(request(*sequences), EVERY_OUTPUT, taker, timeout_s=timeout_s, priority=priority)


def shapes_of(backend: FakeBackend) -> list[tuple[int, int]]:
    """Sequences and steps of each run."""
    return [batch.sequences.shape[:2] for batch in backend.batches]
