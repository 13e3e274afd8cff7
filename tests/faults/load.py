"""A load of requests whose right answers are known, so that every answer is checked to be its own request's."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np

from model.bundle import ONNX, Bundle
from model.graphs import Batch, open_onnx

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Question:
    """One request, whole, and the probabilities that are the answer to it."""

    content: bytes
    answer: np.ndarray


@dataclass(frozen=True)
class Outcome:
    """What became of a request; status 0 if the connection broke after it was made, -1 if it was refused."""

    status: int
    latency_s: float
    is_right: bool
    retry_after: str


def make_questions(bundle: Bundle, *, count: int, sequences: int, steps: int) -> list[Question]:
    """Requests of `sequences` each, all different; their answers are computed here, from the bundle's own graph."""
    manifest, rng = bundle.manifest, np.random.default_rng(0)
    graph = open_onnx(bundle.read(ONNX))
    state = np.zeros((manifest.num_layers * manifest.num_directions, sequences, manifest.hidden_size), np.float32)
    questions = []
    for _ in range(count):
        values = rng.normal(size=(sequences, steps, manifest.input_size)).astype(np.float32).round(3)
        answer = graph(Batch(values, np.full(sequences, steps), state, state))["probabilities"]
        body = json.dumps({"sequences": values.astype(float).round(3).tolist()}).encode()
        head = f"POST /v1/models/{manifest.name}/predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        questions.append(Question(head.encode() + body, answer))
    return questions


@dataclass
class Fleet:
    """Connections to one service; as many as there are requests at a time."""

    port: int
    questions: Sequence[Question]
    outcomes: list[Outcome] = field(default_factory=list)
    _idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=deque)

    async def closed_loop(self, connections: int, duration_s: float) -> float:
        """Keep so many requests in flight; return how many were answered right a second."""
        before, end = len(self.outcomes), time.monotonic() + duration_s

        async def client(turn: int) -> None:
            for question in cycle([*self.questions[turn:], *self.questions[:turn]]):
                if time.monotonic() >= end:
                    return
                await self.ask(question)

        await asyncio.gather(*(client(turn % len(self.questions)) for turn in range(connections)))
        return sum(outcome.is_right for outcome in self.outcomes[before:]) / duration_s

    async def open_loop(self, rate: float, duration_s: float) -> list[Outcome]:
        """Send `rate` requests a second, whatever becomes of them; return what did."""
        before, tasks, start = len(self.outcomes), [], time.monotonic()
        for number, question in enumerate(cycle(self.questions)):
            due_s = number / rate
            if due_s >= duration_s:
                break
            await asyncio.sleep(max(0.0, start + due_s - time.monotonic()))
            tasks.append(asyncio.create_task(self.ask(question)))
        await asyncio.gather(*tasks)
        return self.outcomes[before:]

    async def ask(self, question: Question) -> None:
        """Send one request and note what became of it."""
        start = time.monotonic()
        try:
            # In turn: those that were answered last may all be one worker's.
            connection = self._idle.popleft() if self._idle else await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            self.outcomes.append(Outcome(-1, time.monotonic() - start, False, ""))
            return
        try:
            status, headers, body = await self._exchange(*connection, question.content)
        except (OSError, asyncio.IncompleteReadError):
            self.outcomes.append(Outcome(0, time.monotonic() - start, False, ""))
            return
        is_right = False
        if status == 200:
            found = np.array(json.loads(body)["probabilities"], np.float32)
            is_right = found.shape == question.answer.shape and np.abs(found - question.answer).max() < TOLERANCE
        self.outcomes.append(Outcome(status, time.monotonic() - start, is_right, headers.get("retry-after", "")))

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        try:
            writer.write(content)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:-2])}
            body = await reader.readexactly(int(headers["content-length"]))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(lines[0].split()[1]), headers, body

    async def close(self) -> None:
        """Close the idle connections."""
        for _, writer in self._idle:
            writer.close()
        for _, writer in self._idle:
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
        self._idle.clear()


def percentile_s(outcomes: Sequence[Outcome], share: float) -> float:
    """A percentile of the latencies of those that were answered."""
    return float(np.quantile([outcome.latency_s for outcome in outcomes if outcome.status == 200], share))
