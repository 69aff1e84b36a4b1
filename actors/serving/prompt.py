"""Performs bare generations: one model call each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.models.asking import ask_model, unknown_model
from actors.models.metering import CallMeter
from actors.models.provider import ModelCall, ModelProvider
from actors.runtime.machine import Asked, Effect
from actors.runtime.performer import Site
from actors.serving.generation import AnswerPrompt
from bus.live import Live
from schemas.commands import Command, Generate
from schemas.generation import Sampling, request_id
from schemas.messages import Calling, Rendering
from schemas.profiles import Profile
from schemas.programs import PERSON, ToolBegan, program_id
from schemas.runs import Event, ModelReturned


class GenerationPerformer:
    """The `Performer` of bare generations."""

    def __init__(
        self, models: Mapping[str, ModelProvider], defaults: Sampling, live: Live, meter: CallMeter | None = None
    ) -> None:
        self._models = models
        self._meter = meter
        self._defaults = defaults
        self._live = live

    async def look_up(self, command: Command, state: Any = None) -> Asked:
        """Find the model a command names; its defaults are the profile."""
        if not isinstance(command.data, Generate):
            return Asked(command)  # an abort is about a generation that has its model
        name = command.data.model
        if name not in self._models:
            return Asked(command, missing=unknown_model(name, self._models))
        return Asked(
            command,
            Profile(agent="", model=name, instructions="", tools=(), sampling=self._defaults, max_steps=1),
        )

    def resumption(self, effect: Effect) -> Event | None:
        """Nothing: the engine knows a generation by its id."""
        return None

    def must_finish(self, effect: Effect) -> bool:
        """Nothing: the generation goes on in the engine."""
        return False

    async def abort(self, effect: Effect, site: Site) -> None:
        """Stop the generation."""
        assert isinstance(effect, AnswerPrompt)
        if effect.called.model in self._models:
            data = effect.command.data
            for choice in range(data.n if isinstance(data, Generate) else 1):
                request = request_id(site.tenant, site.thread, effect.id, choice)
                await self._models[effect.called.model].abort(request)

    async def perform(self, effect: Effect, site: Site, again: bool) -> Event:
        """Ask the model once; asking again attaches to the same generation."""
        assert isinstance(effect, AnswerPrompt)
        data = effect.command.data
        assert isinstance(data, Generate)
        call = ModelCall(
            effect=effect.id,
            model=data.model,
            messages=data.messages,
            tools=data.tools,
            sampling=effect.called.sampling,
            tenant=site.tenant,
            thread=site.thread,
            stop=data.stop,
            bad_words=data.bad_words,
            traceparent=effect.called.traceparent,
            priority=data.priority,
            deadline=data.deadline,
            cache_salt=data.cache_salt,
            read_cache=not data.skip_reading_prefix_cache,
            calling=Calling(data.tool_choice, data.tool, data.parallel_tool_calls),
            rendering=Rendering(**{name: getattr(data, name) for name in Rendering.__struct_fields__}),
            n=data.n,
            length_penalty=data.length_penalty if data.use_beam_search else None,
            return_token_ids=data.return_token_ids,
            prompt=data.prompt,
            stream_interval=data.stream_interval,
            program=program_id(site.tenant, session=data.session_id) if data.session_id else "",
            again=again,
        )
        event = await ask_model(self._models, call, self._live, effect, site, self._meter)
        if call.program and data.prompt is None and isinstance(event, ModelReturned):
            await self._tell_wait(call, event)
        return event

    async def _tell_wait(self, call: ModelCall, answer: ModelReturned) -> None:
        """Say what a client's program waits for, as far as its answer tells, until its next turn comes."""
        waits = [ToolBegan(call.program, wanted.id, wanted.name) for wanted in answer.tool_calls]
        for note in waits or [ToolBegan(call.program, call.effect, PERSON)]:
            await self._models[call.model].note(note)
