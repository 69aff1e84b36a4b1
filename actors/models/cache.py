"""Answers that are kept for calls that ask the same, word for word: off unless it is set.

They are in a process's memory alone. One that came of a thread is given up when that is erased.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText, Piece
from schemas.messages import Usage
from schemas.programs import ProgramNote

Origin = tuple[str, str]
"""Of which tenant's thread an answer came."""
_ERASED = 10_000


@dataclass
class Answers:
    """The answers that a process keeps, the latest used ones."""

    most: int
    _kept: OrderedDict[str, tuple[Origin, ModelAnswer]] = field(default_factory=OrderedDict)
    _erased: OrderedDict[Origin, None] = field(default_factory=OrderedDict)
    """Threads whose last answers may still be on their way."""

    def get(self, key: str) -> ModelAnswer | None:
        """Give an answer, which is then the latest used."""
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return found[1]

    def keep(self, key: str, answer: ModelAnswer, origin: Origin) -> None:
        """Keep one, in place of the one that was not used for longest; none of a thread that is erased."""
        if origin in self._erased:
            return
        self._kept[key] = origin, answer
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)

    def forget(self, tenant: str, thread: str) -> None:
        """Give up what came of a thread that is erased, and what may still come of it."""
        self._erased[tenant, thread] = None
        while len(self._erased) > _ERASED:
            self._erased.popitem(last=False)
        for key in [key for key, (origin, _) in self._kept.items() if origin == (tenant, thread)]:
            del self._kept[key]

    def clear(self) -> None:
        """Give up all: of some it is not known whether their threads were erased."""
        self._kept.clear()


@dataclass(frozen=True)
class Cached:
    """Asks the model inside what was not asked before."""

    name: str
    inner: ModelProvider
    answers: Answers

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Give the answer that is kept, which costs nothing, or ask.

        Raises:
            CallFailed: the model inside does; nothing is kept then.
        """
        key = key_of(self.name, call)
        kept = self.answers.get(key) if call.read_cache else None
        if kept is None:
            kept = await self.inner.call(call, on_text)
            if kept.finish_reason in {"stop", "tool_calls"}:
                self.answers.keep(key, kept, (call.tenant, call.thread))
            return kept
        if kept.reasoning:
            await on_text(Piece(0, kept.reasoning, "reasoning"))
        if kept.text:
            await on_text(Piece(0, kept.text))
        return replace(kept, usage=Usage(), sampled=None, cost=0.0)  # its tokens were drawn for another call

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Have the model inside search.

        Raises:
            CallFailed: it does.
        """
        return await self.inner.search(call)

    async def note(self, note: ProgramNote) -> None:
        """Pass it on."""
        await self.inner.note(note)

    async def abort(self, request: str) -> None:
        """Pass it on."""
        await self.inner.abort(request)


def key_of(model: str, call: ModelCall) -> str:
    """Name what a call asks: the resolved prompt and all that shapes the answer, and of who asks only the tenant.

    A seed is chance's and drawn for every run, so calls that differ in nothing else ask the same.
    """
    asked = (
        model, call.tenant, call.cache_salt, call.messages, call.prompt, call.tools, call.calling, call.rendering,
        call.stop, call.bad_words, call.options, call.headers, call.choice, replace(call.sampling, seed=0),
    )  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()
