"""OpenAI completions: raw prompts to generations, their frames to `text_completion` chunks. Pure.

A streamed answer and a whole one come from the same chunks, so they cannot differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.bridge.openai import (
    AGENT_PREFIX,
    CHOOSING,
    MOST_TOKENS,
    BadRequest,
    broken_off,
    decoded,
    usage,
)
from schemas import codec
from schemas.commands import Generate, RawPrompt
from schemas.completions import MOST_PROMPTS, CompletionRequest
from schemas.generation import BROKEN_OFF
from schemas.live import Committed, Delta, Frame, Outcome
from schemas.messages import Usage
from schemas.runs import ModelFailed, ModelReturned, Problem

_MAX_TOKENS = 16


def read_completion(body: bytes) -> CompletionRequest:
    """Decode and check a request.

    Raises:
        BadRequest: names the field and what it should be.
    """
    request: CompletionRequest = decoded(body, CompletionRequest)
    for param, fits, wanted in _checks(request):
        if not fits:
            raise BadRequest(400, f"{param}: {wanted}", param, "invalid_value")
    return request


def _checks(request: CompletionRequest) -> Iterator[tuple[str, bool, str]]:
    yield "model", not request.model.startswith(AGENT_PREFIX), "an agent has no raw prompt: ask /v1/chat/completions"
    yield "temperature", request.temperature is None or 0 <= request.temperature <= 2, "a number from 0 to 2"
    yield "top_p", request.top_p is None or 0 < request.top_p <= 1, "a number above 0, at most 1"
    limit = request.max_tokens
    yield "max_tokens", limit is None or 1 <= limit <= MOST_TOKENS, f"at least 1, at most {MOST_TOKENS}"
    yield "seed", request.seed is None or abs(request.seed) < 1 << 63, "a 64-bit integer"
    for name in ("n", "best_of"):
        yield name, getattr(request, name) in {None, 1}, "only 1 is served: send the request again for another answer"
    for name in ("echo", "logprobs", "suffix", "prompt_embeds"):
        yield name, not getattr(request, name), "not served yet: leave it out"
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    yield "stop", all(stops), "a text that is not empty, or a list of such"
    yield "prompt", prompts_of(request) is not None, f"a text, token ids, or a list of up to {MOST_PROMPTS} of either"


def prompts_of(request: CompletionRequest) -> list[RawPrompt] | None:
    """List the prompts of a request; None if its list holds more than one kind, or too many."""
    given = request.prompt
    if isinstance(given, str):
        return [given]
    tokens = [item for item in given if isinstance(item, int)]
    if tokens:
        return [tuple(tokens)] if len(tokens) == len(given) else None
    several: list[RawPrompt] = [
        item if isinstance(item, str) else tuple(item) for item in given if item and not isinstance(item, int)
    ]
    alike = len({type(item) for item in several}) == 1
    return several if alike and len(several) == len(given) <= MOST_PROMPTS else None


def generations(request: CompletionRequest) -> list[Generate]:
    """Give the commands' data that a request stands for: one for each prompt."""
    stop = request.stop or ()
    chosen = {name: value for name in CHOOSING if (value := getattr(request, name)) is not None}
    return [
        Generate(
            model=request.model,
            prompt=prompt,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            max_tokens=_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            **chosen,
        )
        for prompt in prompts_of(request) or ()
    ]


class _Choice:
    """What is known of one prompt's completion."""

    def __init__(self) -> None:
        self.length = 0
        self.usage = Usage()
        self.finish_reason: str | None = None


class CompletionEncoder:
    """Turns the frames of a request's generations into `text_completion` objects."""

    last = "model.returned"

    def __init__(self, identity: str, model: str, created: int, prompts: int) -> None:
        self._head: Mapping[str, Any] = {
            "id": f"cmpl-{identity}",
            "object": "text_completion",
            "created": created,
            "model": model,
        }
        self._choices = [_Choice() for _ in range(prompts)]
        self.accepted = False
        """Whether a command was taken on."""
        self.problem: Problem | None = None
        """Why there is no (whole) answer."""

    def feed(self, frame: Frame, index: int = 0) -> list[dict[str, Any]]:
        """Give the chunks that follow from one frame of one prompt's generation."""
        self.accepted = self.accepted or not isinstance(frame, Outcome) or frame.result == "accepted"
        match frame:
            case Outcome(problem=problem) if problem is not None:
                self.problem = problem
            case Delta():
                return self._text(index, frame.text)
            case Committed(type="model.returned", data=data):
                return self._returned(index, codec.decode(data, ModelReturned))
            case Committed(type="model.failed", data=data):
                failed: ModelFailed = codec.decode(data, ModelFailed)
                self.problem = failed.problem
            case _:
                pass
        return []

    def _returned(self, index: int, answer: ModelReturned) -> list[dict[str, Any]]:
        """Send what of the answer's text no delta brought, and why it ended."""
        choice = self._choices[index]
        chunks = self._text(index, answer.text[choice.length :])
        choice.usage = answer.usage
        if answer.finish_reason in BROKEN_OFF:
            self.problem = broken_off(answer.finish_reason)
            return chunks
        choice.finish_reason = answer.finish_reason
        return [*chunks, self._chunk(index, "", answer.finish_reason)]

    def _text(self, index: int, text: str) -> list[dict[str, Any]]:
        self._choices[index].length += len(text)
        return [self._chunk(index, text, None)] if text else []

    def _chunk(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
        return {**self._head, "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        """Give the last chunk of a stream with `include_usage`."""
        return {**self._head, "choices": [], "usage": self._usage()}

    def whole(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """Join all chunks into the answer."""
        texts = [""] * len(self._choices)
        for chunk in chunks:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        choices = [
            {"index": index, "text": text, "logprobs": None, "finish_reason": choice.finish_reason}
            for index, (text, choice) in enumerate(zip(texts, self._choices, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": self._usage()}

    def _usage(self) -> Any:
        return usage(sum((choice.usage for choice in self._choices), Usage()))
