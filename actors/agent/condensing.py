"""Condensing of older messages, decided: when it is due, what it is about, and what its outcome changes. Pure.

It is an effect of the thread, beside its runs: the intention is in the log with the time at which it is given up, so
whoever owns the thread by then goes on with it, and what never ends holds up nothing for longer than that. What it
comes to, good or bad, ends it; the next turn that took too much makes it due again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.agent.conversation import Conversation
from actors.agent.folding import Folding, context_of, parent_of
from actors.agent.run import Run
from actors.memory.observing import begins_turn, condensable, is_due, is_rewritten
from actors.runtime.machine import Effect
from schemas.commands import Parent
from schemas.context import Context
from schemas.generation import BROKEN_OFF
from schemas.memory import CondensingBegun, CondensingEnded, Observed
from schemas.messages import Message
from schemas.profiles import Profile
from schemas.runs import ModelReturned


class Condense(Effect, frozen=True, kw_only=True):
    """Ask the model to condense messages."""

    begun: CondensingBegun
    profile: Profile
    """Of the run that made it due."""
    messages: tuple[Message, ...]
    observations: tuple[str, ...]
    """What was condensed before."""
    context: Mapping[str, Any] = {}
    """Of the run's request."""
    parent: Parent | None = None
    """The call of another run that its run is."""


def begin_condensing(folding: Folding, run: Run, answer: ModelReturned, context: Context) -> None:
    """Have older messages condensed if a run's last answer took more than its plan allows, and none are being."""
    state, plan = folding.state, run.profile.memory
    if plan is None or not plan.observe_timeout_ms or state.memory.condensing is not None:
        return
    if answer.tool_calls or answer.finish_reason in BROKEN_OFF or not is_due(plan, answer.usage.prompt_tokens):
        return
    first = state.memory.unshown
    count = condensable(plan, state.messages[first:])
    if count:
        begun = CondensingBegun(
            effect=f"{run.id}-{run.step}-c",
            run=run.id,
            first=first,
            upto=first + count,
            at=context.now + 1000 * plan.observe_timeout_ms,
            decided=context.now,
            whole=is_rewritten(state.memory.observations),
        )
        folding.emit("thread", state.thread, begun)
        folding.effects += condense(folding.state)


def condense(state: Conversation) -> list[Condense]:
    """Make the effect of a `condensing.begun`, if there is one without an end."""
    begun = state.memory.condensing
    if begun is None:
        return []
    return [
        Condense(
            begun.effect,
            "thread",
            state.thread,
            state.commands[begun.run].traceparent,
            begun=begun,
            profile=state.runs[begun.run].effective,
            messages=state.messages[begun.first : begun.upto],
            observations=state.memory.observations,
            context=context_of(state, begun.run),
            parent=parent_of(state, begun.run),
        )
    ]


def after_condensing(folding: Folding, ended: CondensingEnded) -> None:
    """Put what was condensed in the place of the messages, unless the thread is shown from elsewhere by now."""
    state = folding.state
    fits = ended.first == state.memory.unshown and begins_turn(state.messages, ended.first, ended.upto)
    if ended.text and fits:
        observed = Observed(ended.upto, ended.text, first=ended.first, at=ended.at, whole=ended.whole)
        folding.emit("thread", state.thread, observed)
