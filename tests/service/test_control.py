"""What workers tell each other: wishes, reports, and the bell that says there is news."""

import asyncio
import copy
import os
import signal
from pathlib import Path

import pytest

from service.control import Control, Report, Wishes

# Python 3.12 warns of any fork beside threads; these children do next to nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def as_worker(control: Control, index: int) -> Control:
    """What worker `index` has of `control` after the fork, here without one."""
    worker = copy.copy(control)
    worker.become_worker(index)
    return worker


def test_a_wish_is_seen_by_all_and_counts_up() -> None:
    control = Control(2)
    other = as_worker(control, 1)
    assert control.read().wishes == Wishes()
    assert [control.ask_to_unload("m"), control.ask_to_unload("n"), other.ask_to_load("m")] == [1, 2, 3]
    assert control.read().wishes == other.read().wishes == Wishes(3, ("n",), {"m": 3})


def test_reports_stand_side_by_side_and_a_new_worker_begins_anew() -> None:
    control = Control(2)
    first, second = as_worker(control, 0), as_worker(control, 1)
    first.report(Report(4, {"m": [1, 2]}, {"n": ["1@0"]}, {"n": "corrupt " * 100}))
    second.report(Report(3))
    assert control.read().reports == (Report(4, {"m": [1, 2]}, {"n": ["1@0"]}, {"n": "corrupt " * 100}), Report(3))
    as_worker(control, 0)
    assert control.read().reports == (Report(), Report(3))


def test_the_others_hear_of_news_and_only_of_news() -> None:
    async def run() -> None:
        control = Control(2)
        worker = as_worker(control, 1)
        worker.listen()
        for report, rings in ((Report(1), 1), (Report(1), 1), (Report(2), 2)):
            control.report(report)
            await worker.rung(rings - 1, timeout_s=0.2)
            assert worker.rings == rings
        worker.stop_listening()

    asyncio.run(run())


def test_it_waits_for_what_another_process_reports() -> None:
    async def run() -> None:
        control = Control(2)
        control.listen()
        if (process_id := os.fork()) == 0:
            try:
                control.become_worker(1)
                control.report(Report(7))
            finally:
                os._exit(0)
        reports = await control.until(lambda reports: reports[1].generation == 7, timeout_s=10)
        assert reports == (Report(), Report(7))
        os.waitpid(process_id, 0)
        control.stop_listening()

    asyncio.run(run())


def test_what_never_comes_is_none() -> None:
    async def run() -> None:
        control = Control(1)
        assert await control.until(lambda _: False, timeout_s=0.05) is None

    asyncio.run(run())


def test_wishes_of_many_processes_are_all_kept() -> None:
    control = Control(4)
    children = []
    for worker in range(4):
        if (process_id := os.fork()) == 0:
            try:
                control.become_worker(worker)
                for number in range(25):
                    control.ask_to_unload(f"{worker}-{number}")
            finally:
                os._exit(0)
        children.append(process_id)
    for process_id in children:
        os.waitpid(process_id, 0)
    wishes = control.read().wishes
    assert wishes.generation == len(wishes.unloaded) == 100


def test_a_document_that_was_written_by_half_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    control = Control(2)
    control.ask_to_unload("m")
    before, write = control.read(), os.pwrite

    def be_killed(descriptor: int, content: bytes, offset: int) -> int:
        write(descriptor, content[: len(content) // 2], offset)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", be_killed)
            with pytest.raises(KeyboardInterrupt):
                control.ask_to_unload("n")
        assert control.read() == before


def test_a_worker_that_is_killed_leaves_no_lock_behind() -> None:
    control = Control(2)
    for _ in range(20):
        before = control.read().wishes.generation
        if (process_id := os.fork()) == 0:
            while True:
                control.ask_to_load("m")
        while (generation := control.read().wishes.generation) == before:
            pass
        os.kill(process_id, signal.SIGKILL)
        os.waitpid(process_id, 0)
        assert control.ask_to_unload("m") > generation


def test_it_leaves_no_file_open() -> None:
    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    for _ in range(10):
        Control(3)
    assert open_files() == before
