"""Structured logs: one JSON object a line, with the process and the trace id of what it worked on."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import msgspec

from schemas.context import TRACE
from schemas.times import rfc3339


class JsonLines(logging.Formatter):
    """Formats records as `{"time", "level", "process", "logger", "message", "trace_id"?, "error"?}`."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Write one line."""
        line = {
            "time": rfc3339(int(record.created * 1_000_000)),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        parts = TRACE.get().split("-")
        if len(parts) == 4:
            line["trace_id"] = parts[1]
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def log_to_stderr(process: str, level: int = logging.INFO) -> None:
    """Send this process's log to its standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log_to_file(process: str, path: Path, level: int = logging.INFO) -> None:
    """Send this process's log to a file, and its errors to standard error as plain lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = logging.FileHandler(path, encoding="utf-8")
    lines.setFormatter(JsonLines(process))
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    logging.basicConfig(level=level, handlers=[lines, errors], force=True)
