"""Addresses that somebody outside named: only those that all the world can reach are gone to, whatever a name says.

A name is resolved first, each of its addresses is judged, and connections go to those that were: between the look and
the request nobody can have it mean another machine. What answers with a redirect is not followed by whoever uses this.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

import httpx

from actors.blocking import called
from actors.errors import NoThreadLeft

# it tells of every request, and so of what stands in its URL
logging.getLogger("httpx").setLevel(logging.WARNING)
logging.getLogger("httpcore").setLevel(logging.WARNING)

_RESOLVE_S: Final = 5.0
_PORTS: Final = {"http": 80, "https": 443}
_TRANSLATED: Final = ip_network("64:ff9b::/96")
"""IPv6 addresses whose last 32 bits are an IPv4 address that a gateway goes to (RFC 6052)."""


class NotOutward(Exception):
    """An address that is not gone to; the message says why, and names no more than its host."""


class Outward(NamedTuple):
    """Where a request goes, and whom it is for."""

    urls: tuple[httpx.URL, ...]
    """With each of its addresses in place of the name, in the order of the resolver: one may not be listened at."""
    host: str
    """The header `Host`."""
    name: str
    """Whom the certificate must be of."""

    @property
    def extensions(self) -> dict[str, str]:
        """What httpx is to be told beside the URL."""
        return {"sni_hostname": self.name} if self.urls[0].scheme == "https" else {}


async def outward(url: str, allowed: Collection[str] = ()) -> Outward:
    """Find out where a URL leads.

    Args:
        url: what somebody named.
        allowed: names of hosts, addresses and networks (`10.1.0.0/16`) that may be gone to though they are not public.

    Raises:
        NotOutward: it is no URL of the web, its name cannot be resolved, or an address of its is not public.
    """
    try:
        asked = httpx.URL(url)
    except (httpx.InvalidURL, ValueError, TypeError):
        raise NotOutward("it is no URL") from None
    if asked.scheme not in _PORTS or not asked.host:
        raise NotOutward("give a URL that begins with http:// or https://")
    if asked.port is not None and asked.port not in range(1, 1 << 16):
        raise NotOutward(f"{asked.port} is no port")
    if asked.userinfo:
        raise NotOutward("a URL may hold no name or password")
    name = asked.raw_host.decode("ascii").rstrip(".").lower()
    found = await _resolved(name, asked.port or _PORTS[asked.scheme])
    if name not in {one.lower() for one in allowed}:
        networks = [network for one in allowed if (network := _network(one)) is not None]
        for address in found:
            if not is_public(address) and not any(address in network for network in networks):
                raise NotOutward(f"host {name!r} is not public")
    urls = tuple(asked.copy_with(host=str(address), fragment=None) for address in dict.fromkeys(found))
    return Outward(urls, asked.netloc.decode("ascii"), name)


async def _resolved(name: str, port: int) -> list[IPv4Address | IPv6Address]:
    try:
        async with asyncio.timeout(_RESOLVE_S):
            found = await called("the resolver of names", socket.getaddrinfo, name, port, type=socket.SOCK_STREAM)
        addresses = [_plain(ip_address(str(one[4][0]).partition("%")[0])) for one in found]
    except (OSError, UnicodeError, ValueError, TimeoutError, NoThreadLeft):
        raise NotOutward(f"host {name!r} cannot be resolved") from None
    if not addresses:
        raise NotOutward(f"host {name!r} cannot be resolved")
    return addresses


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Give the IPv4 address that is written as one of IPv6."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_public(address: str | IPv4Address | IPv6Address) -> bool:
    """Say whether an address is anybody's in the world, and one machine's, and so is any other that it stands for.

    Raises:
        ValueError: it is no address.
    """
    found = _plain(ip_address(address))
    if isinstance(found, IPv6Address):
        through = [found.sixtofour, *(found.teredo or ())]
        if found in _TRANSLATED:
            through.append(IPv4Address(int(found) & 0xFFFF_FFFF))
        if found.is_site_local or not all(is_public(inner) for inner in through if inner is not None):
            return False
    bad = found.is_private or found.is_loopback or found.is_link_local or found.is_multicast
    return found.is_global and not (bad or (found.is_reserved and found not in _TRANSLATED))


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None
