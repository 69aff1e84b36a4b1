"""OpenAI chat completions: requests to commands, run frames to chunks. Pure; ids are assigned once.

A streamed answer and a whole one come from the same chunks, so they cannot differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

import msgspec

from schemas import codec
from schemas.commands import CommandData, Generate, RunAgent
from schemas.generation import BROKEN_OFF
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.messages import Message, ToolCall, Usage, misplaced_in
from schemas.openai import ChatRequest, CompletionUsage, ErrorBody, ErrorResponse
from schemas.runs import ErrorKind, ModelFailed, ModelReturned, Problem, RunFailed, RunFinished

AGENT_PREFIX = "agent/"
THREAD_HEADER = "X-Ostinato-Thread"

_STATUS = {
    "unknown_agent": (404, "model_not_found"),
    "unknown_model": (404, "model_not_found"),
    "unknown_thread": (404, "thread_not_found"),
    "too_long": (400, "context_length_exceeded"),
    "invalid": (400, "invalid_value"),
    "overloaded": (503, "overloaded"),
    "engine": (500, "engine_error"),
    "max_steps": (500, "max_steps"),
    "aborted": (409, "aborted"),
    "timeout": (504, "timeout"),
    "tool": (500, "tool_error"),
}
_PARAMS = {"agent": "model", "thread": THREAD_HEADER}
"""Fields of commands that HTTP requests call something else."""

_CHOOSING: dict[str, tuple[object, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "top_k": (0, -1),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "stop_token_ids": ((),),
    "ignore_eos": (False,),
    "allowed_token_ids": ((),),
    "bad_words": ((),),
    "priority": (0,),
    "parallel_tool_calls": (True,),
    "chat_template": ("",),
    "documents": ((),),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
}
"""Fields of `Generate` that HTTP requests call the same, and the values that change nothing: many clients send them."""

_RETRY_MS = 1000
_MOST_TOKENS = (1 << 31) - 1
_PATH = re.compile(r"`\$\.?([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")


class BadRequest(Exception):
    """A request that cannot be served: an HTTP status and an OpenAI error, and when to try again if that may help."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        *,
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = error_body(status, message, param, code)
        self.headers = retry_headers(status, retry_after_ms)


