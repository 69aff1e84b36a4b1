"""What MCP clients are shown of agents, runs and what those wait for. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import mcp_types as types
import msgspec

from infra.called import Came
from infra.running import Settling, Waiting
from schemas import codec
from schemas.commands import Approve, Deny, PostResult, Resume
from schemas.rest import AgentOffered, ToolOffered
from schemas.runs import ToolResult, ToolReturned

ASK: Final = "ask_"
TOOL: Final = "tool_"
_LONGEST_SHOWN: Final = 2000
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Ask an agent."""

    text: Annotated[str, msgspec.Meta(min_length=1, description="What to say to the agent.")]
    thread: Annotated[str, msgspec.Meta(max_length=200, description="The conversation to go on with.")] = ""


class AnswerWait(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Give what a run waits for: a person's yes or no to a call, or data. Ask the person first."""

    thread: _Name
    run: _Name
    effect: _Name
    answer: Annotated[
        Literal["approve", "decline", "data"],
        msgspec.Meta(description="Agree to the call, refuse it, or give a suspended or handed-over tool its data."),
    ]
    arguments: Annotated[str, msgspec.Meta(description="Of an approval: the call's arguments exactly as shown.")] = ""
    reason: Annotated[str, msgspec.Meta(description="Of a refusal: the agent is told.")] = ""
    data: Annotated[Any, msgspec.Meta(description="The data.")] = None


class CancelRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End a run, whatever it is doing."""

    thread: _Name
    run: _Name
    reason: str = ""


def asking(agent: AgentOffered) -> types.Tool:
    """Show an agent as a tool."""
    about = f"Ask the agent {agent.name!r}. {agent.description}".strip()
    tools = {tool.effect for tool in agent.tools or ()}
    hints = types.ToolAnnotations(
        title=agent.name,
        read_only_hint=agent.tools is not None and tools <= {"pure"},
        destructive_hint=agent.tools is None or bool(tools & {"once", "checkable"}),
        idempotent_hint=False,
        open_world_hint=True,
    )
    return types.Tool(
        name=ASK + agent.name,
        description=about[:_LONGEST_SHOWN],
        input_schema=_schema(Ask),
        annotations=hints,
    )


def calling(tool: ToolOffered) -> types.Tool:
    """Show a tool that is called by itself."""
    hints = types.ToolAnnotations(
        title=tool.name,
        read_only_hint=tool.effect == "pure",
        destructive_hint=tool.effect in {"once", "checkable"},
        idempotent_hint=tool.effect in {"pure", "idempotent"},
        open_world_hint=tool.place == "service",
    )
    about = tool.description + (" A person must agree to a call first." if tool.approval else "")
    return types.Tool(
        name=TOOL + tool.name,
        description=about[:_LONGEST_SHOWN],
        input_schema=dict(tool.parameters),
        annotations=hints,
    )


def always() -> list[types.Tool]:
    """Show the tools that there are beside agents."""
    answer = types.ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True)
    cancel = types.ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True)
    return [
        types.Tool(name=name, description=shape.__doc__, input_schema=_schema(shape), annotations=hints)
        for name, shape, hints in (("answer_wait", AnswerWait, answer), ("cancel_run", CancelRun, cancel))
    ]


def _schema(shape: Any) -> dict[str, Any]:
    (_,), components = msgspec.json.schema_components([shape])
    schema: dict[str, Any] = components[shape.__name__]
    return schema


def wrong(message: str) -> types.CallToolResult:
    """Tell a model why there is nothing."""
    return types.CallToolResult(content=[types.TextContent(type="text", text=message)], is_error=True)


def told(text: str, plain: Mapping[str, Any]) -> types.CallToolResult:
    """Tell a model, and a program."""
    content = [types.TextContent(type="text", text=text)]
    return types.CallToolResult(content=list(content), structured_content=dict(plain))


def called_result(came: Came, returned: ToolResult | None) -> types.CallToolResult:
    """Tell what a tool gave, and that it failed where it did."""
    if returned is None:
        return result(came)
    plain = {name: value for name, value in came.plain().items() if name in {"thread", "run", "status"}}
    try:
        value = msgspec.json.decode(returned.content)
    except msgspec.DecodeError:
        value = returned.content
    found = told(returned.content, {**plain, "result": value})
    found.is_error = came.problem is not None or not isinstance(returned, ToolReturned)
    return found


def result(came: Came) -> types.CallToolResult:
    """Tell how far a run came."""
    found = told(came.text(), came.plain())
    found.is_error = came.problem is not None
    return found


def questions(came: Came) -> types.InputRequiredResult:
    """Have a client's person asked for what a run waits for."""
    requests: dict[str, types.InputRequest] = {one.effect: _question(one) for one in came.waits}
    return types.InputRequiredResult(input_requests=requests, request_state=f"{came.thread} {came.run}")


def _question(one: Waiting) -> types.ElicitRequest:
    form = types.ElicitRequestFormParams(message=_message(one), requested_schema=_form(one))
    return types.ElicitRequest(params=form)


def _message(one: Waiting) -> str:
    call = f"{one.call.name} {one.call.arguments[:_LONGEST_SHOWN]}"
    if one.kind == "approval":
        return f"May this be done: {call}?"
    shown = "" if one.payload is None else " " + codec.encode(one.payload).decode()[:_LONGEST_SHOWN]
    return f"{call} waits for data:{shown}{f' ({one.problem})' if one.problem else ''}"


def _form(one: Waiting) -> dict[str, Any]:
    if one.kind == "approval":
        return {"type": "object", "properties": {}}
    if _is_form(one):
        return dict(one.schema or {})
    answer = dict(one.schema or {}) or {"type": "string"}
    return {"type": "object", "properties": {"answer": answer}, "required": ["answer"]}


def _is_form(one: Waiting) -> bool:
    return one.schema is not None and one.schema.get("type") == "object"


def settling(one: Waiting, answer: types.ElicitResult) -> Settling:
    """Make of a person's answer to a form what a run waits for."""
    agreed = answer.action == "accept"
    if one.kind == "approval":
        return one.approve() if agreed else Deny(one.effect, "the person who was asked said no")
    content = answer.content or {}
    given: Any = content if _is_form(one) else content.get("answer")
    if one.kind == "caller":
        text = given if isinstance(given, str) else codec.encode(given).decode()
        return PostResult(one.effect, text) if agreed else PostResult(one.effect, error="nobody gave a result")
    return Resume(one.effect, given if agreed else None)


def settled(asked: AnswerWait, kind: str) -> Settling:
    """Make of a model's call what a run waits for."""
    if asked.answer == "approve":
        return Approve(asked.effect, asked.arguments)
    if asked.answer == "decline":
        return Deny(asked.effect, asked.reason)
    if kind == "caller":
        text = asked.data if isinstance(asked.data, str) else codec.encode(asked.data).decode()
        return PostResult(asked.effect, text)
    return Resume(asked.effect, asked.data)
