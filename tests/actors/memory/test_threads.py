"""Threads that belong to somebody: begun, renamed and ended by commands, each an event that verifies."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import msgspec
import pytest

from actors.agent.erasing import EraseThread
from actors.agent.loop import ConversationMachine
from actors.memory.state import MemoryEvent
from actors.runtime.machine import Asked
from schemas import codec
from schemas.commands import Command
from schemas.context import Context
from schemas.forks import Fork
from schemas.memory import (
    CreateThread,
    DeleteThread,
    Remember,
    RenameThread,
    ThreadCreated,
    ThreadDeleted,
    ThreadErased,
)
from schemas.runs import CommandRefused, RunFailed
from tests.actors.agent.test_fork import CONTEXT, history
from tests.actors.agent.test_loop import World, call, said, tags

MACHINE = ConversationMachine()


def manage(world: World, name: str, data: Any) -> list[Any]:
    return world.settle(name, data)


def refused(events: list[Any]) -> str:
    (event,) = events
    assert isinstance(event, CommandRefused)
    return f"{event.problem.kind}: {event.problem.message}"


def test_a_thread_is_begun_before_anything_is_said_and_knows_whose_it_is() -> None:
    world = World()
    events = manage(world, "m1", CreateThread(resource="ann", title="Sums", metadata={"team": "red"}))
    assert events[1:] == [ThreadCreated(resource="ann", title="Sums", metadata={"team": "red"})]
    world.ask("c1", text="hi", resource="ann")
    world.result(said("c1-1-m", "hello"))
    assert (world.state.memory.resource, world.state.memory.title) == ("ann", "Sums")
    world.verified()


def test_the_first_run_may_say_whose_thread_it_is_and_nobody_else_gets_in() -> None:
    world = World()
    assert tags(world.ask("c1", text="hi", resource="ann"))[:2] == ["command.accepted", "thread.created"]
    world.result(said("c1-1-m", "hello"))
    assert tags(world.ask("c2", text="again"))[0] == "command.accepted"
    world.result(said("c2-1-m", "hello"))
    assert "not one of 'bob'" in refused(world.ask("c3", text="hi", resource="bob"))
    world.verified()


def test_a_thread_of_nobody_is_not_taken_by_somebody() -> None:
    world = World()
    world.ask("c1", text="hi")
    world.result(said("c1-1-m", "hello"))
    assert refused(world.ask("c2", text="hi", resource="bob")).startswith("invalid")


def test_a_thread_is_begun_once() -> None:
    world = World()
    manage(world, "m1", CreateThread(title="Sums"))
    assert "exists" in refused(manage(world, "m2", CreateThread(title="Others")))
    assert world.state.memory.title == "Sums"


@pytest.mark.parametrize("data", [RenameThread(title="x"), DeleteThread(), Remember("x")])
def test_what_does_not_exist_is_not_changed(data: Any) -> None:
    assert refused(manage(World(), "m1", data)).startswith("unknown_thread: thread 't1' does not exist")


def test_a_title_and_notes_change_apart_and_a_note_can_go() -> None:
    world = World()
    manage(world, "m1", CreateThread(title="Sums", metadata={"team": "red", "floor": "2"}))
    manage(world, "m2", RenameThread(title="Products"))
    manage(world, "m3", RenameThread(metadata={"team": None, "room": "7"}))
    assert world.state.memory.title == "Products"
    assert world.state.memory.metadata == {"floor": "2", "room": "7"}
    world.verified()


def test_a_deleted_thread_holds_nothing_any_more_and_takes_nothing() -> None:
    world = World()
    world.ask("c1", text="my secret", resource="ann")
    world.result(said("c1-1-m", "", [call(1), call(2, "pay")]))
    world.ask("c2", text="another secret")
    events = manage(world, "m1", DeleteThread(reason="asked for"))
    assert isinstance(events[-1], ThreadDeleted)
    assert Counter(tags(events))["run.failed"] == 2
    assert "run.started" not in tags(events)
    assert list(world.open) == ["t1-e"]
    state = codec.encode(world.state)
    assert b"secret" not in state
    assert MACHINE.answered(world.state, "c1") == "accepted"
    gone = refused(world.ask("c3", text="a third secret"))
    assert gone.startswith("unknown_thread: thread 't1' was deleted")
    assert b"third secret" not in world.log[-1].payload
    assert refused(manage(world, "m2", CreateThread())).startswith("unknown_thread")
    assert world.refolded() == world.state
    world.verified()


def test_what_a_tool_returns_after_the_thread_was_deleted_is_dropped() -> None:
    world = World()
    world.ask("c1", text="hi")
    world.result(said("c1-1-m", "", [call(1)]))
    manage(world, "m1", DeleteThread())
    assert world.events(RunFailed)[-1].problem.kind == "aborted"
    assert MACHINE.open_effects(world.state) == [EraseThread("t1-e", "thread", "t1", "")]
    assert world.result(ThreadErased(effect="t1-e", unsealed=2)) == []
    assert MACHINE.open_effects(world.state) == []
    assert refused(world.ask("c2", text="hello?")).startswith("unknown_thread: thread 't1' was deleted")
    world.verified()


def test_a_fork_belongs_to_whom_its_origin_does_and_none_is_made_of_a_deletion() -> None:
    world = World()
    manage(world, "m1", CreateThread(resource="ann", title="Sums"))
    past = tuple(
        msgspec.structs.replace(item, event=msgspec.json.decode(found.payload), entity=found.entity, kind="thread")
        for item, found in zip(history(2), world.log, strict=False)
    )
    command = Command("f1", "acme", "agent", "new", "fork", _fork(past))
    state = MACHINE.initial("acme", "new")
    decision = MACHINE.ask(state, Asked(command), CONTEXT)
    for emitted in decision.events:
        state = MACHINE.evolve(state, emitted)
    assert (state.memory.resource, state.memory.title) == ("ann", "Sums")
    deletion = msgspec.structs.replace(past[-1], event={"type": "thread.deleted"})
    again = Command("f1", "acme", "agent", "new", "fork", _fork((*past, deletion)))
    (event,) = MACHINE.ask(MACHINE.initial("acme", "new"), Asked(again), Context(now=1, seed=7)).events
    assert isinstance(event.event, CommandRefused)


def _fork(past: Any) -> Any:
    return Fork(origin="t1", at=len(past), history=past)


def test_working_memory_can_be_written_from_outside_whole_or_merged() -> None:
    world = World()
    manage(world, "m1", CreateThread())
    manage(world, "m2", Remember('{"name": "Ann", "likes": {"tea": true, "milk": true}}'))
    manage(world, "m3", Remember('{"likes": {"milk": null}, "age": 7}', merge=True))
    assert msgspec.json.decode(world.state.memory.working) == {"name": "Ann", "likes": {"tea": True}, "age": 7}
    world.verified()


def test_each_event_of_the_memory_is_folded() -> None:
    assert {str(kind.__struct_config__.tag) for kind in get_args(MemoryEvent)} <= set(codec.EVENT_TYPES)


def test_bounds_of_names_are_told_where_a_command_comes_in() -> None:
    body = codec.encode({"id": "m1", "data": {"resource": "x" * 201}})
    with pytest.raises(Exception, match=r"length <= 200 - at `\$.resource`"):
        codec.decode_command("acme", "agent", "t1", "create", body)
    found = codec.decode_command("acme", "agent", "t1", "create", b'{"id":"m1","data":{"title":"a"}}')
    assert found.data == CreateThread(title="a")
