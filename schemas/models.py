"""Which models an agent asks, one after the other, and which of them did not answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from schemas.messages import Usage
from schemas.wire import Wire

Price = Annotated[tuple[Annotated[float, msgspec.Meta(ge=0)], ...], msgspec.Meta(min_length=3, max_length=4)]
"""US dollars for a million tokens: of the prompt, of the answer, of the prompt where it came from a cache; and of what
was thought, where that is not the price of the answer."""


HeaderName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]
HeaderValue = Annotated[str, msgspec.Meta(pattern=r"^[\t -~]*$")]


class ModelEntry(Wire, frozen=True):
    """One model of a chain, and how it is asked."""

    model: str
    """`provider/model`, or the name of an engine here."""
    retries: Annotated[int, msgspec.Meta(ge=0, le=100)] = 0
    """How often it is asked again before the next one is."""
    first_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds until its first word must have come; 0 is as the settings say."""
    total_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Seconds until its last word must have come; 0 has no bound."""
    temperature: float | None = None
    """In place of the agent's."""
    max_tokens: int | None = None
    """In place of the agent's."""
    options: Mapping[str, Any] = {}
    """Further fields of the request, as the provider spells them: `{"reasoning_effort": "low"}`."""
    headers: Mapping[HeaderName, HeaderValue] = {}
    """Sent with the request, over those of the provider; `${NAME}` stands for a variable of the environment. A chain is
    recorded as it is written, so what is secret is a variable's."""


class ModelChain(Wire, frozen=True):
    """Models in the order in which they are asked: the next one when one cannot be had, before its first word."""

    entries: Annotated[tuple[ModelEntry, ...], msgspec.Meta(min_length=1, max_length=32)]


class PassedOver(Wire, frozen=True):
    """A model of a chain that could not be had."""

    model: str
    kind: str
    """Of the problem."""
    message: str


class Budget(Wire, frozen=True):
    """What may be spent on models within a window of time."""

    scope: Literal["run", "thread", "tenant", "all"]
    """Each run, thread or tenant for itself, or everybody together."""
    tokens: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Of prompts and answers; 0 has no bound."""
    usd: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """US dollars, as far as prices are known; 0 has no bound."""
    window_s: Annotated[int, msgspec.Meta(ge=0)] = 0
    """Seconds that count, up to now; 0 is all time that is known."""
    models: str = "*"
    """A pattern of the names of models that it is about."""


class Spent(Wire, frozen=True):
    """What a call of a model may cost, or did. `spent.<tenant>`."""

    time: int
    """When, microseconds since the Unix epoch."""
    tenant: str
    thread: str
    run: str
    model: str
    usage: Usage
    process: str = ""
    """The `producer_run` of the one that asked."""
    call: str = ""
    """Which call; what is said of the same one later takes the place of what was said before."""
    held: bool = False
    """Whether the call has begun, and `usage` is what it may take; it is told again with what it took."""
