"""A bare generation: asked once, answered once."""

from __future__ import annotations

from typing import Any

import pytest

from actors.errors import Divergence
from actors.runtime.machine import Asked, Decision, Emitted
from actors.runtime.replay import Recorded, verify
from actors.serving.generation import AnswerPrompt, Generation, GenerationMachine
from schemas import codec
from schemas.commands import AbortRun, Command, Generate, RepetitionDetection
from schemas.context import Context
from schemas.generation import Repetition, Sampling
from schemas.memory import DeleteThread, ThreadDeleted
from schemas.messages import Message, ToolCall, ToolSpec, Usage
from schemas.profiles import Profile
from schemas.runs import CommandAccepted, CommandRefused, ModelCalled, ModelFailed, ModelReturned, Problem
from schemas.structured import Structured

MACHINE = GenerationMachine()
DEFAULTS = Profile(agent="", model="m", instructions="", tools=(), sampling=Sampling(temperature=0.3), max_steps=1)
CONTEXT = Context(now=1, seed=99)


def command(identity: str = "g1", **data: Any) -> Command:
    given: dict[str, Any] = {"model": "m", "messages": (Message(role="user", content="hi"),), **data}
    return Command(id=identity, tenant="acme", kind="generation", thread="g1", verb="generate", data=Generate(**given))


def ask(state: Generation, asked: Command, profile: Profile | None = DEFAULTS) -> Decision:
    return MACHINE.ask(state, Asked(asked, profile), CONTEXT)


def folded(decision: Decision, *more: Emitted) -> Generation:
    state = MACHINE.initial("acme", "g1")
    for emitted in (*decision.events, *more):
        state = MACHINE.evolve(state, emitted)
    return state


def recorded(*commits: list[Emitted]) -> list[Recorded]:
    log: list[Recorded] = []
    for sequence, commit in enumerate(commits, 1):
        for index, (kind, entity, event) in enumerate(commit):
            payload = bytes(codec.payload(event))
            place = f"{sequence}/{index}"
            log.append(Recorded(place, 0, kind, entity, len(log) + 1, codec.tag(event), payload, "", sequence))
    return log


def result(event: Any) -> Emitted:
    return Emitted("generation", "g1", event)


ANSWER = result(ModelReturned("g1-1-m", "hello", "stop", Usage(1, 1, 0)))


def test_a_request_is_accepted_and_the_model_asked_once() -> None:
    decision = ask(MACHINE.initial("acme", "g1"), command(temperature=0.9, max_tokens=5, stop=("END",)))
    assert [codec.tag(event.event) for event in decision.events] == ["command.accepted", "model.called"]
    (effect,) = decision.effects
    assert isinstance(effect, AnswerPrompt)
    assert effect.called.sampling == Sampling(temperature=0.9, seed=99, max_tokens=5)
    assert list(MACHINE.open_effects(folded(decision))) == [effect]
    assert list(MACHINE.open_effects(folded(decision, ANSWER))) == []


def test_how_tokens_are_to_be_chosen_is_in_the_call() -> None:
    wanted: dict[str, Any] = {
        "top_k": 5,
        "min_p": 0.25,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "repetition_penalty": 1.5,
        "min_tokens": 2,
        "ignore_eos": True,
        "logit_bias": {4: 1.0},
        "allowed_token_ids": (4, 5),
        "structured": Structured(kind="regex", text="a+"),
        "truncate_prompt_tokens": -1,
        "truncation_side": "right",
        "prompt_logprob_token_ids": ((5, 6), ()),
        "prompt_logprob_start": 3,
        "spaces_between_special_tokens": False,
        "detokenize": False,
        "trace_decode_token_ids": (7, 8),
        "max_tokens": 9,
    }
    (effect,) = ask(MACHINE.initial("acme", "g1"), command(stop_token_ids=(9,), **wanted)).effects
    assert isinstance(effect, AnswerPrompt)
    assert effect.called.sampling == Sampling(temperature=0.3, seed=99, stop_tokens=(9,), **wanted)
    (everything,) = ask(MACHINE.initial("acme", "g1"), command(top_k=-1)).effects
    assert isinstance(everything, AnswerPrompt)
    assert everything.called.sampling.top_k == 0


@pytest.mark.parametrize(
    "data",
    [
        {"tool_choice": "required"},
        {"tool_choice": "required", "tool": "f", "tools": (ToolSpec("g"),)},
    ],
)
def test_a_choice_that_no_answer_can_keep_to_is_refused(data: dict[str, Any]) -> None:
    (refused,) = (event.event for event in ask(MACHINE.initial("acme", "g1"), command(**data)).events)
    assert isinstance(refused, CommandRefused)
    assert (refused.problem.kind, refused.problem.field) == ("invalid", "tool_choice")


