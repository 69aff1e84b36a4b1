"""The streams, as data: what each keeps, how it persists, and how to make or update it at start."""

from __future__ import annotations

from typing import Any

from bus import subjects
from bus.connection import Connection
from bus.errors import IncompatibleStream, Refused, ServerTooOld

OLDEST_SERVER = (2, 14)
"""Schedules, per-message TTL, async persistence and fast ingest are all there from here."""

CLUSTER = 3
"""Replicas in a cluster: one server may fail."""
TOO_FEW_SERVERS = frozenset({10005, 10074})
"""JetStream's codes for more replicas than there are servers."""

PASSING = frozenset({10004, 10008, 10009})
"""JetStream's codes for a cluster that is choosing its leader: asked again it answers."""

NOT_FOUND = 10059
"""JetStream's code for a stream that is not there."""
NO_MESSAGE = 10037
"""JetStream's code for a message that is not there."""
_SECOND = 1_000_000_000

EV = "EV"
CMD = "CMD"
TRACE = "TRACE"
DEAD = "DEAD"
HEALTH = "HEALTH"
LEASE = "KV_LEASE"
BLOBS = "OBJ_BLOB"
"""The stream of object store BLOB."""
TAKES_COMMANDS = "takes commands"
"""The description of CMD, unless admission is closed: a start opens it."""
_PROBE = "OSTINATO_PROBE"


def stream_configs(shards: int, replicas: int = 1) -> list[dict[str, Any]]:
    """Every stream's configuration, as the JetStream API takes it."""
    source, destination = subjects.command_transform(shards)
    return [
        {
            "name": EV,
            "subjects": [subjects.EVENTS],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "allow_direct": True,
            "num_replicas": replicas,
            "duplicate_window": 120 * _SECOND,
            "metadata": {"ostinato_shards": str(shards)},
        },
        {
            "name": CMD,
            "subjects": [subjects.COMMANDS_IN],
            "retention": "workqueue",
            "storage": "file",
            "discard": "new",
            "max_msgs": 100_000,
            "max_bytes": -1,
            "description": TAKES_COMMANDS,
            "num_replicas": replicas,
            "duplicate_window": 600 * _SECOND,
            "subject_transform": {"src": source, "dest": destination},
        },
        {
            "name": TRACE,
            "subjects": [
                subjects.STEP_PLANS,
                subjects.STEP_RESULTS,
                subjects.STEP_TOLD,
                subjects.STALLS,
                subjects.WORKERS,
                subjects.SERVED,
                subjects.FRAMES,
            ],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            # traces need not wait for the disk, but nats-server refuses this of a replicated stream, and in a cluster a
            # stream of one replica would keep a stack from starting while its server is away
            **({"persist_mode": "async"} if replicas == 1 else {}),
            "max_age": 7 * 86_400 * _SECOND,
            "max_bytes": 2 << 30,
            "allow_direct": True,
            "allow_batched": True,
            "num_replicas": replicas,
            "duplicate_window": 100_000_000,
        },
        {
            "name": DEAD,
            "subjects": [subjects.DEAD],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": replicas,
        },
        {
            "name": HEALTH,
            "subjects": [subjects.HEALTH],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "max_msgs_per_subject": 1,
            "num_replicas": replicas,
            "duplicate_window": 100_000_000,
        },
        {
            "name": BLOBS,
            "subjects": [subjects.BLOB_CHUNKS, subjects.BLOB_INFOS],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "allow_rollup_hdrs": True,
            "allow_direct": True,
            "num_replicas": replicas,
            "duplicate_window": 100_000_000,
        },
        _lease_config(replicas),
    ]


def _lease_config(replicas: int) -> dict[str, Any]:
    return {
        "name": LEASE,
        "subjects": [subjects.LEASES],
        "retention": "limits",
        "storage": "memory",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_age": 2 * _SECOND,
        "duplicate_window": 2 * _SECOND,
        "allow_direct": True,
        "num_replicas": replicas,
    }


async def restore_leases(connection: Connection) -> None:
    """Make the lease stream anew if it is gone: it lives in memory, and a single server that restarts forgets it.

    It gets as many replicas as the log has.

    Raises:
        Refused: JetStream says no.
        Unavailable: no JetStream.
        TimeoutError: no answer.
    """
    try:
        await connection.api(f"STREAM.INFO.{LEASE}")
    except Refused as refusal:
        if refusal.code != NOT_FOUND:
            raise
        log = await connection.api(f"STREAM.INFO.{EV}")
        await connection.api(f"STREAM.CREATE.{LEASE}", _lease_config(log["config"]["num_replicas"]))


async def fitting_replicas(connection: Connection) -> int:
    """Return how many replicas the log has, or for a new one how many it can have: 3 in a cluster, else 1.

    A client is told of a cluster's addresses but not of its members, so a stream is made to find out, and deleted.

    Raises:
        Refused: JetStream says no.
        Unavailable: no JetStream.
        TimeoutError: no answer.
    """
    try:
        log = await connection.api(f"STREAM.INFO.{EV}")
    except Refused as refusal:
        if refusal.code != NOT_FOUND:
            raise
    else:
        return int(log["config"]["num_replicas"])
    probe = {"name": _PROBE, "subjects": ["ostinato.probe"], "storage": "memory", "num_replicas": CLUSTER}
    try:
        await connection.api(f"STREAM.CREATE.{_PROBE}", probe)
    except Refused as refusal:
        if refusal.code not in TOO_FEW_SERVERS:
            raise
        return 1
    await connection.api(f"STREAM.DELETE.{_PROBE}")
    return CLUSTER


async def ensure_streams(connection: Connection, shards: int, replicas: int = 1) -> None:
    """Make what is missing, update what differs; safe to run at every start and by several processes at once.

    Raises:
        ServerTooOld: the server lacks what we rely on.
        IncompatibleStream: an existing stream was made with another number of shards, or a setting that is fixed.
    """
    found = connection.server_version
    numbers = tuple(int(part) for part in found.split(".")[:2])
    if numbers < OLDEST_SERVER:
        raise ServerTooOld(found, ".".join(map(str, OLDEST_SERVER)))
    for config in stream_configs(shards, replicas):
        await _ensure(connection, config)


async def _ensure(connection: Connection, config: dict[str, Any]) -> None:
    name = config["name"]
    try:
        info = await connection.api(f"STREAM.INFO.{name}")
    except Refused as refusal:
        if refusal.code != NOT_FOUND:
            raise
        await connection.api(f"STREAM.CREATE.{name}", config)
        return
    present = info["config"]
    made_for = present.get("metadata", {}).get("ostinato_shards")
    wanted = config.get("metadata", {}).get("ostinato_shards")
    if wanted is not None and made_for != wanted:
        raise IncompatibleStream(name, f"made for {made_for} shards, settings say {wanted}")
    fixed = ("persist_mode", "num_replicas")
    if _mode(present) != _mode(config):
        # fixed when a stream is made, and the replicas go with it: traces stay as they were
        config = {key: value for key, value in config.items() if key not in fixed}
    if all(present.get(key) == value for key, value in config.items() if key != "metadata"):
        return
    try:
        await connection.api(f"STREAM.UPDATE.{name}", {**present, **config})
    except Refused as refusal:
        raise IncompatibleStream(name, refusal.description) from refusal


def _mode(config: dict[str, Any]) -> str:
    return str(config.get("persist_mode") or "default")
