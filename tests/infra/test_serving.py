"""Where the bridge listens."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

import pytest

from infra.errors import CannotListen, PortBusy
from infra.serving import address_in_url, listen
from infra.settings import Settings

pytestmark = pytest.mark.anyio


async def test_what_is_written_to_a_client_waits_for_nothing() -> None:
    options: asyncio.Queue[int] = asyncio.Queue()

    async def served(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        options.put_nowait(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    with contextlib.closing(listen(Settings(port=0))) as listening:
        async with asyncio.timeout(5), await asyncio.start_server(served, sock=listening):
            _, writer = await asyncio.open_connection(*listening.getsockname())
            assert await options.get()
            writer.close()


async def test_a_port_that_somebody_has_is_said_to_be_busy_and_a_foreign_address_not_to_be_had() -> None:
    with contextlib.closing(listen(Settings(port=0))) as listening, pytest.raises(PortBusy):
        listen(Settings(port=listening.getsockname()[1]))
    with pytest.raises(CannotListen):
        listen(Settings(host="192.0.2.1", port=0))


async def test_a_machine_without_such_addresses_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*about: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuses)
    with pytest.raises(CannotListen, match=r"::1.*not supported"):
        listen(Settings(host="::1", port=0))


async def test_an_address_of_ipv6_is_listened_on_and_written_as_urls_have_it() -> None:
    try:
        taken = listen(Settings(host="::1", port=0))
    except CannotListen as error:
        pytest.skip(str(error))
    with contextlib.closing(taken) as listening:
        assert listening.family == socket.AF_INET6
        assert listening.getsockname()[0] == "::1"
    assert [address_in_url(host) for host in ("::1", "127.0.0.1", "localhost")] == ["[::1]", "127.0.0.1", "localhost"]
