"""An answer while it is heard: cut into pieces as it comes, and put together at its end. One for every format."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any

from msgspec.structs import replace

from actors.models.provider import ModelAnswer, Piece
from actors.models.wires.failures import broken
from schemas.answers import AnswerFinish, TokenTold
from schemas.messages import Thought, ToolCall, Usage

_MOST_TOKENS = 1 << 40


def counted(told: Any) -> dict[str, Any]:
    """Read what a provider counts, as far as it is counts: what is none is left out."""
    found: dict[str, Any] = {}
    for name, value in told.items() if isinstance(told, dict) else ():
        if name.endswith("details"):
            found[name] = counted(value)
        elif isinstance(value, int | float) and 0 <= value < _MOST_TOKENS:
            found[name] = int(value)
    return found


def paired(text: str) -> str:
    """Make characters of halves that stand beside one another; what is left over is told as that."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class HeardCall:
    """A tool call whose arguments come in fragments."""

    __slots__ = ("_given", "arguments", "id", "name")

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []
        self._given = ""

    def name_it(self, identity: str, name: str) -> None:
        """Take its id and name: once, for some servers say them with every fragment."""
        self.id = self.id or str(identity)  # some number them
        self.name = self.name or str(name)

    def give(self, arguments: str) -> None:
        """Take arguments that come whole, in case no fragments do."""
        self._given = arguments

    def written(self) -> str:
        """Give its arguments as the model wrote them."""
        return paired("".join(self.arguments)) or self._given or "{}"


class Heard:
    """What was heard of one answer so far."""

    def __init__(self, origin: str, effect: str) -> None:
        self.origin = origin
        """The provider."""
        self.effect = effect
        self.usage = Usage()
        self.finish: AnswerFinish | None = None
        self.stopped_at = ""
        """The stop text that ended it, where its provider says that one did."""
        self.thoughts: list[Thought] = []
        self.logprobs: list[TokenTold] = []
        self._calls: dict[Hashable, HeardCall] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._halves: dict[str, str] = {}
        self._told = 0
        """Tokens that were told of with a piece."""
        self.events = 0
        """How often its provider said anything but that it is still there."""
        self.opened = False
        """Whether its provider said that a part of it begins."""
        self.over = False
        """Whether its provider said that nothing more comes."""
        self.said = 0
        """Characters of its text."""
        self.thought = 0
        """Characters of its reasoning."""

    def say(self, text: str) -> list[Piece]:
        """Hear more of its text."""
        text = self._paired("text", text)
        if not text:
            return []
        piece = Piece(self.said, text)
        self._text.append(text)
        self.said += len(text)
        return [piece]

    def think(self, text: str) -> list[Piece]:
        """Hear more of what it thinks."""
        text = self._paired("reasoning", text)
        if not text:
            return []
        piece = Piece(self.thought, text, "reasoning")
        self._reasoning.append(text)
        self.thought += len(text)
        return [piece]

    def _paired(self, kind: str, text: str) -> str:
        """Hold a half of a character back until the other comes."""
        text = self._halves.pop(kind, "") + text
        if "\ud800" <= text[-1:] <= "\udbff":
            self._halves[kind] = text[-1]
            text = text[:-1]
        return paired(text)

    def tell(self, logprobs: Sequence[TokenTold], pieces: list[Piece]) -> list[Piece]:
        """Hear what the model made of tokens, and tell it with the last of the pieces that they are in."""
        before = len(self.logprobs)
        self.logprobs += logprobs
        if not logprobs or not pieces:
            return pieces  # they are told with the whole answer
        if before > self._told:
            logprobs, before = self.logprobs[self._told :], self._told
        self._told = len(self.logprobs)
        return [*pieces[:-1], replace(pieces[-1], logprobs=tuple(logprobs), before=before)]

    def call(self, key: Hashable) -> HeardCall:
        """Give the tool call that a stream knows by a key, a new one the first time."""
        return self._calls.setdefault(key, HeardCall())

    def identity(self, key: Hashable) -> str:
        """Give the id of a call, the same in every attempt.

        It is made of the effect's where its provider gave none, or that of an earlier call: each is to have a result.
        """
        keys = list(self._calls)
        index, own = keys.index(key), self._calls[key].id
        if own and all(self._calls[earlier].id != own for earlier in keys[:index]):
            return own
        return f"call_{hashlib.sha256(f'{self.effect}/{index}'.encode()).hexdigest()[:20]}"

    @property
    def count(self) -> int:
        """How many tools it calls."""
        return len(self._calls)

    @property
    def begun(self) -> bool:
        """Whether anything of the answer is there."""
        return bool(self.opened or self.said or self.thought or self._calls)

    def answer(self, engine: str) -> ModelAnswer:
        """Give the whole.

        Raises:
            ProviderFailed: it broke off before its end.
        """
        if self.finish is None:
            raise broken(engine, "the stream ended before the answer did")
        calls = tuple(ToolCall(self.identity(key), call.name, call.written()) for key, call in self._calls.items())
        if any(not call.name for call in calls):
            raise broken(engine, "a tool call came without its name")
        return ModelAnswer(
            text="".join(self._text),
            finish_reason="tool_calls" if calls and self.finish in {"stop", "tool_calls"} else self.finish,
            usage=self.usage,
            tool_calls=() if self.finish == "length" else calls,
            engine=engine,
            reasoning="".join(self._reasoning),
            thoughts=tuple(self.thoughts),
            logprobs=tuple(self.logprobs),
            stopped_at=self.stopped_at,
        )
