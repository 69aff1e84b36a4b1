"""`ostinato keys`: let programs in over HTTP, see who may come in, and let them in no more."""

from __future__ import annotations

import argparse
import asyncio
import sys

import msgspec

from actors.access.key import Key
from actors.runtime.context import SystemChance, SystemClock, SystemIds
from bus import subjects
from infra.access import current_record
from infra.api_keys import ApiKeys, digest_of, new_secret
from infra.cli.asking import key_command
from infra.cli.printing import say, say_json
from infra.cli.session import session
from infra.cli.terminal import printable, style_for
from schemas.keys import IssueKey, RevokeKey
from schemas.live import Outcome
from schemas.times import DAY, rfc3339


class IssuedKey(msgspec.Struct, frozen=True):
    """What `keys create --json` prints."""

    id: str
    key: str
    """The secret: here, and never again."""
    tenant: str
    scopes: tuple[str, ...]
    expires: str


class KeyLine(msgspec.Struct, frozen=True):
    """What `keys list --json` prints of a key."""

    id: str
    prefix: str
    tenant: str
    name: str
    scopes: tuple[str, ...]
    state: str
    """`active`, `revoked` or `expired`."""
    created: str
    expires: str
    revoked: str
    resource: str = ""
    """The one person or project that its holder is."""


def main(options: argparse.Namespace) -> int:
    """Run one verb."""
    return _VERBS[options.verb](options)


def _create(options: argparse.Namespace) -> int:
    secret, ids = new_secret(SystemChance()), SystemIds()
    expires = 0 if options.days is None else SystemClock().now() + options.days * DAY
    data = IssueKey(
        digest=digest_of(secret.text),
        prefix=secret.prefix,
        scopes=tuple(dict.fromkeys(options.scope or ("inference", "agents"))),
        name=options.name,
        expires=expires,
        requests_per_minute=options.requests_per_minute or 0,
        concurrent=options.concurrent or 0,
        tokens_per_minute=options.tokens_per_minute or 0,
        resource=options.resource,
    )
    tenant = subjects.checked(options.tenant, "tenant")
    command = key_command(ids.new("k"), data, tenant)
    with session(options.data, _notice) as line:
        outcome = line.send(command)
    if outcome.problem is not None:
        return _refused(outcome)
    until = rfc3339(expires) if expires else ""
    if options.json:
        say_json(IssuedKey(command.thread, secret.text, tenant, data.scopes, until))
        return 0
    say(secret.text)
    ends = f", until {until}" if until else ""
    bound = f", bound to {data.resource}" if data.resource else ""
    _notice(f"key {command.thread} of tenant {tenant}{bound} for {', '.join(data.scopes)}{ends}; it is not shown again")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    key = subjects.checked(options.key, "key")
    command = key_command(key, RevokeKey(reason=options.reason), subjects.checked(options.tenant, "tenant"))
    with session(options.data, _notice) as line:
        outcome = line.send(command)
    if outcome.problem is not None:
        return _refused(outcome)
    if options.json:
        say_json(outcome)
    else:
        say(f"key {key} opens nothing any more")
    return 0


def _list(options: argparse.Namespace) -> int:
    ring = asyncio.run(_recorded(options.data))
    now = SystemClock().now()
    lines = [_line(key, now) for key in ring.entries() if options.tenant in {None, key.tenant}]
    for line in lines:
        if options.json:
            say_json(line)
        else:
            say(
                printable(
                    f"{line.id}  {line.prefix}…  {line.state:8}{line.tenant}  {','.join(line.scopes)}  {line.name}"
                    + (f"  bound to {line.resource}" if line.resource else "")
                )
            )
    if not lines and not options.json:
        say("no keys; `ostinato keys create` makes one")
    return 0


async def _recorded(data: str) -> ApiKeys:
    ring = ApiKeys()
    async with current_record(data) as (store, _):
        await ring.read(store)
    return ring


def _line(key: Key, now: int) -> KeyLine:
    issued = key.issued
    assert issued is not None
    expired = 0 < issued.expires <= now
    return KeyLine(
        id=key.id,
        prefix=issued.prefix,
        tenant=key.tenant,
        name=issued.name,
        scopes=issued.scopes,
        state="revoked" if key.revoked is not None else "expired" if expired else "active",
        created=key.time,
        expires=rfc3339(issued.expires) if issued.expires else "",
        revoked=key.revoked_at,
        resource=issued.resource,
    )


def _refused(outcome: Outcome) -> int:
    assert outcome.problem is not None
    sys.stderr.write(style_for(sys.stderr).problem(f"ostinato: {outcome.problem.message}") + "\n")
    return 1


def _notice(text: str) -> None:
    sys.stderr.write(f"({text})\n")


_VERBS = {"create": _create, "list": _list, "revoke": _revoke}
