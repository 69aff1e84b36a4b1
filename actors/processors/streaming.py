"""An answer's text through the streams of its processors: each gets what the one before it gave on."""

from __future__ import annotations

from collections.abc import Sequence

from actors.models.provider import OnText, Piece, Spoken
from actors.processors.hooked import stream_of
from actors.processors.processor import About, Processor, Stream, Tripped


class _Held:
    """Keeps all of it until the end."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def feed(self, text: str) -> str:
        self._text.append(text)
        return ""

    def end(self) -> str:
        return "".join(self._text)


class Outlet:
    """Hears an answer in place of its watchers, and tells them what the processors leave of it.

    Tokens are not told of: they would spell what was taken out.
    """

    def __init__(self, processors: Sequence[Processor], about: About, on_text: OnText) -> None:
        self._processors = processors
        self._about = about
        self._on_text = on_text
        self._streams: dict[Spoken, list[Stream]] = {}
        self._told: dict[Spoken, list[str]] = {"text": [], "reasoning": []}
        self._offset: dict[Spoken, int] = {"text": 0, "reasoning": 0}
        self.tripped: Tripped | None = None
        """Why the answer was stopped on its way."""
        self.holds = any(processor.holds for processor in processors)
        """Whether nothing is told before all was looked at."""

    async def __call__(self, piece: Piece, /) -> None:
        """Take what the model says next; calls are told with the answer, once processors have seen them whole."""
        if piece.kind == "call":
            return
        try:
            text = _through(self._of(piece.kind), piece.text)
        except Tripped as tripped:
            self.tripped = tripped
            raise
        await self._tell(piece.kind, text)

    async def end(self, kind: Spoken) -> str:
        """Say that no more comes; return all that was let through."""
        text, streams = "", self._of(kind)
        for at, stream in enumerate(streams):
            text += stream.end()
            if at + 1 < len(streams):
                text = streams[at + 1].feed(text)
        if self.holds:
            return text
        await self._tell(kind, text)
        return "".join(self._told[kind])

    async def release(self, kind: Spoken, text: str) -> None:
        """Tell what was held until it had been looked at; nothing if it went out as it came."""
        if self.holds:
            await self._tell(kind, text)

    async def _tell(self, kind: Spoken, text: str) -> None:
        if not text:
            return
        offset = self._offset[kind]
        self._told[kind].append(text)
        self._offset[kind] += len(text)
        await self._on_text(Piece(offset, text, kind))

    def _of(self, kind: Spoken) -> list[Stream]:
        if kind not in self._streams:
            made = (stream_of(processor, self._about) for processor in self._processors)
            streams: list[Stream] = [stream for stream in made if stream is not None]
            self._streams[kind] = [*streams, _Held()] if self.holds else streams
        return self._streams[kind]


def _through(streams: Sequence[Stream], text: str) -> str:
    for stream in streams:
        text = stream.feed(text)
    return text
