"""From a conversation to a prompt, and to how its answer is read: one checkpoint's template, tokenizer and dialect."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from engine.errors import BadRequest, CallMissing, NoChatTemplate, TemplateError
from engine.text.dialects import AUTO, Dialect, dialect
from engine.text.formats import NONE
from engine.text.grammars import calling_grammar, calls_after_thought
from engine.text.parsers import Wanted
from engine.text.parts import ParsedCall
from engine.text.reasoning import ReasoningEnd, reasoning_end
from engine.text.templates import ChatTemplate
from engine.text.tokenizer import Tokenizer, whole
from schemas.generation import FinishReason, Sampling
from schemas.messages import Calling, Message, Rendering, ToolSpec
from schemas.structured import Structured

Shape = TypeVar("Shape", Message, ToolSpec)

_HERE: Final = "\uf8f3"
"""Marks where the last message ends in what a template makes of it."""
_AS_ALWAYS: Final = Rendering()
_AS_IT_LIKES: Final = Calling()


class Customs(msgspec.Struct, frozen=True):
    """What an engine is told about its model's prompts and answers."""

    tool_parser: str = AUTO
    reasoning_parser: str = AUTO
    chat_template: str = ""
    """A file in place of the checkpoint's own template."""
    trust_request_chat_template: bool = False
    """Whether a request may bring a template of its own."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is given, and how its answer is read."""

    tokens: tuple[int, ...]
    wanted: Wanted
    calling: Calling = _AS_IT_LIKES
    grammar: str = ""
    """A Lark grammar, as llguidance reads it, that binds the answer to the calls that are wanted; it holds after
    `reasoning.after`, if there is any. Empty where nothing is to be bound, or cannot be."""
    reasoning: ReasoningEnd | None = None
    """Where in the answer reasoning ends; `None` where there is to be none."""
    after_thought: str = ""
    """Of a grammar that has a place for what is thought first, what is after that: it holds where thinking has a
    budget. Empty for others."""

    def bound(self, sampling: Sampling) -> Sampling:
        """Give parameters that bind the answer to calls that are wanted, or to its form after what is thought."""
        structured, end = sampling.structured, self.reasoning
        if structured is not None and (structured.after or sampling.structured_after):
            return sampling
        if structured is None and self.grammar:
            if self.after_thought and end is not None and sampling.thinking_budget is not None:
                calls = Structured("grammar", self.after_thought, field="tool_choice")
                ends = {"structured_after": end.ending, "thinking_closing": end.ending}
                return replace(sampling, structured=calls, thinking_opening=end.opening, **ends)
            sampling = replace(sampling, structured=Structured("grammar", self.grammar, field="tool_choice"))
            end = None if self.after_thought else end
        if end is None:
            return replace(sampling, thinking_budget=None)
        bound = sampling.structured is not None
        after, closing = (end.after, end.closing) if bound else (end.ending, end.ending)
        return replace(sampling, structured_after=after, thinking_opening=end.opening, thinking_closing=closing)

    def check(self, calls: Sequence[ParsedCall], finish: FinishReason) -> None:
        """Look at the calls of an answer.

        Raises:
            CallMissing: the answer ended by itself, and what had to be called was not.
        """
        wanted = self.calling
        if wanted.choice == "required" and finish == "stop" and not _called(calls, wanted.tool):
            raise CallMissing(wanted.tool)


