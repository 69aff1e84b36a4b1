"""A call under way at a frontend: what was asked, and what has come of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from actors.serving.told import Telling
from engine.text.prompts import Prompt
from engine.text.tokenizer import Tokenizer
from schemas.generation import FinishReason, Submit, TokenLogprobs

SILENCE_S: Final = 3.0
"""After this long without a token the scheduler is asked whether it still knows the request, seconds."""


@dataclass
class OpenCall:
    """What is known of it so far."""

    submit: Submit
    prompt: Prompt
    tokenizer: Tokenizer
    named: bool
    """Whether its tokens' ids are told."""
    tokens: list[int] = field(default_factory=list)
    cached: int = 0
    preemptions: int = 0
    recomputed: int = 0
    problem: str = ""
    closed: int | None = None
    """The index of the first token that the engine took for a document to end in time."""
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    outputs: asyncio.Queue[tuple[tuple[int, ...], FinishReason | None] | None] = field(default_factory=asyncio.Queue)
    """What came; None for a long silence."""
    heard: float = field(default_factory=time.monotonic)
    """When something came last."""
    looking: asyncio.TimerHandle | None = None

    def look(self) -> None:
        """Notice a silence, now and whenever there may be one: a timer for each token would cost more than it does."""
        quiet_s = time.monotonic() - self.heard
        if quiet_s >= SILENCE_S:
            self.outputs.put_nowait(None)
            quiet_s = 0.0
        self.looking = asyncio.get_running_loop().call_later(SILENCE_S - quiet_s, self.look)

    @cached_property
    def telling(self) -> Telling:
        """What is told of its tokens."""
        return Telling(self.tokenizer, self.submit.sampling, self.logprobs, self.tokens if self.named else ())

    def closed_within(self, count: int) -> bool:
        """Say whether one of so many tokens was taken for want of others."""
        return self.closed is not None and self.closed < count
