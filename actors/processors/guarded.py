"""A model with processors around it: what goes to it and what comes back passes through them, in their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from actors.errors import CallFailed
from actors.models.asking import unknown_model
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText, Piece
from actors.processors.hooked import hooked, shown, unicode
from actors.processors.processor import About, Processor, Tripped
from actors.processors.streaming import Outlet
from schemas.generation import BROKEN_OFF, Sampling
from schemas.messages import Calling, Message, Rendering, ToolSpec, added
from schemas.processing import Hook
from schemas.programs import ProgramNote
from schemas.runs import Problem

_AGAIN_MS = 1
"""A problem that says when is one that may pass."""
_VERDICT = 200
"""Tokens of a judge's answer."""


async def hear_nothing(_piece: Piece, /) -> None:
    """Take no text."""


class Guarded:
    """A `ModelProvider` that is another one with processors around it."""

    def __init__(
        self,
        inner: ModelProvider,
        processors: Sequence[Processor],
        first: bool,
        library: Any = None,
        resource: str = "",
        models: Mapping[str, ModelProvider] = {},
    ) -> None:
        """Put processors around a model.

        Args:
            inner: the model.
            processors: in the order in which they see what goes to it; what comes back they see in the same order.
            first: whether it is the first call of its run, before which they look at what came in.
            library: what was said before, for those that search it.
            resource: whose thread it is.
            models: those that a processor may ask by name in place of the model.
        """
        self._inner = inner
        self._processors = processors
        self._first = first
        self._library = library
        self._resource = resource
        self._models = models

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask, with the processors on the way there and back.

        Raises:
            CallFailed: the model failed, or a processor stopped it.
        """
        about = self._about(call)
        asked = await self._asked(call, about)
        outlet = Outlet(self._processors, about, on_text)
        try:
            answer = await self._inner.call(asked, outlet)
        except CallFailed as failure:
            if outlet.tripped is not None:  # whatever the model made of that
                raise await self._broken_off(outlet.tripped, asked, about) from failure
            failure.problem = await self._worded(failure.problem, about)
            failure.processed = about.told()
            failure.usage, failure.cost = failure.usage + about.used, added(failure.cost, about.paid)
            raise
        except Tripped as tripped:
            raise await self._broken_off(tripped, asked, about) from tripped
        return await self._let_out(answer, outlet, about)

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Search, with the processors on the way there and back.

        Raises:
            CallFailed: the model failed, or a processor stopped it.
        """
        about = self._about(call)
        found = await self._inner.search(await self._asked(call, about))
        return [await self._whole(answer, call) for answer in found]

    async def note(self, note: ProgramNote) -> None:
        """Hear of a program between its calls."""
        await self._inner.note(note)

    async def abort(self, request: str) -> None:
        """Stop a generation."""
        await self._inner.abort(request)

    async def _whole(self, answer: ModelAnswer, call: ModelCall) -> ModelAnswer:
        about = self._about(call)
        outlet = Outlet(self._processors, about, hear_nothing)
        await outlet(Piece(0, answer.text))
        await outlet(Piece(0, answer.reasoning, "reasoning"))
        return await self._let_out(answer, outlet, about)

    async def _asked(self, call: ModelCall, about: About) -> ModelCall:
        """Take a call through what looks at it and what changes it."""
        came = tuple(message for message in call.messages if message.role != "system")
        if self._first:
            for processor in _with(self._processors, "input"):
                await self._guarding("input", about, processor, _new(came))
        messages: Sequence[Message] = call.messages
        for processor in _with(self._processors, "prompt"):
            after = await self._guarding("prompt", about, processor, messages)
            if after != tuple(messages):
                about.note(processor, "prompt", "changed")
            messages = after
        tools: Sequence[ToolSpec] = call.tools
        for processor in self._processors:
            if type(processor).tools_shown is Processor.tools_shown:
                continue
            try:
                left = shown(processor, about, tools, call.messages)
            except Tripped as tripped:
                raise _stopped(tripped, about, "prompt") from tripped
            if len(left) < len(tools):
                about.note(processor, "prompt", "changed", len(tools) - len(left), "tools not shown")
            tools = left
        return replace(call, messages=tuple(messages), tools=tuple(tools))

    async def _let_out(self, answer: ModelAnswer, outlet: Outlet, about: About) -> ModelAnswer:
        """Take an answer through what looks at it, and tell what was held back for that."""
        try:
            text, reasoning = await outlet.end("text"), await outlet.end("reasoning")
        except Tripped as tripped:
            raise _stopped(tripped, about, "stream") from tripped
        about.used, about.paid = about.used + answer.usage, added(about.paid, answer.cost)
        # what is no call no processor sees
        left = replace(answer, text=text, reasoning=reasoning, cut_off=())
        if left.finish_reason in BROKEN_OFF and outlet.holds:
            left = replace(left, text="", reasoning="")  # nobody looked at it
        if left.finish_reason not in BROKEN_OFF:
            hooks: tuple[Hook, ...] = ("answer",) if left.tool_calls else ("answer", "result")
            for hook in hooks:
                for processor in _with(self._processors, hook):
                    left = await self._guarding(hook, about, processor, left)
        left = replace(left, text=unicode(left.text), reasoning=unicode(left.reasoning))
        await outlet.release("reasoning", left.reasoning)
        await outlet.release("text", left.text)
        left = left if _is_as_it_was(left, answer) else replace(left, **_TELLTALE)
        return replace(left, processed=about.told(), usage=about.used, cost=about.paid)

    async def _broken_off(self, tripped: Tripped, call: ModelCall, about: About) -> CallFailed:
        await self._inner.abort(call.request)
        return _stopped(tripped, about, "stream")

    async def _worded(self, problem: Problem, about: About) -> Problem:
        for processor in _with(self._processors, "error"):
            problem = await self._guarding("error", about, processor, problem)
        return problem

    async def _guarding(self, hook: Hook, about: About, processor: Processor, given: Any) -> Any:
        try:
            return await hooked(processor, hook, about, given)
        except Tripped as tripped:
            raise _stopped(tripped, about, hook) from tripped

    def _about(self, call: ModelCall) -> About:
        """Give a processor a way to ask a model about a text: a generation of its own that nobody hears."""

        async def judge(who: str, prompt: str, most: int = _VERDICT, /, *, model: str = "") -> str:
            if model and model not in self._models:
                raise CallFailed(unknown_model(model, self._models))
            asked, of = aside(call, who, prompt, most), self._models[model] if model else self._inner
            answer = await of.call(elsewhere(asked, model) if model else asked, hear_nothing)
            about.used, about.paid = about.used + answer.usage, added(about.paid, answer.cost)
            return answer.text

        about = About(call, judge, library=self._library, resource=self._resource)
        return about


