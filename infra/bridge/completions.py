"""OpenAI completions: raw prompts to generations, their frames to `text_completion` chunks. Pure.

A streamed answer and a whole one come from the same chunks, so they cannot differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from infra.bridge.chat import usage
from infra.bridge.formats import structured
from infra.bridge.handed import Told
from infra.bridge.logprobs import Legacy, by_id
from infra.bridge.logprobs import prompt as prompt_logprobs
from infra.bridge.openai import (
    AGENT_PREFIX,
    CHOOSING,
    MOST_TOKENS,
    BadRequest,
    answer_checks,
    broken_off,
    decoded,
    note_of,
)
from infra.bridge.unserved import unheeded_checks
from infra.bridge.untold import Untold
from schemas import codec
from schemas.answers import Alternative, TokenTold
from schemas.commands import Generate, RawPrompt
from schemas.completions import MOST_PROMPTS, CompletionRequest
from schemas.generation import BROKEN_OFF
from schemas.live import Committed, Delta, Outcome
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
    yield from answer_checks(request)
    yield from unheeded_checks(request)
    limit, least = request.max_tokens, 0 if request.echo else 1
    yield "max_tokens", limit is None or least <= limit <= MOST_TOKENS, f"at least {least}, at most {MOST_TOKENS}"
    best = request.best_of in {None, request.n or 1}
    yield "best_of", best, "all answers are given: leave it out, and choose among n by their logprobs"
    for name in ("suffix", "prompt_embeds"):
        yield name, not getattr(request, name), "not served: leave it out"
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
    if request.echo:
        # what stands before the answer is told by its tokens
        chosen["prompt_logprobs"] = max(request.logprobs or 0, request.prompt_logprobs or 0)
    return [
        Generate(
            model=request.model,
            prompt=prompt,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
            max_tokens=_limit(request),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            logprobs=request.logprobs,
            extra_args=request.vllm_xargs or {},
            session_id=request.session_id or "",
            structured=structured(request),
            note=note_of(request),
            **chosen,
        )
        for prompt in prompts_of(request) or ()
    ]


def _limit(request: CompletionRequest) -> int | None:
    """Say how many tokens an answer has at most; one whose tokens are given has as many as those unless it is said."""
    if request.max_tokens is None:
        return None if request.trace_decode_token_ids else _MAX_TOKENS
    # a prompt is computed for the sake of a token, which is left out where none is wanted
    return max(1, request.max_tokens)


class _Choice:
    """What is known of one completion of one prompt."""

    def __init__(self, logprobs: Legacy) -> None:
        self.length = 0
        """Characters of the answer that were sent."""
        self.untold = Untold()
        self.logprobs = logprobs


class CompletionEncoder:
    """Turns the frames of a request's generations into `text_completion` objects."""

    last = "model.returned"

    def __init__(self, identity: str, request: CompletionRequest, created: int) -> None:
        self._head: Mapping[str, Any] = {
            "id": f"cmpl-{identity}",
            "object": "text_completion",
            "created": created,
            "model": request.model,
        }
        self._request = request
        self._prompts = prompts_of(request) or []
        self._n = request.n or 1
        self._echoed = bool(request.echo)
        self._silent = request.max_tokens == 0
        naming = by_id if request.return_tokens_as_token_ids else None
        self._choices: defaultdict[int, _Choice] = defaultdict(lambda: _Choice(Legacy(naming=naming)))
        self.usage = Usage()
        self.accepted = False
        """Whether a command was taken on."""
        self.problem: Problem | None = None
        """Why there is no (whole) answer."""

    def feed(self, frame: Told, index: int = 0) -> list[dict[str, Any]]:
        """Give the chunks that follow from one frame of one prompt's generation."""
        self.accepted = self.accepted or not isinstance(frame, Outcome) or frame.result == "accepted"
        match frame:
            case Outcome(problem=problem) if problem is not None:
                self.problem = problem
            case Delta() if not self._echoed:  # the prompt comes first, and is known when the answer is
                at = index * self._n + frame.choice
                self._choices[at].untold.hear(frame)
                bare = self._request.detokenize is False
                return [self._chunk(at, "", None)] if bare else self._text(at, frame.text)
            case Committed(type="model.returned", data=data):
                return self._returned(index, codec.decode(data, ModelReturned))
            case Committed(type="model.failed", data=data):
                failed: ModelFailed = codec.decode(data, ModelFailed)
                self.problem = failed.problem
            case _:
                pass
        return []

    def _returned(self, prompt: int, answer: ModelReturned) -> list[dict[str, Any]]:
        """Send what of the answers no delta brought, and why they ended."""
        # where no tokens are wanted, one was computed for the prompt's sake
        self.usage += replace(answer.usage, completion_tokens=0) if self._silent else answer.usage
        chunks: list[dict[str, Any]] = []
        for at, one in enumerate(answer.alternatives()):
            index = prompt * self._n + at
            if one.finish_reason in BROKEN_OFF:
                self.problem = broken_off(one.finish_reason)
                return chunks
            chunks += self._rest(index, one, answer)
        return chunks

    def _rest(self, index: int, one: Alternative, answer: ModelReturned) -> list[dict[str, Any]]:
        untold, echo = self._choices[index].untold, ""
        if not self._silent:
            untold.complete(one)
        if self._echoed:
            untold.prepend(answer.prompt_logprobs)
            echo = self._prompt(index // self._n, answer.prompt_logprobs)
        text = "" if self._silent else one.text[self._choices[index].length :]
        chunks = self._text(index, echo + text)
        chunk = self._chunk(index, "", "length" if self._silent else one.finish_reason)
        (choice,) = chunk["choices"]
        if self._request.prompt_logprobs is not None or self._request.prompt_logprob_token_ids:
            choice["prompt_logprobs"] = prompt_logprobs(answer.prompt_logprobs)
        if self._request.return_token_ids:
            choice["prompt_token_ids"] = list(answer.prompt_token_ids)
        return [*chunks, chunk]

    def _prompt(self, at: int, told: Sequence[TokenTold]) -> str:
        """Give a prompt's text: as it came, or of its tokens where those came or are fewer now."""
        given = self._prompts[at]
        if isinstance(given, str) and not self._request.truncate_prompt_tokens:
            return given
        return b"".join(token.piece for token in told).decode(errors="replace")

    def _text(self, index: int, text: str) -> list[dict[str, Any]]:
        self._choices[index].length += len(text)
        return [self._chunk(index, text, None)] if text else []

    def _chunk(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        """Give a chunk with the tokens that wait for one, where they were asked for."""
        known = self._choices[index]
        choice: dict[str, Any] = {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
        if self._request.logprobs is not None:
            choice["logprobs"] = known.logprobs.next(known.untold.logprobs())
        if self._request.return_token_ids:
            choice["token_ids"] = known.untold.token_ids()
        return {**self._head, "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        """Give the last chunk of a stream with `include_usage`."""
        return {**self._head, "choices": [], "usage": usage(self.usage)}

    def whole(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """Join all chunks into the answer."""
        parts = defaultdict[int, list[dict[str, Any]]](list)
        for chunk in chunks:
            (part,) = chunk["choices"]
            parts[part["index"]].append(part)
        choices = [_joined(parts[index]) for index in sorted(parts)]
        return {**self._head, "choices": choices, "usage": usage(self.usage)}


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join the parts of a choice; the last one says what is known at the end."""
    whole = {**parts[-1], "text": "".join(part["text"] for part in parts)}
    told = [part["logprobs"] for part in parts if part["logprobs"] is not None]
    if told:
        whole["logprobs"] = {name: [one for some in told for one in some[name]] for name in told[0]}
    if "token_ids" in whole:
        whole["token_ids"] = [token for part in parts for token in part["token_ids"]]
    return whole
