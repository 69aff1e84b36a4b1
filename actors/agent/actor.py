"""Performs what the agent loop asks for: model calls through a provider, tool calls here or by services, and hooks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from actors.agent.beside import Askers
from actors.agent.calls import (
    MOST_ATTEMPTS,
    failed,
    given_up,
    is_given_up,
    run_again,
    run_service,
    run_tool,
    task_ended,
)
from actors.agent.condenser import Condenser
from actors.agent.condensing import Condense
from actors.agent.conversation import Conversation
from actors.agent.definition import Agent
from actors.agent.delegation import Runs, child_abort, delegated, is_delegated
from actors.agent.effects import AwaitDeadline, CallModel, CallTool, EndChild, PrepareStep, RunTask, TellEnd
from actors.agent.entitling import Entitler
from actors.agent.erasing import Eraser, EraseThread
from actors.agent.goal_judging import GoalJudges
from actors.agent.goals import JudgeGoal, run_asked_for
from actors.agent.guarding import looked_at
from actors.agent.handoffs import hand_over, is_handoff
from actors.agent.hooks import Hooks, prepared
from actors.agent.hooks import told as told_of_end
from actors.agent.judging import answers_looked_at, judged, looked_after
from actors.agent.profiles import Unresolved, handed_over, profile_of
from actors.agent.progress import Reporter
from actors.agent.retries import AwaitRetry
from actors.agent.run import call_of
from actors.agent.toolboxes import Toolbox, Toolboxes
from actors.delegates import Delegating
from actors.errors import DefinitionError
from actors.memory.prompt import shared_by
from actors.models.asking import ask_model, chain_of, missing_model, unasked, unpriced
from actors.models.chain import Chained
from actors.models.metering import CallMeter
from actors.models.provider import ModelCall, ModelProvider
from actors.processors.guarded import Guarded, elsewhere
from actors.processors.processor import Processor
from actors.processors.recall import Library
from actors.processors.shared import SharedMemories, SharedWorking
from actors.request_context import RequestContext
from actors.runtime.machine import Asked, Effect
from actors.runtime.performer import Site
from actors.tools import ToolContext
from actors.toolsets import Surroundings, ToolServices
from bus.live import Live
from schemas.commands import Command, RunAgent
from schemas.context import Clock, traced
from schemas.delegation import ChildEnded
from schemas.forks import Fork
from schemas.generation import request_id
from schemas.memory import ThreadErased
from schemas.messages import Message, Rendering, told_of_effort
from schemas.profiles import Profile
from schemas.programs import PERSON, ToolBegan, ToolEnded, program_id
from schemas.runs import (
    DeadlinePassed,
    Event,
    ModelFailed,
    ModelReturned,
    Problem,
    RetryDue,
    ToolResumed,
    ToolReturned,
)
from schemas.tracing import span_id, within

log = logging.getLogger(__name__)

_MOST_US = 10 * 365 * 86_400_000_000
"""The longest that anything is waited for: ten years."""


class AgentPerformer:
    """The `Performer` of agent runs."""

    def __init__(
        self,
        agents: Sequence[Agent],
        models: Mapping[str, ModelProvider],
        default_model: str,
        live: Live,
        clock: Clock,
        services: ToolServices | None = None,
        runs: Runs | None = None,
        library: Library | None = None,
        entitler: Entitler | None = None,
        eraser: Eraser | None = None,
        shared: SharedMemories | None = None,
        meter: CallMeter | None = None,
    ) -> None:
        self._agents = {agent.name: agent for agent in agents}
        self._models = models
        self._default_model = default_model
        self._live = live
        self._clock = clock
        self._services = services
        self._runs = runs
        self._library = library
        self._entitler = entitler
        self._eraser = eraser
        self._shared = shared
        self._meter = meter
        self._toolboxes = Toolboxes(self._agents, services)
        self._askers = Askers(models, self._toolboxes)
        self._condenser = Condenser(models, self._toolboxes, clock)
        self._judges = GoalJudges(self._agents, models, self._toolboxes, self._profile)

    async def look_up(self, command: Command, state: Any = None) -> Asked:
        """Find the agent a command names, or the one that it handed the thread to, and fix its profile."""
        if isinstance(command.data, Fork):
            return Asked(command, missing=self._missing(command.data.profile))
        data = run_asked_for(command.data, state if isinstance(state, Conversation) else None)
        if data is None:
            return Asked(command)  # an approval is about a run that has its profile
        holder = state.holder(data.agent) if isinstance(state, Conversation) else data.agent
        if holder != data.agent and holder in self._agents:
            data = handed_over(data, self._agents[holder])
        found = await self._profile(command.tenant, command.thread, replace(data, agent=holder))
        return Asked(command, missing=found) if isinstance(found, Problem) else Asked(command, found)

    async def _profile(self, tenant: str, thread: str, data: RunAgent) -> Profile | Problem:
        """Find the agent that a run is asked of, and fix its profile."""
        agent = self._agents.get(data.agent)
        if agent is None:
            return self._unknown(data.agent)
        around = Surroundings(tenant, thread, RequestContext(data.context), self._services)
        try:
            profile = await profile_of(agent, data, around, self._default_model)
        except Unresolved as error:
            return Problem(kind=error.kind, message=str(error), field=error.field)
        return missing_model(profile, self._models) or unpriced(profile, self._models) or profile

    def resumption(self, effect: Effect) -> Event | None:
        """Note each further attempt at a tool that may run again."""
        effect = effect.call if isinstance(effect, RunTask) else effect
        if not isinstance(effect, CallTool) or effect.attempts >= MOST_ATTEMPTS or is_delegated(effect):
            return None
        runs_again = effect.called.effect_class in {"pure", "idempotent", "checkable"}
        return ToolResumed(effect=effect.id, attempt=effect.attempts + 1) if runs_again else None

    def _missing(self, profile: Mapping[str, Any] | None) -> Problem | None:
        """Say what the run of a fork needs and is not here."""
        if profile is None:
            return None
        agent, model = str(profile.get("agent")), str(profile.get("model"))
        if agent not in self._agents:
            return self._unknown(agent)
        return unasked(model, agent, self._models)

    def _unknown(self, agent: str) -> Problem:
        known = ", ".join(sorted(self._agents)) or "none"
        message = f"no agent {agent!r}: there are {known} (add yours with `ostinato up --agents FILE`)"
        return Problem(kind="unknown_agent", message=message, field="agent")

    def must_finish(self, effect: Effect) -> bool:
        """Tools run here; a model's generation goes on in the engine, and another agent's run in the log."""
        effect = effect.call if isinstance(effect, RunTask) else effect
        return isinstance(effect, CallTool) and not is_delegated(effect)

    async def abort(self, effect: Effect, site: Site) -> None:
        """Stop a model's generation; a tool ends with its task, and another agent's run by an effect of its own."""
        if isinstance(effect, PrepareStep):
            await self._askers.abort(effect, site)
        if isinstance(effect, Condense):
            await self._condenser.abort(effect, site)
        if isinstance(effect, JudgeGoal):
            await self._judges.abort(effect, site)
        if isinstance(effect, CallModel) and effect.called.model in self._models:
            request = request_id(site.tenant, site.thread, effect.id)
            chain = chain_of(effect.profile, effect.called.model)
            model = self._models[effect.called.model] if chain is None else Chained(chain, self._models)
            await model.abort(request)

    async def perform(self, effect: Effect, site: Site, again: bool) -> Event:
        """Do one effect; its outcome, good or bad, is an event."""
        match effect:
            case CallModel() | Condense() | JudgeGoal():
                return await self._modelled(effect, site, again)
            case CallTool():
                return await self._noted(effect, site, again)
            case RunTask():
                return task_ended(await self._looked_at(effect.call, site, again))
            case PrepareStep() | TellEnd():
                return await self._hooked(effect, site, again)
            case EndChild() | EraseThread():
                return await self._ended(effect, site)
            case AwaitDeadline() | AwaitRetry():
                return await self._awaited(effect)
            case _:
                raise AssertionError(f"not an effect of an agent: {effect!r}")

    async def _hooked(self, effect: PrepareStep | TellEnd, site: Site, again: bool) -> Event:
        hooks = self._hooks(effect.run.profile.agent)
        if isinstance(effect, PrepareStep):
            with self._askers.of(effect, site, again) as asker:
                return await prepared(hooks, effect, site.thread, asker)
        return await told_of_end(hooks, effect, site.thread)

    async def _ended(self, effect: EndChild | EraseThread, site: Site) -> ChildEnded | ThreadErased:
        if isinstance(effect, EraseThread):
            unsealed = 0 if self._eraser is None else await self._eraser.erase(site.tenant, site.thread)
            return ThreadErased(effect=effect.id, unsealed=unsealed)
        if self._runs is not None:
            await self._runs.abort(child_abort(effect, site))
        return ChildEnded(effect=effect.id)

    async def _awaited(self, effect: AwaitDeadline | AwaitRetry) -> DeadlinePassed | RetryDue:
        # clients choose the time, and no timer takes every number
        await asyncio.sleep(max(0, min(effect.at - self._clock.now(), _MOST_US)) / 1e6)
        return DeadlinePassed(effect=effect.id) if isinstance(effect, AwaitDeadline) else RetryDue(effect=effect.id)

    def _hooks(self, agent: str) -> Hooks:
        """Give an agent's functions; of one that is not here any more, none."""
        return self._agents[agent].hooks if agent in self._agents else Hooks()

    async def _modelled(self, effect: CallModel | Condense | JudgeGoal, site: Site, again: bool) -> Event:
        if isinstance(effect, JudgeGoal):
            return await self._judges.judge(effect, site, again)
        if isinstance(effect, Condense):
            return await self._condenser.condense(effect, site, again)
        return await self._call_model(effect, site, again)

    async def _call_model(self, effect: CallModel, site: Site, again: bool) -> Event:
        box = await self._toolboxes.of(effect.profile, effect.entity, site, effect.context)
        system = Message(role="system", content=effect.profile.instructions)
        call = ModelCall(
            effect=effect.id,
            model=effect.called.model,
            messages=(system, *effect.messages) if effect.profile.instructions else effect.messages,
            tools=box.specs(effect.profile.tools),
            sampling=effect.called.sampling,
            tenant=site.tenant,
            thread=site.thread,
            stop=effect.profile.stop,
            traceparent=effect.called.traceparent,
            rendering=Rendering(chat_template_kwargs=told_of_effort(effect.profile.reasoning_effort)),
            program=program_id(site.tenant, site.thread),
            agent=effect.profile.agent,
            calling=effect.profile.calling,
            chain=chain_of(effect.profile, effect.called.model),
            again=again,
            root=None if effect.parent is None else effect.parent.first,
        )
        event = await self._asked_in_time(effect, call, site, box)
        if isinstance(event, ModelReturned) and not event.tool_calls:
            await self._models[call.model].note(ToolBegan(call.program, effect.id, PERSON))
            if self._entitler is not None:
                plan = effect.profile.memory
                titled = elsewhere(call, plan.model) if plan is not None and plan.model else call
                if titled.model in self._models:
                    self._entitler.consider(effect, titled, self._everywhere(effect, titled, box))
        if isinstance(event, ModelReturned) and event.tool_calls:
            before = self._hooks(effect.profile.agent).before_tool
            told = await judged(before, effect, site.thread, box.tools, event.tool_calls)
            processors = box.guards(effect.profile.processors) if any(one.answer is not None for one in told) else ()
            return replace(event, judged=await answers_looked_at(processors, event.tool_calls, told))
        return event

    async def _asked_in_time(
        self, effect: CallModel, call: ModelCall, site: Site, box: Toolbox
    ) -> ModelReturned | ModelFailed:
        """Ask the model, and stop it when the step takes too long."""
        limit_ms = effect.profile.step_timeout_ms
        limit = asyncio.timeout(limit_ms / 1000 if limit_ms else None)
        try:
            async with limit:
                return await ask_model(*self._guarded(effect, call, box), self._live, effect, site, self._meter)
        except DefinitionError as error:
            return ModelFailed(effect=effect.id, problem=Problem(kind="definition", message=str(error)))
        except TimeoutError:
            if not limit.expired():
                raise
            await self.abort(effect, site)
            message = f"the model took longer than {limit_ms / 1000:g} s over one step"
            return ModelFailed(effect=effect.id, problem=Problem(kind="timeout", message=message))

    def _guarded(
        self, effect: CallModel, call: ModelCall, box: Toolbox
    ) -> tuple[Mapping[str, ModelProvider], ModelCall]:
        """Put the run's processors around what is asked: around the whole chain, where there is one."""
        processors = box.guards(effect.profile.processors)
        plan = effect.profile.memory
        if self._shared is not None and plan is not None and plan.working and shared_by(effect.memory, plan):
            processors = [SharedWorking(self._shared, plan.working), *processors]
        if not processors or call.model not in self._models:
            return self._models, call
        first, about = effect.called.step == 1, (self._library, effect.memory.resource)
        return {call.model: Guarded(self._asked(call), processors, first, *about, self._models)}, replace(
            call, chain=None
        )

    def _asked(self, call: ModelCall) -> ModelProvider:
        return self._models[call.model] if call.chain is None else Chained(call.chain, self._models)

    def _everywhere(self, effect: CallModel, call: ModelCall, box: Toolbox) -> ModelProvider:
        """Give the model for what is no turn, with the processors that go around that too."""
        processors = box.guards(effect.profile.processors)
        everywhere = [one for one in processors if one.everywhere]
        return Guarded(self._asked(call), everywhere, first=False, models=self._models)

    async def _noted(self, effect: CallTool, site: Site, again: bool) -> Event:
        """Call a tool, and have the engine know for how long it is that the program waits."""
        model, program = self._models.get(effect.model), program_id(site.tenant, site.thread)
        if model is not None:
            await model.note(ToolBegan(program, effect.id, effect.called.call.name))
        event = await self._looked_at(effect, site, again)
        if model is not None:
            await model.note(ToolEnded(program, effect.id))
        return event

    async def _looked_at(self, effect: CallTool, site: Site, again: bool) -> Event:
        """Call a tool, and have the run's processors look at what it says."""
        try:
            processors = list[Processor]()
            if effect.processors:
                box = await self._toolboxes.of(effect.agent, effect.entity, site, effect.context)
                processors = box.guards(effect.processors)
            event, after = await self._call_tool(effect, site, again), self._hooks(effect.agent).after_tool
            event = await looked_after(after, effect, site.thread, event)
            event = await looked_at(processors, effect.called.call.name, event)
            if self._shared is not None and effect.shared and isinstance(event, ToolReturned):
                key = request_id(site.tenant, site.thread, effect.id)
                await self._shared.write(site.tenant, effect.shared, key, event.writes)
        except DefinitionError as error:
            event = failed(effect, str(error))
        return event

    async def _delegated(self, runs: Runs, effect: CallTool, site: Site, again: bool) -> Event:
        """Have another agent run; without the functions that stand around it, it is not asked."""
        box = await self._toolboxes.of(effect.agent, effect.entity, site, effect.context)
        tool = box.tools.get(effect.called.call.name)
        if tool is None:
            return failed(effect, box.why(effect.called.call.name))
        about = tool.delegating if isinstance(tool.delegating, Delegating) else Delegating()
        async with Reporter(self._live, effect, site) as reporter:
            return await delegated(runs, effect, site, reporter.tell, about, again)

    async def _call_tool(self, effect: CallTool, site: Site, again: bool) -> Event:
        called, binding = effect.called, effect.binding
        if is_given_up(effect, again):
            return given_up(effect)
        key = request_id(site.tenant, site.thread, call_of(effect.id))
        if is_handoff(effect):
            return await hand_over(self._agents, self._models, self._default_model, self._services, effect, site)
        if is_delegated(effect) and self._runs is not None:
            return await self._delegated(self._runs, effect, site, again)
        # what carries it out is beneath the span of the call
        below = within(effect.traceparent, span_id(site.tenant, site.thread, effect.id))
        if binding is not None and binding.place == "service" and self._services is not None:
            async with Reporter(self._live, effect, site) as reporter:
                return await run_service(
                    self._services, binding, replace(effect, traceparent=below), key, reporter.tell
                )
        box = await self._toolboxes.of(effect.agent, effect.entity, site, effect.context)
        tool = box.tools.get(called.call.name)
        if tool is None or tool.function is None:
            return failed(effect, box.why(called.call.name))
        async with Reporter(self._live, effect, site) as reporter:
            context = ToolContext(
                site.tenant,
                site.thread,
                key,
                self._clock.now(),
                effect.notes,
                run=effect.entity,
                agent=effect.agent,
                request=RequestContext(effect.context),
                answers=effect.answers,
                report=reporter.tell,
                messages=effect.messages,
                working=effect.memory.working,
            )
            with traced(below):
                return await (run_again if again else run_tool)(tool, effect, context)
