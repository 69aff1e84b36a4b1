"""The HTTP bridge's server: bound, encrypted where it is set so, and open to those who may come in."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from actors.runtime.context import SystemClock
from bus.connection import Connection
from bus.store import Store
from infra.api_keys import ApiKeys, kept_up
from infra.bridge.access import Access, needs_key
from infra.bridge.tokens import Issuer
from infra.bridge.wire import BoundedProtocol
from infra.errors import CannotListen, InfraError, PortBusy
from infra.settings import AccessSettings, LimitSettings, Settings

log = logging.getLogger(__name__)

_BACKLOG = 2048


class CertificateUnfit(InfraError):
    """The certificate or its key cannot be used."""


def check_access(settings: AccessSettings) -> None:
    """See that what is set for access can be used, before anything is started.

    Raises:
        CertificateUnfit: names the setting and the mend.
        IssuerUnfit: likewise.
    """
    if settings.issuer:
        Issuer(settings)
    if settings.tls_key and not settings.tls_certificate:
        raise CertificateUnfit("access.tls_key: there is no certificate to it: set access.tls_certificate")
    if settings.tls_certificate:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key or None)
        except (OSError, ssl.SSLError) as error:
            problem = f"access.tls_certificate: {settings.tls_certificate!r} cannot be used: {error}"
            raise CertificateUnfit(f"{problem}: name PEM files of a certificate and its key") from error


def scheme(settings: AccessSettings) -> str:
    """Return how the bridge is reached."""
    return "https" if settings.tls_certificate else "http"


def places_of(settings: Settings) -> int:
    """Return how many requests may be under way at once."""
    return settings.limits.in_flight or 2 * settings.engine.max_running


def listen(settings: Settings) -> socket.socket:
    """Take the bridge's port before anything is started.

    Raises:
        PortBusy: somebody else has it.
        CannotListen: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        # said to be TCP, for only then asyncio has what is written sent at once: else a token may wait for 40 ms
        listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:  # no such addresses here
        raise CannotListen(settings.host, settings.port, error) from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise PortBusy(settings.host, settings.port) from error
        raise CannotListen(settings.host, settings.port, error) from error
    return listening


def address_in_url(host: str) -> str:
    """Write a host or an address as it stands in a URL: one of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


@asynccontextmanager
async def access_to(settings: Settings, connection: Connection, store: Store) -> AsyncIterator[Access]:
    """Say who may come in, as the log has it, for as long as the block runs.

    Raises:
        Unavailable: a server cannot be reached.
    """
    access, ring = settings.access, ApiKeys()
    required = needs_key(access, settings.host)
    issuer = Issuer(access) if access.issuer else None
    if access.required == "never" and needs_key(AccessSettings(), settings.host):
        log.warning("%s is open to everybody who reaches it: access.required is 'never'", settings.host)
    async with kept_up(ring, connection, store):
        yield Access(access, required, settings.tenant, ring, SystemClock(), issuer)


@asynccontextmanager
async def serving(
    application: ASGIApp, settings: AccessSettings, limits: LimitSettings, listening: socket.socket
) -> AsyncIterator[None]:
    """Serve an application on a socket for as long as the block runs."""
    config = uvicorn.Config(
        application,
        http=partial(BoundedProtocol, limits.header_kb << 10),  # type: ignore[arg-type]  # called as the class is
        log_config=None,
        lifespan="off",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
        backlog=_BACKLOG,
        ws="none",
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=(Path(settings.tls_key) if settings.tls_key else None),
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve([listening]), name="bridge")
    up = asyncio.create_task(server.up.wait())
    await asyncio.wait({task, up}, return_when=asyncio.FIRST_COMPLETED)
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the launcher's own process decides when to stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        self.up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals alone."""
        yield
