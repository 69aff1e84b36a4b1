"""Addresses that somebody outside named: what is not public is not gone to, however it is written or resolved."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from actors.outward import NotOutward, outward

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Have every name mean these."""

    def found(host: str, port: int, **about: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", found)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.0.0.1", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "240.0.0.1", "192.0.2.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fd00::1", "fec0::1",
        "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2002:a00:1::1",
    ],
)  # fmt: skip
async def test_a_name_of_an_address_that_is_not_public_leads_nowhere(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    resolving(monkeypatch, address)
    with pytest.raises(NotOutward, match=r"'hook.example.com' is not public"):
        await outward("https://hook.example.com/x")
    resolving(monkeypatch, "8.8.8.8", address)
    with pytest.raises(NotOutward, match="not public"):
        await outward("https://hook.example.com/x")


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://localhost./", "http://[::1]:80/"]
)
async def test_this_machine_is_not_gone_to_however_it_is_written(url: str) -> None:
    with pytest.raises(NotOutward, match="not public"):
        await outward(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "give a URL"),
        ("file:///etc/passwd", "give a URL"),
        ("ftp://example.com/", "give a URL"),
        ("http:///x", "give a URL"),
        ("http://exa mple.com/", "cannot be resolved"),
        ("http://[::1/", "no URL"),
        ("http://8.8.8.8:99999999/", "no port"),
        ("http://8.8.8.8:0/", "no port"),
        ("http://user:password@example.com/", "no name or password"),
    ],
)
async def test_what_is_no_address_of_the_web_says_so(url: str, why: str) -> None:
    with pytest.raises(NotOutward, match=why):
        await outward(url)


async def test_a_public_address_is_gone_to_as_it_was_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "8.8.8.8")
    found = await outward("https://hook.example.com:8443/x?y=1#z")
    assert str(found.urls[0]) == "https://8.8.8.8:8443/x?y=1"
    assert (found.host, found.extensions) == ("hook.example.com:8443", {"sni_hostname": "hook.example.com"})
    resolving(monkeypatch, "2001:4860:4860::8888")
    assert str((await outward("http://hook.example.com/")).urls[0]) == "http://[2001:4860:4860::8888]/"


async def test_each_address_of_a_name_may_be_gone_to_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "2001:4860:4860::8888", "8.8.8.8", "8.8.8.8")
    hosts = [url.host for url in (await outward("http://hook.example.com/")).urls]
    assert hosts == ["2001:4860:4860::8888", "8.8.8.8"]


@pytest.mark.parametrize("allowed", [["127.0.0.1"], ["127.0.0.0/8"], ["LOCALHOST"], ["nonsense", "127.0.0.1/32"]])
async def test_what_is_allowed_is_gone_to(monkeypatch: pytest.MonkeyPatch, allowed: list[str]) -> None:
    resolving(monkeypatch, "127.0.0.1")
    assert (await outward("http://localhost:81/", allowed)).urls[0].host == "127.0.0.1"
    with pytest.raises(NotOutward):
        await outward("http://localhost.example.com/", ["localhost", "10.0.0.0/8", "::/0"])
