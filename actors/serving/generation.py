"""A bare generation, outside any thread: asked once, answered once, logged like everything else. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from actors.runtime.machine import Answer, Asked, Decision, Effect, Emitted
from engine.config import MOST_NUMBERS
from schemas import codec
from schemas.commands import AbortRun, Command, Generate
from schemas.context import Context
from schemas.generation import Repetition, Sampling
from schemas.memory import DeleteThread, ThreadDeleted
from schemas.messages import misplaced_in
from schemas.profiles import Profile
from schemas.runs import CommandAccepted, CommandRefused, Event, ModelCalled, ModelFailed, ModelReturned, Problem

_DRAWN: Final[dict[str, tuple[object, ...]]] = {
    "temperature": (None, 0),
    "top_p": (None, 1),
    "top_k": (None, 0, -1),
    "min_p": (None, 0),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "bad_words": ((),),
    "stop": ((),),
    "logprobs": (None,),
    "prompt_logprobs": (None,),
    "prompt_logprob_token_ids": ((),),
    "repetition_detection": (None,),
    "thinking_token_budget": (None, -1),
    "trace_decode_token_ids": ((),),
    "detokenize": (True,),
    "extra_args": ({},),
}
"""What only answers that are drawn heed, and what of it changes nothing."""


_WIDEST: Final = 16


class Generation(msgspec.Struct, frozen=True):
    """One generation's state."""

    tenant: str
    id: str
    command: Command | None = None
    refused: Mapping[str, Problem] = {}
    asking: ModelCalled | None = None
    aborted_by: str = ""
    """The command that ended it before its end; empty when none did."""
    deleted_by: str = ""
    """The command since which nobody is shown it; empty when none did."""


class AnswerPrompt(Effect, frozen=True, kw_only=True):
    """Ask the model for the one answer."""

    called: ModelCalled
    command: Command


class GenerationMachine:
    """The `Machine` of bare generations."""

    def shape(self) -> type[Generation]:
        """Return the state's type."""
        return Generation

    def initial(self, tenant: str, thread: str) -> Generation:
        """Return a generation nobody has asked for yet."""
        return Generation(tenant, thread)

    def evolve(self, state: Generation, emitted: Emitted) -> Generation:
        """Fold one fact."""
        return replace(state, **_changed(state, emitted.event))

    def answered(self, state: Generation, command: str) -> Answer | None:
        """Say whether the command has been decided before."""
        if command in {state.aborted_by, state.deleted_by} or (
            state.command is not None and state.command.id == command
        ):
            return "accepted"
        return state.refused.get(command)

    def ask(self, state: Generation, asked: Asked, context: Context) -> Decision:
        """Take the request on, refuse it, or end it."""
        command = asked.command
        if isinstance(command.data, AbortRun):
            return _abort(state, command, command.data)
        if isinstance(command.data, DeleteThread):
            return _delete(state, command, command.data)
        data = command.data
        problem = asked.missing or _unfit(state, command) or _much(data, asked.profile)
        if problem is not None or asked.profile is None or not isinstance(data, Generate):
            problem = problem or Problem(kind="unknown_model", message="no such model", field="model")
            return Decision([Emitted("generation", state.id, CommandRefused(command=command, problem=problem))], [])
        prefix = "" if data.prompt is None else codec.chained("", data.prompt)
        for message in data.messages:
            prefix = codec.chained(prefix, message)
        called = ModelCalled(
            effect=f"{state.id}-1-m",
            model=data.model,
            step=1,
            seen=len(data.messages),
            prefix=prefix,
            sampling=_sampling(data, asked.profile.sampling, context),
            traceparent=command.traceparent,
        )
        events = [
            Emitted("generation", state.id, CommandAccepted(command=command)),
            Emitted("generation", state.id, called),
        ]
        return Decision(events, [_answer_prompt(state.id, called, command)])

    def follow(self, state: Generation, result: Emitted, context: Context) -> Decision:
        """Nothing follows: the result is the end."""
        return Decision([], [])

    def open_effects(self, state: Generation) -> Sequence[Effect]:
        """List the call without an answer, if there is one."""
        if state.asking is None or state.command is None:
            return []
        return [_answer_prompt(state.id, state.asking, state.command)]


