"""Structured logs to standard error: one line, or one JSON object, a record; as text, a stack follows indented.

Whoever logs gives a plain message and, where there is more to say, `extra={"fields": {...}}`.
"""

import json
import logging
import sys
import textwrap
from datetime import UTC, datetime
from typing import Literal


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(document, default=str)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = "".join(f" {name}={_quoted(value)}" for name, value in _fields(record).items())
        line = f"{_time(record)} {record.levelname:<7} {record.name}: {_one_line(record.getMessage())}{fields}"
        if record.exc_info:
            line += "\n" + textwrap.indent(self.formatException(record.exc_info), "    ")
        return line


def configure(log_format: Literal["text", "json"], level: str) -> None:
    """Send all records of this process to standard error, uvicorn's included, from `level` up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    set_level(level)


def level() -> str:
    """From which level up records of this process are sent, in lower case."""
    return logging.getLevelName(logging.getLogger().level).lower()


def set_level(level: str) -> None:
    """Send the records of this process from `level` up; from libraries no less than warnings.

    What uvicorn itself warns of is clients' faults, which the edge logs.
    """
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name, least in (("uvicorn", logging.WARNING), ("uvicorn.error", logging.ERROR), ("asyncio", logging.WARNING)):
        logging.getLogger(name).setLevel(max(root.level, least))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return getattr(record, "fields", {})


def _one_line(text: str) -> str:
    """`text` with line breaks and what else cannot be printed escaped: what a client sent may not forge a record."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _quoted(value: object) -> str:
    """`value` on one line, in quotes if it holds a space: what a client sent may not forge a field either."""
    text = str(value)
    return text if text.isprintable() and text and " " not in text else json.dumps(text)
