"""Asks a model on behalf of an entity: its text goes to the entity's watchers, its outcome is an event."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from msgspec.structs import replace

from actors.errors import CallFailed
from actors.models.chain import Chained, ChainFailed
from actors.models.choices import alternative, answers, total, total_cost
from actors.models.direct import DIRECT, OPENED, not_its_own
from actors.models.metering import CallMeter
from actors.models.provider import ModelCall, ModelProvider, Piece
from actors.models.router import LOCAL, Router
from actors.runtime.machine import Effect
from actors.runtime.performer import Site
from bus.errors import BusError
from bus.live import Live
from schemas.faults import fault
from schemas.live import Delta
from schemas.models import ModelChain
from schemas.profiles import Profile
from schemas.runs import ModelFailed, ModelReturned, Problem

log = logging.getLogger(__name__)


def unknown_model(name: str, models: Mapping[str, ModelProvider]) -> Problem:
    """Say why a model cannot be asked: there is none of that name, and which there are; or its key is missing."""
    why = models.explain(name) if isinstance(models, Router) else None
    if why is not None:
        return why
    message = f"no model {name!r}: this server has {', '.join(sorted(models))}"
    return Problem(kind="unknown_model", message=message, field="model")


def unasked(name: str, agent: str, models: Mapping[str, ModelProvider]) -> Problem | None:
    """Say why an agent's run cannot ask a model; None where it can."""
    if name.removeprefix(LOCAL) == DIRECT and agent != OPENED:
        return not_its_own(name)
    return None if name in models else unknown_model(name, models)


def missing_model(profile: Profile, models: Mapping[str, ModelProvider]) -> Problem | None:
    """Say why a run's model cannot be asked, or one of its chain, its modes or its memory; None where all can."""
    names = _models_of(profile)
    if profile.memory is not None and profile.memory.model:
        names.append(profile.memory.model)
    return next(filter(None, (unasked(name, profile.agent, models) for name in names)), None)


def unpriced(profile: Profile, models: Mapping[str, ModelProvider]) -> Problem | None:
    """Say why a run's cost cannot be bounded: the price of its model is not known, or of one of its chain."""
    if not profile.most_cost or not isinstance(models, Router):
        return None
    for name in _models_of(profile):
        if not models.is_priced(name):
            message = f"most_cost: no price of model {name!r} is known: give one in `models.prices`, or leave it out"
            return Problem(kind="definition", message=message, field="most_cost")
    return None


def _models_of(profile: Profile) -> list[str]:
    """Name all that a run may ask."""
    names = [profile.model] if profile.chain is None else [entry.model for entry in profile.chain.entries]
    return [*names, *(mode.model for mode in profile.modes if mode.model)]


def chain_of(profile: Profile, model: str) -> ModelChain | None:
    """Give the chain that a call of a run's model goes through; None where a fork chose another model since."""
    chain = profile.chain
    return chain if chain is not None and chain.entries[0].model == model else None


async def ask_model(
    models: Mapping[str, ModelProvider],
    call: ModelCall,
    live: Live,
    effect: Effect,
    site: Site,
    meter: CallMeter | None = None,
) -> ModelReturned | ModelFailed:
    """Call a model, sending its text to the watchers of the effect's entity as it comes; `meter` counts the call."""
    watch = (meter or CallMeter()).begin(call)

    async def on_text(choice: int, piece: Piece) -> None:
        watch.heard()
        await live.delta(site.tenant, effect.kind, _frame(effect, site, choice, piece))

    provider = Chained(call.chain, models) if call.chain is not None else models.get(call.model)
    if provider is None:
        return ModelFailed(effect=effect.id, problem=unknown_model(call.model, models))
    try:
        answer, *others = await answers(provider, call, on_text)
    except CallFailed as failure:
        watch.failed(failure.problem.kind)
        return _failed(effect, failure)
    except BusError:
        raise
    except Exception as error:  # noqa: BLE001  what breaks a provider ends its call alone
        watch.failed("engine")
        log.error("the provider of model %r broke: %s", call.model, fault(error))  # noqa: TRY400
        message = f"the provider of model {call.model!r} broke: {error!r} (see the log of this process)"
        return ModelFailed(effect=effect.id, problem=Problem(kind="engine", message=message))
    used = total([answer, *others])
    watch.answered(used)
    return ModelReturned(
        effect=effect.id,
        text=answer.text,
        finish_reason=answer.finish_reason,
        usage=used,
        tool_calls=answer.tool_calls,
        engine=answer.engine,
        reasoning=answer.reasoning,
        logprobs=answer.logprobs,
        prompt_logprobs=answer.prompt_logprobs,
        token_ids=answer.token_ids,
        prompt_token_ids=answer.prompt_token_ids,
        more=tuple(map(alternative, others)),
        sampled=answer.sampled,
        thoughts=answer.thoughts,
        passed_over=answer.passed_over,
        processed=tuple(done for one in (answer, *others) for done in one.processed),
        cut_off=answer.cut_off,
        cost=total_cost([answer, *others]),
        worded=answer.worded,
        stopped_at=answer.stopped_at,
    )


def _frame(effect: Effect, site: Site, choice: int, piece: Piece) -> Delta:
    """Make what watchers hear of a piece."""
    frame = Delta(effect.entity, site.thread, effect.id, site.version, piece.offset, piece.text, choice)
    if piece.kind == "reasoning":
        frame = replace(frame, offset=0, text="", reasoning_offset=piece.offset, reasoning=piece.text)
    if piece.kind == "call":
        frame = replace(frame, offset=0, text="", call=piece.call, arguments_offset=piece.offset, arguments=piece.text)
    if piece.logprobs or piece.token_ids:
        frame = replace(frame, token_offset=piece.before, logprobs=piece.logprobs, token_ids=piece.token_ids)
    return frame


def _failed(effect: Effect, failure: CallFailed) -> ModelFailed:
    return ModelFailed(
        effect=effect.id,
        problem=failure.problem,
        passed_over=failure.passed if isinstance(failure, ChainFailed) else (),
        processed=failure.processed,
        usage=failure.usage,
        cost=failure.cost,
    )
