"""A model's answer as it comes: parts that open, grow and close, whether deltas or the result brought them. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from infra.bridge.telling.pieces import CallGrew, CallOpened, CallWhole, Closed, Grew, Kind, Opened, Piece, Settled
from schemas.live import Delta
from schemas.messages import ToolCall
from schemas.runs import ModelReturned

_CUT = "the answer ended before this call did: it is not carried out"


class Telling:
    """What was told of the model call with an effect id."""

    def __init__(self, effect: str, *, guarded: bool = False) -> None:
        """Begin with a model call.

        Args:
            effect: of the call.
            guarded: a function of the agent may change arguments, so that those that the model writes are not told.
        """
        self.effect = effect
        self._guarded = guarded
        self._told: dict[Kind, int] = {"text": 0, "reasoning": 0}
        """Characters."""
        self._parts = 0
        self._open: tuple[Kind, str] | None = None
        self._calls: dict[str, ToolCall] = {}
        """By id, those that were begun, with the arguments that were told."""

    @property
    def begun(self) -> bool:
        """Whether anything was told."""
        return self._parts > 0 or bool(self._calls)

    def hear(self, delta: Delta) -> list[Piece]:
        """Tell a piece of it."""
        pieces = [*self._more("reasoning", delta.reasoning), *self._more("text", delta.text)]
        if delta.call is not None:
            pieces += self._argued(delta.call.id, delta.call.name, "" if self._guarded else delta.arguments)
        return pieces

    def complete(self, answer: ModelReturned) -> list[Piece]:
        """Tell what no delta brought, and each call as it is called."""
        pieces = self._more("reasoning", answer.reasoning[self._told["reasoning"] :])
        pieces += [*self._more("text", answer.text[self._told["text"] :]), *self.close()]
        changed = {one.index: one.arguments for one in answer.judged if one.arguments is not None}
        for index, wanted in enumerate(answer.tool_calls):
            call = replace(wanted, arguments=changed.get(index, wanted.arguments))
            told = self._calls.get(call.id)
            heard = "" if told is None else told.arguments
            # what was told of others cannot be taken back: nothing is put after it
            more = call.arguments[len(heard) :] if call.arguments.startswith(heard) else ""
            pieces += self._argued(call.id, call.name, more)
            del self._calls[call.id]
            pieces.append(CallWhole(call))
        return [*pieces, *self.cut()]

    def cut(self) -> list[Piece]:
        """Close what is open: nothing more comes."""
        pieces = self.close()
        for call in self._calls.values():
            pieces += [CallWhole(call), Settled(call.id, self.effect, "failed", _CUT)]
        self._calls = {}
        return pieces

    def close(self) -> list[Piece]:
        """Close what is said or thought."""
        closing, self._open = self._open, None
        return [] if closing is None else [Closed(*closing)]

    def _more(self, kind: Kind, text: str) -> list[Piece]:
        if not text:
            return []
        self._told[kind] += len(text)
        pieces: list[Piece] = []
        if self._open is None or self._open[0] != kind:
            pieces += self.close()
            self._open = (kind, f"{self.effect}-p{self._parts}")
            self._parts += 1
            pieces.append(Opened(*self._open))
        return [*pieces, Grew(*self._open, text)]

    def _argued(self, identity: str, name: str, arguments: str) -> list[Piece]:
        pieces = self.close()
        call = self._calls.get(identity)
        if call is None:
            call = ToolCall(identity, name, "")
            pieces.append(CallOpened(identity, name))
        self._calls[identity] = ToolCall(identity, name, call.arguments + arguments)
        return [*pieces, CallGrew(identity, arguments)] if arguments else pieces