def _changed(state: Generation, event: Event) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    match event:
        case CommandAccepted(command=command) if isinstance(command.data, AbortRun):
            changed = {"aborted_by": command.id}
        case CommandAccepted(command=command) if isinstance(command.data, DeleteThread):
            changed = {"deleted_by": command.id}
        case CommandAccepted(command=command):
            changed = {"command": command}
        case CommandRefused(command=command, problem=problem):
            changed = {"refused": {**state.refused, command.id: problem}}
        case ModelCalled() as called:
            changed = {"asking": called}
        case ModelReturned() | ModelFailed():
            changed = {"asking": None}
        case _:
            pass
    return changed


def _much(data: object, profile: Profile | None) -> Problem | None:
    """Say that all answers together would tell more of their tokens than one event can hold."""
    if profile is None or not isinstance(data, Generate) or data.logprobs is None or data.n == 1:
        return None
    most = profile.sampling.max_tokens if data.max_tokens is None else data.max_tokens
    told = data.n * most * (data.logprobs + 1 + len(data.logprob_token_ids))
    if told <= MOST_NUMBERS:
        return None
    message = f"n: logprobs of {data.n} answers come to {told} numbers, of at most {MOST_NUMBERS}: lower one of them"
    return Problem(kind="invalid", message=message, field="n")


def _abort(state: Generation, command: Command, data: AbortRun) -> Decision:
    """End a generation that is under way: what its model still says is not heard."""
    if state.asking is None:
        problem = Problem(kind="invalid", message=f"generation {state.id!r} is not under way", field="id")
        return Decision([Emitted("generation", state.id, CommandRefused(command=command, problem=problem))], [])
    because = f": {data.reason}" if data.reason else ""
    message = f"the generation was aborted by {command.source or 'a client'}{because}"
    failed = ModelFailed(effect=state.asking.effect, problem=Problem(kind="aborted", message=message))
    events = [
        Emitted("generation", state.id, CommandAccepted(command=command)),
        Emitted("generation", state.id, failed),
    ]
    return Decision(events, [])


def _delete(state: Generation, command: Command, data: DeleteThread) -> Decision:
    """Have nobody be shown a generation any more; one that is under way ends."""
    if state.command is None:
        problem = Problem(kind="invalid", message=f"generation {state.id!r} does not exist", field="id")
        return Decision([Emitted("generation", state.id, CommandRefused(command=command, problem=problem))], [])
    events: list[Event] = [CommandAccepted(command=command)]
    if state.asking is not None:
        problem = Problem(kind="aborted", message="the generation was deleted")
        events.append(ModelFailed(effect=state.asking.effect, problem=problem))
    if not state.deleted_by:
        events.append(ThreadDeleted(reason=data.reason))
    return Decision([Emitted("generation", state.id, event) for event in events], [])


def _unfit(state: Generation, command: Command) -> Problem | None:
    data = command.data
    if not isinstance(data, Generate):
        return Problem(kind="invalid", message=f"a generation cannot {command.verb!r}", field="verb")
    if data.prompt is not None:
        if data.messages or data.tools:
            message = "`prompt` goes on as it is: give it, or `messages` and `tools`, not both"
            return Problem(kind="invalid", message=message, field="prompt")
    elif not data.messages:
        return Problem(kind="invalid", message="`messages` is empty: give at least one, or `prompt`", field="messages")
    misplaced = misplaced_in(data.messages)
    if misplaced is not None:
        message = f"{misplaced}: a `tool` message answers a call of the assistant's before it, each call once"
        return Problem(kind="invalid", message=message, field=misplaced)
    if state.command is not None:
        return Problem(kind="invalid", message=f"generation {state.id!r} exists: use a fresh id", field="id")
    return _impossible(data)


Check = tuple[str, bool, str]
"""A field, whether it is wrong, and what is wrong with it."""


def _impossible(data: Generate) -> Problem | None:
    """Say what no answer can keep to."""
    for field, wrong, message in chain(_searched(data), _called(data), _given(data), _silent(data), _circling(data)):
        if wrong:
            return Problem(kind="invalid", message=f"{field}: {message}", field=field)
    return None


