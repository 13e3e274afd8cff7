"""What all workers must agree on: what operators asked for, and how far each worker is with it.

One small JSON document in memory that is made before the workers are forked, and a bell for each of them. Whoever
changes the document rings every bell; a worker that hears its own reads the document and acts. Nothing is written to
disk, and a worker that dies leaves neither a lock nor a lost message behind: the kernel drops its lock, and the worker
that replaces it reads the document.
"""

import asyncio
import fcntl
import json
import os
import struct
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

_WHERE = struct.Struct("QQ")  # at the beginning: where the document is, and its size
_PLACES = (1 << 12, 1 << 26)  # what is between them takes memory only as far as it is written


@dataclass(frozen=True, slots=True)
class Wishes:
    """What operators asked for. `generation` counts the changes; `loads` has that of each model's last load."""

    generation: int = 0
    unloaded: tuple[str, ...] = ()
    loads: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker has done: the last generation it followed, and by model the versions that it holds.

    `refused` has the contents that it cannot load, as `Model.content` names them; `faults` tells why. A worker that has
    yet to begin has generation -1.
    """

    generation: int = -1
    held: Mapping[str, Sequence[int]] = field(default_factory=dict)
    refused: Mapping[str, Sequence[str]] = field(default_factory=dict)
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shared:
    """The whole document."""

    wishes: Wishes
    reports: tuple[Report, ...]


class Control:
    """One worker's hand on the document. Made before the fork; the coroutines belong to one event loop after it."""

    def __init__(self, workers: int) -> None:
        self._document = os.memfd_create("lstm-serve-control")
        os.pwrite(self._document, _WHERE.pack(0, 0), 0)
        self._bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(workers)]
        weakref.finalize(self, _close, (self._document, *self._bells))
        self._mine = 0
        self._rings = 0
        self._next_ring = asyncio.Event()
        self._write(Shared(Wishes(), (Report(),) * workers))

    def become_worker(self, index: int) -> None:
        """Say which worker this process is, and that it has done nothing yet, whatever one before it did."""
        self._mine = index
        self.report(Report())

    def read(self) -> Shared:
        """The document as it is now."""
        with self._locked(fcntl.LOCK_SH):
            return self._read()

    def ask_to_load(self, model: str) -> int:
        """Wish for `model` to be served, trying again what was refused; return the wish's generation."""
        return self._wish(model, load=True)

    def ask_to_unload(self, model: str) -> int:
        """Wish for `model` not to be served, whatever the repository holds; return the wish's generation."""
        return self._wish(model, load=False)

    def report(self, report: Report) -> None:
        """Say how far this worker is; the others hear of it if that is news."""
        with self._locked(fcntl.LOCK_EX):
            shared = self._read()
            reports = list(shared.reports)
            reports[self._mine] = report
            self._write(Shared(shared.wishes, tuple(reports)))
        if report != shared.reports[self._mine]:
            self.ring()

    def ring(self) -> None:
        """Have every worker look at the document, and at the repository."""
        for bell in self._bells:
            os.eventfd_write(bell, 1)

    @property
    def rings(self) -> int:
        """How often this worker has heard its bell."""
        return self._rings

    def listen(self) -> None:
        """Begin to hear the bell; from the event loop's thread."""
        asyncio.get_running_loop().add_reader(self._bells[self._mine], self._hear)

    def stop_listening(self) -> None:
        """The opposite of `listen`."""
        asyncio.get_running_loop().remove_reader(self._bells[self._mine])

    async def rung(self, since: int, *, timeout_s: float | None) -> None:
        """Return when `rings` is no longer `since`, or after `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._rings == since:
                    await self._next_ring.wait()

    async def until(self, holds: Callable[[Sequence[Report]], bool], *, timeout_s: float) -> Sequence[Report] | None:
        """Wait until `holds` is true of the workers' reports and return them, or None if it never is in `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    seen, reports = self._rings, self.read().reports
                    if holds(reports):
                        return reports
                    await self.rung(seen, timeout_s=None)
        return None

    def _wish(self, model: str, *, load: bool) -> int:
        with self._locked(fcntl.LOCK_EX):
            shared = self._read()
            generation = shared.wishes.generation + 1
            unloaded = set(shared.wishes.unloaded) - {model} if load else {*shared.wishes.unloaded, model}
            loads = {**shared.wishes.loads, model: generation} if load else shared.wishes.loads
            self._write(Shared(Wishes(generation, tuple(sorted(unloaded)), loads), shared.reports))
        self.ring()
        return generation

    def _hear(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._bells[self._mine])
        self._rings += 1
        self._next_ring.set()
        self._next_ring = asyncio.Event()

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        fcntl.lockf(self._document, kind)  # not flock, whose locks a fork would share
        try:
            yield
        finally:
            fcntl.lockf(self._document, fcntl.LOCK_UN)

    def _read(self) -> Shared:
        start, size = _WHERE.unpack(os.pread(self._document, _WHERE.size, 0))
        document: dict[str, Any] = json.loads(os.pread(self._document, size, start))
        wishes = document["wishes"]
        return Shared(
            Wishes(wishes["generation"], tuple(wishes["unloaded"]), wishes["loads"]),
            tuple(Report(**report) for report in document["reports"]),
        )

    def _write(self, shared: Shared) -> None:
        """Write to where the document is not, then say that it is there: a worker may be killed between two pages."""
        before, _ = _WHERE.unpack(os.pread(self._document, _WHERE.size, 0))
        start, content = _PLACES[before == _PLACES[0]], json.dumps(asdict(shared)).encode()
        os.pwrite(self._document, content, start)
        os.pwrite(self._document, _WHERE.pack(start, len(content)), 0)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
