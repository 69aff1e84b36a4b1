"""Reads a stream of OpenAI's Responses: the items of an answer, as they grow and when they are whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.models.provider import ModelAnswer, Piece
from actors.models.registry import Reached
from actors.models.wires.failures import in_stream, unheeded
from actors.models.wires.heard import Heard, counted
from actors.models.wires.likelihoods import of_openai
from actors.models.wires.streamed import StreamedReader
from schemas.messages import Thought, Usage

APART = "\n\n"
"""Between two messages of one answer, and between two parts of what was thought."""


class ItemSeal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an item of an answer goes back with."""

    id: str = ""
    encrypted_content: str = ""
    """What was thought, for its provider alone."""
    plain: bool = False
    """Whether what was thought came as it is, and goes back so."""
    phase: str = ""
    """Of the message that begins here."""


@dataclass
class _Item:
    """One item of an answer."""

    kind: str
    text: str = ""
    """Of it, what was heard."""
    began: int = 0
    """Characters of its kind that came before it."""
    length: int = 0
    """Characters of it."""
    part: int = 0
    """Which part of it is being told."""
    seal: ItemSeal | None = None
    """Known when it is whole."""


class ResponsesReader(StreamedReader):
    """Reads a stream of events about items."""

    def __init__(self, heard: Heard, reached: Reached) -> None:
        super().__init__(heard, reached)
        self._items: dict[int, _Item] = {}
        self._declines = False
        """Whether it says why it does not answer, in place of an answer."""

    def end(self) -> ModelAnswer:
        """Give the whole."""
        whole = super().end()
        return replace(whole, thoughts=tuple(self._thoughts()))

    def heed(self, told: Any) -> list[Piece]:
        """Take an event."""
        if self.heard.over:
            return []
        kind = str(told.get("type")).removeprefix("response.")
        if kind == "error":
            raise in_stream(self.reached.name, told.get("error") or told)
        if kind == "failed":
            raise in_stream(self.reached.name, told["response"].get("error") or {})
        return self._heed(kind, told)

    def _heed(self, kind: str, told: dict[str, Any]) -> list[Piece]:
        match kind:
            case "keepalive":
                self.heard.events += self._thinks  # minutes may pass in which nothing else is told
            case "output_item.added":
                self.heard.opened = True
                self._item(told["output_index"], told["item"]["type"])
                self._named(told["output_index"], told["item"])
            case "output_item.done":
                return self._whole(told["output_index"], told["item"])
            case "output_text.delta":
                pieces = self._said(told["output_index"], told["delta"])
                return self.heard.tell(of_openai({"content": told.get("logprobs")}), pieces)
            case "reasoning_summary_text.delta" | "reasoning_text.delta":
                part = told.get("summary_index") or told.get("content_index") or 0
                return self._thought(told["output_index"], told["delta"], part)
            case "function_call_arguments.delta":
                self.heard.call(told["output_index"]).arguments.append(told["delta"])
            case "refusal.delta" | "refusal.done":
                self._declines = True
            case "completed" | "incomplete":
                return self._ended(told["response"])
            case _:
                pass  # that it goes on, what is whole already, and what there will be one day
        return []

    @property
    def _thinks(self) -> bool:
        return any(item.kind == "reasoning" and item.seal is None for item in self._items.values())

    def _item(self, index: int, kind: str) -> _Item:
        if index not in self._items:
            self._items[index] = _Item(kind)
        return self._items[index]

    def _named(self, index: int, item: dict[str, Any]) -> None:
        if item["type"] == "function_call":
            self.heard.call(index).name_it(item.get("call_id") or "", item.get("name") or "")

    def _said(self, index: int, text: str) -> list[Piece]:
        item, pieces = self._item(index, "message"), list[Piece]()
        if text and not item.text:
            pieces += self.heard.say(APART) if self.heard.said else []
            item.began = self.heard.said
        item.text += text
        return pieces + self.heard.say(text)

    def _thought(self, index: int, text: str, part: int) -> list[Piece]:
        """Hear more of what it thinks; `part` numbers what it is a part of."""
        item = self._item(index, "reasoning")
        if not item.text:
            item.began = self.heard.thought
        if part > item.part and item.text:
            text = APART + text
        item.part = part
        item.text += text
        pieces = self.heard.think(text)
        item.length = self.heard.thought - item.began
        return pieces

    def _whole(self, index: int, item: dict[str, Any]) -> list[Piece]:
        """Take an item that is whole: what its fragments left out, and its seal."""
        known = self._item(index, item["type"])
        if known.seal is not None:
            return []
        known.seal = ItemSeal(phase=item.get("phase") or "")
        self._named(index, item)
        match item["type"]:
            case "message":
                self._declines |= any(part["type"] == "refusal" for part in item.get("content") or ())
                whole = "".join(part.get("text") or "" for part in item.get("content") or ())
                return self._said(index, whole.removeprefix(known.text)) if whole.startswith(known.text) else []
            case "function_call":
                self.heard.call(index).give(item.get("arguments") or "")
            case "reasoning":
                return self._reasoned(index, known, item)
            case _:
                pass
        return []

    def _reasoned(self, index: int, known: _Item, item: dict[str, Any]) -> list[Piece]:
        plain = bool(item.get("content"))
        parts = item.get("content") or item.get("summary") or ()
        whole = APART.join(part.get("text") or "" for part in parts)
        pieces = self._thought(index, whole, 0) if whole and not known.text else []
        known.seal = ItemSeal(item.get("id") or "", item.get("encrypted_content") or "", plain)
        return pieces

    def _ended(self, response: dict[str, Any]) -> list[Piece]:
        heard, pieces = self.heard, list[Piece]()
        for index, item in enumerate(response.get("output") or ()):
            pieces += self._whole(index, item)
        heard.usage = _usage(counted(response.get("usage")))
        reason = (response.get("incomplete_details") or {}).get("reason")
        if self._declines:
            raise unheeded(self.reached.name, "messages", "declined to answer (refusal)")
        if reason == "content_filter":
            raise unheeded(self.reached.name, "messages", f"withheld its answer ({reason})")
        heard.finish = "length" if reason else "stop"
        heard.over = True
        return pieces

    def _thoughts(self) -> list[Thought]:
        """Give what is to go back, each with what it led to: the text behind it, or a call."""
        found, waiting = list[Thought](), list[Thought]()
        origin = self.heard.origin
        for index, item in sorted(self._items.items()):
            seal = item.seal or ItemSeal()
            if item.kind == "reasoning":
                waiting += _thought_of(origin, item, seal)
                continue
            if item.kind == "function_call":
                identity = self.heard.identity(index)
                found += [replace(thought, call_id=identity) for thought in waiting]
            elif item.text:
                found += [replace(thought, after=item.began) for thought in waiting]
                if seal.phase:
                    found.append(Thought(origin, 0, _written(seal), "sealed", after=item.began))
            else:
                continue
            waiting.clear()
        return found


def _thought_of(origin: str, item: _Item, seal: ItemSeal) -> list[Thought]:
    """Give the thought that an item is; one that cannot go back is there where those behind it count on its length."""
    if seal.encrypted_content or (seal.plain and item.text):
        return [Thought(origin, item.length, _written(seal), "sealed")]
    return [Thought(origin, item.length)] if item.length else []


def _written(seal: ItemSeal) -> str:
    return msgspec.json.encode(seal).decode()


def _usage(usage: dict[str, Any]) -> Usage:
    prompt, answer = (usage.get(name) or {} for name in ("input_tokens_details", "output_tokens_details"))
    return Usage(
        prompt_tokens=usage.get("input_tokens") or 0,
        completion_tokens=usage.get("output_tokens") or 0,
        cached_tokens=prompt.get("cached_tokens") or 0,
        reasoning_tokens=answer.get("reasoning_tokens") or 0,
    )
