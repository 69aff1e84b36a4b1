"""What an agent's own functions said between the steps of its runs: recorded, so that replay needs none of them."""

from __future__ import annotations

from collections.abc import Mapping

from schemas.messages import Calling, Usage
from schemas.wire import Wire


class StepOpened(Wire, frozen=True, tag="step.opened"):
    """The intention to ask the agent's functions about the step that comes next."""

    effect: str
    """Structural: `<run>-<step>-p`."""
    step: int
    """The model call that it is about."""


class StepPrepared(Wire, frozen=True, tag="step.prepared"):
    """What the agent's functions made of the step: how it differs from the profile, or that it does not come."""

    effect: str
    stop: str = ""
    """The name of the stop condition that ends the run here."""
    failure: str = ""
    """What went wrong in a function: the run fails."""
    model: str | None = None
    instructions: str | None = None
    active_tools: tuple[str, ...] | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    calling: Calling | None = None
    why: str = ""
    """What the functions say of it."""
    usage: Usage = Usage()
    """Of what they asked a model."""
    cost: float | None = 0.0
    """Of that, US dollars; None where a price is not known."""
    engines: Mapping[str, Usage] = {}
    """Of the usage, what each model took."""


class HooksTold(Wire, frozen=True, tag="hooks.told"):
    """The observers of a run's end have been called."""

    effect: str
    """Structural: `<run>-h`."""


class Judgement(Wire, frozen=True):
    """What a tool, and its agent, say of a call before anybody is asked to agree."""

    index: int
    """Of the call in its answer."""
    approval: bool
    """Whether a person must agree to this one."""
    problem: str = ""
    """Why it is not called at all: its arguments do not fit, or the agent refuses it."""
    arguments: str | None = None
    """What it is called with in place of what the model wrote, JSON."""
    answer: str | None = None
    """What the model reads: it is not called."""
