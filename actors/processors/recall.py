"""Semantic recall: what was said before and is near to what is asked now, put before the question.

It is a processor of the prompt: the thread keeps what was said, and the record of the call says what was recalled, by
where it stands in the log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from actors.errors import CallFailed, DefinitionError
from actors.memory.embedding import Embedder
from actors.memory.indexing import LONGEST, Opening, embedded
from actors.processors.processor import About, Processor
from bus.errors import BusError
from bus.projected import tokens_used
from bus.vectors import Hit, Scope, Spoken, around, nearest
from schemas.messages import Message

_KEPT = 256
"""Runs whose recollections are kept, so that each of their steps is shown the same."""


class Library(Protocol):
    """What was said, searched."""

    async def nearest(
        self, embedder: str, where: tuple[str, str, str], scope: Scope, vector: Sequence[float], count: int
    ) -> list[Hit]:
        """As `bus.vectors.nearest`."""

    async def around(self, embedder: str, spoken: Spoken, before: int, after: int) -> list[Spoken]:
        """As `bus.vectors.around`."""

    async def used(self, where: tuple[str, str, str], scope: Scope, days: int) -> int:
        """As `bus.projected.tokens_used`."""


class RecordedLibrary:
    """A `Library` that is the record, opened when something is asked of it."""

    def __init__(self, opened: Opening) -> None:
        self._opened = opened

    async def nearest(
        self, embedder: str, where: tuple[str, str, str], scope: Scope, vector: Sequence[float], count: int
    ) -> list[Hit]:
        """Search."""
        return await nearest(await self._opened(), embedder, where, scope, vector, count)

    async def around(self, embedder: str, spoken: Spoken, before: int, after: int) -> list[Spoken]:
        """Read what stands around."""
        return await around(await self._opened(), embedder, spoken, before, after)

    async def used(self, where: tuple[str, str, str], scope: Scope, days: int) -> int:
        """Count."""
        return await tokens_used(await self._opened(), where, scope, days)


@dataclass(frozen=True)
class SemanticRecall(Processor):
    """Shows the model what was said before and is near to the question; with what was said around it.

    Raises:
        DefinitionError: a number makes no sense.
    """

    embedder: Embedder
    scope: Scope = "resource"
    """How far it looks; a thread of nobody's is a scope of its own."""
    count: int = 4
    least: float = 0.2
    """Cosine below which nothing is recalled."""
    before: int = 1
    """Messages ahead of each that are shown too."""
    after: int = 1
    name: str = "semantic-recall"
    _seen: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.count < 1 or self.before < 0 or self.after < 0:
            raise DefinitionError(f"{self.name}: give count from 1, before and after from 0")

    async def prompt(self, messages: Sequence[Message], about: About) -> Sequence[Message]:
        """Put what is recalled before the question."""
        turns = [at for at, message in enumerate(messages) if message.role == "user"]
        if not turns or about.call is None or about.library is None:
            return messages
        run = f"{about.call.tenant}/{about.call.thread}/{about.call.effect.rpartition('-m')[0].rpartition('-')[0]}"
        if run not in self._seen:
            try:
                block = await self._recalled(messages, about, messages[turns[-1]].content)
            except (BusError, CallFailed):
                # an answer without what was said long ago is better than none
                about.note(self, "prompt", "noticed", reason="the record could not be searched")
                return messages
            while len(self._seen) >= _KEPT:
                del self._seen[next(iter(self._seen))]
            self._seen[run] = block
        block, at = self._seen[run], turns[-1]
        shown = replace(messages[at], content=f"{block}\n\n{messages[at].content}") if block else messages[at]
        return (*messages[:at], shown, *messages[at + 1 :])

    async def _recalled(self, messages: Sequence[Message], about: About, question: str) -> str:
        assert about.call is not None
        assert about.library is not None
        where = (about.call.tenant, about.call.thread, about.resource)
        (vector,) = await embedded(self.embedder, [question[:LONGEST]])
        # what the model sees anyway is no recollection: look further, for as many
        shown = {message.content for message in messages}
        found = await about.library.nearest(self.embedder.name, where, self.scope, vector, self.count + len(shown))
        near = [hit for hit in found if hit.score >= self.least and hit.spoken.message.content not in shown]
        told: dict[tuple[str, object], Spoken] = {}
        for hit in near[: self.count]:
            for spoken in await about.library.around(self.embedder.name, hit.spoken, self.before, self.after):
                if spoken.message.content not in shown:
                    told[spoken.thread, spoken.place] = spoken
        about.searched(self, [_place(hit.spoken) for hit in near[: self.count]])
        lines = [f"{told[key].message.role}: {_cut(told[key].message.content)}" for key in sorted(told)]
        return "<recalled>\n" + "\n".join(lines) + "\n</recalled>" if lines else ""


def _place(spoken: Spoken) -> str:
    return f"{spoken.thread} {spoken.place.sequence}/{spoken.place.idx}"


def _cut(text: str) -> str:
    """Show as much of a text as its vector is of: one that is far longer would fill every prompt that it is near to."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} […]"
