"""Busy polling: who has just answered a lone request looks for the next one for a moment before it sleeps.

To wake a core, its clock and its caches takes longer than to answer a small request: a client that asks again at once
has its answer after 0.10 ms instead of 0.15, for less CPU time; any other lone request costs 50 us of CPU more. It is
not done where another worker computes.
"""

import asyncio
from time import perf_counter

from service.cores import Cores

_DURATION_S = 5e-5


class BusyPoll:
    """Keeps the running event loop from sleeping."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._loop = asyncio.get_running_loop()
        self._until_s = 0.0
        self._polls = False

    def begin(self) -> None:
        """Poll from now on for a moment, if all workers rest."""
        if not self._cores.all_rest_but_for(0):
            self._until_s = 0.0
            return
        self._until_s = perf_counter() + _DURATION_S
        if not self._polls:
            self._polls = True
            self._loop.call_soon(self._look_again)

    def _look_again(self) -> None:
        if perf_counter() < self._until_s:
            self._loop.call_soon(self._look_again)  # the loop looks at its sockets between
        else:
            self._polls = False