def test_an_answer_whose_tokens_are_given_has_as_many_unless_it_is_said() -> None:
    for data, most in (({}, 3), ({"max_tokens": 2}, 2)):
        asked = command(trace_decode_token_ids=(5, 6, 7), **data)
        (effect,) = ask(MACHINE.initial("acme", "g1"), asked).effects
        assert isinstance(effect, AnswerPrompt)
        assert effect.called.sampling.max_tokens == most


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"trace_decode_token_ids": (1,), "n": 2}, "n"),
        ({"trace_decode_token_ids": (1,), "stop": ("a",)}, "stop"),
        ({"trace_decode_token_ids": (1,), "use_beam_search": True}, "trace_decode_token_ids"),
        ({"detokenize": False, "stop": ("a",)}, "stop"),
        ({"detokenize": False, "tools": (ToolSpec("f"),), "tool_choice": "required"}, "tool_choice"),
        ({"detokenize": False, "use_beam_search": True}, "detokenize"),
        ({"prompt_logprob_token_ids": (1,), "use_beam_search": True}, "prompt_logprob_token_ids"),
        ({"repetition_detection": RepetitionDetection(4, min_count=1)}, "repetition_detection"),
    ],
)
def test_what_cannot_be_heeded_together_is_refused(data: dict[str, Any], field: str) -> None:
    (refused,) = (event.event for event in ask(MACHINE.initial("acme", "g1"), command(**data)).events)
    assert isinstance(refused, CommandRefused)
    assert (refused.problem.kind, refused.problem.field) == ("invalid", field)
    assert refused.problem.message.startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ({"repetition_detection": RepetitionDetection(0, min_count=0)}, {"repetition": None}),
        ({"repetition_detection": RepetitionDetection(4, 0, 3)}, {"repetition": Repetition(4, 1, 3)}),
        ({"thinking_token_budget": -1}, {"thinking_budget": None}),
        ({"thinking_token_budget": 0}, {"thinking_budget": 0}),
        ({"use_beam_search": True, "allowed_token_ids": (3, 4), "thinking_token_budget": -1}, {}),
    ],
)
def test_numbers_that_mean_no_bound_do(wanted: dict[str, Any], kept: dict[str, Any]) -> None:
    (effect,) = ask(MACHINE.initial("acme", "g1"), command(**wanted)).effects
    assert isinstance(effect, AnswerPrompt)
    assert {name: getattr(effect.called.sampling, name) for name in kept} == kept


def test_a_seed_that_is_given_is_kept() -> None:
    (effect,) = ask(MACHINE.initial("acme", "g1"), command(seed=4)).effects
    assert isinstance(effect, AnswerPrompt)
    assert effect.called.sampling.seed == 4


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        (command(messages=()), "messages"),
        (command(prompt="Hello"), "prompt"),
        (command(messages=(), prompt=(1, 2), tools=(ToolSpec("f"),)), "prompt"),
        (command(messages=(Message("tool", "4", (), "c1"),)), "messages[0].tool_call_id"),
        (command(messages=(Message("assistant", "", (ToolCall("c", "f", ""),)),)), "messages"),
    ],
)
def test_what_does_not_fit_is_refused_by_its_field(asked: Command, field: str) -> None:
    decision = ask(MACHINE.initial("acme", "g1"), asked)
    (refused,) = [emitted.event for emitted in decision.events]
    assert isinstance(refused, CommandRefused)
    assert refused.problem.field == field
    assert MACHINE.answered(folded(decision), "g1") == refused.problem


def test_an_id_that_is_taken_is_refused_and_the_same_command_is_not_decided_again() -> None:
    state = folded(ask(MACHINE.initial("acme", "g1"), command()))
    assert MACHINE.answered(state, "g1") == "accepted"
    assert MACHINE.answered(state, "g2") is None
    (refused,) = [emitted.event for emitted in ask(state, command("g2")).events]
    assert isinstance(refused, CommandRefused)


@pytest.mark.parametrize("outcome", [ANSWER, result(ModelFailed("g1-1-m", Problem("engine", "gone")))])
def test_its_record_verifies(outcome: Emitted) -> None:
    asked = list(ask(MACHINE.initial("acme", "g1"), command(seed=4)).events)
    assert verify(MACHINE, "acme", "g1", recorded(asked, [outcome])).events == 3


