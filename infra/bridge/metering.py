"""What requests for chat and for raw completions become, and the usage that each chunk of their streams may tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request

from infra.bridge.callers import rename
from infra.bridge.desk import Desk
from infra.bridge.exchange import Encoder, Exchange
from infra.bridge.handed import Told
from infra.bridge.openai import BadRequest
from infra.bridge.tokenizing import ask_texts
from schemas import codec
from schemas.commands import Command, Generate
from schemas.live import Committed, Delta
from schemas.messages import Usage
from schemas.openai import AnswerRequest
from schemas.runs import ModelReturned, Problem
from schemas.texts import Encode, Encoded


def exchange_of(
    desk: Desk, request: Request, asked: AnswerRequest, commands: Sequence[Command], encoder: Encoder
) -> Exchange:
    """Make what a request became; its body may name it.

    Raises:
        BadRequest: it cannot be named so, or nobody here knows what it takes before its end.
    """
    rename(request, asked.request_id)
    options = asked.stream_options
    with_usage = options is not None and options.include_usage
    if options is None or not options.continuous_usage_stats:
        return Exchange(commands, encoder, asked.stream, with_usage)
    model, param = asked.model, "stream_options.continuous_usage_stats"
    if model not in desk.models and model not in desk.adapters:
        message = f"{param}: only of a model served here it is known before the end: leave it out"
        raise BadRequest(400, message, param, "invalid_value")
    metered = Metered(encoder, asked)
    counted = [_counted(command) for command in commands]
    return Exchange(counted, metered, asked.stream, with_usage, before=lambda: metered.look(desk, commands))


def _counted(command: Command) -> Command:
    """Have the tokens of an answer come with its pieces: there is no other way to count them."""
    assert isinstance(command.data, Generate)
    return replace(command, data=replace(command.data, return_token_ids=True))


class Metered:
    """An encoder whose chunks say what their choice took by then, as vLLM's `continuous_usage_stats` does."""

    def __init__(self, encoder: Encoder, asked: AnswerRequest) -> None:
        self._encoder = encoder
        self._n = asked.n or 1
        self._silent = asked.max_tokens == 0
        self._named = bool(asked.return_token_ids)
        self._prompts: dict[int, int] = {}
        self._answers = defaultdict[int, int](int)

    async def look(self, desk: Desk, commands: Sequence[Command]) -> None:
        """Count the tokens of the prompts.

        Raises:
            BadRequest: a prompt is none, or its model's tokenizer does not answer.
        """
        for at, command in enumerate(commands):
            assert isinstance(command.data, Generate)
            told = await ask_texts(desk, command.data.model, Encode(command.data), Encoded)
            most = command.data.truncate_prompt_tokens
            self._prompts[at] = min(len(told.tokens), most) if most and most > 0 else len(told.tokens)

    @property
    def accepted(self) -> bool:
        """Whether a command was taken on."""
        return self._encoder.accepted

    @property
    def problem(self) -> Problem | None:
        """Why there is no (whole) answer."""
        return self._encoder.problem

    @property
    def usage(self) -> Usage:
        """What it took, as far as that is known."""
        return self._encoder.usage

    def feed(self, frame: Told, index: int = 0) -> list[dict[str, Any]]:
        """Give the chunks that follow from one frame of the command with this index."""
        match frame:
            case Delta():
                self._answers[index * self._n + frame.choice] += len(frame.token_ids)
            case Committed(type="model.returned", data=data):
                answer: ModelReturned = codec.decode(data, ModelReturned)
                self._prompts[index] = len(answer.prompt_token_ids) or self._prompts[index]
                for at, one in enumerate(answer.alternatives()):
                    self._answers[index * self._n + at] = 0 if self._silent else len(one.token_ids)
            case _:
                pass
        chunks = [self._bare(chunk) for chunk in self._encoder.feed(frame, index)]
        return [chunk | {"usage": self._taken(chunk["choices"][0]["index"])} for chunk in chunks if chunk]

    def _bare(self, chunk: dict[str, Any]) -> dict[str, Any]:
        """Leave out of a chunk the tokens that nobody asked for; nothing is left of one that was for their sake."""
        if self._named:
            return chunk
        (choice,) = chunk["choices"]
        tokens = choice.pop("token_ids", None) is not None or "prompt_token_ids" in chunk
        chunk.pop("prompt_token_ids", None)
        more = choice.get("delta", True) or choice["finish_reason"] or choice["logprobs"] or "prompt_logprobs" in chunk
        return chunk if more or not tokens else {}

    def _taken(self, choice: int) -> dict[str, int]:
        prompt, answer = self._prompts[choice // self._n], self._answers[choice]
        return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}

    def whole(self, chunks: list[dict[str, Any]]) -> dict[str, Any]:
        """Join all chunks into one answer."""
        return self._encoder.whole(chunks)

    def usage_chunk(self) -> dict[str, Any]:
        """Give the last chunk of a stream whose client asked for the usage."""
        return self._encoder.usage_chunk()
