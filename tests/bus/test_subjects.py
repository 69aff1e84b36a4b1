"""The grammar of subjects, and the server's own transform that shards by thread."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import subjects
from bus.connection import Connection
from bus.errors import BadSubject, IncompatibleStream
from bus.streams import CMD, ensure_streams

short = st.text(max_size=16)
ids = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)


@given(short, short)
def test_encoding_never_makes_two_names_one(one: str, other: str) -> None:
    if one and other and one != other:
        assert subjects.encoded(one) != subjects.encoded(other)


@given(short.filter(bool))
def test_an_encoded_name_is_one_subject_token(name: str) -> None:
    assert set(subjects.encoded(name)) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")
    assert subjects.decoded(subjects.encoded(name)) == name


def test_a_model_name_stays_readable() -> None:
    assert subjects.encoded("Qwen/Qwen3-0.6B") == "-51wen-2f-51wen3-2d0-2e6-42"


@pytest.mark.parametrize("name", ["", "x" * 201, "é" * 40, "\ud800"])
def test_a_name_that_cannot_be_encoded_is_refused(name: str) -> None:
    with pytest.raises(BadSubject):
        subjects.encoded(name)


@pytest.mark.parametrize("value", ["", "A", "a.b", "a b", "*", ">", "-a", "_a", "a" * 64, "a\n", "é"])
def test_an_id_that_cannot_be_a_token_is_refused_by_name(value: str) -> None:
    with pytest.raises(BadSubject, match="thread"):
        subjects.command("acme", "agent", value, "run")


@given(st.integers(0, 10**6), ids, ids, ids, ids)
def test_a_delivered_commands_subject_is_taken_apart(
    shard: int, tenant: str, kind: str, thread: str, verb: str
) -> None:
    where = subjects.parse_command(f"cmd.{shard}.{tenant}.{kind}.{thread}.{verb}")
    assert where == (shard, tenant, kind, thread, verb)


@pytest.mark.parametrize("subject", ["", "cmd", "cmd.1.a.b.c", "cmd.1.a.b.c.d.e", "in.1.a.b.c.d", "cmd.².a.b.c.d"])
def test_what_is_no_command_subject_is_refused(subject: str) -> None:
    with pytest.raises(BadSubject):
        subjects.parse_command(subject)


@pytest.mark.anyio
@pytest.mark.servers
async def test_a_thread_is_always_in_the_same_shard_and_all_shards_are_used(connection: Connection) -> None:
    await ensure_streams(connection, 4)
    shards: dict[str, set[int]] = {}
    for turn in range(2):
        for number in range(40):
            thread = f"thread-{number}"
            kind = "agent" if turn else "other"
            await connection.request(subjects.command(f"tenant{turn}", kind, thread, f"verb{turn}"), b"{}")
    state = (await connection.api(f"STREAM.INFO.{CMD}", {"subjects_filter": ">"}))["state"]
    for subject in state["subjects"]:
        where = subjects.parse_command(subject)
        shards.setdefault(where.thread, set()).add(where.shard)
    assert len(shards) == 40
    assert all(len(found) == 1 for found in shards.values())
    assert set().union(*shards.values()) == {0, 1, 2, 3}


@pytest.mark.anyio
@pytest.mark.servers
async def test_streams_can_be_ensured_at_every_start_but_not_with_other_shards(connection: Connection) -> None:
    for _ in range(2):
        await ensure_streams(connection, 4)
    with pytest.raises(IncompatibleStream, match="4 shards, settings say 8"):
        await ensure_streams(connection, 8)
