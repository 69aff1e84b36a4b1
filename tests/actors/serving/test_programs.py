"""What an engine hears of programs: over the bus, from agents' calls and from clients' sessions."""

from __future__ import annotations

from typing import Any, cast

import pytest
from msgspec.structs import replace

from actors.runtime.context import SystemClock
from actors.runtime.performer import Site
from actors.serving.generation import AnswerPrompt
from actors.serving.prompt import GenerationPerformer
from actors.testing import ScriptedModel
from engine.config import SchedulerConfig
from engine.core.retrace import Retrace
from schemas.commands import Command, Generate
from schemas.generation import Sampling
from schemas.messages import Message, ToolCall
from schemas.programs import ToolBegan, ToolEnded
from schemas.runs import ModelCalled
from schemas.steps import Noted, Submitted
from tests.actors.serving.test_serving import Listener, PlayedModel, model_call, stage

pytestmark = pytest.mark.anyio


@pytest.mark.servers
@pytest.mark.deadline(20)
async def test_what_is_noted_of_a_program_is_in_the_plans_with_its_time_and_they_come_out_again(nats_url: str) -> None:
    model, began = PlayedModel(), SystemClock().now()
    config = SchedulerConfig(blocks=400, context_length=2048, policy="agents")
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1", config=config, clock=SystemClock())
        await on.worker(model)
        frontend = await on.frontend("f1")
        for number in range(2):
            call = replace(model_call(f"e{number}"), program="acme/t1", agent="demo")
            await frontend.call(call, Listener())
            await frontend.note(ToolBegan("acme/t1", f"c{number}", "look"))
            await frontend.note(ToolEnded("acme/t1", f"c{number}"))
        await frontend.note(ToolBegan("acme/nobody", "c1", "look"))
        await frontend.call(replace(model_call("e2"), program="acme/t1", agent="demo"), Listener())
    told = [one for plan in model.plans for one in plan.told]
    noted = [one.note for one in told if isinstance(one, Noted)]
    assert noted[:2] == [ToolBegan("acme/t1", "c0", "look"), ToolEnded("acme/t1", "c0")]
    assert noted[2:] == [ToolBegan("acme/t1", "c1", "look"), ToolEnded("acme/t1", "c1")]
    times = [one.time for one in told if isinstance(one, Noted | Submitted)]
    assert began < times[0]
    assert times == sorted(times)
    assert [(one.what, one.program) for plan in model.plans for one in plan.decisions] == [("admitted", "acme/t1")]
    retrace = Retrace()
    assert [retrace.follow(plan) for plan in model.plans] == [None] * len(model.plans)


async def asked(model: ScriptedModel, **data: Any) -> None:
    """Ask for a generation, as a client does."""
    given = Generate(model="m", **data)
    command = Command(id="g1", tenant="acme", kind="generation", thread="g1", verb="generate", data=given)
    called = ModelCalled(effect="g1-1-m", model="m", step=1, seen=1, prefix="", sampling=Sampling())
    effect = AnswerPrompt("g1-1-m", "generation", "g1", "", called=called, command=command)
    performer = GenerationPerformer({"m": model}, Sampling(), cast("Any", None))
    await performer.perform(effect, Site("acme", "g1", 1), again=False)


async def test_a_session_waits_for_the_tools_that_its_answer_calls() -> None:
    model = ScriptedModel(lambda call: [ToolCall("c1", "look", "{}"), ToolCall("c2", "mail", "{}")])
    await asked(model, messages=(Message(role="user", content="hi"),), session_id="s1")
    assert model.calls[0].program == "acme/session/s1"
    assert model.notes == [ToolBegan("acme/session/s1", "c1", "look"), ToolBegan("acme/session/s1", "c2", "mail")]


async def test_of_a_request_of_no_session_nothing_is_said() -> None:
    model = ScriptedModel(lambda call: ToolCall("c1", "look", "{}"))
    await asked(model, messages=(Message(role="user", content="hi"),))
    assert model.calls[0].program == ""
    assert model.notes == []
