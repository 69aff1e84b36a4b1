"""OpenAI chat completions: requests to commands, and problems to errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, Literal, TypeVar

import msgspec

from engine.errors import BadRequest as Unfit
from infra.bridge.asked_of_agents import agent_checks, run_asked
from infra.bridge.custom import as_functions
from infra.bridge.formats import format_checks, structured
from infra.bridge.tools import narrowed, tool_choice
from infra.bridge.unserved import unheeded_checks, unserved_checks
from schemas.commands import CommandData, Generate
from schemas.messages import Message, misplaced_in
from schemas.openai import AnswerRequest, ChatRequest, ErrorBody, ErrorResponse
from schemas.runs import ErrorKind, Problem
from schemas.tokenizing import TokenizeRequest

T = TypeVar("T")
R = TypeVar("R", ChatRequest, TokenizeRequest)

AGENT_PREFIX = "agent/"
THREAD_HEADER = "X-Ostinato-Thread"
SESSION_HEADER = "X-Session-ID"

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
    "definition": (500, "agent_definition"),
    "timeout": (504, "timeout"),
    "tool": (500, "tool_error"),
    "key": (502, "provider_key"),
    "budget": (429, "insufficient_quota"),
    "tripwire": (400, "content_filter"),
}
_PARAMS = {"agent": "model", "thread": THREAD_HEADER}
"""Fields of commands that HTTP requests call something else."""

CHOOSING: dict[str, tuple[object, ...]] = {
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
    "n": (1,),
    "prompt_logprobs": (),
    "logprob_token_ids": ((),),
    "return_token_ids": (False,),
    "repetition_detection": (),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "cache_salt": ("",),
    "skip_reading_prefix_cache": (False,),
    "skip_special_tokens": (True,),
    "include_stop_str_in_output": (False,),
    "spaces_between_special_tokens": (True,),
    "detokenize": (True,),
    "prompt_logprob_token_ids": ((),),
    "prompt_logprob_start": (0,),
    "trace_decode_token_ids": ((),),
    "truncate_prompt_tokens": (0,),
    "truncation_side": ("left", "right"),
    "stream_interval": (1,),
}
"""Fields of `Generate` that HTTP requests call the same, and the values that change nothing: many clients send them."""

_CONVERSING: dict[str, tuple[object, ...]] = {
    "parallel_tool_calls": (True,),
    "chat_template": ("",),
    "documents": ((),),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "thinking_token_budget": (-1,),
}
"""Those that only requests with messages have."""

NOTED = ("user", "metadata", "safety_identifier", "prompt_cache_key")
"""What clients say of themselves: kept in the log beside the request, where nothing reads it."""

_TOLD: dict[str, tuple[object, ...]] = {"echo": (False,)}
"""What only says how an answer is told."""

_RETRY_MS = 1000
_AGAIN_IN_VAIN = frozenset({"max_steps", "aborted", "definition", "timeout", "tool", "key", "budget", "tripwire"})
"""Problems that the same request has again, or that somebody wanted."""
ONLY_ONCE = {"x-should-retry": "false"}
"""Keeps clients from sending a request again of themselves: those of OpenAI and Anthropic do with any 409, 429 or 5xx,
and what an agent's tools have done would be done twice."""
MOST_TOKENS = (1 << 31) - 1
_PATH = re.compile(r"`\$\.?([^`]*)`")
_MISSING = re.compile(r"missing required field `([^`]*)`")

_MEDIA = {
    "'input_audio'": ": no model here hears, send texts alone",
    "'file'": ": no model here reads files, send their texts",
}
"""What errors say of what is known and not served, and what can be done."""


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


def broken_off(reason: str) -> Problem:
    """Say that an answer ended before its end."""
    kind: ErrorKind = "timeout" if reason == "timeout" else "engine"
    return Problem(kind=kind, message=f"the model's answer was broken off ({reason})")


def refusal(problem: Problem) -> BadRequest:
    """Turn a problem from the bus into what an OpenAI client understands."""
    status, code = _STATUS[problem.kind]
    param = None if problem.field is None else _PARAMS.get(problem.field, problem.field)
    refused = BadRequest(status, problem.message, param, code, retry_after_ms=problem.retry_after_ms)
    if problem.kind in _AGAIN_IN_VAIN and not problem.retry_after_ms:
        refused.headers |= ONLY_ONCE
    return refused


def read_request(body: bytes) -> ChatRequest:
    """Decode and check a request.

    Raises:
        BadRequest: names the field and what it should be.
    """
    return checked(narrowed(with_functions(decoded(body, ChatRequest))))


def with_functions(request: R) -> R:
    """Make custom tools the functions that they are to a model, whether it is asked or what its tokens are.

    Raises:
        BadRequest: names the grammar that an argument cannot be bound to.
    """
    if not request.tools:
        return request
    fields = [f"tools[{at}].custom.format.grammar" for at in range(len(request.tools))]
    try:
        tools = as_functions(request.tools, fields)
    except Unfit as error:
        raise BadRequest(400, str(error), error.field, "invalid_value") from error
    return msgspec.structs.replace(request, tools=tools)


