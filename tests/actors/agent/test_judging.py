"""An agent's functions around its tools: what they see and may say, and that a broken one lets nothing through."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from actors.agent.around_tools import Answered, ToolUse, ToolUsed
from actors.agent.effects import CallModel, CallTool
from actors.agent.judging import answers_looked_at, judged, looked_after
from actors.delegates import Refused
from actors.memory.state import Memory
from actors.processors.patterns import RegexFilter
from actors.processors.rules import PERSONAL
from actors.tools import Tool, client_tool, tool
from schemas.generation import Sampling
from schemas.hooks import Judgement
from schemas.messages import ToolCall
from schemas.profiles import Profile
from schemas.runs import ModelCalled, ToolCalled, ToolFailed, ToolReturned

pytestmark = pytest.mark.anyio


@tool(effect="pure", needs_approval=lambda amount: amount > 100)
def pay(amount: int) -> str:
    """Pay."""
    return str(amount)


WHERE = client_tool("where", "Say where you are.")
TOOLS: dict[str, Tool] = {"pay": pay}
"""Those that are here: what a request brings is not."""
PROFILE = Profile("demo", "m", "", (pay.binding, WHERE.binding), Sampling(), 4)
ASKED = CallModel(
    "r1-2-m",
    "run",
    "r1",
    "",
    called=ModelCalled("r1-2-m", "m", 2, 1, "", Sampling()),
    profile=PROFILE,
    messages=(),
    context={"user": "ann"},
    memory=Memory(resource="ann"),
)


def paying(amount: object, name: str = "pay") -> ToolCall:
    return ToolCall("k", name, f'{{"amount": {amount}}}')


@pytest.mark.parametrize("given", [None, {"amount": 7}])
async def test_a_tool_that_is_not_here_needs_a_person_where_its_binding_says_so(given: Any) -> None:
    # of a service it can be called all the same
    told = await judged(lambda use: given, ASKED, "t1", {}, [paying(5), ToolCall("k", "where", "")])
    assert [one.approval for one in told] == [True, False]
    arguments = None if given is None else '{"amount":7}'
    assert [one.arguments for one in told] == [arguments, arguments]


async def said(before: Any, *calls: ToolCall) -> tuple[Judgement, ...]:
    return await judged(before, ASKED, "t1", TOOLS, calls)


async def test_the_function_before_sees_what_the_model_wants_and_whose_it_is() -> None:
    seen: list[ToolUse] = []
    told = await said(seen.append, paying(5), ToolCall("k", "where", ""), paying(5, "gone"))
    assert [(use.tool, dict(use.arguments)) for use in seen] == [("pay", {"amount": 5}), ("where", {})]
    assert {(use.run, use.agent, use.thread, use.step, use.resource) for use in seen} == {
        ("r1", "demo", "t1", 2, "ann")
    }
    assert dict(seen[0].context) == {"user": "ann"}
    assert told == (Judgement(0, approval=False), Judgement(1, approval=False))


@pytest.mark.parametrize(
    ("given", "came"),
    [
        (None, Judgement(0, approval=False)),
        ({"amount": 7}, Judgement(0, approval=False, arguments='{"amount":7}')),
        # a person agrees to what is called in the end
        ({"amount": 700}, Judgement(0, approval=True, arguments='{"amount":700}')),
        (Refused("not on Sundays"), Judgement(0, approval=False, problem="not on Sundays")),
        (Refused(""), Judgement(0, approval=False, problem="it was refused")),
        (Answered("paid already"), Judgement(0, approval=False, answer="paid already")),
        (Answered({"paid": 7}), Judgement(0, approval=False, answer='{"paid":7}')),
        (Answered(""), Judgement(0, approval=False, answer="")),
    ],
)
async def test_what_the_function_before_says_is_the_record(given: Any, came: Judgement) -> None:
    async def before(use: ToolUse) -> Any:
        return given

    assert await said(before, paying(5)) == (came,)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"amount": "many"}, "arguments of 'pay' do not fit"),
        ({"sum": 1}, "arguments of 'pay' do not fit"),
        ({"amount": object()}, "nothing that JSON can carry"),
        ({"amount": "x" * 200_000}, "more than 100000 characters"),
        ("yes", "return a mapping of arguments"),
        (ValueError("so odd"), "ValueError: so odd"),
        (SystemExit(3), "SystemExit"),
    ],
)
async def test_what_makes_no_sense_before_a_call_calls_nothing(given: Any, why: str) -> None:
    def before(use: ToolUse) -> Any:
        if isinstance(given, BaseException):
            raise given
        return given

    (told,) = await said(before, paying(5))
    assert why in told.problem
    assert told.answer is None


async def test_arguments_that_do_not_fit_are_no_call_to_be_asked_about() -> None:
    seen: list[ToolUse] = []
    (told,) = await said(seen.append, paying('"many"'))
    assert "do not fit" in told.problem
    assert seen == []
    # without such a function the tool alone says so, of calls that may need approval
    assert "do not fit" in (await said(None, paying('"many"')))[0].problem
    assert await said(None, ToolCall("k", "where", "no JSON")) == ()
    assert (await said(None, paying(500)))[0].approval


CALLED = CallTool(
    "r1-2-t0s1",
    "run",
    "r1",
    "",
    called=ToolCalled("r1-2-t0s1", paying(7), "pure"),
    agent="demo",
    notes={},
    context={"user": "ann"},
    memory=Memory(resource="ann"),
)
RETURNED = ToolReturned("r1-2-t0s1", "k", "paid 7", result={"iban": "DE1"})


async def test_the_function_after_sees_what_came_of_it_and_may_say_it_otherwise() -> None:
    seen: list[ToolUsed] = []
    assert await looked_after(seen.append, CALLED, "t1", RETURNED) is RETURNED
    (used,) = seen
    assert (used.content, used.returned, dict(used.use.arguments)) == ("paid 7", True, {"amount": 7})
    assert (used.use.run, used.use.step, used.use.resource) == ("r1", 2, "ann")
    changed = await looked_after(lambda used: {"paid": True}, CALLED, "t1", RETURNED)
    # nothing is left beside of what was said otherwise
    assert changed == replace(RETURNED, content='{"paid":true}', result=None)
    failed = ToolFailed("r1-2-t0s1", "k", "error: no money")
    assert await looked_after(lambda used: f"{used.returned}", CALLED, "t1", failed) == replace(failed, content="False")


async def test_what_stands_in_the_place_of_a_result_is_looked_at_like_one() -> None:
    told = await said(lambda use: Answered("ask ann@example.org"), paying(5))
    (left,) = await answers_looked_at([RegexFilter(PERSONAL)], [paying(5)], told)
    assert left == Judgement(0, approval=False, answer="ask [EMAIL]")
    plain = (Judgement(0, approval=True),)
    assert await answers_looked_at([RegexFilter(PERSONAL)], [paying(5)], plain) == plain


async def test_what_a_broken_function_after_may_have_taken_out_is_kept_back() -> None:
    def after(used: ToolUsed) -> Any:
        raise ValueError(used.content)

    kept = await looked_after(after, CALLED, "t1", RETURNED)
    assert isinstance(kept, ToolReturned)
    assert kept.content == "error: what came of the call is kept back: `after_tool` failed (ValueError)"
    assert kept.result is None
