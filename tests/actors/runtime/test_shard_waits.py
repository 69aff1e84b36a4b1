"""Runs that wait for somebody, on a real server: they survive their owners, and what is answered counts once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from actors.agent.around_tools import ToolUse
from actors.agent.definition import Agent
from actors.agent.hooks import RunEnd, StepChanges, StepView
from actors.memory.plan import Memory
from actors.models.provider import ModelCall
from actors.processors.processor import About, Processor
from actors.request_context import RequestContext
from actors.testing import Say, ScriptedModel
from actors.tools import Tool, ToolContext, client_tool, tool
from bus.commands import send_command
from bus.connection import Connection
from bus.streams import ensure_streams
from schemas.commands import AbortRun, Approve, Command, PostResult, Resume
from schemas.live import Committed, Outcome, Progress
from schemas.messages import Message, ToolCall, ToolSpec
from schemas.runs import (
    ApprovalGiven,
    ApprovalRequested,
    ModelFailed,
    RunFinished,
    RunStarted,
    ToolCalled,
    ToolFailed,
    ToolReturned,
)
from schemas.waits import ToolSuspended
from tests.actors.runtime.bench import (
    Bench,
    answer_of,
    answering,
    ends,
    hearing,
    is_outcome,
    owning,
    run,
    settling,
    until,
)

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]


@pytest.fixture
async def bench(connection: Connection, nats_url: str) -> Bench:
    await ensure_streams(connection, 1)
    return Bench(connection, nats_url, ScriptedModel(answering))


class Pin(msgspec.Struct):
    """What a bank wants to know."""

    pin: int


def happened(kind: str, after: int = 0) -> Any:
    return lambda frame: isinstance(frame, Committed) and frame.type == kind and frame.version > after


async def outcome_of(bench: Bench, command: Command) -> Outcome:
    async with hearing(bench, f"command.{command.id}") as watcher:
        await send_command(bench.connection, command)
        (outcome,) = await until(watcher, is_outcome)
    assert isinstance(outcome, Outcome)
    return outcome


async def test_the_same_approval_posted_a_hundred_times_at_once_runs_the_tool_once(bench: Bench) -> None:
    paid: list[str] = []

    @tool(effect="once", needs_approval=True)
    async def wire(what: str, context: ToolContext) -> str:
        """Send money."""
        paid.append(context.key)
        return f"sent {what}"

    bench.agents = [Agent("bank", "Help.", tools=(wire,))]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1", "command.*") as watcher:
        await send_command(bench.connection, run("c1", "use wire 5", agent="bank"))
        await until(watcher, happened("approval.requested"))
        same = settling("yes", Approve("c1-1-t0", arguments='{"what":"5"}'))
        others = [settling(f"yes{n}", Approve("c1-1-t0")) for n in range(50)]
        await asyncio.gather(*(send_command(bench.connection, command) for command in [same] * 50 + others))
        heard = await until(watcher, ends)
    assert paid == ["acme/t1/c1-1-t0"]
    assert len(await bench.events(ApprovalGiven)) == 1
    assert len(await bench.events(ToolCalled)) == 1
    assert isinstance(heard[-1], Committed)
    await bench.verified("t1")


async def test_whether_a_call_needs_approval_is_a_function_of_its_arguments(bench: Bench) -> None:
    @tool(effect="pure", needs_approval=lambda what: int(what) > 100)
    async def wire(what: str) -> str:
        """Send money."""
        return f"sent {what}"

    bench.agents = [Agent("bank", "Help.", tools=(wire,))]
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "use wire 5", agent="bank")) == "re: sent 5"
        assert await answer_of(bench, run("c2", "use wire", agent="bank")) == "re: error: arguments of 'w"[:24]
        for number, what in enumerate(("500", "what")):  # the function cannot judge that: a person does
            name = f"d{number}"
            async with hearing(bench, f"run.{name}") as watcher:
                await send_command(bench.connection, run(name, f"use wire {what}", agent="bank"))
                await until(watcher, happened("approval.requested"))
                await send_command(bench.connection, settling(f"yes{number}", Approve(f"{name}-1-t0")))
                await until(watcher, ends)
    assert len(await bench.events(ApprovalRequested)) == 2
    await bench.verified("t1")


async def test_a_tool_that_waits_for_data_goes_on_in_another_process(bench: Bench) -> None:
    begun: list[tuple[Any, ...]] = []

    @tool(effect="once")
    def wire(what: str, context: ToolContext) -> str:
        """Send money."""
        begun.append(context.answers)
        answer = context.suspend({"amount": what}, Pin)
        return f"sent {what} with {answer.pin}"

    bench.agents = [Agent("bank", "Help.", tools=(wire,))]
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", "use wire 5", agent="bank"))
            *_, suspended = await until(watcher, happened("tool.suspended"))
            assert isinstance(suspended, Committed)
        async with owning(bench.runtime("p2")):
            assert (await outcome_of(bench, settling("r0", Resume("c1-1-t1", {"pin": 1})))).result == "refused"
            assert (await outcome_of(bench, settling("r1", Resume("c1-1-t0", {"pin": "x"})))).result == "accepted"
            await until(watcher, happened("tool.suspended", suspended.version))
        async with owning(bench.runtime("p3")):
            await send_command(bench.connection, settling("r2", Resume("c1-1-t0s1", {"pin": 7})))
            await until(watcher, ends)
    first, second = await bench.events(ToolSuspended)
    assert first.payload == {"amount": "5"}
    assert first.schema["properties"] == {"pin": {"type": "integer"}}
    assert "$.pin" in second.problem
    assert begun == [(), ({"pin": "x"},), ({"pin": "x"}, {"pin": 7})]
    (returned,) = await bench.events(ToolReturned)
    assert returned.content == "sent 5 with 7"
    await bench.verified("t1")


async def test_a_hundred_answers_to_one_question_are_one(bench: Bench) -> None:
    done: list[Any] = []

    @tool(effect="once")
    async def wire(what: str, context: ToolContext) -> str:
        """Send money."""
        done.append(context.suspend(what))
        return "sent"

    bench.agents = [Agent("bank", "Help.", tools=(wire,))]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1", "use wire 5", agent="bank"))
        await until(watcher, happened("tool.suspended"))
        answers = [settling(f"r{n}", Resume("c1-1-t0", n)) for n in range(100)]
        await asyncio.gather(*(send_command(bench.connection, command) for command in answers))
        await until(watcher, ends)
    assert len(done) == 1
    await bench.verified("t1")


async def test_a_tool_of_the_callers_waits_over_restarts_for_its_result(bench: Bench) -> None:
    bench.agents = [Agent("guide", "Help.", tools=(client_tool("place", "Tell where the user is."),))]
    asked = run("c1", "use where", agent="guide", tools=(ToolSpec("where", "Tell where the user is."),))
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, asked)
            await until(watcher, happened("tool.handed_over"))
        async with owning(bench.runtime("p2")):
            posted = settling("r1", PostResult("c1-1-t0", "at home"))
            await asyncio.gather(*(send_command(bench.connection, posted) for _ in range(20)))
            await until(watcher, ends)
            assert (await outcome_of(bench, settling("r2", PostResult("c1-1-t0", "away")))).result == "refused"
    assert [spec.name for spec in bench.model.calls[0].tools] == ["place", "where"]
    assert [spec.name for spec in bench.model.calls[-1].tools] == ["place", "where"]
    assert [event.content for event in await bench.events(ToolReturned)] == ["at home"]
    await bench.verified("t1")


async def test_what_waits_can_be_aborted(bench: Bench) -> None:
    bench.agents = [Agent("guide", "Help.", tools=(client_tool("where", "Tell where the user is."),))]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1", "use where", agent="guide"))
        await until(watcher, happened("tool.handed_over"))
        abort = Command(id="x", tenant="acme", kind="agent", thread="t1", verb="abort", data=AbortRun())
        await send_command(bench.connection, abort)
        await until(watcher, ends)
        assert await answer_of(bench, run("c2", "still there?")) == "re: still there?"
    await bench.verified("t1")


async def test_watchers_hear_how_far_a_tool_is_in_order(bench: Bench) -> None:
    @tool(effect="pure")
    def dig(what: str, context: ToolContext) -> str:
        """Dig."""
        for depth in range(5):
            context.progress({"depth": depth, "what": what})
        return "found"

    bench.agents = [Agent("digger", "Help.", tools=(dig,))]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1", "use dig gold", agent="digger"))
        heard = await until(watcher, ends)
    told = [frame for frame in heard if isinstance(frame, Progress)]
    assert [(frame.n, frame.data) for frame in told] == [(n + 1, {"depth": n, "what": "gold"}) for n in range(5)]
    assert {frame.effect for frame in told} == {"c1-1-t0"}
    await bench.verified("t1")


async def test_an_agent_is_made_for_its_request_and_a_replay_needs_none_of_it(bench: Bench) -> None:
    asked: list[str] = []

    @tool(effect="pure")
    async def secret(context: ToolContext) -> str:
        """Tell a secret."""
        return f"of {context.request['user']}"

    def instructions(context: RequestContext) -> str:
        asked.append("instructions")
        return f"You serve {context.need('user', str)}."

    async def tools(context: RequestContext) -> list[Tool]:
        asked.append("tools")
        return [secret] if context.get("admin") else []

    bench.agents = [Agent("made", instructions, lambda context: context["model"], tools)]
    about = {"user": "ann", "admin": True, "model": "m"}
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "use secret", agent="made", context=about)) == "re: of ann"
        other = run("c2", "use secret", agent="made", context={"user": "bob", "model": "m"})
        assert (await answer_of(bench, other)).startswith("re: error: no tool")
        refused = await outcome_of(bench, run("c3", agent="made", context={"model": "m"}))
    assert refused.problem is not None
    assert refused.problem.kind == "definition"
    assert "context.user" in refused.problem.message
    started = await bench.events(RunStarted)
    assert [event.profile.instructions for event in started] == ["You serve ann.", "You serve bob."]
    count = len(asked)
    await bench.verified("t1")
    assert len(asked) == count


class Hiding(Processor):
    """Hides one word from the model, wherever it comes from."""

    def __init__(self, word: str) -> None:
        self.name = "hiding"
        self.word = word

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Hide it in what the model is shown."""
        return [replace(message, content=message.content.replace(self.word, "***")) for message in messages]


