"""What the workers and their parent see of each other: whether each may be sent requests, how many connections it has,
and when its event loop last turned.

Small arrays in memory that is made before the workers are forked, so that all share it.
"""

import mmap
from enum import IntEnum
from time import monotonic


class WorkerState(IntEnum):
    """What a worker is doing."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2
    HANGING = 3  # a model run does not come to an end


class Readiness:
    """One worker's view of all workers.

    A worker that dies leaves its state behind: the others take its requests while it is replaced, so the service is as
    ready as before.
    """

    def __init__(self, workers: int) -> None:
        self._states = mmap.mmap(-1, workers)
        self._connections = memoryview(mmap.mmap(-1, 4 * workers)).cast("I")
        self._beats_s = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")
        self._workers = workers
        self._mine = 0

    def become_worker(self, index: int) -> None:
        """Say which worker this process is. One that follows a drained or hung worker does not begin as that."""
        self._mine = index
        self.connections = 0
        self._beats_s[index] = 0.0
        if self.state in {WorkerState.DRAINING, WorkerState.HANGING}:
            self.set(WorkerState.SERVING)

    def set(self, state: WorkerState) -> None:
        """Change this worker's state."""
        self._states[self._mine] = state

    @property
    def state(self) -> WorkerState:
        """This worker's state."""
        return WorkerState(self._states[self._mine])

    @property
    def drains(self) -> bool:
        """Whether this worker was told to stop."""
        return self._states[self._mine] == WorkerState.DRAINING

    def has_served(self, index: int) -> bool:
        """Whether worker `index`, or one before it, has come as far as serving."""
        return self._states[index] != WorkerState.STARTING

    def has_beaten(self, index: int) -> bool:
        """Whether the event loop of worker `index` itself, not that of one before it, has turned."""
        return self._beats_s[index] > 0

    def beat(self) -> None:
        """Say that this worker's event loop turns."""
        self._beats_s[self._mine] = monotonic()

    def hangs(self, index: int, *, timeout_s: float) -> bool:
        """Whether worker `index` says that it hangs, or serves and has said nothing for `timeout_s`."""
        state, beat_s = self._states[index], self._beats_s[index]
        is_silent = 0 < beat_s < monotonic() - timeout_s
        return state == WorkerState.HANGING or (state == WorkerState.SERVING and is_silent)

    @property
    def live(self) -> bool:
        """Whether no worker says that it hangs."""
        return WorkerState.HANGING not in self._states[: self._workers]

    @property
    def ready(self) -> bool:
        """Whether every worker serves: a request may reach any of them."""
        return self._states[: self._workers] == bytes([WorkerState.SERVING]) * self._workers

    @property
    def all_drain(self) -> bool:
        """Whether every worker was told to stop: none is left to take a request."""
        return self._states[: self._workers] == bytes([WorkerState.DRAINING]) * self._workers

    @property
    def connections(self) -> int:
        """How many connections this worker has."""
        return self._connections[self._mine]

    @connections.setter
    def connections(self, number: int) -> None:
        self._connections[self._mine] = number

    @property
    def has_more_connections_than_others(self) -> bool:
        """Whether a worker that serves has clearly fewer than this one: more than one, and an eighth, fewer."""
        return any(
            state == WorkerState.SERVING and number + number // 8 + 1 < self.connections
            for state, number in zip(self._states[: self._workers], self._connections, strict=True)
        )
