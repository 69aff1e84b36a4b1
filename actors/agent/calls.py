"""How a tool call is performed: by a function here, or by a service; whatever becomes of it is an event."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

from actors.agent.effects import CallTool
from actors.errors import InDoubt, NoService
from actors.tools import Suspend, Tool, ToolContext
from actors.toolsets import ToolServices
from schemas import codec
from schemas.faults import fault
from schemas.memory import MemoryWrite
from schemas.profiles import ToolBinding
from schemas.runs import Event, ToolFailed, ToolIndeterminate, ToolReturned
from schemas.tasks import TaskEnded
from schemas.waits import ToolSuspended

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 3
"""A tool that was under way this often when its process ended is taken to end it."""
LONGEST_RESULT = 100_000
"""Characters of a tool's result that a run keeps: more fits no model, and no message of the log."""


def is_given_up(effect: CallTool, again: bool) -> bool:
    """Say whether a call that a crash cut off must not be begun again."""
    if effect.binding is not None and effect.binding.place == "agent":
        return False  # its run is in the log: whoever asks again hears of the same one
    return again and (effect.called.effect_class == "once" or effect.attempts >= MOST_ATTEMPTS)


async def run_again(tool: Tool, effect: CallTool, context: ToolContext) -> Event:
    """Take up a call that a crash cut off: a checkable tool is asked first whether it took effect."""
    if effect.called.effect_class != "checkable":
        return await run_tool(tool, effect, context)
    if tool.check is None:
        return given_up(effect)
    try:
        async with asyncio.timeout(tool.timeout_s):
            found = await tool.checked(context)
    except (Exception, SystemExit) as error:  # noqa: BLE001  what cannot be checked must not be run
        log.warning("tool %s cannot be checked: %s", tool.name, fault(error))
        return given_up(effect)
    if found is None:
        return await run_tool(tool, effect, context)
    return ToolReturned(effect=effect.id, call_id=effect.called.call.id, content=kept(found))


def given_up(effect: CallTool) -> ToolIndeterminate | ToolFailed:
    """Say why a call that a crash cut off is not run again."""
    call, times = effect.called.call, effect.attempts
    ended = f"its process ended each of the {times} times that it ran" if times >= MOST_ATTEMPTS else ""
    if effect.called.effect_class == "pure":
        return failed(effect, f"{ended}: it is not run again")
    content = f"it is not known whether {call.name!r} took effect; it was not run again"
    return ToolIndeterminate(
        effect=effect.id, call_id=call.id, content=f"error: {ended + ', and ' if ended else ''}{content}"
    )


async def run_tool(tool: Tool, effect: CallTool, context: ToolContext) -> Event:
    """Call a function."""
    call = effect.called.call
    limit = asyncio.timeout(tool.timeout_s)
    try:
        async with limit:
            output = await tool.call(call.arguments, context)
    except Suspend as suspend:
        return _suspended(effect, suspend)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever a tool raises is the model's to read, not ours
        if isinstance(error, TimeoutError) and limit.expired():
            return in_doubt(effect, f"it took longer than {tool.timeout_s:g} s")
        return _broken(tool, effect, error)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return failed(effect, "the tool cancelled itself")
    writes = tuple(MemoryWrite(kept(write.topic), kept(write.text), write.scope) for write in context.writes)
    result = None if _is_too_long(output.result) else output.result
    return ToolReturned(effect=effect.id, call_id=call.id, content=kept(output.content), writes=writes, result=result)


def _broken(tool: Tool, effect: CallTool, error: BaseException) -> ToolFailed | ToolIndeterminate:
    """Say what becomes of a call that raised something."""
    log.info("tool %s failed: %s", tool.name, fault(error))
    why = str(error) or type(error).__name__
    return in_doubt(effect, why) if isinstance(error, InDoubt) else failed(effect, why)


def _suspended(effect: CallTool, suspend: Suspend) -> ToolSuspended | ToolFailed:
    if _is_too_long(suspend.payload, suspend.schema):
        return failed(effect, f"what it asks for is longer than {LONGEST_RESULT} characters")
    return ToolSuspended(
        effect=effect.id,
        call_id=effect.called.call.id,
        payload=suspend.payload,
        schema=suspend.schema,
        problem=kept(suspend.problem),
    )


def _told(effect: CallTool, key: str) -> dict[str, str]:
    """Say in a service's headers, which are ASCII, whose call it is and what it was given."""
    headers = {"Ostinato-Key": key, "Ostinato-Run": effect.entity, "Ostinato-Agent": effect.agent}
    if effect.context:
        headers["Ostinato-Context"] = json.dumps(effect.context)
    if effect.answers:
        headers["Ostinato-Answers"] = json.dumps(effect.answers)
    if effect.traceparent:
        headers["traceparent"] = effect.traceparent
    return headers


async def run_service(
    services: ToolServices, binding: ToolBinding, effect: CallTool, key: str, report: Callable[[Any], None]
) -> Event:
    """Call a service. One that does not answer in time may have taken effect, unless it says that this is the same."""
    call = effect.called.call
    try:
        content = await services.call(binding, call.arguments, _told(effect, key), report)
    except Suspend as suspend:
        return _suspended(effect, suspend)
    except asyncio.CancelledError:
        await services.cancel(binding, key)
        raise
    except TimeoutError as error:
        await services.cancel(binding, key)
        return in_doubt(effect, str(error))
    except NoService as error:
        return failed(effect, f"{call.name!r} was not called: {error}")
    except Exception as error:  # noqa: BLE001  whatever a service answers is the model's to read
        return failed(effect, str(error) or type(error).__name__)
    return ToolReturned(effect=effect.id, call_id=call.id, content=kept(content))


def task_ended(event: Event) -> TaskEnded:
    """Make of what a call came to what a background task did."""
    match event:
        case ToolReturned(effect=effect, content=content, writes=writes, usage=usage, cost=cost):
            return TaskEnded(effect, "returned", content, writes, usage, cost)
        case ToolFailed(effect=effect, content=content, usage=usage, cost=cost):
            return TaskEnded(effect, "failed", content, (), usage, cost)
        case ToolIndeterminate(effect=effect, content=content):
            return TaskEnded(effect, "unknown", content)
        case ToolSuspended(effect=effect):
            return TaskEnded(effect, "failed", "error: a tool in the background cannot wait for data")
        case _:
            raise AssertionError(f"not what a call comes to: {event!r}")


def in_doubt(effect: CallTool, why: str) -> ToolIndeterminate | ToolFailed:
    """Tell the model why there is no result of a call of which nobody knows whether it took effect."""
    if effect.called.effect_class != "once":
        return failed(effect, why)
    call = effect.called.call
    content = kept(f"error: it is not known whether {call.name!r} took effect: {why}")
    return ToolIndeterminate(effect=effect.id, call_id=call.id, content=content)


def failed(effect: CallTool, why: str) -> ToolFailed:
    """Tell the model why there is no result."""
    return ToolFailed(effect=effect.id, call_id=effect.called.call.id, content=kept(f"error: {why}"))


def _is_too_long(*values: Any) -> bool:
    return len(codec.encode(values)) > LONGEST_RESULT


def kept(text: str) -> str:
    """Make any text one that the log can hold: Unicode, and not too long."""
    whole = text.encode("utf-8", "replace").decode()
    left = len(whole) - LONGEST_RESULT
    return whole if left <= 0 else f"{whole[:LONGEST_RESULT]}\n[{left} more characters left out]"
