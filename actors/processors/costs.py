"""A processor that stops runs which cost too much: by what a thread or a person has used, as the record says.

It is about one agent, and goes by persons too; `models.budgets` of the settings bound models for all agents together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from actors.errors import DefinitionError
from actors.memory.window import weight
from actors.processors.processor import About, Processor, Tripped
from bus.errors import BusError
from schemas.messages import Message

CostScope = Literal["thread", "resource", "tenant"]
_RATE = 0.3
"""Tokens that a byte of a prompt takes, about."""


@dataclass(frozen=True)
class CostControl(Processor):
    """Stops a run whose prompt is too long, or whose thread, person or tenant has used its tokens up.

    Raises:
        DefinitionError: nothing is bounded, a number is negative, or there is no such scope.
    """

    tokens: int = 0
    """Of prompts and answers that may have been used before a run, within `days`; 0 has no bound."""
    scope: CostScope = "resource"
    """Whose; a thread of nobody's is counted for itself, and what agents spend that are asked in it counts for it."""
    days: int = 0
    """Up to now; 0 is for ever."""
    prompt_tokens: int = 0
    """Of one prompt, about; 0 has no bound."""
    strategy: Literal["block", "warn"] = "block"
    name: str = "cost-control"

    def __post_init__(self) -> None:
        if min(self.tokens, self.days, self.prompt_tokens) < 0 or not (self.tokens or self.prompt_tokens):
            raise DefinitionError(f"{self.name}: give `tokens` or `prompt_tokens`, from 1")
        if self.scope not in get_args(CostScope) or self.strategy not in {"block", "warn"}:
            raise DefinitionError(f"{self.name}: scope is one of {get_args(CostScope)}, strategy block or warn")

    async def input(self, messages: Sequence[Message], about: About) -> None:
        """Look at what was used, once in a run."""
        if not self.tokens or about.call is None or about.library is None:
            return
        place = (about.call.tenant, about.call.spends_for[0], about.resource)
        try:
            used = await about.library.used(place, self.scope, self.days)
        except BusError:
            # what nobody can count now must not stop everybody
            about.note(self, "input", "noticed", reason="what was used could not be read")
            return
        if used >= self.tokens:
            self._say(f"{used} tokens of {self.tokens} are used up by this {self.scope}", about, "input")

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Look at how long it is."""
        size = round(_RATE * sum(map(weight, messages)))
        if self.prompt_tokens and size > self.prompt_tokens:
            self._say(f"the prompt takes about {size} tokens, not {self.prompt_tokens}", about, "prompt")
        return messages

    def _say(self, reason: str, about: About, hook: Literal["input", "prompt"]) -> None:
        if self.strategy == "block":
            raise Tripped(reason)
        about.note(self, hook, "noticed", reason=reason)
