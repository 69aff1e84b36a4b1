"""A run, or a bare generation, that is under way: its spans that have begun. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from actors.models.metering import provider_of
from infra.spans.content import NoContent
from infra.spans.names import Names
from infra.spans.span import Moment, Span
from schemas.messages import Message, ToolCall, Usage
from schemas.processing import Processed
from schemas.runs import (
    ModelCalled,
    ModelFailed,
    ModelReturned,
    RunFailed,
    RunFinished,
    ToolFailed,
    ToolIndeterminate,
    ToolReturned,
)
from schemas.tracing import TraceContext, span_id
from schemas.waits import ToolSuspended

_NOTICED = frozenset({
    "approval.requested", "approval.given", "approval.denied", "retry.scheduled", "retry.due", "deadline.passed",
    "tool.resumed", "tool.continued", "run.queued",
})  # fmt: skip
ToolEnd = ToolReturned | ToolFailed | ToolIndeterminate | ToolSuspended


@dataclass
class OpenRun:
    """Makes a run's spans."""

    tenant: str
    thread: str
    kind: str
    entity: str
    context: TraceContext
    parent: str
    about: dict[str, str]
    names: Names
    content: NoContent
    asked: str = ""
    last: int = 0
    """When its last event was."""
    agent: str = ""
    model: str = ""
    begun: int = 0
    step: int = 0
    """The step that is under way; 0 before the first."""
    _step_begun: int = 0
    _models: dict[str, tuple[ModelCalled, int, dict[str, Any]]] = field(default_factory=dict)
    """Those that are asked, with when and with what."""
    _tools: dict[str, tuple[ToolCall, int]] = field(default_factory=dict)
    _times: dict[str, int] = field(default_factory=dict)
    """How often a tool with an effect's id was begun: one that waited for data is begun again."""
    _moments: list[Moment] = field(default_factory=list)

    @property
    def span(self) -> str:
        """Its own; a bare generation has none beside its request's."""
        return self._id(f"run {self.entity}") if self.kind == "run" else self.parent

    def started(self, agent: str, model: str, time: int) -> None:
        """It began."""
        self.agent, self.model, self.begun = agent, model, time

    def noticed(self, what: str, time: int) -> None:
        """Something happened that is no span."""
        if what in _NOTICED:
            self._moments.append(Moment(what, time))

    def model_called(self, called: ModelCalled, heard: Sequence[Message], time: int) -> list[Span]:
        """A model is asked: with the first time in a step, that begins."""
        self._models[called.effect] = called, time, self.content.heard(self.names, heard)
        if self.kind != "run" or called.step == self.step:
            return []
        ended = self._step_ended(time)
        self.step, self._step_begun = called.step, time
        return ended

    def model_ended(self, event: ModelReturned | ModelFailed, time: int) -> list[Span]:
        """The model answered, or did not."""
        found = self._models.pop(event.effect, None)
        if found is None:
            return []
        called, begun, heard = found
        names = self.names
        about: dict[str, Any] = {
            names.operation: "chat",
            names.request_model: called.model,
            names.temperature: called.sampling.temperature,
            names.top_p: called.sampling.top_p,
            names.seed: called.sampling.seed,
            names.max_tokens: called.sampling.max_tokens,
            names.provider: provider_of(called.model),
            "ostinato.effect": called.effect,
            **heard,
        }
        problem = ""
        if isinstance(event, ModelReturned):
            about |= {
                names.response_id: called.effect,
                names.response_model: event.engine or called.model,
                names.finish_reasons: [event.finish_reason],
                **self._used(event.usage),
                **self.content.said(names, event.text, event.tool_calls),
            }
        else:
            about[names.error] = event.problem.kind
            problem = event.problem.message
        effect = self._made(self._id(called.effect), self._above(), f"chat {called.model}", begun, time, about, problem)
        return [effect, *self._processors(event.processed, called.effect, effect.span, begun, time)]

    def tool_called(self, effect: str, call: ToolCall, time: int) -> None:
        """A tool begins."""
        if effect not in self._tools:
            self._times[effect] = self._times.get(effect, 0) + 1
            self._tools[effect] = call, time

    def tool_ended(self, event: ToolEnd, time: int) -> list[Span]:
        """A tool came to an end, or waits for data from outside."""
        found = self._tools.pop(event.effect, None)
        if found is None:
            return []
        call, begun = found
        names, problem = self.names, ""
        result: str | None = None
        about: dict[str, Any] = {
            names.operation: "execute_tool",
            names.tool: call.name,
            names.tool_call: call.id,
            names.tool_type: "function",
            "ostinato.effect": event.effect,
        }
        match event:
            case ToolReturned():
                result = event.content
                about |= self._used(event.usage) if event.usage != Usage() else {}
            case ToolSuspended():
                about["ostinato.suspended"] = True
            case ToolFailed() | ToolIndeterminate():
                about[names.error] = "tool.failed" if isinstance(event, ToolFailed) else "tool.indeterminate"
                problem, result = "the tool failed", event.content
        about |= self.content.tool(names, call.arguments, result)
        times = self._times[event.effect]
        own = self._id(event.effect if times == 1 else f"{event.effect} {times}")
        span = self._made(own, self._above(), f"execute_tool {call.name}", begun, time, about, problem)
        done = event.processed if isinstance(event, ToolReturned) else ()
        return [span, *self._processors(done, event.effect, own, begun, time)]

    def ended(self, event: RunFinished | RunFailed, time: int) -> list[Span]:
        """It is over."""
        names = self.names
        about: dict[str, Any] = {names.operation: "invoke_agent", names.agent: self.agent, "ostinato.run": self.entity}
        if isinstance(event, RunFinished):
            about |= {names.finish_reasons: [event.finish_reason], **self._used(event.usage)}
            asked = [Message("user", self.asked)]
            about |= {**self.content.heard(names, asked), **self.content.said(names, event.text)}
            problem = ""
        else:
            about[names.error] = event.problem.kind
            problem = event.problem.message
        steps = self._step_ended(time)
        begun = self.begun or time
        name = f"invoke_agent {self.agent}"
        run = self._made(self.span, self.parent, name, begun, time, about, problem, self._moments)
        return [*steps, run]

    def _step_ended(self, time: int) -> list[Span]:
        if not self.step:
            return []
        about = {"ostinato.step": self.step}
        own = self._id(f"step {self.entity} {self.step}")
        return [self._made(own, self.span, f"step {self.step}", self._step_begun, time, about)]

    def _above(self) -> str:
        return self._id(f"step {self.entity} {self.step}") if self.step else self.span

    def _processors(self, done: Sequence[Processed], effect: str, parent: str, begun: int, time: int) -> list[Span]:
        """Make spans as long as each took; when it did is not recorded, so they end with what they were about."""
        spans = list[Span]()
        for index, one in enumerate(done):
            if one.memory and any(before.memory and before.processor == one.processor for before in done[:index]):
                continue  # a search is one span, whatever it found
            name, about = f"processor {one.processor}", _processed(one)
            if one.memory:
                found = [other for other in done if other.memory and other.processor == one.processor]
                name, about = f"{self.names.recall} {one.processor}", self._recalled(one, found)
            own = self._id(f"{effect} processor {index}")
            spans.append(self._made(own, parent, name, max(begun, time - one.took_us), time, about))
        return spans

    def _recalled(self, one: Processed, found: Sequence[Processed]) -> dict[str, Any]:
        places = [other.reason for other in found if other.reason]
        told = {self.names.operation: self.names.recall, "ostinato.memory.found": places}
        counted = {self.names.memory_records: len(places)} if self.names.memory_records else {}
        return {**_processed(one), **told, **counted, "ostinato.found": len(places)}

    def _used(self, usage: Usage) -> dict[str, int]:
        names = self.names
        told = {
            names.input_tokens: usage.prompt_tokens,
            names.output_tokens: usage.completion_tokens,
            names.cached_tokens: usage.cached_tokens,
        }
        return told | ({names.reasoning_tokens: usage.reasoning_tokens} if usage.reasoning_tokens else {})

    def _id(self, name: str) -> str:
        return span_id(self.tenant, self.thread, name)

    def _made(
        self,
        own: str,
        parent: str,
        name: str,
        start: int,
        end: int,
        about: dict[str, Any],
        problem: str = "",
        moments: Sequence[Moment] = (),
    ) -> Span:
        return Span(
            trace=self.context.trace,
            span=own,
            parent=parent,
            name=name,
            start=start,
            end=end,
            kind="client" if name.startswith("chat ") else "internal",
            attributes={**self.about, self.names.conversation: self.thread, **about},
            problem=problem,
            moments=tuple(moments),
            sampled=self.context.sampled,
        )


def _processed(one: Processed) -> dict[str, Any]:
    return {
        "ostinato.processor": one.processor,
        "ostinato.hook": one.hook,
        "ostinato.action": one.action,
        "ostinato.found": one.found,
        "ostinato.reason": one.reason,
    }
