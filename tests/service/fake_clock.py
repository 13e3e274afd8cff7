"""An event loop whose time stands still until a test moves it."""

import asyncio
import gc
import selectors
from collections.abc import Awaitable, Callable

_STUCK_S = 20


class FakeClock:
    """The time that the loop sees."""

    def __init__(self) -> None:
        self.now_s = 0.0

    async def advance(self, by_s: float) -> None:
        """Let `by_s` pass once all is settled: the timers that fall due fire, and what they set off settles."""
        await settle()
        self.now_s += by_s
        await settle()


async def settle() -> None:
    """Let everything on the loop go as far as it can without a timer or a thread."""
    for _ in range(20):
        await asyncio.sleep(0)


class _Selector(selectors.DefaultSelector):
    """Never sleeps for a timer: until one falls due by the fake clock, only a thread can wake the loop."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        events = super().select(_STUCK_S)
        assert events, "the loop waits for a timer that no one lets fall due"
        return events


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: FakeClock) -> None:
        super().__init__(_Selector())
        self._clock = clock

    def time(self) -> float:
        return self._clock.now_s


def run(test: Callable[[FakeClock], Awaitable[None]]) -> None:
    """Run `test` on a loop with a fake clock; fail on an exception that no one has taken note of, too."""
    clock, unnoticed = FakeClock(), []

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unnoticed.append(context))
        await test(clock)
        await settle()
        gc.collect()

    gc.freeze()  # what was there before is not ours to look through: it takes most of the time
    try:
        with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
            runner.run(body())
    finally:
        gc.unfreeze()
    assert not unnoticed
