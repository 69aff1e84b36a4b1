"""Push notifications that are switched off: neither promised nor taken."""

from __future__ import annotations

import pytest
from a2a.types.a2a_pb2 import SendMessageConfiguration, TaskPushNotificationConfig
from a2a.utils.errors import PushNotificationNotSupportedError

from infra.bridge.a2a.pushes import Pushes
from infra.bridge.a2a.shapes import card
from infra.settings import A2ASettings
from schemas.rest import AgentOffered

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_where_they_are_switched_off_nobody_can_be_named() -> None:
    pushes = Pushes(A2ASettings(push="off"))
    assert await pushes.wanted(SendMessageConfiguration()) is None
    config = TaskPushNotificationConfig(url="https://example.com/")
    with pytest.raises(PushNotificationNotSupportedError):
        await pushes.wanted(SendMessageConfiguration(task_push_notification_config=config))


def test_the_card_promises_what_there_is() -> None:
    agent = AgentOffered("demo", "")
    assert card(agent, "http://x/", pushes=True).capabilities.push_notifications
    assert not card(agent, "http://x/").capabilities.push_notifications
