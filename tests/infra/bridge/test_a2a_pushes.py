"""Push notifications that are switched off: neither promised nor taken."""

from __future__ import annotations

from pathlib import Path

import pytest
from a2a.types.a2a_pb2 import SendMessageConfiguration, TaskPushNotificationConfig
from a2a.utils.errors import PushNotificationNotSupportedError

from actors.pushes.machine import Due, TellOf
from actors.runtime.performer import Site
from bus.connection import Connection
from infra.bridge.a2a.pushes import Pushes
from infra.bridge.a2a.pushing import push_performer
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


def test_the_card_promises_what_there_is() -> None:
    agent = AgentOffered("demo", "")
    assert card(agent, "http://x/", pushes=True).capabilities.push_notifications
    assert not card(agent, "http://x/").capabilities.push_notifications
