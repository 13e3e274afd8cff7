import contextlib
import os
import signal
import sys
from pathlib import Path
from threading import Timer

import pytest

from bench.processes import parse_stat, running

FAMILY = """
import os, subprocess, sys, time
deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(os.environ["GREETING"], "LSTM_WORKERS" in os.environ, child.pid, flush=True)
sum(range(3_000_000))
time.sleep(60)
"""


def test_a_name_may_hold_anything() -> None:
    fields = ["S", "1", "77", "42", *["0"] * 7, "50", "25", "20", "5", *["0"] * 6, "10"]
    stat = parse_stat(f"123 (a) b ( c) {' '.join(fields)} 0 0")
    assert (stat.pid, stat.session, stat.is_zombie) == (123, 42, False)
    assert stat.cpu_s == 100 / os.sysconf("SC_CLK_TCK")
    assert stat.rss_bytes == 10 * os.sysconf("SC_PAGE_SIZE")


def wait_for_words(log: Path) -> list[str]:
    while not (text := log.read_text()).endswith("\n"):
        pass
    return text.split()


def test_a_tree_is_measured_and_ends_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_WORKERS", "7")
    log = tmp_path / "log"
    with running([sys.executable, "-c", FAMILY], {"GREETING": "hello"}, log) as tree:
        greeting, inherits, child = wait_for_words(log)
        usage = tree.usage()
        assert (greeting, inherits) == ("hello", "False")
        assert Path(f"/proc/{child}").exists()
        assert usage.largest_rss_bytes > 1_000_000
        assert not tree.has_ended()
    assert tree.has_ended()
    stat = Path(f"/proc/{child}/stat")
    assert not stat.exists() or parse_stat(stat.read_text()).is_zombie  # whoever adopts it may be slow to reap


def test_the_tree_ends_on_an_interrupt_too(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        running([sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path / "log") as tree,
    ):
        raise KeyboardInterrupt
    assert tree.has_ended()


def test_the_tree_ends_on_a_second_interrupt_that_comes_while_it_is_waited_for(tmp_path: Path) -> None:
    log = tmp_path / "log"
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    trees = []
    with contextlib.suppress(KeyboardInterrupt), running([sys.executable, "-c", deaf], {}, log) as tree:
        trees.append(tree)
        wait_for_words(log)
        Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert trees[0].has_ended()


def test_last_words_are_the_last_line_that_says_something(tmp_path: Path) -> None:
    code = "print('first'); print('cannot bind'); print('')"
    with running([sys.executable, "-c", code], {}, tmp_path / "log") as tree:
        tree.process.wait()
        assert tree.last_words() == "cannot bind"
