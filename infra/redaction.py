"""Takes what was said out of events and leaves their shape: who spoke when, how long, and what was said again. Pure.

A text becomes one of the same length, with letters for letters and digits for digits, spaces where they were; equal
texts become equal ones. JSON inside a text keeps its layout and its keys. Ids of tokens become zeros, and what a
model made of tokens is left out. What the letters are depends on a secret
that is thrown away, so that nobody can try texts until one fits; the hashes over messages go too, for the same
reason. Ids, names of agents, models and tools, numbers outside texts, and times stay.
"""

from __future__ import annotations

import re
from hashlib import shake_256
from typing import Any

import msgspec

_KEPT = frozenset({
    "type", "id", "role", "kind", "thread", "tenant", "verb", "agent", "model", "name", "effect", "effect_class",
    "finish_reason", "behind", "call_id", "tool_call_id", "engine", "field", "source", "time", "traceparent", "digest",
    "approvals", "owner", "process", "by", "origin", "entity", "truncation_side", "tool_choice", "tool",
    "place", "service", "run", "choice", "stop_tools", "active_tools", "when_busy",
    "processor", "processors", "hook", "action", "scope", "at", "outcome", "into", "task", "cron", "timezone",
    "missed", "detail", "media_type", "input_file", "output_file", "error_file", "endpoint", "window", "code",
    "commands", "request_id", "reasoning_effort", "waits", "mode", "goal", "verdict",
})  # fmt: skip
"""Keys of events whose texts are structure. Any other text is taken for something that was said."""

_SPELLED = frozenset({"token_ids", "prompt_token_ids", "prompt", "bad_words", "trace_decode_token_ids"})
"""Keys of token ids that spell what was said: they become zeros."""

_TOLD = frozenset({"logprobs", "prompt_logprobs"})
"""Keys of what a model made of tokens, where there is more than a number: left out."""

_FREE = frozenset({
    "documents", "chat_template_kwargs", "extra_args", "context", "payload", "answer", "result", "notes",
    "note", "metadata",
})  # fmt: skip
"""Keys of objects whose own keys are the client's: any text below is taken for something that was said."""

_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|(-?)(\d+)((?:\.\d+)?)((?:[eE][+-]?\d+)?)')


class Redactor:
    """Redacts the events of one bundle; `secret` is what its placeholders depend on."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def event(self, payload: bytes) -> bytes:
        """Redact an event's payload.

        Raises:
            msgspec.DecodeError: it is not JSON.
        """
        return msgspec.json.encode(self._value("", msgspec.json.decode(payload)))

    def _value(self, key: str, value: Any) -> Any:
        match value:
            case dict():
                return {name: self._value(key if key in _FREE else name, below) for name, below in value.items()}
            case list() if key in _TOLD:
                return []
            case list():
                return [self._value(key, below) for below in value]
            case str() if key not in _KEPT:
                return self.text(value)
            case int() if key in _SPELLED:
                return 0
            case _:
                return value

    def text(self, text: str) -> str:
        """Give the placeholder of a text."""
        if text[:1] in {"{", "["} and _is_json(text):
            return _TOKEN.sub(self._token, text)
        return self._letters(text)

    def _token(self, found: re.Match[str]) -> str:
        """Redact one string or number of a JSON text, in place."""
        said, colon, sign, whole, fraction, exponent = found.groups()
        if colon is not None:
            return found[0]
        if said is not None:
            return f'"{self._letters(said)}"'
        digits = self._letters(whole)
        if len(digits) > 1 and digits[0] == "0":
            digits = "1" + digits[1:]
        # another exponent could be one that no number has
        return f"{sign}{digits}{self._letters(fraction, keep='.')}{re.sub('[0-9]', '0', exponent)}"

    def _letters(self, text: str, keep: str = "") -> str:
        drawn = shake_256(self._secret + text.encode("utf-8", "surrogatepass")).digest(len(text))
        return "".join(c if c in keep else _like(c, byte) for c, byte in zip(text, drawn, strict=True))


def _like(character: str, byte: int) -> str:
    if character.isspace():
        return character
    if character.isdecimal():
        return str(byte % 10)
    if character.isalpha():
        letter = chr(97 + byte % 26)
        return letter.upper() if character.isupper() else letter
    return "-"


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True
