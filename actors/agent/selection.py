"""Which of several models answers, by what is asked: a `prepare_step` that has a model choose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from actors.agent.hooks import StepChanges, StepView
from actors.classifier import Choice, Classifier
from actors.errors import DefinitionError

Scope = Literal["run", "first_step"]


@dataclass(frozen=True, slots=True)
class ModelSelection:
    """Give it as an agent's `prepare_step`: before the first step the last message of the user's is classified.

    Where the classifier is not sure, or says that none fits, the model is `otherwise`.

    Raises:
        DefinitionError: there are fewer than two models, or the threshold is no chance.
    """

    choices: Mapping[str, str]
    """Name of each model, as `Agent.model` has it, to what it is to be chosen for."""
    classifier: str = ""
    """The model that chooses; empty is the agent's own."""
    threshold: float = 0.0
    """The chance below which it is not sure. Where the model tells no chances, what it says counts."""
    abstain: str = ""
    """What it may say instead of choosing, such as `none of these`; empty has it choose."""
    otherwise: str | None = None
    """The model where none is chosen; None is the agent's own."""
    scope: Scope = "run"
    """Whether the model that was chosen makes all steps of the run, or the first one alone."""

    def __post_init__(self) -> None:
        if self.scope not in {"run", "first_step"}:
            raise DefinitionError(f"ModelSelection: scope={self.scope!r}: give 'run' or 'first_step'")
        self._question()

    async def __call__(self, view: StepView) -> StepChanges | None:
        """Choose the model of a step.

        Raises:
            CallFailed: the classifier came to nothing: the run fails.
        """
        if view.step > 1:
            return StepChanges(model=view.model) if self.scope == "run" and view.model else None
        asked = [message.content for message in view.messages if message.role == "user"]
        if not asked or view.ask is None:
            return None
        classifier = Classifier({"model": self._question()}, self.classifier)
        found = (await classifier.classify(asked[-1], view.ask))["model"]
        chance = "" if found.chance is None else f" ({found.chance:.2f})"
        return StepChanges(model=found.value or self.otherwise, why=f"{found.value or 'none chosen'}{chance}")

    def _question(self) -> Choice:
        return Choice(self.choices, "Which of these is the text for?", self.threshold, self.abstain)