@pytest.mark.parametrize("is_async", [False, True])
async def test_memory_and_processors_are_made_for_their_request_wherever_it_goes_on(
    bench: Bench, is_async: bool
) -> None:
    def memory(context: RequestContext) -> Memory | None:
        return Memory(last=50) if context.get("keen") else None

    def processors(context: RequestContext) -> list[Processor]:
        return [Hiding(context["hide"])] if "hide" in context else []

    async def later_memory(context: RequestContext) -> Memory | None:
        return memory(context)

    async def later_processors(context: RequestContext) -> list[Processor]:
        return processors(context)

    made = (later_memory, later_processors) if is_async else (memory, processors)

    @tool(effect="pure")
    async def code(what: str, context: ToolContext) -> str:
        """Ask for a code."""
        return f"{what} {context.suspend({}, str)}"

    bench.agents = [Agent("made", "Help.", tools=[code], memory=made[0], processors=made[1])]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        context = {"keen": True, "hide": "4711"}
        await send_command(bench.connection, run("c1", "use code it", agent="made", context=context, approvals="ask"))
        await until(watcher, happened("tool.suspended"))
    async with owning(bench.runtime("p2")), hearing(bench, "run.c1") as watcher:  # whose process knows of none
        await send_command(bench.connection, settling("a", Resume("c1-1-t0", "is 4711")))
        await until(watcher, ends)
        assert await answer_of(bench, run("c2", "say 4711", agent="made")) == "re: say 4711"
    first, _ = await bench.events(RunFinished)
    assert first.text == "re: it is ***"
    kept, plain = (event.profile for event in await bench.events(RunStarted))
    assert kept.memory is not None
    assert (kept.memory.last, kept.processors, plain.memory, plain.processors) == (50, ("hiding",), None, ())
    await bench.verified("t1")


