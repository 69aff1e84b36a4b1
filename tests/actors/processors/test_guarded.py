"""A model with processors around it, up to the watchers and the log: nothing that was taken out is anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest

from actors.agent.definition import Agent
from actors.agent.guarding import looked_at
from actors.agent.profiles import profile_of
from actors.errors import CallFailed, DefinitionError
from actors.models.provider import ModelAnswer, ModelCall, OnText, Piece
from actors.processors.answers import SchemaValidator
from actors.processors.guarded import Guarded, tool_result
from actors.processors.patterns import RegexFilter
from actors.processors.processor import About, Processor, Tripped
from actors.processors.rules import PERSONAL
from actors.request_context import RequestContext
from actors.testing import ScriptedModel
from actors.tools import tool
from actors.toolsets import Surroundings
from bus.commands import send_command
from bus.connection import Connection
from bus.streams import ensure_streams
from schemas import codec
from schemas.answers import CallTold, TokenTold
from schemas.commands import RunAgent
from schemas.generation import Sampling
from schemas.live import Committed, Delta
from schemas.messages import Message, ToolCall, Usage
from schemas.processing import Processed
from schemas.runs import ModelCalled, ModelFailed, ModelReturned, Problem, RunFailed, RunFinished, ToolReturned
from tests.actors.runtime.bench import Bench, ends, hearing, owning, run, until

pytestmark = pytest.mark.anyio

CALL = ModelCall(
    "r1-1-m", "m", (Message("system", "Help."), Message("user", "hi a@b.org")), (), Sampling(), "acme", "t1"
)
FILTER = RegexFilter(rules=PERSONAL)
TOLD = (TokenTold(1, b"fi", -0.1, 1), TokenTold(2, b"ne", -0.2, 1))


@dataclass(frozen=True)
class Noisy(Processor):
    """Writes down which of its hooks ran."""

    name: str = "noisy"
    seen: Any = None
    holds: bool = False
    trips: str = ""

    def _at(self, hook: str) -> None:
        self.seen.append(f"{self.name} {hook}")
        if self.trips == hook:
            raise Tripped("enough", again=True)

    async def input(self, messages: Sequence[Message], about: About) -> None:
        self._at("input")

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        self._at("prompt")
        return messages

    async def answer(self, answer: ModelAnswer, about: About) -> ModelAnswer:
        self._at("answer")
        return answer

    async def result(self, answer: ModelAnswer, about: About) -> ModelAnswer:
        self._at("result")
        return answer

    async def error(self, problem: Problem, about: About) -> Problem:
        self._at("error")
        return problem


class Heard:
    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    async def __call__(self, piece: Piece, /) -> None:
        assert piece.offset == len(self.text)
        self.pieces.append(piece)

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


async def test_hooks_run_in_order_at_their_place() -> None:
    seen: list[str] = []
    pair = [Noisy("one", seen), Noisy("two", seen)]
    await Guarded(ScriptedModel(lambda _: "fine"), pair, first=True).call(CALL, Heard())
    hooks = ("input", "prompt", "answer", "result")
    assert seen == [f"{name} {hook}" for hook in hooks for name in ("one", "two")]
    seen.clear()
    await Guarded(ScriptedModel(lambda _: ToolCall("k", "look", "{}")), pair[:1], first=False).call(CALL, Heard())
    assert seen == ["one prompt", "one answer"]
    seen.clear()
    with pytest.raises(CallFailed):
        await Guarded(ScriptedModel(lambda _: Problem("overloaded", "no")), pair, first=False).call(CALL, Heard())
    assert seen == ["one prompt", "two prompt", "one error", "two error"]


def untimed(processed: Sequence[Processed]) -> tuple[Processed, ...]:
    """What was done, without how long it took and what had nothing to say."""
    return tuple(msgspec.structs.replace(one, took_us=0) for one in processed if one.action != "passed")


async def test_each_hook_of_each_processor_is_told_with_its_time_also_where_nothing_was_to_be_done() -> None:
    class Slow(Processor):
        name = "slow"

        async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
            await asyncio.sleep(0.02)
            return messages

    answer = await Guarded(ScriptedModel(lambda _: "fine"), [Slow(), FILTER], first=True).call(CALL, Heard())
    told = {(one.processor, one.hook): one for one in reversed(answer.processed)}
    assert told["slow", "prompt"].action == "passed"
    assert 20_000 <= told["slow", "prompt"].took_us < 2_000_000
    assert {hook for name, hook in told if name == "slow"} == {"prompt"}
    assert told["regex-filter", "prompt"].action == "changed"
    assert told["regex-filter", "prompt"].took_us > 0
    assert {hook for name, hook in told if name == "regex-filter"} >= {"prompt", "stream"}


async def test_tokens_of_an_answer_that_nobody_changed_are_told_and_of_one_that_was_changed_are_not() -> None:
    class Telling(ScriptedModel):
        async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
            return msgspec.structs.replace(await super().call(call, on_text), token_ids=(1, 2), logprobs=TOLD)

    plain = await Guarded(Telling(lambda _: "fine"), [FILTER], first=True).call(CALL, Heard())
    assert (plain.token_ids, plain.logprobs) == ((1, 2), TOLD)
    changed = await Guarded(Telling(lambda _: "to ann@example.org"), [FILTER], first=True).call(CALL, Heard())
    assert (changed.token_ids, changed.logprobs, changed.sampled) == ((), (), None)


@pytest.mark.parametrize("holds", [False, True])
async def test_what_watchers_heard_is_the_answer_and_the_model_saw_none_of_it(holds: bool) -> None:
    model, heard = ScriptedModel(lambda _: "write to ann@example.org or call, all the best"), Heard()
    guarded = Guarded(model, [FILTER, Noisy(seen=[], holds=holds)], first=True)
    answer = await guarded.call(CALL, heard)
    assert answer.text == heard.text == "write to [EMAIL] or call, all the best"
    assert model.calls[0].messages[1].content == "hi [EMAIL]"
    assert untimed(answer.processed) == (
        Processed("regex-filter", "prompt", "changed", 1, "EMAIL"),
        Processed("regex-filter", "prompt", "changed"),
        Processed("regex-filter", "stream", "changed", 1, "EMAIL"),
    )


async def test_calls_are_told_with_the_answer_and_what_is_none_not_at_all() -> None:
    class Calling(ScriptedModel):
        async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
            await on_text(Piece(0, '{"to": "ann@example.org"', "call", call=CallTold(0, "k", "send")))
            told = ToolCall("k", "send", '{"to": "ann@example.org"')
            return ModelAnswer("", "length", Usage(), cut_off=(told,))

    heard = Heard()
    answer = await Guarded(Calling(lambda _: ""), [FILTER], first=True).call(CALL, heard)
    assert (heard.pieces, answer.cut_off) == ([], ())


@pytest.mark.parametrize("hook", ["input", "prompt", "answer", "result"])
async def test_a_processor_stops_a_call_anywhere_and_nothing_held_is_told(hook: str) -> None:
    heard = Heard()
    guarded = Guarded(ScriptedModel(lambda _: "fine words"), [Noisy(seen=[], holds=True, trips=hook)], first=True)
    with pytest.raises(CallFailed) as failed:
        await guarded.call(CALL, heard)
    assert (failed.value.problem.kind, failed.value.problem.retry_after_ms) == ("tripwire", 1)
    assert failed.value.problem.message == "stopped by processor 'noisy': enough"
    stopped = Processed("noisy", hook, "stopped", 0, "enough")  # type: ignore[arg-type]
    assert stopped in untimed(failed.value.processed)
    assert heard.text == ""


async def test_an_answer_that_is_stopped_on_its_way_is_not_gone_on_with() -> None:
    model = ScriptedModel(lambda _: f"ok {'x ' * 200} ann@example.org {'y ' * 400}")
    heard = Heard()
    with pytest.raises(CallFailed, match="EMAIL found"):
        await Guarded(model, [RegexFilter(rules=PERSONAL, strategy="block")], first=True).call(
            replace_prompt(CALL), heard
        )
    assert model.aborted == [CALL.request]
    assert "ann" not in heard.text


def replace_prompt(call: ModelCall) -> ModelCall:
    return msgspec.structs.replace(call, messages=(Message("user", "hi"),))


async def test_a_tool_that_returned_what_must_not_be_seen_is_kept_back() -> None:
    about = About(None)
    assert await tool_result([FILTER], "look", "it is a@b.org", about) == "it is [EMAIL]"
    blocking = RegexFilter(rules=PERSONAL, strategy="block")
    assert "EMAIL found" in await tool_result([blocking], "look", "it is a@b.org", about)


@pytest.mark.parametrize("broken", [ValueError("it is a@b.org"), TimeoutError("a@b.org"), None])
async def test_a_processor_that_fails_on_a_result_keeps_it_back(broken: Exception | None) -> None:
    class Broken(Processor):
        name = "broken"

        async def tool_result(self, tool: str, content: str, about: About, /) -> str:
            if broken is not None:
                raise broken
            return 7  # type: ignore[return-value]

    about, event = About(None), ToolReturned(effect="r1-1-t0", call_id="k", content="it is a@b.org", result={"a": 1})
    read = await tool_result([Broken(), FILTER], "look", event.content, about)
    assert read.startswith("error: kept back by processor 'broken': it ")
    looked = await looked_at([Broken()], "look", event)
    assert isinstance(looked, ToolReturned)
    assert (looked.content, looked.result) == (read, None)
    assert "a@b.org" not in repr(looked)


async def test_names_tell_processors_apart() -> None:
    with pytest.raises(DefinitionError, match="two processors of one name"):
        Agent("demo", "", processors=(RegexFilter(), RegexFilter()))
    agent = Agent("demo", "", processors=(RegexFilter(), SchemaValidator()), open_to=["processors"])
    around = Surroundings("acme", "t1", RequestContext(), None)
    for chosen, used in ((None, ("regex-filter", "schema-validator")), ((), ())):
        profile = await profile_of(agent, RunAgent("demo", processors=chosen), around, "m")
        assert profile.processors == used


SECRET = "ann@example.org"


@tool(effect="pure")
def look() -> str:
    """Look."""
    return f"found {SECRET}"


@dataclass
class GuardedBench(Bench):
    """A bench whose agent has processors."""

    processors: tuple[Processor, ...] = ()
    retries: int = 2

    def agent(self) -> Agent:
        return replace(super().agent(), tools=(look,), processors=self.processors, retries=self.retries)


async def stack(
    connection: Connection, url: str, script: Any, *processors: Processor, retries: int = 2
) -> GuardedBench:
    await ensure_streams(connection, 1)
    return GuardedBench(connection, url, ScriptedModel(script), processors=processors, retries=retries)


async def finish(bench: Bench, command: Any) -> list[Any]:
    async with owning(bench.runtime("p1")), hearing(bench, f"run.{command.id}") as watcher:
        await send_command(bench.connection, command)
        return await until(watcher, ends)


@pytest.mark.servers
@pytest.mark.deadline(30)
async def test_nothing_that_was_taken_out_is_in_what_watchers_hear_or_in_the_log(
    connection: Connection, nats_url: str
) -> None:
    def script(call: ModelCall) -> Any:
        return ToolCall("k", "look", "{}") if call.messages[-1].role == "user" else f"It is {SECRET}, I think."

    bench = await stack(connection, nats_url, script, FILTER)
    heard = await finish(bench, run("c1", "where?"))
    assert not [frame for frame in heard if SECRET.encode() in codec.encode(frame)]
    assert "".join(frame.text for frame in heard if isinstance(frame, Delta)) == "It is [EMAIL], I think."
    for _, _, fact in await bench.facts():
        assert SECRET.encode() not in bytes(fact.payload)
    assert all(SECRET not in message.content for call in bench.model.calls for message in call.messages)
    (returned,) = await bench.events(ToolReturned)
    assert untimed(returned.processed)[0] == Processed("regex-filter", "tool_result", "changed", 1, "EMAIL")
    assert (await bench.events(RunFinished))[0].text == "It is [EMAIL], I think."
    await bench.verified("t1")


@pytest.mark.servers
@pytest.mark.deadline(30)
async def test_an_answer_that_was_not_taken_is_given_again_as_often_as_the_agent_allows(
    connection: Connection, nats_url: str
) -> None:
    def script(call: ModelCall) -> str:
        return '{"name": "Ann"}' if "does not fit" in call.messages[-1].content else '{"name": 7}'

    validator = SchemaValidator(type=dict[str, str])
    bench = await stack(connection, nats_url, script, validator)
    await finish(bench, run("c1"))
    assert [event.problem.kind for event in await bench.events(ModelFailed)] == ["tripwire"]
    assert [event.effect for event in await bench.events(ModelCalled)] == ["c1-1-m", "c1-1-m2"]
    assert [event.text for event in await bench.events(ModelReturned)] == ['{"name": "Ann"}']
    await bench.verified("t1")


@pytest.mark.servers
@pytest.mark.deadline(30)
async def test_a_run_that_is_stopped_says_by_whom_and_a_name_that_is_not_there_is_refused(
    connection: Connection, nats_url: str
) -> None:
    bench = await stack(connection, nats_url, lambda _: "{}", SchemaValidator(type=list), retries=0)
    heard = await finish(bench, run("c1"))
    assert isinstance(heard[-1], Committed)
    (failed,) = await bench.events(RunFailed)
    assert failed.problem.kind == "tripwire"
    assert failed.problem.message.startswith("stopped by processor 'schema-validator'")
    async with owning(bench.runtime("p2")), hearing(bench, "command.c2") as watcher:
        await send_command(bench.connection, run("c2", processors=("nobody",)))
        frame = await watcher.next(5)
    assert frame is not None
    assert b"no processor 'nobody'" in codec.encode(frame)
    await bench.verified("t1")
