"""Runs and agents that have to do with one another: who joins whom, who goes on for whom, who is ended with whom."""

from __future__ import annotations

from schemas.wire import Wire


class RunJoined(Wire, frozen=True, tag="run.joined"):
    """What a waiting run says is taken along by the one under way: it is over, and that one answers."""

    into: str
    """The run that goes on with it."""
    step: int
    """The model call of that run that sees it first."""


class RunHandedOver(Wire, frozen=True, tag="run.handed_over"):
    """From the next step on another agent goes on, with the profile that its tool call came back with."""

    effect: str
    """Of the `tool.called`."""
    agent: str
    """Who goes on."""
    by: str
    """Who handed it over."""


class ChildDisowned(Wire, frozen=True, tag="child.disowned"):
    """The run that waited for another agent's run is over before it: the intention to end that one too."""

    effect: str
    """Structural: `<run>-<step>-t<index>x`, of the call that it is, with an `x`."""


class ChildEnded(Wire, frozen=True, tag="child.ended"):
    """The order to end the other agent's run is on its way for good."""

    effect: str