def test_a_record_that_was_changed_does_not() -> None:
    asked = list(ask(MACHINE.initial("acme", "g1"), command()).events)
    called = asked[1].event
    assert isinstance(called, ModelCalled)
    for change in ({"seen": 2}, {"prefix": "x"}, {"model": "n"}, {"effect": "g1-2-m"}, {"step": 2}):
        fields = {name: getattr(called, name) for name in called.__struct_fields__}
        mutated = result(ModelCalled(**{**fields, **change}))
        with pytest.raises(Divergence, match=next(iter(change))):
            verify(MACHINE, "acme", "g1", recorded([asked[0], mutated], [ANSWER]))


def test_a_second_result_of_one_call_does_not_verify() -> None:
    asked = list(ask(MACHINE.initial("acme", "g1"), command()).events)
    with pytest.raises(Divergence):
        verify(MACHINE, "acme", "g1", recorded(asked, [ANSWER], [ANSWER]))


@pytest.mark.parametrize("prompt", ["Once upon a time", (1, 2, 3)])
def test_a_raw_prompt_is_asked_for_as_it_is_and_its_record_verifies(prompt: Any) -> None:
    decision = ask(MACHINE.initial("acme", "g1"), command(messages=(), prompt=prompt))
    (called,) = [emitted.event for emitted in decision.events if isinstance(emitted.event, ModelCalled)]
    assert (called.seen, called.prefix) == (0, codec.chained("", prompt))
    assert verify(MACHINE, "acme", "g1", recorded(list(decision.events), [ANSWER])).events == 3


def abort(identity: str = "a1", reason: str = "") -> Command:
    data = AbortRun(reason=reason)
    return Command(id=identity, tenant="acme", kind="generation", thread="g1", verb="abort", data=data, source="http")


def test_a_generation_under_way_can_be_ended_and_its_record_verifies() -> None:
    begun = ask(MACHINE.initial("acme", "g1"), command())
    ended = MACHINE.ask(folded(begun), Asked(abort(reason="too slow")), CONTEXT)
    accepted, failed = [emitted.event for emitted in ended.events]
    assert isinstance(accepted, CommandAccepted)
    message = "the generation was aborted by http: too slow"
    assert failed == ModelFailed("g1-1-m", Problem("aborted", message))
    over = folded(begun, *ended.events)
    assert not MACHINE.open_effects(over)
    assert (MACHINE.answered(over, "a1"), MACHINE.answered(over, "g1")) == ("accepted", "accepted")
    assert verify(MACHINE, "acme", "g1", recorded(list(begun.events), list(ended.events))).events == 4


def test_what_is_not_under_way_cannot_be_ended() -> None:
    begun = ask(MACHINE.initial("acme", "g1"), command())
    for state in (MACHINE.initial("acme", "g1"), folded(begun, ANSWER)):
        (refused,) = [emitted.event for emitted in MACHINE.ask(state, Asked(abort()), CONTEXT).events]
        assert isinstance(refused, CommandRefused)
        assert refused.problem.field == "id"


def delete(identity: str = "d1") -> Command:
    data = DeleteThread(reason="asked to")
    return Command(id=identity, tenant="acme", kind="generation", thread="g1", verb="delete", data=data, source="http")


def test_a_generation_that_is_deleted_ends_and_is_deleted_once() -> None:
    begun = ask(MACHINE.initial("acme", "g1"), command())
    ended = MACHINE.ask(folded(begun), Asked(delete()), CONTEXT)
    _, failed, deleted = (emitted.event for emitted in ended.events)
    assert failed == ModelFailed("g1-1-m", Problem("aborted", "the generation was deleted"))
    assert deleted == ThreadDeleted("asked to")
    state = folded(begun, *ended.events)
    assert not MACHINE.open_effects(state)
    assert [MACHINE.answered(state, name) for name in ("g1", "d1", "d2")] == ["accepted", "accepted", None]
    again = MACHINE.ask(state, Asked(delete("d2")), CONTEXT)
    assert [codec.tag(emitted.event) for emitted in again.events] == ["command.accepted"]
    assert verify(MACHINE, "acme", "g1", recorded([*begun.events], [*ended.events])).open == ()


def test_one_that_has_its_answer_is_deleted_too_and_one_that_nobody_asked_for_is_not() -> None:
    begun = ask(MACHINE.initial("acme", "g1"), command())
    done = MACHINE.ask(folded(begun, ANSWER), Asked(delete()), CONTEXT)
    assert [codec.tag(emitted.event) for emitted in done.events] == ["command.accepted", "thread.deleted"]
    (refused,) = MACHINE.ask(MACHINE.initial("acme", "g1"), Asked(delete()), CONTEXT).events
    assert isinstance(refused.event, CommandRefused)
