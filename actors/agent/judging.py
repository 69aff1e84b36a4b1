"""An agent's and its tools' own functions about calls: whether a person must agree, and what stands around a tool.

What is said before a call is part of the answer that wants it (`model.returned`), so that it is said once, a person
agrees to what is called in the end, and replay needs none of the functions. What is said after one is in its result.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from actors.agent.around_tools import AfterTool, Answered, BeforeTool, ToolUse, ToolUsed
from actors.agent.calls import LONGEST_RESULT, kept
from actors.agent.effects import CallModel, CallTool
from actors.agent.hooks import HOOK_S, called_hook, reason_of
from actors.agent.run import call_of
from actors.delegates import Refused
from actors.errors import BadArguments
from actors.parameters import plain_value, text_of
from actors.processors.guarded import tool_result
from actors.processors.processor import About, Processor
from actors.request_context import RequestContext
from actors.tools import Tool, arguments_of
from schemas import codec
from schemas.faults import fault
from schemas.hooks import Judgement
from schemas.messages import ToolCall
from schemas.runs import Event, ToolFailed, ToolReturned

log = logging.getLogger(__name__)


async def judged(
    before: BeforeTool | None, effect: CallModel, thread: str, tools: Mapping[str, Tool], calls: Sequence[ToolCall]
) -> tuple[Judgement, ...]:
    """Say of the calls of a model's answer what the agent's function says, and whether a person must agree.

    Args:
        before: the agent's function before its tools.
        effect: what the model was asked.
        thread: of the run.
        tools: those that are here, by name.
        calls: what the model wants.
    """
    bound = {binding.name: binding.approval for binding in effect.profile.tools}
    judging = []
    for index, call in enumerate(calls):
        tool = tools.get(call.name)
        if before is not None and call.name in bound:
            judging.append(_asked_before(before, effect, thread, Judgement(index, bound[call.name]), call, tool))
        elif tool is not None and bound.get(call.name):
            judging.append(_judgement(Judgement(index, bound[call.name]), call, tool))
    return tuple(await asyncio.gather(*judging))


async def answers_looked_at(
    processors: Sequence[Processor], calls: Sequence[ToolCall], told: Sequence[Judgement]
) -> tuple[Judgement, ...]:
    """Have a run's processors look at what stands in the place of results, as they look at results."""
    seen = []
    for one in told:
        if one.answer is not None and processors:
            content = await tool_result(processors, calls[one.index].name, one.answer, About(None))
            seen.append(replace(one, answer=kept(content)))
        else:
            seen.append(one)
    return tuple(seen)


async def looked_after(after: AfterTool | None, effect: CallTool, thread: str, event: Event) -> Event:
    """Have the agent's function after its tools see what came of a call; where it fails, that is kept back."""
    if after is None or not isinstance(event, ToolReturned | ToolFailed):
        return event
    call, step = effect.called.call, int(call_of(effect.id).rsplit("-", 2)[1])
    about = (call.name, _plain(call), RequestContext(effect.context), effect.memory.resource)
    use = ToolUse(effect.entity, effect.agent, thread, step, *about)
    try:
        told = await called_hook(effect.agent, after, ToolUsed(use, event.content, isinstance(event, ToolReturned)))
        content = event.content if told is None else kept(text_of(plain_value(told)))
    except (Exception, SystemExit) as error:  # noqa: BLE001  what it may have taken out must not get through for that
        log.warning("a function of agent %r after tool %s failed: %s", effect.agent, call.name, fault(error))
        content = f"error: what came of the call is kept back: `after_tool` failed ({type(error).__name__})"
    if content == event.content:
        return event
    if isinstance(event, ToolFailed):
        return replace(event, content=content)
    # what the model does not read would hold what was taken out of what it reads
    return replace(event, content=content, result=None)


async def _asked_before(
    before: BeforeTool, effect: CallModel, thread: str, bound: Judgement, call: ToolCall, tool: Tool | None
) -> Judgement:
    """Ask the agent's function about a call that fits, and then for approval of what it makes of it.

    Args:
        before: the agent's function before its tools.
        effect: what the model was asked.
        thread: of the run.
        bound: what holds of the call by its binding alone.
        call: what the model wants.
        tool: the one it names, if that is here.
    """
    try:
        _fit(call, tool)
    except BadArguments as error:
        return Judgement(bound.index, approval=False, problem=str(error))
    about = (call.name, _plain(call), RequestContext(effect.context), effect.memory.resource)
    use = ToolUse(effect.entity, effect.profile.agent, thread, effect.called.step, *about)
    said = await _said_before(before, use, bound.index)
    if said.problem or said.answer is not None:
        return said
    changed = call if said.arguments is None else replace(call, arguments=said.arguments)
    return await _judgement(replace(bound, arguments=said.arguments), changed, tool)


async def _said_before(before: BeforeTool, use: ToolUse, index: int) -> Judgement:
    """Ask the agent's function about a call; where it fails, nothing is called."""
    try:
        said = await called_hook(use.agent, before, use)
        return _recorded(index, said)
    except (Exception, SystemExit) as error:  # noqa: BLE001  what guards a tool lets nothing through when it fails
        log.warning("a function of agent %r before tool %s failed: %s", use.agent, use.tool, fault(error))
        return Judgement(index, approval=False, problem=f"`before_tool` failed: {reason_of(error)}")


def _recorded(index: int, said: Any) -> Judgement:
    """Make the record of what was said before a call.

    Raises:
        TypeError: something else was returned, or what JSON cannot carry.
        ValueError: the arguments are too long.
    """
    match said:
        case None:
            return Judgement(index, approval=False)
        case Refused(reason=reason):
            return Judgement(index, approval=False, problem=kept(reason) or "it was refused")
        case Answered(content=content):
            return Judgement(index, approval=False, answer=kept(text_of(plain_value(content))))
        case Mapping():
            arguments = codec.encode(plain_value(dict(said))).decode()
            if len(arguments) > LONGEST_RESULT:
                raise ValueError(f"it returned arguments of more than {LONGEST_RESULT} characters")
            return Judgement(index, approval=False, arguments=arguments)
        case _:
            raise TypeError(f"it returned {said!r}: return a mapping of arguments, Refused, Answered or None")


async def _judgement(said: Judgement, call: ToolCall, tool: Tool | None) -> Judgement:
    """Say whether a person must agree to a call; where that fails, one must.

    Of a tool that is not here nothing more is known than its binding says: a service is called without it.
    """
    try:
        if tool is None:
            _fit(call, tool)
            return said
        async with asyncio.timeout(HOOK_S):
            return replace(said, approval=await tool.needs_approval(call.arguments))
    except BadArguments as error:
        return replace(said, approval=True, problem=str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001  what cannot be judged is for a person to judge
        log.warning("whether %s needs approval cannot be said: %s", call.name, fault(error))
        return replace(said, approval=True)


def _fit(call: ToolCall, tool: Tool | None) -> None:
    """Check a call's arguments.

    Raises:
        BadArguments: they do not fit.
    """
    if tool is None:
        arguments_of(call.name, call.arguments)
    else:
        tool.values(call.arguments)


def _plain(call: ToolCall) -> dict[str, Any]:
    try:
        return arguments_of(call.name, call.arguments)
    except BadArguments:
        return {}
