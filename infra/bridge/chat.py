"""A run's frames as OpenAI's `chat.completion.chunk` objects. Pure; ids are assigned once.

A streamed answer and a whole one come from the same chunks, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from infra.bridge.custom import InputReader
from infra.bridge.handed import Handed, Resumed, Told
from infra.bridge.logprobs import Naming, by_id, by_text, content, prompt
from infra.bridge.openai import broken_off
from infra.bridge.untold import Untold
from schemas import codec
from schemas.answers import Alternative, CallTold
from schemas.commands import Command, Generate
from schemas.generation import BROKEN_OFF
from schemas.live import Committed, Delta, Outcome
from schemas.messages import Usage
from schemas.openai import ChatRequest, CompletionUsage
from schemas.runs import ModelFailed, ModelReturned, Problem, RunFailed, RunFinished

_REASONING = ("reasoning", "reasoning_content")
"""What clients call reasoning: they do not agree on one name."""

LastEvent = Literal["run.finished", "model.returned"]
"""The event after which an answer is over."""


def last_of(command: Command) -> LastEvent:
    """Say after which event a command's answer is over."""
    return "model.returned" if isinstance(command.data, Generate) else "run.finished"


@dataclass(slots=True)
class _Told:
    """What the client has of an answer's text, or of its reasoning."""

    effect: str = ""
    """The call that it came from last."""
    length: int = 0
    """Characters of that one's."""

    def rest(self, effect: str, text: str) -> str:
        """Give what of a whole text the client has not."""
        return text[self.length if effect == self.effect else 0 :]

    def more(self, effect: str, text: str) -> str:
        """Note that the client is told more; give it as it is told."""
        separator = ""
        if effect != self.effect:
            # what an earlier step said, before its tool calls, stands as a paragraph of its own
            separator = "\n\n" if self.effect else ""
            self.effect, self.length = effect, 0
        self.length += len(text)
        return separator + text


@dataclass(slots=True)
class _Choice:
    """One of the answers."""

    spoken: bool = False
    untold: Untold = field(default_factory=Untold)
    text: _Told = field(default_factory=_Told)
    reasoning: _Told = field(default_factory=_Told)
    calls: dict[int, int] = field(default_factory=dict)
    """Of each of its tool calls that the client knows of, characters of the arguments that it has."""
    inputs: dict[int, InputReader] = field(default_factory=dict)
    """Those of them that are of custom tools."""

    def goes_on(self, delta: Delta) -> bool:
        """Say whether a piece is text after text, and nothing else is to be told: so it is with nearly all."""
        more = delta.logprobs or delta.token_ids or delta.reasoning or delta.call is not None
        return bool(delta.text and self.spoken and delta.effect == self.text.effect and not more) and self.untold.empty


