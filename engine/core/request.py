"""One generation, as the scheduler sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec.structs import replace

from engine.errors import IllegalTransition
from schemas.generation import FinishReason, Repetition, Sampling, Submit
from schemas.steps import RequestEvent

State = Literal["waiting", "parked", "running", "finished"]
Rank = tuple[int, ...]
"""Priority, with some policies arrival of the program, and arrival: the lower, the sooner it begins and the later it
gives way."""

_ALLOWED: Final[frozenset[tuple[State, State]]] = frozenset(
    {
        ("waiting", "running"),
        ("running", "waiting"),
        ("running", "finished"),
        ("waiting", "finished"),
        ("waiting", "parked"),
        ("parked", "waiting"),
        ("parked", "finished"),
    }
)


LEFT: Final = -1
"""Stands in a table for a block that no position to come will see."""


class Request:
    """Token counts and blocks of one generation.

    Positions go through four borders, each at or behind the next:
    `settled` (KV computed, result seen) <= `computed` (planned) <= `known` + `pending` (sampled, some not yet seen).
    """

    __slots__ = (
        "blocks",
        "cached",
        "closed",
        "computed",
        "deadline",
        "entered",
        "finish",
        "found_within",
        "grammar",
        "id",
        "keys",
        "left",
        "life",
        "limit",
        "logprobs",
        "lost",
        "pending",
        "preemptions",
        "problem",
        "prompt_logprobs",
        "prompt_tokens",
        "rank",
        "recomputed",
        "sampling",
        "settled",
        "shared",
        "state",
        "stops",
        "tenant",
        "tokens",
        "wants_told",
        "whole",
    )

    def __init__(self, submit: Submit, context_length: int, root: bytes, rank: Rank) -> None:
        self.id = submit.request
        self.rank = rank
        self.deadline = submit.deadline
        # of how many of its tokens the beginning may come from the prefix cache; None is all
        self.found_within = _found_within(submit)
        self.tenant = submit.tenant
        self.stops = frozenset(submit.sampling.stop_tokens)
        self.tokens = [*submit.prompt, *submit.output]
        self.prompt_tokens = len(submit.prompt)
        room = min(self.prompt_tokens + submit.sampling.max_tokens, context_length)
        self.sampling = _within(submit.sampling, room - self.prompt_tokens)
        self.limit = min(room, len(self.tokens) + 1) if self.sampling.searching else room
        """Tokens, prompt and output, at which it ends."""
        self.grammar = _grammar(submit.sampling)
        """Key of the grammar that its answer keeps to; empty if there is none."""
        # whether nothing may follow its last token, as it has all that its grammar asks for; the index of the first
        # output token that was not drawn, but taken for its document to end in time; what of it made it end in an error
        self.whole, self.closed, self.problem = False, submit.closed, ""
        self.state: State = "waiting"
        self.finish: FinishReason | None = None
        # the table, row after row, in which `LEFT` stands for what a window has left behind: `left` rows have such
        self.blocks: list[int] = []
        # `pending` are tokens sampled in plans whose results are not in
        self.computed = self.settled = self.left = self.shared = self.pending = 0
        self.life = 0
        """Counts preemptions: a result from before one says nothing of the blocks held now."""
        self.cached: int | None = None
        """Prompt tokens found in the prefix cache at the first admission."""
        self.preemptions = 0
        self.lost = 0
        """Positions whose KV entries it had, and gave up."""
        self.recomputed = 0
        """Of those, the ones that were not in the prefix cache when it came back."""
        self.entered = 0
        """Leading rows whose content the prefix cache knows."""
        self.logprobs = list(submit.logprobs)
        """Of each output token, where they are wanted."""
        self.prompt_logprobs = list(submit.prompt_logprobs)
        """Of each prompt token that something is to be told of, as far as they are known."""
        self.wants_told = submit.sampling.logprobs is not None or submit.sampling.prompt_logprobs is not None
        """Whether what the model makes of its tokens is told."""
        self.keys = [root]
        """Of the prefix cache, as far as they were needed: those of the leading full blocks, after the tenant's."""

    @property
    def held(self) -> list[int]:
        """The blocks that it holds."""
        return [block for block in self.blocks if block != LEFT] if self.left else self.blocks[:]

    def found(self, groups: int) -> list[int]:
        """Those of its blocks whose content the prefix cache knows, of layers in so many groups."""
        return [block for block in self.blocks[: self.entered * groups] if block != LEFT]

    @property
    def findable(self) -> Sequence[int]:
        """The beginning that may come from the prefix cache."""
        return self.tokens if self.found_within is None else self.tokens[: self.found_within]

    @property
    def length(self) -> int:
        """Tokens known or under way."""
        return len(self.tokens) + self.pending

    @property
    def bulk(self) -> int:
        """How much there is to tell of it, in tokens."""
        structured, forced = self.sampling.structured, self.sampling.trace_decode_token_ids
        return len(self.tokens) + len(forced) + (structured.size // 4 if structured is not None else 0)

    @property
    def outputs(self) -> int:
        """Output tokens known."""
        return len(self.tokens) - self.prompt_tokens

    def move(self, state: State) -> None:
        """Change state.

        Raises:
            IllegalTransition: there is no way from here to there.
        """
        if (self.state, state) not in _ALLOWED:
            raise IllegalTransition(self.id, self.state, state)
        self.state = state

    def end(self, finish: FinishReason) -> None:
        """Be over. Only the output is kept, for those who ask for it again.

        Raises:
            IllegalTransition: it was over before.
        """
        self.move("finished")
        self.finish = finish
        self.pending = 0
        del self.tokens[: self.prompt_tokens], self.keys[:]
        self.prompt_tokens = 0

    def accept(self, token: int) -> FinishReason | None:
        """Take a sampled token that was under way; say whether it was the last."""
        self.pending -= 1
        self.tokens.append(token)
        return self.over()

    def over(self) -> FinishReason | None:
        """Say whether the tokens there are end it."""
        tokens = self.tokens
        if self.whole or (tokens[-1] in self.stops and len(tokens) > self.prompt_tokens):
            return "stop" if self.closed is None else "length"
        if self.sampling.repetition is not None and repeats(tokens, self.outputs, self.sampling.repetition):
            return "repetition"
        return "length" if len(tokens) >= self.limit else None

    def tell(self, start: int) -> RequestEvent:
        """Describe the output from index `start` on."""
        tokens = tuple(self.tokens[self.prompt_tokens + start :])
        return self.event(tokens, start)

    def event(self, tokens: tuple[int, ...], start: int) -> RequestEvent:
        """Tell some of the output, and at the end what it cost."""
        if self.finish is None and not self.wants_told:
            return RequestEvent(self.id, tokens, start, None, self.cached or 0, closed=self.closed)
        logprobs = tuple(self.logprobs[start : start + len(tokens)])
        first = tuple(self.prompt_logprobs) if start == 0 else ()
        if self.finish is None:
            return RequestEvent(
                *(self.id, tokens, start, None, self.cached or 0),
                logprobs=logprobs,
                prompt_logprobs=first,
                closed=self.closed,
            )
        spent = (self.cached or 0, self.preemptions, self.recomputed)
        return RequestEvent(self.id, tokens, start, self.finish, *spent, logprobs, first, self.problem, self.closed)


def _found_within(submit: Submit) -> int | None:
    """Say how much may be found: what the model makes of a prompt is known where it is computed, and only there."""
    if not submit.read_cache:
        return 0
    sampling = submit.sampling
    # the last of them is not found, but computed
    return None if sampling.prompt_logprobs is None else sampling.prompt_logprob_start + 1


def _grammar(sampling: Sampling) -> str:
    return "" if sampling.structured is None else sampling.structured.key()


def _within(sampling: Sampling, tokens: int) -> Sampling:
    """Say how many tokens there will be at most: whoever closes a document in time has to know."""
    return sampling if sampling.structured is None else replace(sampling, max_tokens=max(tokens, 1))


def repeats(tokens: Sequence[int], outputs: int, wanted: Repetition) -> bool:
    """Say whether the last of `outputs` tokens are one pattern several times in a row."""
    last = len(tokens) - 1
    for size in range(wanted.shortest, min(wanted.longest, outputs // wanted.times) + 1):
        if tokens[last] != tokens[last - size]:
            continue
        tail = tokens[-size * wanted.times :]
        if tail[size:] == tail[:-size]:
            return True
    return False
