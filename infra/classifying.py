"""Asks models of a running stack for the sake of a program: each question a generation of its own."""

from __future__ import annotations

from collections.abc import Callable

from actors.errors import CallFailed
from actors.models.aside import Ask
from actors.models.provider import ModelAnswer
from bus.connection import Connection
from infra.follow import ReadBack, follow
from schemas import codec
from schemas.commands import Command, Generate
from schemas.generation import Sampling
from schemas.live import Committed, Outcome
from schemas.messages import Message
from schemas.runs import ModelFailed, ModelReturned, Problem

_ASK_S = 600.0


def asking(connection: Connection, read_back: ReadBack, command: Callable[[Generate], Command], named: str) -> Ask:
    """Give what asks the model of a name."""

    async def ask(who: str, prompt: str, sampling: Sampling, model: str = "") -> ModelAnswer:
        data = Generate(
            model=model or named,
            messages=(Message("user", prompt),),
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            structured=sampling.structured,
            logprobs=sampling.logprobs,
        )
        async for frame in follow(connection, read_back, command(data), _ASK_S):
            if isinstance(frame, Outcome) and frame.problem is not None:
                raise CallFailed(frame.problem)
            found = codec.decode_event(frame.data) if isinstance(frame, Committed) else None
            if isinstance(found, ModelFailed):
                raise CallFailed(found.problem)
            if isinstance(found, ModelReturned):
                told = (found.text, found.finish_reason, found.usage)
                return ModelAnswer(*told, engine=found.engine, logprobs=found.logprobs, cost=found.cost)
        raise CallFailed(Problem(kind="engine", message="the model said nothing"))

    return ask