def retry_headers(status: int, retry_after_ms: int = 0) -> dict[str, str]:
    """Say when to try again: as long as the server asks for, or a second for any 503; `Retry-After` is in seconds."""
    wait = retry_after_ms or (_RETRY_MS if status == 503 else 0)
    return {"retry-after-ms": str(wait), "Retry-After": str(-(-wait // 1000))} if wait else {}


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> ErrorResponse:
    """Shape an error as OpenAI does."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return ErrorResponse(error=ErrorBody(message=message, type=kind, param=param, code=code))


def refusal(problem: Problem) -> BadRequest:
    """Turn a problem from the bus into what an OpenAI client understands."""
    status, code = _STATUS[problem.kind]
    param = None if problem.field is None else _PARAMS.get(problem.field, problem.field)
    return BadRequest(status, problem.message, param, code, retry_after_ms=problem.retry_after_ms)


def read_request(body: bytes) -> ChatRequest:
    """Decode and check a request.

    Raises:
        BadRequest: names the field and what it should be.
    """
    try:
        request = msgspec.json.decode(body, type=ChatRequest)
    except msgspec.ValidationError as error:
        raise BadRequest(400, f"{error}", _param(str(error)), "invalid_value") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(400, f"the body is not JSON: {error}", None, "invalid_json") from error
    agent = request.model.startswith(AGENT_PREFIX)
    for param, fits, wanted in chain(_checks(request), _agent_checks(request) if agent else _model_checks(request)):
        if not fits:
            raise BadRequest(400, f"{param}: {wanted}", param, "invalid_value")
    return request


def _param(problem: str) -> str | None:
    """Find the field that a decoding error is about."""
    found = [match.group(1) for match in (_PATH.search(problem), _MISSING.search(problem)) if match]
    return ".".join(found) or None


def _checks(request: ChatRequest) -> Iterator[tuple[str, bool, str]]:
    limit = _limit(request)
    yield "messages", bool(request.messages), "give at least one message"
    yield "temperature", request.temperature is None or 0 <= request.temperature <= 2, "a number from 0 to 2"
    yield "top_p", request.top_p is None or 0 < request.top_p <= 1, "a number above 0, at most 1"
    given = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    yield given, limit is None or 1 <= limit <= _MOST_TOKENS, f"at least 1, at most {_MOST_TOKENS}"
    yield "seed", request.seed is None or abs(request.seed) < 1 << 63, "a 64-bit integer"
    yield "n", request.n in {None, 1}, "only 1 is served: send the request again for another answer"
    yield "logprobs", not request.logprobs, "not served yet: leave it out"
    yield (
        "response_format",
        request.response_format is None or request.response_format.get("type") == "text",
        "only {'type': 'text'} is served",
    )
    wanted = "'auto' and 'none' are served: what the model writes cannot be bound to a call yet"
    yield "tool_choice", request.tool_choice in (None, "auto", "none") or not request.tools, wanted
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    yield "stop", all(stops), "a text that is not empty, or a list of such"


def _model_checks(request: ChatRequest) -> Iterator[tuple[str, bool, str]]:
    misplaced = misplaced_in(tuple(message.message() for message in request.messages))
    yield misplaced or "messages", misplaced is None, "a tool message answers a call of the assistant's, each call once"


def _agent_checks(request: ChatRequest) -> Iterator[tuple[str, bool, str]]:
    """Refuse what a run cannot honour: a field dropped in silence is a wrong answer that nobody sees."""
    instructed = any(message.role in {"system", "developer"} for message in request.messages)
    yield "messages", not instructed, "an agent has its own instructions: leave system messages out"
    yield "tools", not request.tools, "an agent has its own tools: leave them out"
    yield "stop", not request.stop, "an agent's run ends where its model ends: leave it out"
    for name, neutral in {"top_p": (1,), **_CHOOSING}.items():
        fits = getattr(request, name) in (None, *neutral)
        yield name, fits, "an agent samples as its model does: leave it out, or give `temperature`"
    yield "tool_choice", request.tool_choice in (None, "auto"), "an agent chooses its tools itself: leave it out"
    for name in ("chat_template_kwargs", "reasoning_effort"):
        yield name, not getattr(request, name), "an agent's prompts are its own: leave it out"


def command_data(request: ChatRequest, thread: str | None) -> CommandData:
    """Give the command a request stands for.

    In a thread that exists only what comes after the last assistant message is new: clients of this API send the
    whole history each time, and the thread has it.
    """
    messages = tuple(message.message() for message in request.messages)
    limit = _limit(request)
    if request.model.startswith(AGENT_PREFIX):
        fresh = _fresh(messages) if thread is not None else messages
        return RunAgent(
            agent=request.model.removeprefix(AGENT_PREFIX),
            messages=fresh,
            thread="any" if thread is None else "existing",
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=limit,
            approvals="refuse",
        )
    stop = request.stop or ()
    return Generate(
        model=request.model,
        messages=messages,
        tools=tuple(tool.function for tool in request.tools or ()),
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        max_tokens=limit,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        tool_choice="none" if request.tool_choice == "none" else "auto",
        chat_template_kwargs=request.kwargs(),
        **{name: value for name in _CHOOSING if (value := getattr(request, name)) is not None},
    )


def _limit(request: ChatRequest) -> int | None:
    return request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens


def _fresh(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    last = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=-1)
    return messages[last + 1 :]


class _Told:
    """How much of a model call's text the client has, and where that of another begins."""

    def __init__(self) -> None:
        self._effect = ""
        self._length = 0

    def length(self, effect: str) -> int:
        """Count the characters told of a call."""
        return self._length if effect == self._effect else 0

    def more(self, effect: str, text: str) -> str:
        """Tell more of a call; give it as it is told."""
        separator = ""
        if effect != self._effect:
            # what an earlier step said, before its tool calls, stands as a paragraph of its own
            separator = "\n\n" if self._effect else ""
            self._effect, self._length = effect, 0
        self._length += len(text)
        return separator + text


class ChatEncoder:
    """Turns a run's frames into `chat.completion.chunk` objects."""

    def __init__(
        self,
        identity: str,
        model: str,
        created: int,
        last: Literal["run.finished", "model.returned"],
        *,
        reasoning: bool = True,
    ) -> None:
        """Begin; `reasoning` says whether the client is told what was thought."""
        head = {"id": f"chatcmpl-{identity}", "object": "chat.completion.chunk", "created": created, "model": model}
        self._head: dict[str, Any] = head
        self._last = last
        self._reasoning = reasoning
        self._spoken = False
        self._said = _Told()
        self._thought = _Told()
        self.accepted = False
        """Whether the command was taken on: its thread exists."""
        self.problem: Problem | None = None
        """Why there is no (whole) answer."""
        self.usage = Usage()
        self.finish_reason: str | None = None

    def feed(self, frame: Frame) -> list[dict[str, Any]]:
        """Give the chunks that follow from one frame."""
        self.accepted = self.accepted or not isinstance(frame, Outcome) or frame.result == "accepted"
        match frame:
            case Outcome(problem=problem) if problem is not None:
                self.problem = problem
            case Delta():
                return [*self._think(frame.effect, frame.reasoning), *self._text(frame.effect, frame.text)]
            case Committed(type="model.returned", data=data):
                return self._returned(codec.decode(data, ModelReturned))
            case Committed(type="run.finished", data=data):
                finished: RunFinished = codec.decode(data, RunFinished)
                self.usage = finished.usage
                return self._finish(finished.finish_reason)
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

    def _returned(self, answer: ModelReturned) -> list[dict[str, Any]]:
        """Send what of the answer no delta brought; a bare generation ends here."""
        chunks = self._think(answer.effect, answer.reasoning[self._thought.length(answer.effect) :])
        chunks += self._text(answer.effect, answer.text[self._said.length(answer.effect) :])
        if self._last == "model.returned":
            self.usage = answer.usage
            if answer.finish_reason in BROKEN_OFF:
                message = f"the model's answer was broken off ({answer.finish_reason})"
                kind: ErrorKind = "timeout" if answer.finish_reason == "timeout" else "engine"
                self.problem = Problem(kind=kind, message=message)
                return chunks
            chunks += [chunk for at, call in enumerate(answer.tool_calls) for chunk in self._tool_call(at, call)]
            chunks += self._finish(answer.finish_reason)
        return chunks

    def _text(self, effect: str, text: str) -> list[dict[str, Any]]:
        return self._delta({"content": self._said.more(effect, text)}) if text else []

    def _think(self, effect: str, text: str) -> list[dict[str, Any]]:
        if not text or not self._reasoning:
            return []
        # clients do not agree on its name
        return self._delta(dict.fromkeys(("reasoning", "reasoning_content"), self._thought.more(effect, text)))

    def _tool_call(self, index: int, call: ToolCall) -> list[dict[str, Any]]:
        first = {"index": index, "id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        rest = {"index": index, "function": {"arguments": call.arguments}}
        return self._delta({"tool_calls": [first]}) + self._delta({"tool_calls": [rest]})

    def _finish(self, reason: str) -> list[dict[str, Any]]:
        self.finish_reason = reason
        return [*self._opening(), self._chunk({}, reason)]

    def _delta(self, delta: dict[str, Any]) -> list[dict[str, Any]]:
        return [*self._opening(), self._chunk(delta, None)]

    def _opening(self) -> list[dict[str, Any]]:
        if self._spoken:
            return []
        self._spoken = True
        return [self._chunk({"role": "assistant", "content": ""}, None)]

    def _chunk(self, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head, "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        """Give the last chunk of a stream with `include_usage`."""
        return {**self._head, "choices": [], "usage": usage(self.usage)}

    def whole(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """Join all chunks into the `chat.completion` object."""
        text = reasoning = ""
        calls: list[dict[str, Any]] = []
        for chunk in chunks:
            delta = chunk["choices"][0]["delta"]
            text += delta.get("content") or ""
            reasoning += delta.get("reasoning") or ""
            for call in delta.get("tool_calls", ()):
                if "id" in call:
                    calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
                else:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
        if reasoning:
            message |= dict.fromkeys(("reasoning", "reasoning_content"), reasoning)
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish_reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage(self.usage)}


def usage(counted: Usage) -> CompletionUsage:
    """Shape token counts as OpenAI does."""
    return CompletionUsage(
        prompt_tokens=counted.prompt_tokens,
        completion_tokens=counted.completion_tokens,
        total_tokens=counted.prompt_tokens + counted.completion_tokens,
        prompt_tokens_details={
            "cached_tokens": counted.cached_tokens,
            "recomputed_tokens": counted.recomputed_tokens,
            "preemptions": counted.preemptions,
        },
        completion_tokens_details={"reasoning_tokens": counted.reasoning_tokens},
    )
