"""What becomes of a model call in a run: which events tell of it, and what an agent with a chain asks."""

from __future__ import annotations

from typing import Any, cast

import pytest

from actors.agent.actor import AgentPerformer
from actors.agent.definition import Agent
from actors.agent.effects import CallModel
from actors.request_context import RequestContext
from actors.runtime.performer import Site
from actors.testing import FixedClock, ScriptedModel
from schemas.commands import Command, RunAgent
from schemas.generation import Sampling
from schemas.live import Delta
from schemas.messages import Message
from schemas.models import ModelChain, ModelEntry
from schemas.profiles import Profile
from schemas.runs import ModelCalled, ModelFailed, ModelReturned, Problem

pytestmark = pytest.mark.anyio
CHAIN = ModelChain((ModelEntry("a"), ModelEntry("b", temperature=0.5)))


class Heard:
    """Hears deltas in the place of watchers."""

    def __init__(self) -> None:
        self.frames: list[Delta] = []

    async def delta(self, tenant: str, kind: str, frame: Delta) -> None:
        self.frames.append(frame)


def asking(profile: Profile, model: str = "a") -> CallModel:
    called = ModelCalled("r1-1-m", model, 1, 1, "", Sampling())
    return CallModel("r1-1-m", "run", "r1", "", called=called, profile=profile, messages=(Message("user", "hi"),))


def performing(**models: ScriptedModel) -> tuple[AgentPerformer, Heard]:
    heard, agents = Heard(), [Agent("demo", "", model=CHAIN), Agent("picky", "", model=picked)]
    return AgentPerformer(agents, models, "a", cast("Any", heard), FixedClock()), heard


def picked(context: RequestContext) -> str | ModelChain:
    return CHAIN if context.get("careful") else "b"


async def fixed(performer: AgentPerformer, agent: str = "demo", **context: Any) -> Profile:
    """The profile that a command comes to."""
    data = RunAgent(agent, "hi", context=context)
    asked = await performer.look_up(Command("r1", "acme", "agent", "t1", "run", data))
    assert asked.profile is not None
    return asked.profile


def busy(_: object) -> Problem:
    return Problem(kind="overloaded", message="busy")


async def test_an_agent_s_chain_is_in_its_profile_and_the_answer_says_who_gave_it() -> None:
    performer, heard = performing(a=ScriptedModel(busy), b=ScriptedModel(lambda _: "from b"))
    asked = await performer.look_up(Command("r1", "acme", "agent", "t1", "run", RunAgent("demo", "hi")))
    assert asked.profile is not None
    assert (asked.profile.model, asked.profile.chain) == ("a", CHAIN)
    event = await performer.perform(asking(asked.profile), Site("acme", "t1", 1), again=False)
    assert isinstance(event, ModelReturned)
    assert (event.text, [passed.model for passed in event.passed_over]) == ("from b", ["a"])
    assert "".join(frame.text for frame in heard.frames) == "from b"


async def test_the_request_s_context_may_choose_a_model_or_a_chain_and_the_command_may_choose_instead() -> None:
    performer, _ = performing(a=ScriptedModel(busy), b=ScriptedModel(busy))
    assert ((await fixed(performer, "picky")).model, (await fixed(performer, "picky")).chain) == ("b", None)
    careful = await fixed(performer, "picky", careful=True)
    assert (careful.model, careful.chain) == ("a", CHAIN)
    command = Command("r1", "acme", "agent", "t1", "run", RunAgent("demo", "hi", model="b"))
    instead = (await performer.look_up(command)).profile
    assert instead is not None
    assert (instead.model, instead.chain) == ("b", None)


async def test_a_failed_chain_tells_of_all_of_it() -> None:
    performer, _ = performing(a=ScriptedModel(busy), b=ScriptedModel(busy))
    profile = await fixed(performer)
    event = await performer.perform(asking(profile), Site("acme", "t1", 1), again=False)
    assert isinstance(event, ModelFailed)
    assert "none of a, b could be had" in event.problem.message
    assert [passed.model for passed in event.passed_over] == ["a"]


async def test_a_fork_with_another_model_leaves_the_chain() -> None:
    other = ScriptedModel(lambda _: "from c")
    performer, _ = performing(a=ScriptedModel(busy), b=ScriptedModel(busy), c=other)
    profile = await fixed(performer)
    event = await performer.perform(asking(profile, "c"), Site("acme", "t1", 1), again=True)
    assert isinstance(event, ModelReturned)
    assert event.text == "from c"
    assert other.calls[0].again


async def test_an_abort_reaches_every_model_of_a_chain_and_a_missing_one_is_told_before_the_run() -> None:
    first, second = ScriptedModel(busy), ScriptedModel(busy)
    performer, _ = performing(a=first, b=second)
    profile = await fixed(performer)
    await performer.abort(asking(profile), Site("acme", "t1", 1))
    assert first.aborted == second.aborted == ["acme/t1/r1-1-m"]
    alone, _ = performing(a=first)
    asked = await alone.look_up(Command("r1", "acme", "agent", "t1", "run", RunAgent("demo", "hi")))
    assert asked.missing is not None
    assert "'b'" in asked.missing.message
