"""Asks whoever judges a goal, and what the next run would be; whatever comes of it is an event."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from actors.agent.definition import Agent
from actors.agent.goals import JudgeGoal
from actors.agent.hooks import called_hook, reason_of
from actors.agent.judge import FORM, MOST_HALVED, GoalView, question, verdict_from, verdict_of
from actors.agent.toolboxes import Toolboxes
from actors.errors import CallFailed, DefinitionError
from actors.models.asking import chain_of, unknown_model
from actors.models.chain import Chained
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider
from actors.processors.guarded import Guarded, hear_nothing
from actors.request_context import RequestContext
from actors.runtime.performer import Site
from bus.errors import BusError
from schemas.commands import RunAgent
from schemas.faults import fault
from schemas.generation import Sampling
from schemas.messages import Message, Usage, added
from schemas.profiles import Profile
from schemas.programs import program_id
from schemas.runs import Problem
from schemas.standing import GoalJudged

log = logging.getLogger(__name__)

_MOST_TOKENS = 400
"""Of a verdict."""
LONGEST_REASON = 2_000

Resolve = Callable[[str, str, RunAgent], Awaitable[Profile | Problem]]
"""Says what a run of a tenant's thread would be."""


class GoalJudges:
    """Performs `JudgeGoal`."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        models: Mapping[str, ModelProvider],
        toolboxes: Toolboxes,
        resolve: Resolve,
    ) -> None:
        self._agents = agents
        self._models = models
        self._toolboxes = toolboxes
        self._resolve = resolve
        self._open: dict[str, ModelCall] = {}
        """What judges are asked, by request of the first call."""

    async def judge(self, effect: JudgeGoal, site: Site, again: bool) -> GoalJudged:
        """Ask whether the goal is reached; where it is not, find out what goes on."""
        judged = replace(await self._judged(effect, site, again), agent=effect.profile.agent)
        if judged.verdict != "go_on":
            return judged
        profile = await self._resolve(site.tenant, site.thread, effect.asked)
        if isinstance(profile, Problem):
            return replace(judged, verdict="failed", reason=f"it cannot go on: {profile.message}")
        sampling = replace(profile.sampling, seed=effect.profile.sampling.seed)
        return replace(judged, profile=replace(profile, sampling=sampling))

    async def abort(self, effect: JudgeGoal, site: Site) -> None:
        """Stop a model that nobody waits for any more."""
        agent = self._agents.get(effect.asked.agent)
        if agent is None or callable(agent.judge):
            return
        call = self._call_of(agent, effect, site, again=True)
        call = self._open.get(call.request, call)
        if call.model in self._models:
            await self._asked(call).abort(call.request)

    async def _judged(self, effect: JudgeGoal, site: Site, again: bool) -> GoalJudged:
        agent = self._agents.get(effect.asked.agent)
        if agent is None:
            return _failed(effect, f"agent {effect.asked.agent!r} is not here any more")
        if callable(agent.judge):
            return await self._by_function(agent, effect)
        try:
            return await self._by_model(agent, effect, site, again)
        except CallFailed as failure:
            told = _failed(effect, f"the judge came to nothing: {failure.problem.message}")
            return replace(told, usage=failure.usage, cost=failure.cost)
        except DefinitionError as error:
            return _failed(effect, str(error))
        except BusError:
            raise
        except Exception as error:  # noqa: BLE001  whatever comes of it is an event
            log.error("the judge of agent %r broke: %s", agent.name, fault(error))  # noqa: TRY400
            return _failed(effect, f"the judge broke ({type(error).__name__})")

    async def _by_function(self, agent: Agent, effect: JudgeGoal) -> GoalJudged:
        try:
            said = verdict_from(await called_hook(agent.name, agent.judge, _view(effect)))  # type: ignore[arg-type]
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever the author's function raises pauses the goal
            log.warning("the judge of agent %r failed: %s", agent.name, fault(error))
            return _failed(effect, f"the judge of agent {agent.name!r} failed: {reason_of(error)}")
        return GoalJudged(effect.id, said.outcome, said.reason[:LONGEST_REASON])

    async def _by_model(self, agent: Agent, effect: JudgeGoal, site: Site, again: bool) -> GoalJudged:
        call = self._call_of(agent, effect, site, again)
        if call.model not in self._models:
            raise CallFailed(unknown_model(call.model, self._models))
        run = effect.goal.judging.run if effect.goal.judging is not None else ""
        box = await self._toolboxes.of(effect.profile, run, site, effect.asked.context)
        everywhere = [one for one in box.guards(effect.profile.processors) if one.everywhere]
        guarded = Guarded(self._asked(call), everywhere, first=False, models=self._models)
        try:
            answer = await self._answered(guarded, effect, call)
        finally:
            self._open.pop(call.request, None)
        took: dict[str, Any] = {"usage": answer.usage, "cost": answer.cost, "engine": answer.engine or call.model}
        try:
            said = verdict_of(answer.text)
        except msgspec.DecodeError as error:
            return replace(_failed(effect, f"the judge's verdict could not be read: {error}"), **took)
        return GoalJudged(effect.id, said.outcome, said.reason[:LONGEST_REASON], **took)

    async def _answered(self, guarded: Guarded, effect: JudgeGoal, call: ModelCall) -> ModelAnswer:
        """Ask; where the model has no room for so much of the conversation, with less of it.

        Raises:
            CallFailed: the call came to nothing; with what all of them took.
        """
        usage, asked, halved = Usage(), call, 0
        cost: float | None = 0.0
        while True:
            self._open[call.request] = asked
            try:
                answer = await guarded.call(replace(asked, chain=None), hear_nothing)
                return replace(answer, usage=usage + answer.usage, cost=added(cost, answer.cost))
            except CallFailed as failure:
                failure.usage, failure.cost = usage + failure.usage, added(cost, failure.cost)
                if failure.problem.kind != "too_long" or halved == MOST_HALVED:
                    raise
                usage, cost, halved = failure.usage, failure.cost, halved + 1
            said = Message(role="user", content=question(_view(effect), halved))
            asked = replace(call, effect=f"{effect.id}{halved}", messages=(said,))

    def _asked(self, call: ModelCall) -> ModelProvider:
        return self._models[call.model] if call.chain is None else Chained(call.chain, self._models)

    def _call_of(self, agent: Agent, effect: JudgeGoal, site: Site, again: bool) -> ModelCall:
        """Make the call: of what the run asks of its answers nothing holds."""
        profile, named = effect.profile, agent.judge if isinstance(agent.judge, str) else ""
        return ModelCall(
            effect=effect.id,
            model=named or profile.model,
            messages=(Message(role="user", content=question(_view(effect))),),
            tools=(),
            sampling=Sampling(seed=profile.sampling.seed, max_tokens=_MOST_TOKENS, structured=FORM),
            tenant=site.tenant,
            thread=site.thread,
            traceparent=effect.traceparent,
            program=program_id(site.tenant, site.thread),
            agent=profile.agent,
            chain=None if named else chain_of(profile, profile.model),
            again=again,
        )


def _view(effect: JudgeGoal) -> GoalView:
    goal = effect.goal
    said = [one.content for one in effect.messages if one.role == "assistant"]
    text, about = said[-1] if said else "", RequestContext(effect.asked.context)
    return GoalView(goal.text, text, effect.messages, effect.notes, goal.runs, goal.budget, about)


def _failed(effect: JudgeGoal, why: str) -> GoalJudged:
    return GoalJudged(effect.id, "failed", why)
