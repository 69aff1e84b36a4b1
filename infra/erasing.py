"""Erases threads on a whole stack: the threads that their calls began too, and what every store holds of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from actors.agent.delegation import child_thread
from actors.models.cache import Answers
from bus import subjects
from bus.commands import send_command
from bus.connection import Connection, Message
from bus.erasure import (
    delete_letters,
    destroy,
    destroy_of_schedule,
    is_recorded,
    keys_of,
    scrub_traces,
    traced_up_to,
    unsealed,
)
from bus.errors import BusError
from bus.keyring import Keyring
from bus.store import Store
from bus.streams import TRACE
from schemas import codec
from schemas.commands import Command
from schemas.errors import SchemaError
from schemas.memory import DeleteThread
from schemas.pushes import ForgetPushes, pushes_of
from schemas.runs import ToolCalled
from schemas.tasks import TaskStarted

log = logging.getLogger(__name__)

_LOOK_S: Final = 0.05
_AGAIN_S: Final = 1.0
_RECORDED_S: Final = 5.0
"""How long a recorder that is behind may keep a key from being destroyed; no other copy needs it."""
_CALLED: Final = frozenset({"tool.called", "task.started"})


class StackEraser:
    """The `Eraser` of a stack."""

    def __init__(self, connection: Connection, opened: Callable[[], Awaitable[Store]]) -> None:
        self._connection = connection
        self._opened = opened

    async def erase(self, tenant: str, thread: str) -> int:
        """Do it; what cannot be done now is tried again until it is."""
        return await _until_done(partial(self._erase, tenant, thread), f"thread {thread!r}")

    async def erase_schedule(self, tenant: str, schedule: str, key: str | None) -> int:
        """Erase one that was sealed with a key, as `erase`; return how many of its events are in the log unsealed."""
        return await _until_done(partial(self._erase_schedule, tenant, schedule, key), f"schedule {schedule!r}")

    async def _erase_schedule(self, tenant: str, schedule: str, key: str | None) -> int:
        left = await destroy_of_schedule(await self._opened(), key, tenant, schedule)
        if key is not None:
            await told_destroyed(self._connection, {key})
        await delete_letters(self._connection, tenant, schedule, "schedule")
        log.info("schedule %r is erased: %s of its events were not sealed", schedule, left)
        return left

    async def _erase(self, tenant: str, thread: str) -> int:
        store, keys = await self._opened(), self._connection.keys
        await self._until_recorded(store, tenant, thread)
        await self._end_children(store, tenant, thread)
        await self._forget_pushes(store, tenant, thread)
        sealed = await keys_of(store, tenant, thread)
        if keys is not None and (own := keys.of(tenant, thread)) is not None:
            sealed.add(own)
        await destroy(store, sealed, tenant, thread)
        await told_destroyed(self._connection, sealed)
        await self._connection.publish(subjects.THREAD_ERASED, codec.encode((tenant, thread)))
        await self._until_traced(store, await traced_up_to(self._connection))
        await self._until_recorded(store, tenant, thread)
        count = await scrub_traces(self._connection, store, tenant, thread)
        await delete_letters(self._connection, tenant, thread)
        log.info("thread %r is erased: %s keys destroyed, %s records of the trace scrubbed", thread, len(sealed), count)
        return await unsealed(store, tenant, thread)

    async def _until_recorded(self, store: Store, tenant: str, thread: str) -> None:
        for _ in range(int(_RECORDED_S / _LOOK_S)):
            if await is_recorded(store, tenant, thread):
                return
            await asyncio.sleep(_LOOK_S)

    async def _until_traced(self, store: Store, sequence: int) -> None:
        while True:
            cursor = await store.cursor(TRACE)
            if cursor is not None and cursor.sequence >= sequence:
                return
            await asyncio.sleep(_LOOK_S)

    async def _end_children(self, store: Store, tenant: str, thread: str) -> None:
        """Have the threads deleted that other agents' runs had, which this one's calls were."""
        called = [event.fact for event in await store.events_of_thread(tenant, thread)]
        for fact in called:
            effect = _called(fact.payload) if fact.type in _CALLED else ""
            child = child_thread(tenant, thread, effect)
            if effect and await store.rows(_THERE, tenant, child):
                data = DeleteThread(reason="the thread that it was a call of was deleted")
                await send_command(
                    self._connection, Command(f"{child}-e", tenant, "agent", child, "delete", data, "agent")
                )

    async def _forget_pushes(self, store: Store, tenant: str, thread: str) -> None:
        """Have nobody told any more of the thread's runs, begun or not, and destroy what says who was."""
        for row in await store.rows(_PUSHES, tenant, pushes_of(thread)):
            push = row["entity"]
            forget = Command(f"{push}-e", tenant, "push", push, "forget", ForgetPushes(), "agent")
            await send_command(self._connection, forget)
            await self._until_forgotten(store, tenant, push)
            sealed = await keys_of(store, tenant, push)
            await destroy(store, sealed, tenant, push)
            await told_destroyed(self._connection, sealed)

    async def _until_forgotten(self, store: Store, tenant: str, push: str) -> None:
        for _ in range(int(_RECORDED_S / _LOOK_S)):
            if await store.rows(_FORGOTTEN, tenant, push):
                return
            await asyncio.sleep(_LOOK_S)


async def _until_done(erase: Callable[[], Awaitable[int]], what: str) -> int:
    while True:
        try:
            return await erase()
        except (BusError, TimeoutError) as error:
            log.warning("%s is not erased yet: %s", what, error)
            await asyncio.sleep(_AGAIN_S)


def _called(payload: msgspec.Raw) -> str:
    try:
        event = codec.decode_event(payload)
    except SchemaError:
        return ""
    return event.effect if isinstance(event, ToolCalled | TaskStarted) else ""


async def told_destroyed(connection: Connection, keys: set[str]) -> None:
    """Have every process forget keys that were destroyed.

    Raises:
        Unavailable: NATS cannot be reached.
    """
    if connection.keys is not None:
        connection.keys.forget(keys)
    await connection.publish(subjects.KEYS_DESTROYED, codec.encode(sorted(keys)))


async def heed_destruction(connection: Connection, keys: Keyring) -> None:
    """Forget the keys that other processes destroy.

    Raises:
        Unavailable: NATS cannot be reached.
    """

    async def heard(message: Message) -> None:
        names: list[str] = codec.decode(message.data, list[str])
        keys.forget(names)

    await connection.subscribe(subjects.KEYS_DESTROYED, heard)


async def heed_erasure(connection: Connection, answers: Answers) -> None:
    """Give up the answers that are kept of threads that are erased, in whatever process; all where that was not heard.

    Raises:
        Unavailable: NATS cannot be reached.
    """

    async def heard(message: Message) -> None:
        erased: tuple[str, str] = codec.decode(message.data, tuple[str, str])
        answers.forget(*erased)

    async def again() -> None:
        answers.clear()

    await connection.subscribe(subjects.THREAD_ERASED, heard)
    connection.on_reconnect(again)


_FORGOTTEN = "SELECT 1 FROM event WHERE tenant = $1 AND thread = $2 AND type = 'push.forgotten'"
_PUSHES = "SELECT DISTINCT entity FROM event WHERE tenant = $1 AND kind = 'push' AND starts_with(entity, $2)"
_THERE = "SELECT 1 FROM event WHERE tenant = $1 AND thread = $2 LIMIT 1"
