"""What a request costs in Python, counted and not timed: executed opcodes are the same on every machine.

A small model's answer takes less time than the Python around it, so each call, attribute and loop on this path shows in
requests a second. The bounds are 15 % above what was counted when they were set, with the interpreter of `COUNTED_ON`.
"""

import asyncio
import gc
import json
import selectors
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import fake_clock
import numpy as np
import onnxruntime
import pytest
from fake_clock import FakeClock
from wire import SHORT, Connection, binary, post, wired

from service import engine, tensors
from service.tensors import PredictDecoder

COUNTED_ON = (3, 11)
MARGIN = 1.15
# Opcodes of one request on a connection that has seen it before, from its bytes to those of its answer: of one that is
# alone, and of one of 16 that come at once and share their run.
REQUEST = {("V1_JSON", 1): 2621, ("V2_BINARY", 1): 2681, ("V1_JSON", 16): 1920, ("V2_BINARY", 16): 1980}
# Opcodes of decoding one sequence, and of each more of them: of the same length as the one before, or of another.
# DECODE_KNOWN: of any number of sequences if a body of the same lengths came before.
DECODE, DECODE_SAME, DECODE_OTHER, DECODE_KNOWN = 243, 13, 42, 156

# What is measured of a model this small: every run of it is short.
QUICK = {(2**power, steps): 1e-5 * 2**power for power in range(5) for steps in (2, 8)}

pytestmark = pytest.mark.skipif(sys.version_info[:2] != COUNTED_ON, reason="every Python has opcodes of its own")

# The tests themselves, and what changes with the versions of others.
_FOLDERS = tuple(str(Path(file).parent) for file in (__file__, asyncio.__file__, str(onnxruntime.__file__)))
_NOT_COUNTED = (*_FOLDERS, selectors.__file__)


class Opcodes:
    """Counts the opcodes that this thread executes within it, by function, but for those of `_NOT_COUNTED`."""

    def __init__(self) -> None:
        self.by_function: Counter[str] = Counter()

    def __enter__(self) -> "Opcodes":
        self._before = sys.gettrace()
        gc.disable()  # what it calls back is not ours
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)
        gc.enable()

    @property
    def total(self) -> int:
        return sum(self.by_function.values())

    def _trace(self, frame: FrameType, event: str, _: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        if event == "call":
            if code.co_filename.startswith(_NOT_COUNTED):
                return None
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self.by_function[f"{Path(code.co_filename).name}:{code.co_qualname}"] += 1
        return self._trace


def check(counted: float, expected: float, opcodes: Opcodes, *, name: str) -> None:
    """Fail if much more was counted than is expected, and tell where."""
    most = "\n".join(f"{count:9} {function}" for function, count in opcodes.by_function.most_common(25))
    assert counted <= MARGIN * expected, (
        f"{counted:.0f} opcodes, at most {MARGIN * expected:.0f}: the hot path has become dearer. Take out what is not "
        f"needed there, or, if it must be, measure what it costs (make bench), and set {name} in this file.\n{most}"
    )


async def ask_repeatedly(connections: list[Connection], request: bytes, *, times: int) -> None:
    """One request on each connection, then the next, with nothing on the loop that is not theirs."""
    for _ in range(times):
        writes = [connection.transport.writes for connection in connections]
        for connection in connections:
            connection.send(request)
        while any(one.transport.writes == before for one, before in zip(connections, writes, strict=True)):
            await asyncio.sleep(0)


@pytest.mark.parametrize("name", ["V1_JSON", "V2_BINARY"])
@pytest.mark.parametrize("count", [1, 16])
def test_a_request_takes_no_more_opcodes_than_it_did(
    repository: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    monkeypatch.setattr(engine, "measure", lambda *_, **__: {"onnx": QUICK})  # however busy this machine is
    request = binary(10) if name == "V2_BINARY" else post(make_body([10]))

    async def test(_: FakeClock) -> None:
        async with wired(repository, "--reload-interval-s=0") as service:
            connections = [service.connect() for _ in range(count)]
            await ask_repeatedly(connections, request, times=5)
            assert {connection.way for connection in connections} == {SHORT}
            rounds = []
            for _ in range(10):
                with Opcodes() as opcodes:
                    await ask_repeatedly(connections, request, times=1)
                rounds.append(opcodes)
            for connection in connections:
                assert connection.transport.written.count(b"HTTP/1.1 200 ") == 15
            least = min(rounds, key=lambda opcodes: opcodes.total)  # nothing else got between
            check(least.total / count, REQUEST[name, count], least, name=f"REQUEST[{name!r}, {count}]")

    fake_clock.run(test)


def make_body(lengths: list[int]) -> bytes:
    rng = np.random.default_rng(0)
    return json.dumps({"sequences": [rng.normal(size=(length, 3)).round(3).tolist() for length in lengths]}).encode()


def decode(lengths: list[int], *, known: bool = False) -> Opcodes:
    body, decoder = make_body(lengths), PredictDecoder()
    decoder.decode(body, input_size=3, max_rows=100)
    if not known:
        tensors._known_lengths.cache_clear()
    with Opcodes() as opcodes:
        decoder.decode(body, input_size=3, max_rows=100)
    return opcodes


def test_decoding_takes_no_more_opcodes_for_more_steps() -> None:
    few = decode([10])
    check(few.total, DECODE, few, name="DECODE")
    assert decode([500]).total == few.total, "something is done for each step, or each number, in Python"


@pytest.mark.parametrize("lengths", [[10], [20] * 64, [10 + i % 7 for i in range(512)]])
def test_decoding_lengths_that_came_before_takes_no_opcode_for_each(lengths: list[int]) -> None:
    opcodes = decode(lengths, known=True)
    check(opcodes.total, DECODE_KNOWN, opcodes, name="DECODE_KNOWN")


@pytest.mark.parametrize(
    ("make", "expected", "name"),
    [
        (lambda count: [20] * count, DECODE_SAME, "DECODE_SAME"),
        (lambda count: [10 + i % 7 for i in range(count)], DECODE_OTHER, "DECODE_OTHER"),
    ],
    ids=["same lengths", "other lengths"],
)
def test_decoding_takes_a_few_opcodes_for_each_sequence(
    make: Callable[[int], list[int]], expected: int, name: str
) -> None:
    few, more, many = (decode(make(count)) for count in (8, 64, 512))
    slope, later = (more.total - few.total) / (64 - 8), (many.total - more.total) / (512 - 64)
    check(slope, expected, more, name=name)
    check(later, slope, many, name=f"{name}, which must not grow with the number of sequences,")