class Prompter:
    """Makes prompts."""

    def __init__(
        self, tokenizer: Tokenizer, template: ChatTemplate | None, speech: Dialect, *, trusting: bool = False
    ) -> None:
        self.tokenizer = tokenizer
        self.dialect = speech
        self.template = template
        self._trusting = trusting
        self._segments = tokenizer.segments()

    @classmethod
    def load(cls, folder: Path, customs: Customs) -> Prompter:
        """Read a checkpoint's tokenizer, and its template if it has one.

        Raises:
            CheckpointError: they cannot be read, or there is no tokenizer.
            TemplateError: the template is not valid Jinja.
            UnknownParser: there is no parser of a name in `customs`.
        """
        template: ChatTemplate | None = None
        with contextlib.suppress(NoChatTemplate):
            template = ChatTemplate.load(folder, Path(customs.chat_template) if customs.chat_template else None)
        speech = dialect("" if template is None else template.source, customs.tool_parser, customs.reasoning_parser)
        return cls(Tokenizer.load(folder), template, speech, trusting=customs.trust_request_chat_template)

    def prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] = (),
        rendering: Rendering = _AS_ALWAYS,
        calling: Calling = _AS_IT_LIKES,
    ) -> Prompt:
        """Make a prompt.

        Args:
            messages: from first to last.
            tools: what the model may call; nothing it writes is a call where there are none.
            rendering: what is not as always.
            calling: whether they may, or must, be called.

        Raises:
            BadRequest: `rendering` asks for what is not allowed, or does not fit the messages, calls are wanted of a
                model whose way to write them is not known, or there is no template.
            TemplateError: the template refuses the conversation.
        """
        offered = self._offered(tools, calling)
        try:
            text = self._rendered(messages, offered, rendering)
        except RecursionError as error:
            field = "chat_template_kwargs" if rendering.chat_template_kwargs else "tools"
            raise BadRequest(field, "it nests too deep") from error
        continued = messages[-1].content if rendering.continue_final_message else ""
        most = None if calling.parallel else 1
        special = self.tokenizer.special
        wanted = self.dialect.wanted(offered, text, continued, special, calls=bool(offered), most_calls=most)
        required = calling.choice == "required"
        bound = required or any(tool.strict for tool in offered)
        # what is thought first is not the grammar's
        after = dataclasses.replace(wanted, begun=True) if wanted.thinking is not None else wanted
        grammar = calling_grammar(after, offered, self.tokenizer.tags, required=required) if bound else ""
        end = reasoning_end(wanted, text, self.tokenizer)
        thinks = bool(grammar) and end is not None and bool(end.opening)
        later = calls_after_thought(after, offered, self.tokenizer.tags) if thinks else ""
        return Prompt(tuple(self._segments.encode(whole("messages", text))), wanted, calling, grammar, end, later)

    def _offered(self, tools: Sequence[ToolSpec], calling: Calling) -> Sequence[ToolSpec]:
        """Give the tools that the model is told of."""
        if calling.choice == "required" and self.dialect.format is NONE:
            message = "how this model writes calls is not known: tell it with the setting engine.tool_parser"
            raise BadRequest("tool_choice", message)
        if calling.choice == "none":
            return ()
        return [tool for tool in tools if tool.name == calling.tool] if calling.tool else tools

    def _rendered(self, messages: Sequence[Message], tools: Sequence[ToolSpec], rendering: Rendering) -> str:
        quote = self.tokenizer.quoted
        template = self._chosen(rendering)
        more: dict[str, Any] = dict(rendering.chat_template_kwargs)
        if rendering.documents:
            more["documents"] = list(rendering.documents)
        continues = rendering.continue_final_message
        if continues and (not messages or messages[-1].role != "assistant" or not messages[-1].content.strip()):
            raise BadRequest("continue_final_message", "the last message is to be the assistant's, and not empty")
        spoken = list(quoted(map(_unescaped, messages), quote))
        if continues:
            # templates trim what they are given, and write more after it
            last = spoken[-1].content.replace(_HERE, "").rstrip()
            spoken[-1] = msgspec.structs.replace(spoken[-1], content=last + _HERE)
        text = template.render(
            spoken,
            quoted(tools, quote),
            prompt=rendering.add_generation_prompt and not continues,
            more=_walked(more, quote),
        )
        if not continues:
            return text
        before, _, _ = text.rpartition(_HERE)
        if not before.endswith(spoken[-1].content.removesuffix(_HERE).strip()):
            raise BadRequest("continue_final_message", "the chat template does not write the last message as it is")
        return before.replace(_HERE, "")

    def _chosen(self, rendering: Rendering) -> ChatTemplate:
        own = self.template
        if not rendering.chat_template:
            if own is None:
                raise BadRequest(
                    "messages", "the model has no chat template and takes raw prompts alone: give `prompt`"
                )
            return own
        if not self._trusting:
            message = "requests are not trusted with it here (engine.trust_request_chat_template): leave it out"
            raise BadRequest("chat_template", message)
        try:
            return ChatTemplate(rendering.chat_template, None if own is None else own.variables)
        except TemplateError as error:
            raise BadRequest("chat_template", str(error)) from error


def _called(calls: Sequence[ParsedCall], tool: str) -> bool:
    return any(call.whole for call in calls) and all(call.name == tool or not tool for call in calls)


def quoted(shapes: Iterable[Shape], quote: Callable[[str], str]) -> tuple[Shape, ...]:
    """Mark control tokens in every text of messages or tools: all of it comes from outside."""
    return tuple(msgspec.convert(_walked(msgspec.to_builtins(shape), quote), type(shape)) for shape in shapes)


def _unescaped(message: Message) -> Message:
    """Write the arguments of calls without JSON's escapes, behind which a control token would not be seen."""
    if not message.tool_calls:
        return message
    return msgspec.structs.replace(
        message,
        tool_calls=tuple(
            msgspec.structs.replace(call, arguments=_spelled_out(call.arguments)) for call in message.tool_calls
        ),
    )


def _spelled_out(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        return arguments  # the template is given it as it is, or refuses it


def _walked(value: Any, quote: Callable[[str], str]) -> Any:
    match value:
        case str():
            return quote(value)
        case list() | tuple():
            return [_walked(item, quote) for item in value]
        case dict():
            return {quote(name): _walked(item, quote) for name, item in value.items()}
        case _:
            return value