def checked(request: ChatRequest, renamed: Mapping[str, str] = {}) -> ChatRequest:
    """See that a request can be served.

    Args:
        request: what is asked.
        renamed: fields that its client calls by other names.

    Raises:
        BadRequest: names the field and what it should be.
    """
    agent = request.model.startswith(AGENT_PREFIX)
    for param, fits, wanted in chain(_checks(request), _agent_checks(request) if agent else _model_checks(request)):
        if not fits:
            name = renamed.get(param, param)
            raise BadRequest(400, f"{name}: {wanted}", name, "invalid_value")
    return request


def in_its_words(problem: BadRequest, renamed: Mapping[str, str]) -> BadRequest:
    """Have a refusal name the field that a client of this protocol knows, where that is called something else."""
    error = problem.body.error
    field = (error.param or "").partition("[")[0]
    if field not in renamed:
        return problem
    message = error.message.removeprefix(f"{error.param}: ").removeprefix(f"{field}: ")
    told = msgspec.structs.replace(error, param=renamed[field], message=f"{renamed[field]}: {message}")
    problem.body = msgspec.structs.replace(problem.body, error=told)
    return problem


def decoded(body: bytes, shape: type[T]) -> T:
    """Decode a request of some shape.

    Raises:
        BadRequest: names the field and what it should be.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        mend = next((mend for kind, mend in _MEDIA.items() if kind in str(error)), "")
        raise BadRequest(400, f"{error}{mend}", _param(str(error)), "invalid_value") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(400, f"the body is not JSON: {error}", None, "invalid_json") from error


def _param(problem: str) -> str | None:
    """Find the field that a decoding error is about."""
    found = [match.group(1) for match in (_PATH.search(problem), _MISSING.search(problem)) if match]
    return ".".join(found) or None


def answer_checks(request: AnswerRequest) -> Iterator[tuple[str, bool, str]]:
    """Look at what all requests have: a field, whether it fits, and what it should be."""
    yield "temperature", request.temperature is None or 0 <= request.temperature <= 2, "a number from 0 to 2"
    yield "top_p", request.top_p is None or 0 < request.top_p <= 1, "a number above 0, at most 1"
    yield "seed", request.seed is None or abs(request.seed) < 1 << 63, "a 64-bit integer"
    yield from format_checks(request)
    yield from unserved_checks(request)
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    yield "stop", all(stops), "a text that is not empty, or a list of such"


def _checks(request: ChatRequest) -> Iterator[tuple[str, bool, str]]:
    limit = _limit(request)
    yield "messages", bool(request.messages), "give at least one message"
    shown = next((at for at, one in enumerate(request.messages) if one.role != "user" and one.message().images), None)
    yield f"messages[{shown}].content", shown is None, "only what the user says has images"
    yield from answer_checks(request)
    given = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    yield given, limit is None or 1 <= limit <= MOST_TOKENS, f"at least 1, at most {MOST_TOKENS}"
    told = request.top_logprobs is None or request.logprobs
    yield "top_logprobs", bool(told), "tells of the likeliest tokens: set logprobs to true as well"
    wanted = "'auto', 'none', 'required', one tool, or 'allowed_tools' that are among the tools"
    yield "tool_choice", tool_choice(request.tool_choice) is not None, wanted


def _model_checks(request: ChatRequest) -> Iterator[tuple[str, bool, str]]:
    misplaced = misplaced_in(tuple(message.message() for message in request.messages))
    yield misplaced or "messages", misplaced is None, "a tool message answers a call of the assistant's, each call once"
    yield from unheeded_checks(request)


def _agent_checks(request: ChatRequest) -> Iterator[tuple[str, bool, str]]:
    yield from agent_checks(request, {**CHOOSING, **_CONVERSING, **_TOLD})


def command_data(request: ChatRequest, thread: str | None) -> CommandData:
    """Give the command a request stands for.

    In a thread that exists only what comes after the last assistant message is new: clients of this API send the
    whole history each time, and the thread has it.
    """
    messages = tuple(message.message() for message in request.messages)
    limit = _limit(request)
    if request.model.startswith(AGENT_PREFIX):
        fresh = _fresh(messages) if thread is not None else messages
        said = [message for message in fresh if message.role != "system"]
        about = {"max_tokens": limit, "note": note_of(request)}
        where: Literal["any", "existing"] = "any" if thread is None else "existing"
        return run_asked(request, request.model.removeprefix(AGENT_PREFIX), said, thread=where, **about)
    stop = request.stop or ()
    chosen = {name: value for name in (*CHOOSING, *_CONVERSING) if (value := getattr(request, name)) is not None}
    if request.echo and request.logprobs:
        # what stands before the answer is told by its tokens, as vLLM does it
        chosen.setdefault("prompt_logprobs", request.top_logprobs or 0)
    choice, tool = tool_choice(request.tool_choice) or ("auto", "")
    return Generate(
        model=request.model,
        messages=messages,
        tools=tuple(tool.spec for tool in request.tools or ()),
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        max_tokens=limit,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        tool_choice=choice,
        tool=tool,
        chat_template_kwargs=request.kwargs(),
        extra_args=request.vllm_xargs or {},
        session_id=request.session_id or "",
        structured=structured(request),
        note=note_of(request),
        **chosen,
    )


def note_of(request: AnswerRequest) -> dict[str, Any]:
    """Give what the log is to keep beside a request."""
    return {name: value for name in NOTED if (value := getattr(request, name)) is not None}


def _limit(request: ChatRequest) -> int | None:
    return request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens


def _fresh(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    last = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=-1)
    return messages[last + 1 :]
