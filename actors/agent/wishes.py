"""The tool calls that a model wants, pure: called, handed over, held for somebody, or refused."""

from __future__ import annotations

from msgspec.structs import replace

from actors.agent.conversation import Conversation
from actors.agent.effects import CallTool, RunTask
from actors.agent.folding import Folding, context_of, parent_of
from actors.agent.run import Pending, Run, Waits
from actors.agent.task import under_way
from actors.memory.prompt import shared_by
from schemas.commands import RunAgent
from schemas.hooks import Judgement
from schemas.messages import ToolCall
from schemas.profiles import ToolBinding
from schemas.runs import NEEDS_PERSON, ApprovalRequested, ToolCalled, ToolFailed, ToolReturned
from schemas.tasks import TaskStarted
from schemas.waits import ToolHandedOver


def call_tool(state: Conversation, run: Run, effect: str, call: ToolCall, item: Pending | None = None) -> CallTool:
    """Make the effect of a `tool.called`, of a call that has waited for somebody with what came of that."""
    binding = next(tool for tool in run.profile.tools if tool.name == call.name)
    data, hands_over = state.commands[run.id].data, binding.place == "handoff"
    return CallTool(
        effect,
        "run",
        run.id,
        state.commands[run.id].traceparent,
        called=ToolCalled(effect=effect, call=call, effect_class=binding.effect),
        agent=run.profile.agent,
        notes=dict(state.notes),
        model=run.effective.model,
        binding=binding,
        context=context_of(state, run.id),
        parent=parent_of(state, run.id),
        approvals="ask" if can_ask(state, run.id) else "refuse",
        answers=() if item is None else item.answers,
        attempts=1 if item is None else item.attempts,
        processors=run.profile.processors,
        messages=state.messages,
        memory=state.memory,
        asked=data if hands_over and isinstance(data, RunAgent) else None,
        profile=run.profile if hands_over else None,
        shared=shared_by(state.memory, run.profile.memory),
    )


def call_wished(folding: Folding, name: str) -> None:
    """Do what is still to be done of what the model wants, in its order, as far as there is room for it."""
    run = folding.state.runs[name]
    known = {item.effect for item in run.pending}
    for index, call in enumerate(run.answer.tool_calls if run.answer is not None else ()):
        effect = f"{name}-{run.step}-t{index}"
        if effect in known:
            continue
        if not _has_room(folding.state.runs[name]):
            return
        _after_wish(folding, run, effect, call)


def _has_room(run: Run) -> bool:
    most = run.profile.tool_concurrency
    return not most or sum(item.result is None and item.waits is None for item in run.pending) < most


def _after_wish(folding: Folding, run: Run, effect: str, call: ToolCall) -> None:
    """Call the tool that the model wants, ask whether it may be called, or tell the model why not."""
    tools = {tool.name: tool for tool in run.effective.tools}
    assert run.answer is not None
    judged = {f"{run.id}-{run.step}-t{item.index}": item for item in run.answer.judged}.get(effect)
    if call.name not in tools:
        known = ", ".join(tools) or "none"
        refuse_tool(folding, run, effect, call, f"no tool named {call.name!r} (tools: {known})")
    elif tools[call.name].place == "handoff" and _is_handed_over(folding.state.runs[run.id]):
        refuse_tool(folding, run, effect, call, "the thread is handed to somebody already")
    elif judged is not None and judged.problem:
        refuse_tool(folding, run, effect, call, judged.problem)
    elif judged is not None and judged.answer is not None:
        folding.emit("run", run.id, ToolReturned(effect=effect, call_id=call.id, content=judged.answer))
    else:
        arguments = None if judged is None else judged.arguments
        wanted = call if arguments is None else replace(call, arguments=arguments)
        needed = _must_be_asked(folding.state, run, tools[call.name], judged)
        _approved_or_asked(folding, run, effect, wanted, needed=needed)