class ChatEncoder:
    """Turns a run's frames into chunks."""

    def __init__(
        self,
        identity: str,
        model: str,
        created: int,
        last: LastEvent,
        *,
        reasoning: bool = True,
        texts: bool = True,
        echo: str = "",
        naming: Naming = by_text,
        custom: Collection[str] = (),
        tier: bool = False,
    ) -> None:
        """Begin.

        Args:
            identity: of the command.
            model: what the client called it.
            created: seconds since the Unix epoch.
            last: the event after which the answer is over.
            reasoning: whether the client is told what was thought.
            texts: whether answers have any.
            echo: what every answer begins with.
            naming: what tokens are called in `logprobs`.
            custom: names of the custom tools.
            tier: whether the client is told which tier of service it had.
        """
        self._echo, self._naming = echo, naming
        head = {"id": f"chatcmpl-{identity}", "object": "chat.completion.chunk", "created": created, "model": model}
        self._head: dict[str, Any] = head | ({"service_tier": "default"} if tier else {})
        self._custom = frozenset(custom)
        self._last = last
        self._reasoning = reasoning
        self._texts = texts
        self._choices: dict[int, _Choice] = {}
        self.accepted = False
        """Whether the command was taken on: its thread exists."""
        self.problem: Problem | None = None
        """Why there is no (whole) answer."""
        self.usage = Usage()
        self._before = Resumed(Usage(), 0.0)
        """What of a run that goes on was told in the answer before."""
        self._cost: float | msgspec.UnsetType | None = msgspec.UNSET
        """Of a run; a bare model's answer tells none."""

    def feed(self, frame: Told, index: int = 0) -> list[dict[str, Any]]:
        """Give the chunks that follow from one frame; there is one command, so its `index` is 0."""
        self.accepted = self.accepted or not isinstance(frame, Outcome) or frame.result == "accepted"
        match frame:
            case Outcome(problem=problem) if problem is not None:
                self.problem = problem
            case Delta():
                return self._delta_of(frame)
            case Committed(type="model.returned", data=data):
                return self._returned(codec.decode(data, ModelReturned))
            case Committed(type="run.finished", data=data):
                return self._finished(codec.decode(data, RunFinished))
            case Resumed():
                self._before = frame
            case Handed():
                return self._handed_over(frame)
            case Committed(type="run.failed", data=data):
                run: RunFailed = codec.decode(data, RunFailed)
                self.problem = run.problem
            case Committed(type="model.failed", data=data):
                call: ModelFailed = codec.decode(data, ModelFailed)
                self.problem = call.problem
            case Committed(type="retry.scheduled"):
                self.problem = None  # there may be an answer yet
            case _:
                pass
        return []

    def _finished(self, run: RunFinished) -> list[dict[str, Any]]:
        before = self._before
        self.usage, self._cost = run.usage - before.usage, run.cost
        if run.cost is not None:
            self._cost = None if before.cost is None else run.cost - before.cost
        return self._finish(0, run.finish_reason)

    def _handed_over(self, handed: Handed) -> list[dict[str, Any]]:
        """Tell of the calls that the client is to carry out; the run waits for it, and this answer is over."""
        self.usage, self._cost = handed.usage, handed.cost
        chunks: list[dict[str, Any]] = []
        for at, call in enumerate(handed.calls):
            chunks += self._called(0, CallTold(at, call.id, call.name), call.arguments)
            chunks += self._read(0, at)
        return chunks + self._finish(0, "tool_calls")

    def _delta_of(self, frame: Delta) -> list[dict[str, Any]]:
        choice = self._choice(frame.choice)
        if self._texts and choice.goes_on(frame):
            choice.text.length += len(frame.text)
            return [self._chunk(frame.choice, {"content": frame.text}, None)]
        choice.untold.hear(frame)
        thought = self._think(frame.choice, frame.effect, frame.reasoning)
        if not self._texts:
            return self._details(frame.choice, None)
        if frame.call is not None and self._last == "model.returned":
            # what an agent calls is its own affair
            return thought + self._called(frame.choice, frame.call, frame.arguments)
        return thought + self._text(frame.choice, frame.effect, frame.text)

    def _returned(self, answer: ModelReturned) -> list[dict[str, Any]]:
        """Send what of the answers no delta brought; a bare generation ends here."""
        given = answer.alternatives()
        if self._last != "model.returned":
            return self._rest(0, answer.effect, given[0])
        self.usage = answer.usage
        broken = next((one.finish_reason for one in given if one.finish_reason in BROKEN_OFF), None)
        if broken is not None:
            self.problem = broken_off(broken)
            return self._rest(0, answer.effect, given[0])
        chunks: list[dict[str, Any]] = []
        for index, one in enumerate(given):
            self._choice(index).untold.complete(one)
            chunks += self._rest(index, answer.effect, one)
            for at, call in enumerate(one.tool_calls or one.cut_off):
                told = self._choice(index).calls.get(at, 0)
                chunks += self._called(index, CallTold(at, call.id, call.name), call.arguments[told:])
                chunks += self._read(index, at)
            chunks += self._details(index, answer if index == 0 else None)
            # calls are told of where they are whole: clients look for them by this word, whatever ended the answer
            chunks += self._finish(index, "tool_calls" if one.tool_calls else one.finish_reason)
        return chunks

    def _rest(self, index: int, effect: str, one: Alternative) -> list[dict[str, Any]]:
        choice = self._choice(index)
        thought = self._think(index, effect, choice.reasoning.rest(effect, one.reasoning))
        return thought + self._text(index, effect, choice.text.rest(effect, one.text))

    def _details(self, index: int, answer: ModelReturned | None) -> list[dict[str, Any]]:
        """Tell the tokens of an answer that no text was shown of, and with the first answer those of the prompt."""
        more = self._tokens(index)
        head: dict[str, Any] = {}
        if answer is not None and answer.prompt_logprobs:
            head["prompt_logprobs"] = prompt(answer.prompt_logprobs)
        if answer is not None and answer.prompt_token_ids:
            head["prompt_token_ids"] = list(answer.prompt_token_ids)
        if not more and not head:
            return []
        chunk = self._chunk(index, {}, None)
        chunk["choices"][0].update(more)
        return [*self._opening(index), chunk | head]

    def _tokens(self, index: int) -> dict[str, Any]:
        """Give the tokens that wait for a chunk, where they were asked for."""
        untold, more = self._choice(index).untold, dict[str, Any]()
        if logprobs := untold.logprobs():
            more["logprobs"] = content(logprobs, self._naming)
        if token_ids := untold.token_ids():
            more["token_ids"] = token_ids
        return more

    def _text(self, index: int, effect: str, text: str) -> list[dict[str, Any]]:
        if not text:
            return []
        return self._said(index, {"content": self._choice(index).text.more(effect, text)})

    def _think(self, index: int, effect: str, text: str) -> list[dict[str, Any]]:
        if not text or not self._reasoning:
            return []
        told = self._choice(index).reasoning.more(effect, text)
        return self._said(index, dict.fromkeys(_REASONING, told))

    def _said(self, index: int, delta: dict[str, Any]) -> list[dict[str, Any]]:
        """Send what was said, thought or called, with the tokens that are out with it."""
        *opening, chunk = self._delta(index, delta)
        chunk["choices"][0].update(self._tokens(index))
        return [*opening, chunk]

    def _called(self, index: int, call: CallTold, arguments: str) -> list[dict[str, Any]]:
        """Tell a tool call's name, if it is new, and what follows of its arguments."""
        choice, chunks = self._choice(index), list[dict[str, Any]]()
        fresh = call.index not in choice.calls
        if fresh:
            for before in choice.inputs:
                chunks += self._read(index, before)
            choice.calls[call.index] = 0
            custom = call.name in self._custom
            if custom:
                choice.inputs[call.index] = InputReader()
            kind, given = ("custom", "input") if custom else ("function", "arguments")
            begun = {"index": call.index, "id": call.id, "type": kind, kind: {"name": call.name, given: ""}}
            chunks += self._delta(index, {"tool_calls": [begun]})
        choice.calls[call.index] += len(arguments)
        if call.index in choice.inputs:
            return chunks + self._input(index, call.index, choice.inputs[call.index].feed(arguments))
        if arguments or fresh:
            more = {"index": call.index, "function": {"arguments": arguments}}
            chunks += self._said(index, {"tool_calls": [more]})
        return chunks

    def _read(self, index: int, call: int) -> list[dict[str, Any]]:
        """Tell what was held back of what a tool is called with, if it is a custom one: it comes to its end."""
        reader = self._choice(index).inputs.get(call)
        return [] if reader is None else self._input(index, call, reader.end())

    def _input(self, index: int, call: int, text: str) -> list[dict[str, Any]]:
        more = {"index": call, "custom": {"input": text}}
        return self._said(index, {"tool_calls": [more]}) if text else []

    def _finish(self, index: int, reason: str) -> list[dict[str, Any]]:
        return [*self._opening(index), self._chunk(index, {}, reason)]

    def _delta(self, index: int, delta: dict[str, Any]) -> list[dict[str, Any]]:
        return [*self._opening(index), self._chunk(index, delta, None)]

    def _opening(self, index: int) -> list[dict[str, Any]]:
        """Begin an answer, and those before it first: clients put them where their numbers say, one after another."""
        if self._choice(index).spoken:
            return []
        return [chunk for at in range(index + 1) if not self._choice(at).spoken for chunk in self._opened(at)]

    def _opened(self, index: int) -> list[dict[str, Any]]:
        self._choice(index).spoken = True
        opening = [self._chunk(index, {"role": "assistant", "content": ""}, None)]
        return [*opening, self._chunk(index, {"content": self._echo}, None)] if self._echo else opening

    def _choice(self, index: int) -> _Choice:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        return choice

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        """Give the last chunk of a stream with `include_usage`."""
        return {**self._head, "choices": [], "usage": self._usage()}

    def _usage(self) -> CompletionUsage:
        return replace(usage(self.usage), cost=self._cost)

    def whole(self, chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Join all chunks into the `chat.completion` object."""
        choices: dict[int, dict[str, Any]] = {}
        head = {**self._head, "object": "chat.completion"}
        for chunk in chunks:
            head |= {name: chunk[name] for name in ("prompt_logprobs", "prompt_token_ids") if name in chunk}
            part = chunk["choices"][0]
            _join(choices.setdefault(part["index"], _empty(part["index"])), part)
        for choice in choices.values():
            message = choice["message"]
            if message.get("tool_calls") and not message["content"]:
                message["content"] = None
        return {
            **head,
            "choices": [choices[index] for index in sorted(choices)],
            "usage": self._usage(),
        }


def _empty(index: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": ""}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": None}


def _join(choice: dict[str, Any], part: dict[str, Any]) -> None:
    """Add a chunk's part to a whole choice."""
    delta, message = part["delta"], choice["message"]
    message["content"] += delta.get("content") or ""
    for name in _REASONING:
        if name in delta:
            message[name] = message.get(name, "") + delta[name]
    for call in delta.get("tool_calls", ()):
        calls = message.setdefault("tool_calls", [])
        if "id" in call:
            kind = call["type"]
            calls.append({"id": call["id"], "type": kind, kind: dict(call[kind])})
        elif "custom" in call:
            calls[call["index"]]["custom"]["input"] += call["custom"]["input"]
        else:
            calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    if part["finish_reason"] is not None:
        choice["finish_reason"] = part["finish_reason"]
    if part["logprobs"] is not None:
        choice["logprobs"] = choice["logprobs"] or content(())
        choice["logprobs"]["content"] += part["logprobs"]["content"]
    if "token_ids" in part:
        choice.setdefault("token_ids", []).extend(part["token_ids"])


def usage(counted: Usage) -> CompletionUsage:
    """Shape token counts as OpenAI does."""
    return CompletionUsage(
        prompt_tokens=counted.prompt_tokens,
        completion_tokens=counted.completion_tokens,
        total_tokens=counted.prompt_tokens + counted.completion_tokens,
        prompt_tokens_details={
            "cached_tokens": counted.cached_tokens,
            "cache_write_tokens": 0,
            "recomputed_tokens": counted.recomputed_tokens,
            "preemptions": counted.preemptions,
        },
        completion_tokens_details={"reasoning_tokens": counted.reasoning_tokens},
    )


def chat_encoder(asked: ChatRequest, command: Command, created: int) -> ChatEncoder:
    """Make the encoder of what a request became; `created` is in seconds since the Unix epoch."""
    return ChatEncoder(
        *(command.id, asked.model, created, last_of(command)),
        reasoning=asked.include_reasoning is not False,
        texts=asked.detokenize is not False,
        echo=asked.echoed(),
        naming=by_id if asked.return_tokens_as_token_ids else by_text,
        custom=[tool.custom.name for tool in asked.tools or () if tool.custom is not None],
        tier=asked.service_tier is not None,
    )
