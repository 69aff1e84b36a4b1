"""Push notifications that are switched off: neither promised nor taken."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from a2a.types.a2a_pb2 import SendMessageConfiguration, TaskPushNotificationConfig
from a2a.utils.errors import PushNotificationNotSupportedError

from actors import outward
from actors.pushes.machine import Due, TellOf
from actors.runtime.performer import Site
from bus.connection import Connection
from infra.bridge.a2a.pushes import Pushes
from infra.bridge.a2a.pushing import _unanswered, push_performer
from infra.bridge.a2a.shapes import card
from infra.readback import LateStore
from infra.settings import A2ASettings, Place, Settings
from schemas.pushes import PushTarget, PushTried
from schemas.rest import AgentOffered

pytestmark = pytest.mark.anyio


async def test_where_they_are_switched_off_nobody_can_be_named() -> None:
    pushes = Pushes(A2ASettings(push="off"))
    assert await pushes.wanted(SendMessageConfiguration()) is None
    config = TaskPushNotificationConfig(url="https://example.com/")
    with pytest.raises(PushNotificationNotSupportedError):
        await pushes.wanted(SendMessageConfiguration(task_push_notification_config=config))


async def test_where_they_were_switched_off_since_who_is_to_be_told_is_given_up(connection: Connection) -> None:
    due, target = Due("p1-1-0", "hook", "{}"), PushTarget("hook", "http://127.0.0.1:9/")
    effect = TellOf("p1-1-0-a1", "push", "p1", "", thread="t1", run="r1", due=due, target=target)
    told = []
    for settings in (A2ASettings(), A2ASettings(push="off")):
        place = Place("agents", "agents-0", "", "", Settings(a2a=settings))
        performer = push_performer(place, connection, LateStore(""))
        event = await performer.perform(effect, Site("acme", "p1", 1), again=False)
        assert isinstance(event, PushTried)
        told.append((event.problem, event.again > 0))
    (tried, again), given_up = told
    assert ("not public" in tried, again) == (True, True)
    assert given_up == ("push notifications are switched off (a2a.push)", False)


async def test_where_the_certificates_to_be_trusted_are_not_there_it_says_so_and_tries_again(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    due, target = Due("p2-1-0", "hook", "{}"), PushTarget("hook", "http://a/")
    effect = TellOf("p2-1-0-a1", "push", "p2", "", thread="t1", run="r1", due=due, target=target)
    performer = push_performer(Place("agents", "agents-0", "", "", Settings()), connection, LateStore(""))
    event = await performer.perform(effect, Site("acme", "p2", 1), again=False)
    assert isinstance(event, PushTried)
    assert event.problem == "the certificates to be trusted cannot be read (FileNotFoundError)"
    assert event.again


@pytest.mark.parametrize("listens", [True, False])
async def test_where_one_address_is_not_listened_at_another_is_tried(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    def both(host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        return [(0, 0, 0, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    monkeypatch.setattr(outward, "socket", SimpleNamespace(getaddrinfo=both, SOCK_STREAM=socket.SOCK_STREAM))
    heads = list[bytes]()
    async with await asyncio.start_server(answers, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        if not listens:
            server.close()
        due, target = Due("p3-1-0", "hook", "{}"), PushTarget("hook", f"http://hook.example.com:{port}/")
        effect = TellOf("p3-1-0-a1", "push", "p3", "", thread="t1", run="r1", due=due, target=target)
        settings = Settings(a2a=A2ASettings(push_hosts=("hook.example.com",)))
        performer = push_performer(Place("agents", "agents-0", "", "", settings), connection, LateStore(""))
        event = await performer.perform(effect, Site("acme", "p3", 1), again=False)
    assert isinstance(event, PushTried)
    if listens:
        assert (event.code, event.problem, len(heads)) == (200, "", 1)
        assert f"host: hook.example.com:{port}\r\n".encode() in heads[0].lower()
    else:
        assert (event.code, event.problem, heads) == (0, "no answer (ConnectError)", [])


def test_what_is_no_tls_is_said_to_be_none_though_it_has_no_reason() -> None:
    error = httpx.ConnectError("secret")
    error.__cause__ = ssl.SSLError(1, "x")
    assert _unanswered(error) == "it speaks no TLS that could be understood (no reason)"


def test_the_card_promises_what_there_is() -> None:
    agent = AgentOffered("demo", "")
    assert card(agent, "http://x/", pushes=True).capabilities.push_notifications
    assert not card(agent, "http://x/").capabilities.push_notifications
