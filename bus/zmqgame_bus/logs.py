"""Structured logs: one JSON object a line when stderr is a pipe or a file, readable text on a terminal.

Fields are given with ``extra``: ``log.info("player came", extra={"player": name})``.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

__all__ = ["JsonFormatter", "TextFormatter", "set_up"]

_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(process: str, level: str = "info") -> None:
    """Send everything to stderr in the form that suits it."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(TextFormatter(process) if sys.stderr.isatty() else JsonFormatter(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """time, level, process, logger, message, then the fields of ``extra``, then a traceback if there is
    one.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(fields(record))
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class TextFormatter(logging.Formatter):
    """``14:02:11.204 hub      warning  message key=value``."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line for people."""
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S.%f")[:-3]
        extra = "".join(f"  {name}={value}" for name, value in fields(record).items())
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{when} {self._process:<8} {level}{record.getMessage()}{extra}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip()
        return text


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave with ``extra``."""
    return {name: value for name, value in vars(record).items() if name not in _OWN}
