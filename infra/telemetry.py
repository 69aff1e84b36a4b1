"""Structured logs: a JSON object a line, or text for a terminal, with the trace of what was done and no secrets."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Final, Literal

import msgspec

from schemas.context import REQUEST, TRACE
from schemas.times import rfc3339

Format = Literal["auto", "json", "text"]

_SECRETS: Final = re.compile(
    r"""(?ix)
    (?P<scheme> \b [a-z][a-z0-9+.-]* :// [^\s:/@]* : ) [^\s@/]+ (?= @)          # nats://user:PASSWORD@host
    | (?P<word> \b (?: bearer | basic ) \s+ ) [a-z0-9._~+/=-]{8,}
    | (?P<name> \b (?: api[_-]?key | x-api-key | authorization | password | passwd | secret | access[_-]?token )
        ["']? \s* [=:] \s* ["']? ) (?! bearer | basic ) [^\s"',;}&]{4,}
    | \b (?: sk | pk | rk | gsk | hf | ghp | gho | xox[abp] | ost ) [-_] [a-z0-9_-]{16,}
    | \b eyJ [a-z0-9_-]{8,} \. [a-z0-9_-]{8,} \. [a-z0-9_-]*
    """
)
"""What looks like a password in an address, a header, a field, a key or a token of a known form."""


def without_secrets(text: str) -> str:
    """Put `***` in the place of what looks like a secret."""
    return _SECRETS.sub(lambda found: next(filter(None, found.groupdict().values()), "") + "***", text)


def trace_id() -> str:
    """Give the id of the trace that this task works on; empty where there is none."""
    parts = TRACE.get().split("-")
    return parts[1] if len(parts) == 4 else ""


class JsonLines(logging.Formatter):
    """Formats records as JSON objects.

    `{"time", "level", "process", "logger", "message", "trace_id"?, "span_id"?, "request_id"?, "error"?}`, where the
    request id is the `x-request-id` of an HTTP request.
    """

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
            "message": without_secrets(record.getMessage()),
        }
        if trace := trace_id():
            line["trace_id"] = trace
            line["span_id"] = TRACE.get().split("-")[2]
        if request := REQUEST.get():
            line["request_id"] = request
        if record.exc_info:
            line["error"] = without_secrets(self.formatException(record.exc_info))
        return msgspec.json.encode(line).decode()


class TextLines(logging.Formatter):
    """Formats records for people: time, level, process, message, the beginning of the trace id, and the request id."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Write one line, and a stack below it where there is one."""
        time = rfc3339(int(record.created * 1_000_000))[11:23]
        trace = f"  trace {trace_id()[:8]}" if trace_id() else ""
        request = f"  request {REQUEST.get()}" if REQUEST.get() else ""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = f"{time} {self._process:<11} {level}{record.getMessage()}{trace}{request}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return without_secrets(line)


def formatter(process: str, wanted: Format = "auto") -> logging.Formatter:
    """Give the form of a process's standard error; `auto` is text for a terminal, JSON for all else."""
    as_text = wanted == "text" or (wanted == "auto" and sys.stderr.isatty())
    return TextLines(process) if as_text else JsonLines(process)


def log_to_stderr(process: str, level: int = logging.INFO, wanted: Format = "auto") -> None:
    """Send this process's log to its standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(process, wanted))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def log_to_file(process: str, path: Path, level: int = logging.INFO) -> None:
    """Send this process's log to a file, and its errors to standard error as plain lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = logging.FileHandler(path, encoding="utf-8")
    lines.setFormatter(JsonLines(process))
    errors = logging.StreamHandler(sys.stderr)
    errors.setLevel(logging.ERROR)
    logging.basicConfig(level=level, handlers=[lines, errors], force=True)