def _searched(data: Generate) -> Iterator[Check]:
    """Look at what a search for the likeliest answers does not heed."""
    if not data.use_beam_search:
        return
    many = f"a beam search goes on with at most {_WIDEST} answers, each with all of its prompt at every step"
    yield "n", data.n > _WIDEST, many
    unbound = "a beam search goes by the model's own chances and is bound to no calls: leave it out"
    yield "tool_choice", data.tool_choice == "required", unbound
    yield "tools", any(tool.strict for tool in data.tools), unbound
    for name, value in _DRAWN.items():
        unheeded = getattr(data, name) not in value
        yield name, unheeded, "a beam search goes by the model's own chances: leave it out"


def _called(data: Generate) -> Iterator[Check]:
    """Look at the choice of tools."""
    required = data.tool_choice == "required"
    yield "tool_choice", required and not data.tools, "there are no `tools` of which one could be called"
    unknown = bool(data.tool) and all(tool.name != data.tool for tool in data.tools)
    yield "tool_choice", unknown, f"{data.tool!r} is not among the `tools`"


def _given(data: Generate) -> Iterator[Check]:
    """Look at what cannot be heeded beside tokens that are given."""
    given, told = bool(data.trace_decode_token_ids), "the answer's tokens are given (`trace_decode_token_ids`): "
    yield "n", given and data.n > 1, f"{told}there is only one"
    yield "stop", given and bool(data.stop), f"{told}nothing else ends it, leave it out"


def _silent(data: Generate) -> Iterator[Check]:
    """Look at what cannot be heeded of an answer without a text."""
    silent, told = not data.detokenize, "the answer has no text (`detokenize`): "
    yield "stop", silent and bool(data.stop), f"{told}none can end it, leave it out"
    yield "tool_choice", silent and data.tool_choice == "required", f"{told}no call can be read in it"


def _circling(data: Generate) -> Iterator[Check]:
    """Look at what is taken for going round in circles."""
    wanted = data.repetition_detection
    once = wanted is not None and wanted.max_pattern_size > 0 and wanted.min_count < 2
    yield "repetition_detection", once, "what stands there once is no repetition: give a min_count of at least 2"


def _limit(data: Generate, defaults: Sampling) -> int:
    if data.max_tokens is not None:
        return data.max_tokens
    return len(data.trace_decode_token_ids) or defaults.max_tokens


def _sampling(data: Generate, defaults: Sampling, context: Context) -> Sampling:
    return replace(
        defaults,
        temperature=defaults.temperature if data.temperature is None else data.temperature,
        top_p=defaults.top_p if data.top_p is None else data.top_p,
        seed=context.seed if data.seed is None else data.seed,
        max_tokens=_limit(data, defaults),
        top_k=defaults.top_k if data.top_k is None else max(data.top_k, 0),
        min_p=defaults.min_p if data.min_p is None else data.min_p,
        presence_penalty=data.presence_penalty,
        frequency_penalty=data.frequency_penalty,
        repetition_penalty=data.repetition_penalty,
        min_tokens=data.min_tokens,
        stop_tokens=(*defaults.stop_tokens, *data.stop_token_ids),
        ignore_eos=data.ignore_eos,
        logit_bias=data.logit_bias,
        allowed_token_ids=data.allowed_token_ids,
        logprobs=data.logprobs,
        prompt_logprobs=data.prompt_logprobs,
        logprob_token_ids=data.logprob_token_ids,
        repetition=_repetition(data),
        thinking_budget=None if data.thinking_token_budget == -1 else data.thinking_token_budget,
        skip_special_tokens=data.skip_special_tokens,
        include_stop_str_in_output=data.include_stop_str_in_output,
        spaces_between_special_tokens=data.spaces_between_special_tokens,
        detokenize=data.detokenize,
        prompt_logprob_token_ids=data.prompt_logprob_token_ids,
        prompt_logprob_start=data.prompt_logprob_start,
        trace_decode_token_ids=data.trace_decode_token_ids,
        extra_args=data.extra_args,
        truncate_prompt_tokens=data.truncate_prompt_tokens or 0,
        truncation_side=data.truncation_side or "left",
        structured=data.structured,
    )


def _repetition(data: Generate) -> Repetition | None:
    wanted = data.repetition_detection
    if wanted is None or not wanted.max_pattern_size:
        return None
    return Repetition(wanted.max_pattern_size, max(1, wanted.min_pattern_size), wanted.min_count)


def _answer_prompt(identity: str, called: ModelCalled, command: Command) -> AnswerPrompt:
    return AnswerPrompt(called.effect, "generation", identity, command.traceparent, called=called, command=command)
