"""Tells the addresses that A2A clients named how their tasks stand: what the process does that owns a push."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import logging
import ssl
from collections.abc import Collection
from typing import Any, Final

import httpx

from actors.outward import NotOutward, outward
from actors.pushes.actor import PushPerformer, Told
from actors.pushes.machine import TellOf, WatchTask
from actors.runtime.context import SystemClock
from bus.connection import Connection
from bus.errors import BusError
from infra.bridge.rest.told import run_of
from infra.called import Came, gone_on
from infra.client import Client
from infra.readback import LateStore
from infra.settings import Place
from schemas import codec
from schemas.errors import SchemaError
from schemas.live import Committed
from schemas.pushes import PushNoticed, PushTarget

log = logging.getLogger(__name__)

_AGAIN_S: Final = 1.0
_BEGIN_S: Final = 600.0
"""After so long a task that is not there will not be: whoever was to begin it is gone."""
_LOOK_S: Final = 30.0
"""Between two looks whether somebody is waited for, where nothing is heard of the task."""
_USER_AGENT: Final = f"ostinato/{importlib.metadata.version('ostinato')}"
_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 15.0
_RECORD_S: Final = 0.05
_LATE_LOOKS: Final = 100
_GONE: Final = 410


class Pushing:
    """Watches tasks, and sends word of them."""

    def __init__(self, connection: Connection, record: LateStore, allowed: Collection[str], *, on: bool) -> None:
        self._connection = connection
        self._record = record
        self._allowed = allowed
        self._on = on
        self._trusted: ssl.SSLContext | None = None

    async def watch(self, tenant: str, effect: WatchTask) -> PushNoticed:
        """Wait until a task is over, or waits for what it was not known to wait for."""
        client, known = self._client(tenant), effect.told
        while True:
            try:
                async with asyncio.timeout(_BEGIN_S):
                    came = await gone_on(client, effect.thread, effect.run, known, _unheard, longest_s=_LOOK_S)
                events = await self._events(client, effect.thread, effect.run)
                if not came.waits or _waits(effect, came, events):
                    return await _noticed(effect, came, events)
                known += _effects(came)
                continue
            except SchemaError:
                return PushNoticed(effect=effect.id, outcome="lost")  # its thread is being deleted
            except (BusError, TimeoutError) as error:
                log.info("push %s: %s", effect.id, error)
            if await self._is_missing(client, effect):
                return PushNoticed(effect=effect.id, outcome="lost")
            await asyncio.sleep(_AGAIN_S)

    async def tell(self, tenant: str, effect: TellOf) -> Told:
        """Send word of a task, once."""
        if not self._on:  # who was named before is told no more either
            return Told(problem="push notifications are switched off (a2a.push)", final=True)
        try:
            body = effect.due.body.encode() or await self._as_it_ended(tenant, effect)
        except (BusError, TimeoutError):
            return Told(problem="the task cannot be read now")
        except SchemaError:
            return Told(problem="the task is erased", final=True)
        return Told(problem="the task has no end yet") if body is None else await self._posted(effect, body)

    async def _is_missing(self, client: Client, effect: WatchTask) -> bool:
        try:
            return not await self._events(client, effect.thread, effect.run)
        except (BusError, TimeoutError):
            return False

    async def _as_it_ended(self, tenant: str, effect: TellOf) -> bytes | None:
        client = self._client(tenant)
        for _ in range(_LATE_LOOKS):
            events = await self._events(client, effect.thread, effect.run)
            shown = run_of(effect.run, effect.thread, events) if events else None
            if shown is not None and shown.ended is not None:
                return (await _written("task_shown", shown, ())).encode()
            await asyncio.sleep(_RECORD_S)
        return None

    async def _events(self, client: Client, thread: str, run: str) -> list[Committed]:
        return await client.read_back(client.tenant, thread, "run", run, 0)

    async def _posted(self, effect: TellOf, body: bytes) -> Told:
        target = effect.target
        try:
            if self._trusted is None:
                # reads the certificates that it trusts: those of SSL_CERT_FILE or SSL_CERT_DIR, where they are set
                self._trusted = await asyncio.to_thread(httpx.create_ssl_context)
        except OSError as error:
            return Told(problem=f"the certificates to be trusted cannot be read ({type(error).__name__})")
        try:
            async with asyncio.timeout(_ANSWER_S), _sender(self._trusted) as client:
                place = await outward(target.url, self._allowed)
                headers = {"host": place.host, "x-ostinato-delivery": effect.due.name, **_headers(target)}
                about: dict[str, Any] = {"headers": headers, "content": body, "extensions": place.extensions}
                return await _answered(client, [client.build_request("POST", url, **about) for url in place.urls])
        except NotOutward as refused:
            return Told(problem=str(refused))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return Told(problem=_unanswered(error))

    def _client(self, tenant: str) -> Client:
        return Client(self._connection, self._record.read_back, self._record.opened, tenant, "a2a")


def _waits(effect: WatchTask, came: Came, events: list[Committed]) -> bool:
    """Say whether what waits is the task's own, or of agents that it asked: not of a run before it in its thread."""
    begun = bool(events) and run_of(effect.run, effect.thread, events).status != "queued"
    own = (one.thread != effect.thread or one.effect.startswith(f"{effect.run}-") for one in came.waits)
    return begun and any(own)