def aside(call: ModelCall, who: str, prompt: str, most: int) -> ModelCall:
    """Ask something else than a call does: of what it says of its answer, such as a form or a tool, nothing holds."""
    sampling = call.sampling
    plain = Sampling(
        seed=sampling.seed,
        max_tokens=most,
        stop_tokens=sampling.stop_tokens,
        thinking_budget=sampling.thinking_budget,
        thinking_opening=sampling.thinking_opening,
        thinking_closing=sampling.thinking_closing,
    )
    return replace(
        call,
        effect=f"{call.effect}.{who}",
        messages=(Message("user", prompt),),
        prompt=None,
        tools=(),
        calling=Calling(),
        rendering=Rendering(call.rendering.chat_template, call.rendering.chat_template_kwargs),
        sampling=plain,
        stop=(),
        bad_words=(),
        n=1,
        choice=0,
        length_penalty=None,
        return_token_ids=False,
    )


def elsewhere(call: ModelCall, model: str) -> ModelCall:
    """Ask another model: how the one before is spoken to, and where it ends, is its own."""
    plain = Sampling(seed=call.sampling.seed, max_tokens=call.sampling.max_tokens)
    return replace(call, model=model, chain=None, options={}, rendering=Rendering(), sampling=plain)


_TELLTALE: dict[str, Any] = {"logprobs": (), "token_ids": (), "sampled": None, "thoughts": ()}
"""What spells an answer as it was before processors changed it. Who guesses what it was could see by its hash that it
was that, and a provider's own form has it too."""


def _is_as_it_was(answer: ModelAnswer, before: ModelAnswer) -> bool:
    told = ("text", "reasoning", "tool_calls")
    return all(getattr(answer, name) == getattr(before, name) for name in told)


def _with(processors: Sequence[Processor], hook: Hook) -> list[Processor]:
    return [processor for processor in processors if processor.has(hook)]


def _new(messages: Sequence[Message]) -> Sequence[Message]:
    """Give what came in since the model spoke last."""
    spoken = [at for at, message in enumerate(messages) if message.role == "assistant"]
    return messages[spoken[-1] + 1 :] if spoken else messages


def _stopped(tripped: Tripped, about: About, hook: Hook) -> CallFailed:
    """Make a processor's word the call's outcome: it may be tried again where the processor says so."""
    assert tripped.processor is not None
    about.note(tripped.processor, hook, "stopped", reason=tripped.reason)
    message = f"stopped by processor {tripped.processor.name!r}: {tripped.told}"
    problem = Problem(kind="tripwire", message=message, retry_after_ms=_AGAIN_MS if tripped.again else 0)
    failure = CallFailed(problem, about.told())
    failure.usage, failure.cost = about.used, about.paid
    return failure


async def tool_result(processors: Sequence[Processor], tool: str, content: str, about: About) -> str:
    """Take a tool's result through the processors; one that stops it has its reason read in its place.

    One that fails keeps the result back, too: what it would have taken out must not get through for that.
    """
    for processor in _with(processors, "tool_result"):
        try:
            after = await hooked(processor, "tool_result", about, tool, content)
        except Tripped as tripped:
            about.note(processor, "tool_result", "stopped", reason=tripped.reason)
            return f"error: kept back by processor {processor.name!r}: {tripped.told}"
        if after != content:
            about.note(processor, "tool_result", "changed")
        content = after
    return content
