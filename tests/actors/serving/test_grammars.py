"""Answers of some form over a real bus: compiled beside the steps, and asked for again when a message is lost."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace

from actors.errors import CallFailed
from actors.models.provider import ModelCall
from actors.runtime.context import SystemClock
from actors.serving.worker import WorkerActor
from schemas.generation import Sampling
from schemas.steps import Prepare
from schemas.structured import Structured
from tests.actors.serving.test_serving import REPLY, Listener, PlayedModel, model_call, stage

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]


@dataclass
class PlayedCompiler(PlayedModel):
    """Compiles when it is let, and knows a grammar that is none."""

    may: threading.Event = field(default_factory=threading.Event)
    compiled: list[str] = field(default_factory=list)

    def prepare(self, prepare: Prepare) -> str:
        assert self.may.wait(10)
        self.compiled.append(prepare.structured.text)
        return "it is none" if prepare.structured.text == "(" else ""


def formed(effect: str, text: str = "a+", **more: Any) -> ModelCall:
    structured = Structured(kind="regex", text=text, field="response_format")
    return replace(model_call(effect), sampling=Sampling(max_tokens=100, structured=structured), **more)


def compiler() -> PlayedCompiler:
    made = PlayedCompiler()
    made.may.set()
    return made


async def test_others_are_answered_while_a_grammar_is_compiled(nats_url: str) -> None:
    model = PlayedCompiler()
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(model)
        frontend = await on.frontend("f1")
        waiting = asyncio.create_task(frontend.call(formed("e1"), Listener()))
        assert (await frontend.call(model_call("e2"), Listener())).text == REPLY
        assert not waiting.done()
        model.may.set()
        answer = await waiting
    assert (answer.text, answer.finish_reason) == (REPLY, "stop")


async def test_a_grammar_that_is_none_fails_its_call_by_the_name_the_client_gave_it(nats_url: str) -> None:
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(compiler())
        frontend = await on.frontend("f1")
        good = asyncio.create_task(frontend.call(formed("e1"), Listener()))
        with pytest.raises(CallFailed) as failed:
            await frontend.call(formed("e2", "("), Listener())
        assert (await good).text == REPLY
    problem = failed.value.problem
    assert (problem.kind, problem.field) == ("invalid", "response_format")
    assert problem.message == "response_format: it is none"


async def test_a_call_whose_grammar_never_comes_ends_at_its_deadline(nats_url: str) -> None:
    clock, model = SystemClock(), PlayedCompiler()
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1", clock=clock)
        await on.worker(model)
        call = formed("e1", deadline=clock.now() + 300_000)
        answer = await (await on.frontend("f1")).call(call, Listener())
        model.may.set()
    assert (answer.text, answer.finish_reason) == ("", "timeout")


async def test_what_became_of_a_grammar_may_be_lost(nats_url: str) -> None:
    class Mumbling(WorkerActor):
        """The first of what it says of grammars is not heard."""

        said = 0

        async def _prepare(self, epoch: str, prepare: Prepare) -> None:
            self.said += 1
            if self.said > 1:
                await super()._prepare(epoch, prepare)

    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(compiler(), Mumbling)
        answer = await (await on.frontend("f1")).call(formed("e1"), Listener())
    assert answer.text == REPLY


async def test_a_new_scheduler_asks_for_the_grammar_again(nats_url: str) -> None:
    model = PlayedCompiler()
    async with stage(nats_url) as on:
        stop = await on.scheduler("epoch-1")
        await on.worker(model)
        frontend = await on.frontend("f1")
        waiting = asyncio.create_task(frontend.call(formed("e1"), Listener()))
        await frontend.call(model_call("e2"), Listener())
        await stop()
        await on.scheduler("epoch-2")
        model.may.set()
        answer = await waiting
    assert answer.text == REPLY
    assert set(model.compiled) == {"a+"}


async def test_a_new_worker_compiles_what_the_one_before_it_had(nats_url: str) -> None:
    first, second = PlayedCompiler(), compiler()
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        stop = await on.worker(first)
        frontend = await on.frontend("f1")
        waiting = asyncio.create_task(frontend.call(formed("e1"), Listener()))
        await frontend.call(model_call("e2"), Listener())
        await stop()
        await on.worker(second)
        answer = await waiting
        first.may.set()
    assert answer.text == REPLY
    assert second.compiled == ["a+"]
