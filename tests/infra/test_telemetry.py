"""What is logged: a line for programs or for people, with the trace it belongs to and without secrets."""

from __future__ import annotations

import json
import logging

import pytest

from infra.telemetry import JsonLines, TextLines, formatter, without_secrets
from schemas.context import REQUEST, TRACE


def logged(message: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("bus.tail", logging.WARNING, __file__, 1, message, arguments, None)


def test_a_line_names_process_trace_and_span() -> None:
    token = TRACE.set("00-" + "ab" * 16 + "-" + "cd" * 8 + "-01")
    try:
        line = json.loads(JsonLines("agents-0").format(logged("lost %s", "x")))
        text = TextLines("agents-0").format(logged("lost %s", "x"))
    finally:
        TRACE.reset(token)
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "process": "agents-0",
        "logger": "bus.tail",
        "message": "lost x",
        "trace_id": "ab" * 16,
        "span_id": "cd" * 8,
    }
    assert text.endswith("agents-0    warning: lost x  trace abababab")


def test_a_line_names_the_request() -> None:
    token = REQUEST.set("req-7")
    try:
        line, text = (form("host").format(logged("lost")) for form in (JsonLines, TextLines))
    finally:
        REQUEST.reset(token)
    assert json.loads(line)["request_id"] == "req-7"
    assert text.endswith("lost  request req-7")
    assert "request_id" not in json.loads(JsonLines("host").format(logged("lost")))


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("nats://ada:hunter22@host:4222", "nats://ada:***@host:4222"),
        ("Authorization: Bearer abcdefgh12345678", "Authorization: Bearer ***"),
        ('{"api_key": "abcd1234"}', '{"api_key": "***"}'),
        ("x-api-key=abcd1234, next", "x-api-key=***, next"),
        ("key sk-proj-abcdefghijklmnop123456 end", "key *** end"),
        ("token eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl end", "token *** end"),
        ("the password is needed; 12 tokens of a request", "the password is needed; 12 tokens of a request"),
    ],
)
def test_secrets_are_not_logged(text: str, safe: str) -> None:
    assert without_secrets(text) == safe
    assert json.loads(JsonLines("host").format(logged("%s", text)))["message"] == safe
    assert safe in TextLines("host").format(logged("%s", text))


def test_a_stack_is_logged_without_secrets_too() -> None:
    record, error = logged("broken"), ValueError("postgres://ada:hunter22@host/db")
    record.exc_info = (type(error), error, None)
    for form in (JsonLines("host"), TextLines("host")):
        assert "hunter22" not in form.format(record)
        assert "postgres://ada:***@host/db" in form.format(record)


def test_the_form_is_as_set_and_json_where_nobody_looks() -> None:
    assert isinstance(formatter("host", "text"), TextLines)
    assert isinstance(formatter("host", "json"), JsonLines)
    assert isinstance(formatter("host"), JsonLines)
