"""The grammar of subjects: the only place where one is built or taken apart.

Ids are lower-case letters, digits, `-` and `_`, so that they can be subject tokens as they are; names given by
people (models, engines) are encoded first.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from bus.errors import BadSubject

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_SAFE = re.compile(r"[a-z0-9_]")

COMMANDS_IN = "in.*.*.*.*"
EVENTS = "ev.*"
STEP_PLANS = "step.*.plan"
STEP_RESULTS = "step.*.result"
STEP_TOLD = "step.*.told"
STALLS = "step.*.stall"
WORKERS = "step.*.worker"
SERVED = "step.*.served"
FRAMES = "trace.*.*.*"
DEAD = "dead.*.*"
HEALTH = "health.*"
BLOB_CHUNKS = "$O.BLOB.C.>"
BLOB_INFOS = "$O.BLOB.M.>"
LEASES = "$KV.LEASE.*"
SPENT = "spent.*"
EMBED_ELSEWHERE = "rpc.embeddings.ask"
"""Where processes with keys give vectors of models elsewhere."""
KEYS = "live.*.key.*"
"""What is committed of API keys."""
MEMORY = "rpc.memory.*.*"
OPENED_TOOLS = "rpc.opened-tools.list"
"""Where it is asked which tools are open to clients by themselves."""
KEYS_DESTROYED = "keys.destroyed"
"""Core only: whoever keeps these keys forgets them."""
THREAD_ERASED = "thread.erased"
"""Core only: whoever keeps what came of this thread gives it up."""
LEASES_CHANGED = "lease.changed"
"""Core only: a process has come or gone, look at the leases now."""


class CommandSubject(NamedTuple):
    """The parts of `cmd.<shard>.<tenant>.<kind>.<thread>.<verb>`."""

    shard: int
    tenant: str
    kind: str
    thread: str
    verb: str


def checked(value: str, what: str) -> str:
    """Return `value` if it can be a subject token.

    Raises:
        BadSubject: names `what` and the rule.
    """
    if not _ID.fullmatch(value):
        raise BadSubject(
            f"{what} {value!r} cannot be used: 1 to 63 lower-case letters, digits, '-' or '_', "
            "beginning with a letter or digit"
        )
    return value


@lru_cache(1024)  # each step's subjects name the engine
def encoded(name: str) -> str:
    """Make any name a subject token: what is not `[a-z0-9_]` becomes `-` and two hex digits per UTF-8 byte.

    Raises:
        BadSubject: the name is empty, not Unicode text, or its encoding longer than 200 characters.
    """
    try:
        token = "".join(c if _SAFE.fullmatch(c) else "".join(f"-{b:02x}" for b in c.encode()) for c in name)
    except UnicodeEncodeError as error:
        raise BadSubject(f"name {name[:80]!r} cannot be used: it is not Unicode text") from error
    if not token or len(token) > 200:
        raise BadSubject(f"name {name[:80]!r} cannot be used: 1 to 200 characters once encoded")
    return token


def decoded(token: str) -> str:
    """Make a subject token the name that `encoded` made it of."""
    head, *parts = token.split("-")
    data = head.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in parts)
    return data.decode(errors="replace")


def command(tenant: str, kind: str, thread: str, verb: str) -> str:
    """Where a client asks for something."""
    parts = (checked(tenant, "tenant"), checked(kind, "kind"), checked(thread, "thread"), checked(verb, "verb"))
    return ".".join(("in", *parts))


def command_transform(shards: int) -> tuple[str, str]:
    """Source and destination of the stream's own transform, which puts the shard of the thread id in front."""
    return (
        COMMANDS_IN,
        f"cmd.{{{{partition({shards},3)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}.{{{{wildcard(4)}}}}",
    )


def shard_commands(shard: int) -> str:
    """All commands of a shard."""
    return f"cmd.{shard}.>"


def parse_command(subject: str) -> CommandSubject:
    """Take a delivered command's subject apart.

    Raises:
        BadSubject: it is not a command's subject.
    """
    parts = subject.split(".")
    if len(parts) != 6 or parts[0] != "cmd" or not _NUMBER.fullmatch(parts[1]):
        raise BadSubject(f"{subject!r} is not a command subject (cmd.<shard>.<tenant>.<kind>.<thread>.<verb>)")
    return CommandSubject(int(parts[1]), *parts[2:])


def events(shard: int) -> str:
    """Where a shard's commits go."""
    return f"ev.{shard}"


def submit(engine: str) -> str:
    """Where a scheduler takes generations."""
    return f"gen.{encoded(engine)}.submit"


def attach(engine: str) -> str:
    """Where a scheduler sends a generation's tokens again."""
    return f"gen.{encoded(engine)}.attach"


def abort(engine: str) -> str:
    """Where a scheduler is told to stop a generation."""
    return f"gen.{encoded(engine)}.abort"