def _approved_or_asked(folding: Folding, run: Run, effect: str, call: ToolCall, *, needed: bool) -> None:
    """Call a tool, or ask a person first where that is needed."""
    if not needed:
        begin_tool(folding, run, effect, call)
    elif can_ask(folding.state, run.id):
        folding.emit("run", run.id, ApprovalRequested(effect=effect, call=call))
    else:
        message = f"{call.name!r} {NEEDS_PERSON}, which cannot be asked for here"
        refuse_tool(folding, run, effect, call, message)


def _must_be_asked(state: Conversation, run: Run, tool: ToolBinding, judged: Judgement | None) -> bool:
    """Say whether a person must agree to a call, and has not agreed beforehand."""
    needed = tool.approval if judged is None else judged.approval
    return needed and not state.standing.is_granted(run.profile.agent, tool)


def _is_handed_over(run: Run) -> bool:
    """Say whether a call of the step hands the thread over, or is about to."""
    handing = {tool.name for tool in run.profile.tools if tool.place == "handoff"}
    under_way = (item for item in run.pending if item.result is None and item.call.name in handing)
    return run.handover is not None or any(under_way)


def can_ask(state: Conversation, name: str) -> bool:
    """Say whether there is somebody who can be asked during a run."""
    data = state.commands[name].data
    return not isinstance(data, RunAgent) or data.approvals == "ask"


def begin_tool(folding: Folding, run: Run, effect: str, call: ToolCall) -> None:
    """Call a tool, or have the caller do so."""
    begun = call_tool(folding.state, run, effect, call)
    if begun.binding is not None and begun.binding.place == "client":
        folding.emit("run", run.id, ToolHandedOver(effect=effect, call=call))
        return
    if begun.binding is not None and begun.binding.background:
        task = f"{effect}b"
        folding.emit("run", run.id, TaskStarted(effect=task, call=call))
        receipt = f"It goes on in the background as task {task!r}; you are told when it has ended."
        folding.emit("run", run.id, ToolReturned(effect=effect, call_id=call.id, content=receipt))
        if task in under_way(folding.state.tasks):
            folding.effects.append(run_task(folding.state, task))
        return
    folding.emit("run", run.id, begun.called)
    folding.effects.append(begun)


def run_task(state: Conversation, name: str) -> RunTask:
    """Make the effect of a `task.started`."""
    task, trace = state.tasks[name], state.commands[state.tasks[name].run].traceparent
    call = CallTool(
        name,
        "run",
        task.run,
        trace,
        called=ToolCalled(effect=name, call=task.call, effect_class=task.binding.effect),
        agent=task.agent,
        notes=dict(state.notes),
        binding=task.binding,
        context=context_of(state, task.run),
        parent=parent_of(state, task.run),
        approvals="ask" if can_ask(state, task.run) else "refuse",
        attempts=task.attempts,
        processors=task.processors,
        messages=state.messages,
        memory=state.memory,
    )
    return RunTask(name, "run", task.run, trace, attempts=task.attempts, call=call)


def go_on_with(folding: Folding, run: Run, item: Pending) -> None:
    """Call a suspended tool again, with all that it was given."""
    begun = call_tool(folding.state, run, item.under_way, item.call, item)
    folding.emit("run", run.id, begun.called)
    folding.effects.append(begun)


def refuse_tool(folding: Folding, run: Run, effect: str, call: ToolCall, why: str) -> None:
    """Tell the model why its call comes to nothing."""
    folding.emit("run", run.id, ToolFailed(effect=effect, call_id=call.id, content=f"error: {why}"))


def waiting(state: Conversation, kind: Waits | None = None) -> tuple[Pending, ...]:
    """List the tool calls of the active run that wait for somebody: for anybody, or of one kind."""
    run = state.runs.get(state.active or "")
    held = () if run is None else (item for item in run.pending if item.waits is not None and item.result is None)
    return tuple(item for item in held if kind in {None, item.waits})
