"""Push notifications as A2A clients set, list and delete them: whom to tell of a task is in the log, as tasks are."""

from __future__ import annotations

from typing import Final

import msgspec
from a2a.types.a2a_pb2 import (
    AuthenticationInfo,
    ListTaskPushNotificationConfigsResponse,
    SendMessageConfiguration,
    TaskPushNotificationConfig,
)
from a2a.utils.errors import InvalidParamsError, PushNotificationNotSupportedError, TaskNotFoundError
from msgspec.structs import replace

from actors.outward import NotOutward, outward
from actors.pushes.machine import PushMachine, PushState
from actors.runtime.machine import Emitted
from infra.bridge.a2a.shapes import task_id
from infra.bridge.late import caught_up
from infra.client import Client
from infra.errors import SettlementRefused
from infra.settings import A2ASettings
from schemas import codec
from schemas.pushes import PushTarget, SubscribePush, UnsubscribePush, push_id

_FIELD: Final = "taskPushNotificationConfig"


class Pushes:
    """Who is told of tasks."""

    def __init__(self, settings: A2ASettings) -> None:
        self._settings = settings

    def check_on(self) -> None:
        """See that there are push notifications.

        Raises:
            PushNotificationNotSupportedError: they are switched off.
        """
        if self._settings.push == "off":
            raise PushNotificationNotSupportedError("push notifications are switched off here (a2a.push)")

    async def wanted(self, configuration: SendMessageConfiguration) -> PushTarget | None:
        """Read whom the sender of a message wants told; None where nobody.

        Raises:
            A2AError: nobody can be, or not whom it names.
        """
        if not configuration.HasField("task_push_notification_config"):
            return None
        return await self.target(configuration.task_push_notification_config)

    async def target(self, config: TaskPushNotificationConfig) -> PushTarget:
        """Read whom a client wants told; without an id it will have that of its task.

        Raises:
            PushNotificationNotSupportedError: nobody can be.
            InvalidParamsError: what it names is not gone to, or cannot be sent.
        """
        self.check_on()
        try:
            await outward(config.url, self._settings.push_hosts)
        except NotOutward as refused:
            raise InvalidParamsError(f"{_FIELD}.url: {refused}") from refused
        given = config.authentication
        about = {"id": config.id, "url": config.url, "token": config.token}
        about |= {"scheme": given.scheme, "credentials": given.credentials}
        try:
            return msgspec.convert(about, PushTarget)
        except msgspec.ValidationError as error:
            field = str(error).rpartition("$.")[2].rstrip("`")
            raise InvalidParamsError(f"{_FIELD}.{field}: it is too long, or no text of a header") from error

    async def subscribe(self, client: Client, thread: str, run: str, target: PushTarget) -> TaskPushNotificationConfig:
        """Have somebody told of a task, which need not have begun.

        Raises:
            InvalidParamsError: too many are.
            TaskNotFoundError: its thread was deleted.
        """
        target = replace(target, id=target.id or task_id(thread, run))
        await _told(client, thread, run, SubscribePush(thread, run, target))
        return _config(target, thread, run)

    async def get(self, client: Client, thread: str, run: str, name: str) -> TaskPushNotificationConfig:
        """Tell what was set.

        Raises:
            TaskNotFoundError: nothing of that name was.
        """
        self.check_on()
        target = (await _state(client, thread, run)).targets.get(name or task_id(thread, run))
        if target is None:
            raise TaskNotFoundError(f"there is no push notification {name!r} of that task")
        return _config(target, thread, run)

    async def listed(self, client: Client, thread: str, run: str) -> ListTaskPushNotificationConfigsResponse:
        """List all that was set of a task: never more than a page."""
        self.check_on()
        targets = (await _state(client, thread, run)).targets
        configs = [_config(targets[name], thread, run) for name in sorted(targets)]
        return ListTaskPushNotificationConfigsResponse(configs=configs)

    async def delete(self, client: Client, thread: str, run: str, name: str) -> None:
        """Have somebody told no more; who is not told is none the less."""
        self.check_on()
        gone = name or task_id(thread, run)
        if gone in (await _state(client, thread, run)).targets:
            await _told(client, thread, run, UnsubscribePush(gone))


async def _told(client: Client, thread: str, run: str, data: SubscribePush | UnsubscribePush) -> None:
    try:
        await client.tell(push_id(thread, run), data, "push")
    except SettlementRefused as refused:
        if refused.problem.kind == "unknown_thread":
            raise TaskNotFoundError from refused
        raise InvalidParamsError(refused.problem.message) from refused


async def _state(client: Client, thread: str, run: str) -> PushState:
    """Fold what is said of a task, all that its client has heard of included."""
    await caught_up(client)
    name, machine = push_id(thread, run), PushMachine()
    state = machine.initial(client.tenant, name)
    for event in await client.read_back(client.tenant, name, "push", name, 0):
        if not codec.is_erased(event.data):
            state = machine.evolve(state, Emitted("push", name, codec.decode_event(event.data)))
    return state


def _config(target: PushTarget, thread: str, run: str) -> TaskPushNotificationConfig:
    config = TaskPushNotificationConfig(id=target.id, task_id=task_id(thread, run), url=target.url, token=target.token)
    if target.scheme:
        config.authentication.CopyFrom(AuthenticationInfo(scheme=target.scheme, credentials=target.credentials))
    return config