def note(engine: str) -> str:
    """Where a scheduler hears of programs between their turns."""
    return f"gen.{encoded(engine)}.note"


def drain(engine: str) -> str:
    """Where a scheduler is told to begin nothing new."""
    return f"gen.{encoded(engine)}.drain"


def describe(engine: str) -> str:
    """Where a scheduler says what it serves."""
    return f"gen.{encoded(engine)}.describe"


def outputs(engine: str, frontend: str) -> str:
    """Where a scheduler sends a frontend's tokens."""
    return f"gen.{encoded(engine)}.out.{checked(frontend, 'frontend')}"


def announcements(engine: str) -> str:
    """Where a scheduler says that it has started."""
    return f"gen.{encoded(engine)}.up"


def plan(engine: str) -> str:
    """Where step plans go."""
    return f"step.{encoded(engine)}.plan"


def told(engine: str) -> str:
    """Where a scheduler tells what it was told, when no plan can do so."""
    return f"step.{encoded(engine)}.told"


def stall(engine: str) -> str:
    """Where a scheduler says that nothing moves, and when it does again."""
    return f"step.{encoded(engine)}.stall"


def worker(engine: str) -> str:
    """Where a worker says what it computes with."""
    return f"step.{encoded(engine)}.worker"


def served(engine: str) -> str:
    """Where a scheduler tells how a request went that is over."""
    return f"step.{encoded(engine)}.served"


def result(engine: str) -> str:
    """Where step results go."""
    return f"step.{encoded(engine)}.result"


def resync(engine: str) -> str:
    """Where a worker asks for a full plan."""
    return f"step.{encoded(engine)}.resync"


def forget(engine: str) -> str:
    """Where a scheduler is told to empty its prefix cache."""
    return f"gen.{encoded(engine)}.forget"


def prepared(engine: str) -> str:
    """Where a worker says what became of a grammar."""
    return f"step.{encoded(engine)}.prepared"


def live(tenant: str, kind: str, entity: str) -> str:
    """Where watchers of an entity listen."""
    return f"live.{tenant}.{kind}.{entity}"


def tenant_of_frames(subject: str) -> str:
    """Say whose the frames on a subject are."""
    return subject.split(".", 2)[1]


def frames(tenant: str, kind: str, entity: str) -> str:
    """Where the delta frames of an entity are kept."""
    return f"trace.{tenant}.{kind}.{entity}"


def dead(shard: int, kind: str) -> str:
    """Where commands go that nobody could handle."""
    return f"dead.{shard}.{kind}"


def health(process: str) -> str:
    """Where a process writes to see whether the log takes writes."""
    return f"health.{checked(process, 'process')}"


def lease(process: str) -> str:
    """A process's sign of life."""
    return f"$KV.LEASE.{checked(process, 'process')}"


def status(slot: str) -> str:
    """Where a process says how it does."""
    return f"rpc.{checked(slot, 'slot')}.status"


def tool_cancelled(name: str) -> str:
    """Where all instances of a tool's service hear of calls that nobody waits for any more.

    Raises:
        BadSubject: it cannot be one.
    """
    return tool(name).removesuffix("call") + "cancel"


def tool(name: str) -> str:
    """Where a tool that is a NATS service is called; its name may have capitals.

    Raises:
        BadSubject: it cannot be one.
    """
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        raise BadSubject(f"tool {name!r} cannot be a service: use letters, digits, '-' and '_' (at most 64)")
    return f"rpc.tool-{name}.call"


def memory(verb: str, tenant: str) -> str:
    """Where something is asked of a tenant's memory."""
    return f"rpc.memory.{verb}.{tenant}"


def parse_memory(subject: str) -> tuple[str, str]:
    """Read the verb and the tenant back."""
    _, _, verb, tenant = subject.split(".")
    return verb, tenant


def spent(tenant: str) -> str:
    """Where processes tell one another what was spent on models."""
    return f"spent.{tenant}"


def ask_model(name: str) -> str:
    """Where a model that a process offers to others is asked."""
    return f"rpc.model-{encoded(name)}.generate"


def abort_model(name: str) -> str:
    """Where whoever offers a model hears that an answer is not wanted any more."""
    return f"rpc.model-{encoded(name)}.abort"


def ask_text(name: str) -> str:
    """Where a served model's tokenizer is asked."""
    return f"rpc.text-{encoded(name)}.ask"


def ask_pooler(name: str) -> str:
    """Where a model that gives vectors or scores is asked."""
    return f"rpc.pooler-{encoded(name)}.ask"


def agent(verb: str, harness: str, owner: str, name: str) -> str:
    """Where an agent is reached by the NATS agent protocol."""
    parts = (checked(harness, "harness"), checked(owner, "tenant"), checked(name, "agent"))
    return ".".join(("agents", verb, *parts))