async def test_a_request_may_want_it_otherwise(bench: Bench) -> None:
    wanted = {"instructions": "Be brief.", "max_steps": 1, "active_tools": ("look",), "tool_choice": "required"}
    wanted["agent"] = "open"
    bench.agents = [dataclasses.replace(bench.agent(), name="open", open_to=("instructions",))]
    async with owning(bench.runtime("p1")):
        closed = await outcome_of(bench, run("c0", instructions="Be evil."))
        assert closed.problem is not None
        assert closed.problem.field == "instructions"
        failed = await answer_of(bench, run("c1", "use look", **wanted))
        unknown = await outcome_of(bench, run("c2", active_tools=("nope",)))
    assert "max_steps" in failed
    assert unknown.problem is not None
    assert unknown.problem.field == "active_tools"
    call = bench.model.calls[0]
    assert call.messages[0].content == "Be brief."
    assert ([spec.name for spec in call.tools], call.calling.choice) == (["look"], "required")
    await bench.verified("t1")


async def test_a_model_that_takes_too_long_over_a_step_is_stopped_and_asked_again(bench: Bench) -> None:
    bench.model.hold = asyncio.Event()
    bench.agents = [Agent("hasty", "Help.", step_timeout_s=0.1, retries=0)]
    async with owning(bench.runtime("p1")):
        assert "longer than 0.1 s" in await answer_of(bench, run("c1", "hello there", agent="hasty"))
    (failed,) = await bench.events(ModelFailed)
    assert failed.problem.kind == "timeout"
    assert bench.model.aborted == ["acme/t1/c1-1-m"]
    await bench.verified("t1")


