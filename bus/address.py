"""A server's address as settings give it: a URL, or several of one cluster parted by commas, maybe with a password."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

_NEXT = re.compile(r",\s*(?=[a-z]+://)")
_LOGIN = re.compile(r"([a-z][a-z0-9+.]*)://((?:(?!,\s*[a-z]+://).)*)@", re.IGNORECASE)
_PARAMETER = re.compile(r"(password=)[^&\s]*", re.IGNORECASE)


def masked(url: str) -> str:
    """Return an address that may be shown: passwords, and tokens of NATS, are stars.

    Takes what is no proper URL too: a mistyped one holds a password as well.
    """
    if "://" not in url:
        return _PARAMETER.sub(r"\1***", "***@" + url.rpartition("@")[2] if "@" in url else url)
    return _PARAMETER.sub(r"\1***", _LOGIN.sub(_without_password, url))


def _without_password(found: re.Match[str]) -> str:
    scheme, (user, parted, _) = found[1], found[2].partition(":")
    if parted:
        return f"{scheme}://{user}:***@"
    # where NATS reads one word, it is a token
    return f"{scheme}://{user}@" if scheme.startswith("postgres") else f"{scheme}://***@"


def nats_servers(url: str) -> list[str]:
    """Return each server of an address."""
    return [server.strip() for server in _NEXT.split(url)]


def nats_login(url: str) -> dict[str, str]:
    """Return what the client sends to every server, those that it hears of only later too.

    Raises:
        ValueError: this is no URL.
    """
    split = [urlsplit(server) for server in nats_servers(url)]
    for parts in split:
        _ = parts.port  # raises where it is none
        if parts.password is not None:
            return {"user": unquote(parts.username or ""), "password": unquote(parts.password)}
        if parts.username:
            return {"token": unquote(parts.username)}
    return {}
