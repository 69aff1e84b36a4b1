"""Answers that are kept for calls that ask the same, word for word: off unless it is set."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText, Piece
from schemas.messages import Usage
from schemas.programs import ProgramNote


@dataclass
class Answers:
    """The answers that a process keeps, the latest used ones."""

    most: int
    _kept: OrderedDict[str, ModelAnswer] = field(default_factory=OrderedDict)

    def get(self, key: str) -> ModelAnswer | None:
        """Give an answer, which is then the latest used."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: str, answer: ModelAnswer) -> None:
        """Keep one, in place of the one that was not used for longest."""
        self._kept[key] = answer
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)


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
                self.answers.keep(key, kept)
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
        call.stop, call.bad_words, call.options, call.choice, replace(call.sampling, seed=0),
    )  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()