async def test_the_functions_around_a_run_are_called_and_an_end_is_told_after_a_crash(bench: Bench) -> None:
    steps: list[int] = []
    finished: list[RunEnd] = []
    gate, held = asyncio.Event(), asyncio.Event()

    async def on_finish(end: RunEnd) -> None:
        finished.append(end)
        held.set()
        await gate.wait()

    def prepare(view: StepView) -> StepChanges | None:
        steps.append(view.step)
        return StepChanges(instructions="Now answer.") if view.step == 2 else None

    look = bench.agent().tools[0]  # type: ignore[index]
    bench.agents = [Agent("watched", "Help.", tools=(look,), prepare_step=prepare, on_finish=on_finish)]
    async with hearing(bench, "run.c1") as watcher:
        async with owning(bench.runtime("p1")):
            await send_command(bench.connection, run("c1", "use look", agent="watched"))
            await held.wait()
        gate.set()
        async with owning(bench.runtime("p2")):
            await until(watcher, happened("hooks.told"))
    assert steps == [1, 2]
    assert [call.messages[0].content for call in bench.model.calls] == ["Help.", "Now answer."]
    assert [(end.text, end.steps) for end in finished] == [("re: look done", 2)] * 2
    assert len(await bench.events(RunFinished)) == 1
    await bench.verified("t1")


async def test_a_result_that_is_not_what_a_tool_promises_is_told_to_the_model(bench: Bench) -> None:
    @tool(effect="pure")
    async def count() -> int:
        """Count."""
        return "many"  # type: ignore[return-value]

    bench.agents = [Agent("counter", "Help.", tools=(count,))]
    async with owning(bench.runtime("p1")):
        await answer_of(bench, run("c1", "use count", agent="counter"))
    (failed,) = await bench.events(ToolFailed)
    assert "Expected `int`" in failed.content
    await bench.verified("t1")


async def test_tools_of_one_step_run_at_once_as_far_as_the_agent_allows(bench: Bench) -> None:
    running, most = 0, 0

    @tool(effect="pure")
    async def dig() -> str:
        """Dig."""
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return "found"

    def script(call: ModelCall) -> Say:
        if call.messages[-1].role == "user":
            return [ToolCall(f"k{n}", "dig", "{}") for n in range(6)]
        return "done"

    bench.model.script = script
    bench.agents = [Agent("digger", "Help.", tools=(dig,), tool_concurrency=2)]
    async with owning(bench.runtime("p1")):
        assert await answer_of(bench, run("c1", "dig", agent="digger")) == "done"
    assert most == 2
    await bench.verified("t1")


async def test_functions_around_tools_are_recorded_and_a_person_agrees_to_what_is_called(bench: Bench) -> None:
    paid: list[int] = []
    seen: list[tuple[str, int]] = []
    steps: list[tuple[int, str]] = []

    @tool(effect="once", needs_approval=True)
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(amount)
        return f"paid {amount} from DE1"

    def before(use: ToolUse) -> Any:
        seen.append((use.tool, use.arguments["amount"]))
        return {"amount": min(use.arguments["amount"], 100)}

    def script(call: ModelCall) -> Say:
        last = call.messages[-1]
        return ToolCall("k", "pay", '{"amount": 900}') if last.role == "user" else f"re: {last.content}"

    bench.model.script = script
    bench.agents = [
        Agent(
            "payer",
            "Help.",
            tools=(pay,),
            before_tool=before,
            after_tool=lambda used: used.content.replace("DE1", "an account"),
            on_step=lambda view: steps.append((view.step, view.text)),
        )
    ]
    async with owning(bench.runtime("p1")), hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, run("c1", "pay", agent="payer"))
        await until(watcher, happened("approval.requested"))
    (asked,) = await bench.events(ApprovalRequested)
    assert asked.call.arguments == '{"amount":100}'
    # whoever goes on needs no second word of the function before
    async with owning(bench.runtime("p2")), hearing(bench, "run.c1") as watcher:
        await send_command(bench.connection, settling("a1", Approve(asked.effect, '{"amount":100}')))
        await until(watcher, happened("hooks.told"))
    assert (paid, seen) == ([100], [("pay", 900)])
    (finished,) = await bench.events(RunFinished)
    assert finished.text == "re: paid 100 from an account"
    assert steps == [(2, ""), (3, "re: paid 100 from an account")]
    assert not any(b"DE1" in bytes(fact.payload) for _, _, fact in await bench.facts())
    await bench.verified("t1")
