"""Threads for benchmarks of the log: each turn asks, calls a tool, and answers; ten events in four decisions."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from msgspec import Raw
from msgspec.structs import replace

from actors.agent.effects import CallModel, CallTool
from actors.agent.loop import ConversationMachine
from actors.runtime.machine import Asked, Effect, Emitted
from schemas import codec
from schemas.commands import Command, RunAgent
from schemas.context import Context
from schemas.envelope import Fact
from schemas.generation import Sampling
from schemas.messages import ToolCall, Usage
from schemas.profiles import Profile, ToolBinding
from schemas.runs import ModelReturned, ToolReturned

TENANT = "acme"
TURNS = 10
EVENTS = 10 * TURNS
DECISIONS = 4 * TURNS

_PROFILE = Profile(
    agent="demo",
    model="ostinato-mini",
    instructions="You are helpful. Use the calculator for arithmetic, and answer in one sentence. " * 3,
    tools=(ToolBinding("calculator", "pure", "0123456789abcdef"),),
    sampling=Sampling(max_tokens=256),
    max_steps=8,
)


class Told(NamedTuple):
    """One event of a thread."""

    decision: int
    """What was decided together was committed together."""
    cause: str
    fact: Fact


@cache
def told(thread: str, turns: int = TURNS) -> tuple[Told, ...]:
    """Let the agent loop decide a thread's events."""
    machine = ConversationMachine()
    state = machine.initial(TENANT, thread)
    versions: dict[tuple[str, str], int] = {}
    events: list[Told] = []
    number = 0

    def commit(emitted: list[Emitted], cause: str) -> None:
        nonlocal state, number
        for item in emitted:
            state = machine.evolve(state, item)
            key = (item.kind, item.entity)
            versions[key] = versions.get(key, 0) + 1
            tag, payload = codec.tag(item.event), codec.payload(item.event)
            fact = Fact(TENANT, thread, item.kind, item.entity, versions[key], tag, cause, payload)
            events.append(Told(number, cause, fact))
        number += 1

    for turn in range(turns):
        command = Command(
            id=f"{thread}-r{turn}",
            tenant=TENANT,
            kind="agent",
            thread=thread,
            verb="run",
            data=RunAgent("demo", f"What is {turn} times 34, and why?"),
        )
        decision = machine.ask(state, Asked(command, _PROFILE), Context(now=0, seed=7))
        commit(list(decision.events), command.id)
        while decision.effects:
            (effect,) = decision.effects
            result = Emitted(effect.kind, effect.entity, _result(effect, turn))
            decision = machine.follow(machine.evolve(state, result), result, Context(now=0, seed=7))
            commit([result, *decision.events], effect.id)
    return tuple(events)


def _result(effect: Effect, turn: int) -> Any:
    if isinstance(effect, CallTool):
        return ToolReturned(effect.id, effect.called.call.id, str(34 * turn))
    assert isinstance(effect, CallModel)
    if effect.called.step == 1:
        call = ToolCall(f"call_{turn}", "calculator", f'{{"expression": "{turn} * 34"}}')
        return ModelReturned(effect.id, "", "tool_calls", Usage(200, 21), (call,))
    return ModelReturned(
        effect.id, f"That makes {34 * turn}, because 34 is added {turn} times.", "stop", Usage(240, 17)
    )


def rows(number: int, sequence: int) -> list[tuple[Any, ...]]:
    """Make one thread's rows of table `event`, in one envelope."""
    return [
        (1, sequence, index, TENANT, f"cold{number}", item.fact.kind, _named(item.fact.entity, number),
         item.fact.version, item.fact.type, item.cause, 0, "", None, _renamed(bytes(item.fact.payload), number), None)
        for index, item in enumerate(told("cold"))
    ]  # fmt: skip


def facts(number: int) -> list[Fact]:
    """Make one thread's facts, as those of `rows`."""
    return [
        replace(
            item.fact,
            thread=f"cold{number}",
            entity=_named(item.fact.entity, number),
            cause=_named(item.cause, number),
            payload=Raw(_renamed(bytes(item.fact.payload), number)),
        )
        for item in told("cold")
    ]


def _named(entity: str, number: int) -> str:
    return entity.replace("cold", f"cold{number}", 1)


def _renamed(payload: bytes, number: int) -> bytes:
    """Name what the payload names after the thread too: nothing else in it is called so."""
    return payload.replace(b"cold", b"cold%d" % number)
