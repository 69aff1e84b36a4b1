"""A provider's double: an HTTP server that speaks the real wire formats, well or badly."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal, Self
from zlib import crc32

SSE = {"content-type": "text/event-stream; charset=utf-8"}
AMAZON = {"content-type": "application/vnd.amazon.eventstream"}
HOLD_S = 30.0


@dataclass(frozen=True)
class Asked:
    """A request as the double got it."""

    path: str
    headers: Mapping[str, str]
    raw: bytes

    @property
    def body(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.raw)
        return found


@dataclass(frozen=True)
class Played:
    """An answer: its bytes go out as they are parted here."""

    body: Sequence[bytes] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: SSE)
    ends: Literal["whole", "cut", "held"] = "whole"
    """`cut` closes the connection in the middle; `held` says nothing more until the double is released."""


Script = Callable[[Asked], Played]


class ProviderDouble:
    """A running double; it plays what its script says."""

    def __init__(self, script: Script | Iterable[Played]) -> None:
        self.asked: list[Asked] = []
        self.released = threading.Event()
        self.holding = threading.Event()
        """Set when an answer is held."""
        given = script if callable(script) else _in_turn(script)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(handler) -> None:  # noqa: N805
                raw = handler.rfile.read(int(handler.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in handler.headers.items()}
                asked = Asked(handler.path, headers, raw)
                self.asked.append(asked)
                self._play(handler, given(asked))

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def _play(self, handler: BaseHTTPRequestHandler, played: Played) -> None:
        handler.send_response(played.status)
        for name, value in played.headers.items():
            handler.send_header(name, value)
        handler.send_header("transfer-encoding", "chunked")
        handler.end_headers()
        try:
            for part in filter(None, played.body):
                handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                handler.wfile.flush()
            if played.ends == "held":
                self.holding.set()
                self.released.wait(HOLD_S)
            if played.ends == "whole":
                handler.wfile.write(b"0\r\n\r\n")
        except OSError:
            pass  # whoever asked has gone
        handler.close_connection = played.ends != "whole"


def _in_turn(answers: Iterable[Played]) -> Script:
    left = iter(answers)
    return lambda _: next(left)


def event(data: Any, name: str = "") -> bytes:
    """Write a server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chat_chunks(
    *deltas: Mapping[str, Any], finish: str = "stop", usage: Mapping[str, Any] | None = None
) -> list[bytes]:
    """Write a chat completion as OpenAI streams it."""
    about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}
    first = {**about, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    told = [{**about, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    last = {**about, "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    costs = {**about, "choices": [], "usage": usage or {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
    return [*(event(chunk) for chunk in (first, *told, last, costs)), b"data: [DONE]\n\n"]


def says(text: str) -> Played:
    """Answer in chat chunks, a word at a time."""
    words = text.split(" ")
    return Played(chat_chunks(*({"content": word if not at else f" {word}"} for at, word in enumerate(words))))


def fails(status: int, message: str = "no", headers: Mapping[str, str] | None = None, **error: Any) -> Played:
    """Refuse as OpenAI does."""
    body = json.dumps({"error": {"message": message, "type": "x", **error}}).encode()
    return Played([body], status, {"content-type": "application/json", **(headers or {})})


def amazon_event(kind: str, payload: Any, **headers: str) -> bytes:
    """Write a message of AWS's event stream: lengths, headers, payload, and checksums over them."""
    named = {":event-type": kind, ":content-type": "application/json", ":message-type": "event", **headers}
    head = b"".join(
        struct.pack("!B", len(name)) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in named.items()
    )
    body = json.dumps(payload, ensure_ascii=False).encode()
    prelude = struct.pack("!II", 16 + len(head) + len(body), len(head))
    prelude += struct.pack("!I", crc32(prelude))
    message = prelude + head + body
    return message + struct.pack("!I", crc32(message))
