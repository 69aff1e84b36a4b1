"""Processors of prompts: as many tokens as there is room for, and no tool traffic that is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from actors.errors import DefinitionError
from actors.memory.window import first_shown
from actors.processors.processor import About, Processor
from schemas.memory import MemoryPlan
from schemas.messages import Message


@dataclass(frozen=True)
class TokenLimiter(Processor):
    """Leaves older turns out of the prompt when they are too many tokens, by an estimate.

    An agent's own `memory` does this better, as it goes by what the engine has counted; this is for one call.

    Raises:
        DefinitionError: there is room for nothing.
    """

    tokens: int = 4000
    rate: int = 300
    """Thousandths of a token that a byte takes."""
    name: str = "token-limiter"

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.rate < 1:
            raise DefinitionError(f"{self.name}: tokens={self.tokens}, rate={self.rate}: give both from 1")

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Leave out the oldest turns; the instructions and the last turn stay."""
        head = [message for message in messages if message.role == "system"]
        rest = [message for message in messages if message.role != "system"]
        first = first_shown(rest, MemoryPlan(tokens=self.tokens), 0, self.rate)
        return (*head, *rest[first:])


@dataclass(frozen=True)
class ToolCallFilter(Processor):
    """Leaves tool calls and their results out of what the model sees of earlier turns."""

    tools: Sequence[str] | None = None
    """Of these tools; None is all."""
    name: str = "tool-call-filter"

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Leave them out, up to the last message of the user's: what is under way stays whole."""
        turns = [at for at, message in enumerate(messages) if message.role == "user"]
        now = turns[-1] if turns else 0
        gone: set[str] = set()
        kept: list[Message] = []
        for message in messages[:now]:
            if message.role == "tool":
                if message.tool_call_id not in gone:
                    kept.append(message)
                continue
            left = tuple(call for call in message.tool_calls if not self._is_meant(call.name))
            gone = {call.id for call in message.tool_calls} - {call.id for call in left}
            if left or message.content or not message.tool_calls:
                _add(kept, replace(message, tool_calls=left))
        return (*kept, *messages[now:])

    def _is_meant(self, name: str) -> bool:
        return self.tools is None or name in self.tools


def _add(kept: list[Message], message: Message) -> None:
    """Add a message; what the assistant said before and after a call that is gone becomes one: chat templates want
    turns to alternate."""
    before = kept[-1] if kept else None
    if before is None or before.role != "assistant" or message.role != "assistant" or before.tool_calls:
        kept.append(message)
        return
    kept[-1] = replace(message, content="\n\n".join(filter(None, (before.content, message.content))))
