"""What the workers see of each other: whether each may be sent requests, and how many connections it has.

Two small arrays in memory that is made before the workers are forked, so that all share it.
"""

import mmap
from enum import IntEnum


class WorkerState(IntEnum):
    """What a worker is doing."""

    STARTING = 0
    SERVING = 1
    DRAINING = 2


class Readiness:
    """One worker's view of all workers.

    A worker that dies leaves its state behind: the others take its requests while it is replaced, so the service is as
    ready as before.
    """

    def __init__(self, workers: int) -> None:
        self._states = mmap.mmap(-1, workers)
        self._connections = memoryview(mmap.mmap(-1, 4 * workers)).cast("I")
        self._workers = workers
        self._mine = 0

    def become_worker(self, index: int) -> None:
        """Say which worker this process is. One that follows a drained worker does not begin by draining."""
        self._mine = index
        self.connections = 0
        if self.state is WorkerState.DRAINING:
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