def _effects(came: Came) -> tuple[str, ...]:
    return tuple(one.effect for one in came.waits)


async def _noticed(effect: WatchTask, came: Came, events: list[Committed]) -> PushNoticed:
    if came.waits:
        body = await _written("task_of", came)
        return PushNoticed(effect=effect.id, outcome="waiting", waits=_effects(came), body=body)
    # what was refused has no run that could be read later
    body = "" if events else await _written("task_of", came)
    return PushNoticed(effect=effect.id, outcome="ended", body=body)


def _unanswered(error: Exception) -> str:
    """Say why nothing was answered; the library's words may hold a header, those of a certificate's check do not."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):  # what Python raises itself has no reason
            return f"it speaks no TLS that could be understood ({getattr(cause, 'reason', None) or 'no reason'})"
        cause = cause.__cause__ or cause.__context__
    return f"no answer ({type(error).__name__})"


async def _answered(client: httpx.AsyncClient, requests: list[httpx.Request]) -> Told:
    """Send the first that somebody takes: of a name's addresses one may not be listened at."""
    *before, last = requests
    for request in before:
        with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
            return await _answer(client, request)
    return await _answer(client, last)


async def _answer(client: httpx.AsyncClient, request: httpx.Request) -> Told:
    response = await client.send(request, stream=True)
    try:
        return _judged(response)
    finally:
        await response.aclose()


def _sender(trusted: ssl.SSLContext) -> httpx.AsyncClient:
    """Make what sends one request: a connection that is kept is of an address, and was checked for one name alone."""
    timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
    return httpx.AsyncClient(verify=trusted, timeout=timeout, follow_redirects=False, trust_env=False)


def _headers(target: PushTarget) -> dict[str, str]:
    found = {
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
    }
    if target.token:
        found["x-a2a-notification-token"] = target.token
    if target.scheme and target.credentials:
        found["authorization"] = f"{target.scheme} {target.credentials}"
    return found


def _judged(response: httpx.Response) -> Told:
    code = response.status_code
    if response.is_success:
        return Told(code)
    if response.is_redirect:
        return Told(code, f"answered {code}: redirects are not followed")
    return Told(code, f"answered {code}", final=code == _GONE)


async def _written(name: str, *about: Any) -> str:
    """Write a task as clients read it, by a function of `infra.bridge.a2a.shapes`: the SDK's import takes a second."""

    def write() -> str:
        shapes = importlib.import_module("infra.bridge.a2a.shapes")
        plain = importlib.import_module("google.protobuf.json_format").MessageToDict
        return codec.encode({"task": plain(getattr(shapes, name)(*about))}).decode()

    return await asyncio.to_thread(write)


async def _unheard(text: str) -> None:
    """Tell nobody."""


def push_performer(place: Place, connection: Connection, record: LateStore) -> PushPerformer:
    """Make what performs them."""
    settings = place.settings.a2a
    pushing = Pushing(connection, record, settings.push_hosts, on=settings.push == "on")
    return PushPerformer(pushing.watch, pushing.tell, SystemClock(), settings.push_attempts)
