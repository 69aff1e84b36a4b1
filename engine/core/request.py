"""One generation, as the scheduler sees it."""

from __future__ import annotations

from typing import Final, Literal

from msgspec.structs import replace

from engine.errors import IllegalTransition
from schemas.generation import FinishReason, Submit
from schemas.steps import RequestEvent

State = Literal["waiting", "parked", "running", "finished"]
Rank = tuple[int, int]
"""Priority and arrival: the lower, the sooner it begins and the later it gives way."""

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


class Request:
    """Token counts and blocks of one generation.

    Positions go through four borders, each at or behind the next:
    `settled` (KV computed, result seen) <= `computed` (planned) <= `known` + `pending` (sampled, some not yet seen).
    """

    __slots__ = (
        "blocks",
        "cached",
        "computed",
        "deadline",
        "entered",
        "finish",
        "grammar",
        "id",
        "keys",
        "life",
        "limit",
        "lost",
        "pending",
        "preemptions",
        "problem",
        "prompt_tokens",
        "rank",
        "reads_cache",
        "recomputed",
        "sampling",
        "settled",
        "state",
        "stops",
        "tenant",
        "tokens",
        "whole",
    )

    def __init__(self, submit: Submit, context_length: int, root: bytes, rank: Rank) -> None:
        self.id = submit.request
        self.rank = rank
        self.deadline = submit.deadline
        self.reads_cache = submit.read_cache
        self.tenant = submit.tenant
        self.sampling = submit.sampling
        self.stops = frozenset(submit.sampling.stop_tokens)
        self.tokens = [*submit.prompt, *submit.output]
        self.prompt_tokens = len(submit.prompt)
        self.limit = min(self.prompt_tokens + submit.sampling.max_tokens, context_length)
        """Tokens, prompt and output, at which it ends."""
        structured = submit.sampling.structured
        self.grammar = "" if structured is None else structured.key()
        """Key of the grammar that its answer keeps to."""
        if structured is not None:
            # whoever closes the document in time has to know how much time there is
            self.sampling = replace(submit.sampling, max_tokens=max(self.limit - self.prompt_tokens, 1))
        self.whole = False
        """Whether nothing may follow its last token: it has all that its grammar asks for."""
        self.problem = ""
        """What of the request made it end with an error."""
        self.state: State = "waiting"
        self.finish: FinishReason | None = None
        self.blocks: list[int] = []
        self.computed = 0
        self.settled = 0
        self.pending = 0
        """Tokens sampled in plans whose results are not in."""
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
        """Leading blocks whose content the prefix cache knows."""
        self.keys = [root]
        """Of the prefix cache, as far as they were needed: those of the leading full blocks, after the tenant's."""

    @property
    def length(self) -> int:
        """Tokens known or under way."""
        return len(self.tokens) + self.pending

    @property
    def bulk(self) -> int:
        """How much there is to tell of it, in tokens."""
        structured = self.sampling.structured
        return len(self.tokens) + (structured.size // 4 if structured is not None else 0)

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
        if self.whole or token in self.stops:
            return "stop"
        return "length" if len(self.tokens) >= self.limit else None

    def tell(self, start: int) -> RequestEvent:
        """Describe the output from index `start` on."""
        tokens = tuple(self.tokens[self.prompt_tokens + start :])
        return self.event(tokens, start)

    def event(self, tokens: tuple[int, ...], start: int) -> RequestEvent:
        """Tell some of the output, and at the end what it cost."""
        if self.finish is None:
            return RequestEvent(self.id, tokens, start, None, self.cached or 0)
        told = (self.cached or 0, self.preemptions, self.recomputed, self.problem)
        return RequestEvent(self.id, tokens, start, self.finish, *told)
