"""Keys as the bridge holds them: over the real log of a real NATS and Postgres."""

from __future__ import annotations

import asyncio
import re

import pytest

from actors.access.key import KIND
from bus.connection import Connection
from bus.live import Live
from bus.store import Store
from infra.api_keys import ApiKeys, digest_of, kept_up, new_secret
from schemas import codec
from schemas.commands import Command
from schemas.envelope import FORMAT, GENESIS, Envelope, Fact
from schemas.keys import IssueKey, RevokeKey
from schemas.live import Committed
from schemas.runs import CommandAccepted

NOW = 1_000_000


class Dice:
    """Chance that is always the same."""

    def bits(self, count: int) -> int:
        return (1 << count) - 1


def accepted(secret: str, data: IssueKey | RevokeKey) -> CommandAccepted:
    return CommandAccepted(Command(f"m-{secret}", "acme", KIND, "k1", str(data.__struct_config__.tag), data))


def issue(secret: str, **more: int) -> IssueKey:
    return IssueKey(digest_of(secret), secret[:12], ("inference",), **more)


def envelope(version: int, data: IssueKey | RevokeKey) -> Envelope:
    """A commit that says so of key k1."""
    event = accepted("ost_one", data)
    fact = Fact("acme", "k1", KIND, "k1", version, codec.tag(event), "m1", codec.payload(event), "")
    return Envelope(FORMAT, 0, 1, "w", f"c{version}", "code", NOW, GENESIS, (fact,))


def test_a_secret_is_256_bits_and_begins_with_what_it_is() -> None:
    secret = new_secret(Dice())
    assert re.fullmatch(r"ost_[A-Za-z0-9_-]{43}", secret.text)
    assert secret.text.startswith(secret.prefix)
    assert len(secret.prefix) == 12
    assert secret.text not in codec.encode(issue(secret.text)).decode()


def test_a_key_opens_until_it_expires_or_is_revoked() -> None:
    ring = ApiKeys()
    ring.note("acme", "k1", accepted("ost_one", issue("ost_one", expires=NOW)))
    assert ring.find("ost_one", NOW - 1) is not None
    assert ring.find("ost_one", NOW) is None
    assert ring.find("ost_two", NOW - 1) is None
    ring.note("acme", "k1", accepted("ost_one", RevokeKey()))
    assert ring.find("ost_one", NOW - 1) is None
    assert [key.id for key in ring.entries()] == ["k1"]


def test_a_revocation_that_is_heard_before_its_key_still_counts() -> None:
    ring = ApiKeys()
    ring.note("acme", "k1", accepted("ost_one", RevokeKey()))
    ring.note("acme", "k1", accepted("ost_one", issue("ost_one")))
    assert ring.find("ost_one", NOW) is None


class Listening(ApiKeys):
    """A keyring that says when it has heard something."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    async def hear(self, told: Committed) -> None:
        await super().hear(told)
        self.told.set()


@pytest.mark.anyio
@pytest.mark.servers
async def test_what_is_committed_counts_at_once(nats_url: str, store: Store) -> None:
    ring = Listening()
    async with (
        await Connection.open(nats_url, "here") as here,
        await Connection.open(nats_url, "there") as there,
        kept_up(ring, here, store),
    ):
        live = Live(there)
        for version, data, opens in ((1, issue("ost_one"), True), (2, RevokeKey(), False)):
            ring.told.clear()
            await live.committed(version, envelope(version, data))
            await ring.told.wait()
            assert (ring.find("ost_one", NOW) is not None) is opens
