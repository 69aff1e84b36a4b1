"""A processor that asks a model questions with few answers about what is said: noted, and perhaps the run's end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.classifier import Classified, Classifier
from actors.models.provider import ModelAnswer
from actors.processors.processor import About, Processor, Tripped
from schemas.generation import Sampling
from schemas.messages import Message, Usage
from schemas.processing import Hook

Answers = Mapping[str, Classified[Any]]


def _never(_answers: Answers) -> str | None:
    """Let everything through."""
    return None


@dataclass(frozen=True)
class ClassifierProcessor(Processor):
    """Asks a `Classifier` about what came in, or about the last answer; what it says is recorded, the text is not.

    Its questions are calls beside the run's, whose tokens count for it. They are asked in words, without chances:
    thresholds do not count here.
    """

    classifier: Classifier
    trips: Callable[[Answers], str | None] = _never
    """Says of the answers why the run is stopped; None lets it go on."""
    looks_at: Sequence[Literal["input", "result"]] = ("input",)
    name: str = "classifier"

    @property
    def holds(self) -> bool:  # type: ignore[override]
        """An answer that may be stopped is not told before it was classified."""
        return "result" in self.looks_at and self.trips is not _never

    async def input(self, messages: Sequence[Message], about: About) -> None:
        """Classify what came in."""
        if "input" in self.looks_at:
            await self._classify("\n".join(message.content for message in messages), "input", about)

    async def result(self, answer: ModelAnswer, about: About) -> ModelAnswer:
        """Classify the last answer."""
        if "result" in self.looks_at:
            await self._classify(answer.text, "result", about)
        return answer

    async def _classify(self, text: str, hook: Hook, about: About) -> None:
        judge = about.judge
        if judge is None or not text.strip():
            return

        async def ask(who: str, prompt: str, sampling: Sampling, model: str = "") -> ModelAnswer:
            said = await judge(f"{self.name}-{hook}-{who}", prompt, sampling.max_tokens, model=model)
            return ModelAnswer(said, "stop", Usage())  # whoever gives the judge counts its tokens

        found = await self.classifier.classify(text, ask)
        told = ", ".join(f"{name}={one.value}" for name, one in found.items())
        about.note(self, hook, "noticed", len(found), told)
        reason = self.trips(found)
        if reason is not None:
            raise Tripped(reason)
