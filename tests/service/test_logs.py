"""Logs: one record is one line or one JSON object, whatever a client sent."""

import json
import logging
import warnings
from collections.abc import Iterator

import pytest

from service import logs

HOSTILE = 'x\n2026-01-01T00:00:00 ERROR   service: forged status=200 "'


@pytest.fixture(autouse=True)
def _root_logger_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in ("uvicorn", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def fail() -> None:
    raise ValueError(f"failed on {HOSTILE}")


def test_text_is_one_line_a_record(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "info")
    logging.getLogger("service.edge").info("request", extra={"fields": {"status": 200, "path": "/v1/predict"}})
    line = capsys.readouterr().err
    assert line.endswith("INFO    service.edge: request status=200 path=/v1/predict\n")
    assert line.count("\n") == 1


def test_what_a_client_sent_forges_no_line_and_no_field(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "info")
    logging.getLogger("a").info(
        "got %s", HOSTILE, extra={"fields": {"path": HOSTILE, "empty": "", "other": "a b\u2028"}}
    )
    (line,) = capsys.readouterr().err.splitlines()
    fields = line.split(" path=")[1]
    assert json.loads(fields.split(" empty=")[0]) == HOSTILE
    assert fields.endswith('empty="" other="a b\\u2028"')


def test_a_stack_in_text_is_indented_so_that_it_forges_no_record(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "info")
    try:
        fail()
    except ValueError:
        logging.getLogger("a").exception("it failed")
    first, *stack = capsys.readouterr().err.splitlines()
    assert first.endswith("ERROR   a: it failed")
    assert any("in fail" in line for line in stack)
    assert all(line.startswith("    ") for line in stack)


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json", "info")
    logging.getLogger("a").warning("got %s", HOSTILE, extra={"fields": {"path": HOSTILE, "status": 400}})
    try:
        fail()
    except ValueError:
        logging.getLogger("a").exception("it failed")
    plain, failed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert plain.pop("time").endswith("+00:00")
    assert plain == {"level": "warning", "logger": "a", "message": f"got {HOSTILE}", "path": HOSTILE, "status": 400}
    assert "in fail" in failed["exception"]
    assert failed["level"] == "error"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_is_below_the_level_is_left_out(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(log_format, "error")  # type: ignore[arg-type]
    for name in ("service", "uvicorn.error", "asyncio"):
        logging.getLogger(name).warning("quiet, please")
        logging.getLogger(name).error("loud")
    assert capsys.readouterr().err.count("\n") == 3


def test_uvicorns_own_chatter_is_left_out_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("text", "debug")
    logging.getLogger("service").debug("ours")
    logging.getLogger("uvicorn.error").info("theirs")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_warning_is_a_record_like_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    logging.captureWarnings(False)  # as it is when a process starts
    logs.configure("json", "info")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("mind the gap", UserWarning, stacklevel=1)
    (line,) = capsys.readouterr().err.splitlines()
    record = json.loads(line)
    assert (record["level"], record["logger"]) == ("warning", "py.warnings")
    assert "mind the gap" in record["message"]
