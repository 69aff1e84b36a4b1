"""The port to a model: one call, its text as it comes, one answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

from schemas.answers import AnswerFinish, CallTold, Sampled, TokenTold
from schemas.commands import RawPrompt
from schemas.generation import Sampling, request_id, run_of
from schemas.messages import Calling, Message, Rendering, Thought, ToolCall, ToolSpec, Usage
from schemas.models import ModelChain, PassedOver
from schemas.processing import Processed
from schemas.programs import ProgramNote

Spoken = Literal["text", "reasoning", "call"]


class Piece(msgspec.Struct, frozen=True):
    """What a model says next, and the tokens that it is written in."""

    offset: int
    """Characters of the same kind that came before; of arguments, of the same tool call's."""
    text: str
    """What is said, or thought, or the next of a tool call's arguments."""
    kind: Spoken = "text"
    before: int = 0
    """Tokens of the call that were told of before these, of either kind."""
    logprobs: tuple[TokenTold, ...] = ()
    """What the model made of these, where `sampling` asks for it."""
    token_ids: tuple[int, ...] = ()
    """Where they are asked for."""
    call: CallTold | None = None
    """Whose arguments they are, where it is of that kind; the answer's call has the same id, name and place."""


class OnText(Protocol):
    """Hears what a model says, as it comes."""

    async def __call__(self, piece: Piece, /) -> None:
        """Take new text, reasoning, or arguments of a call."""


class ModelCall(msgspec.Struct, frozen=True):
    """What is asked of a model."""

    effect: str
    """The effect id, unique in its thread. Calling again with it attaches to the generation under way."""
    model: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...]
    sampling: Sampling
    tenant: str
    thread: str
    stop: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    """Texts that must not come up in the answer."""
    traceparent: str = ""
    priority: int = 0
    """The lower, the sooner, where the engine goes by priority."""
    deadline: int = 0
    """When it ends with `timeout`, microseconds since the Unix epoch; 0 is never."""
    cache_salt: str = ""
    """Only calls of the tenant with the same salt share KV blocks."""
    read_cache: bool = True
    """Whether the prompt's beginning may be taken from the prefix cache."""
    calling: Calling = Calling()
    rendering: Rendering = Rendering()
    prompt: RawPrompt | None = None
    """What the model is to go on with, in place of messages and without a chat template."""
    choice: int = 0
    """Which of several answers to the same prompt it is: each is a generation of its own."""
    n: int = 1
    """How many answers are wanted."""
    length_penalty: float | None = None
    """Search for the `n` likeliest answers, ranked by this power of their lengths; None draws them."""
    return_token_ids: bool = False
    """Whether the answer names its tokens, and the prompt's."""
    program: str = ""
    """Whose turn it is: `schemas.programs`. Empty where nobody says."""
    agent: str = ""
    """What kind of program."""
    stream_interval: int = 1
    """Tokens between two pieces of its text, at least: the first comes at once, and the last at the end."""
    chain: ModelChain | None = None
    """The models that are asked one after the other, where there is more than one."""
    again: bool = False
    """Whether an owner that ended may have asked already."""
    options: Mapping[str, Any] = {}
    """Further fields of the request, as the model's provider spells them."""
    headers: Mapping[str, str] = {}
    """Sent with the request of a model elsewhere, with variables as in `schemas.models.ModelEntry`."""
    root: tuple[str, str] | None = None
    """The thread and run that all of it is for, where another agent's run asked for this one."""

    @property
    def spends_for(self) -> tuple[str, str]:
        """Name the thread and run whose budgets it is about."""
        return self.root or (self.thread, run_of(self.effect))

    @property
    def request(self) -> str:
        """Its name in the engine."""
        return request_id(self.tenant, self.thread, self.effect, self.choice)


class ModelAnswer(msgspec.Struct, frozen=True):
    """What the model said."""

    text: str
    finish_reason: AnswerFinish
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    engine: str = ""
    logprobs: tuple[TokenTold, ...] = ()
    """What the model made of each token, where `sampling` asks for it."""
    prompt_logprobs: tuple[TokenTold, ...] = ()
    token_ids: tuple[int, ...] = ()
    prompt_token_ids: tuple[int, ...] = ()
    reasoning: str = ""
    sampled: Sampled | None = None
    """Which tokens it is made of, where that is known."""
    thoughts: tuple[Thought, ...] = ()
    """What its provider wants back of what was thought."""
    passed_over: tuple[PassedOver, ...] = ()
    """Models of the chain that could not be had."""
    processed: tuple[Processed, ...] = ()
    """What processors did, where there are any around the model."""
    cut_off: tuple[ToolCall, ...] = ()
    """Calls of an answer that ended before its end: nobody carries them out."""
    cost: float | None = None
    """US dollars; None where no price is known."""
    worded: str = ""
    """Why its form was asked for in words; empty where it was not, or its provider is known to bind none."""
    stopped_at: str = ""
    """The stop text that ended it, where one did and that is known."""


class ModelProvider(Protocol):
    """Answers model calls."""

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Generate, reporting text and reasoning as they come; what `on_text` heard joined up is the answer's.

        Raises:
            CallFailed: with the problem, as a client may see it.
        """

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Find the `call.n` likeliest answers, best first.

        Raises:
            CallFailed: with the problem, as a client may see it.
        """

    async def note(self, note: ProgramNote) -> None:
        """Hear of a program between its calls; one that is lost is of no consequence but for speed."""

    async def abort(self, request: str) -> None:
        """Stop the generation of the call that has this request id (`schemas.generation.request_id`), if it goes on."""
