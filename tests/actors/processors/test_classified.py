"""A processor that asks questions with few answers: noted, and perhaps the end of the run."""

from __future__ import annotations

import pytest

from actors.classifier import Choice, Classifier, YesNo
from actors.errors import CallFailed
from actors.models.provider import ModelCall
from actors.processors.classified import Answers, ClassifierProcessor
from actors.processors.guarded import Guarded
from actors.testing import ScriptedModel
from schemas.processing import Processed
from tests.actors.processors.test_guarded import CALL, Heard

pytestmark = pytest.mark.anyio

MAIL = Classifier({"topic": Choice({"billing": "invoices", "other": "else"}), "urgent": YesNo("Is it?")})


def says(call: ModelCall) -> str:
    last = call.messages[-1].content
    if "Is it?" in last:
        return "yes"
    return "A" if "Which of these" in last else "fine words"


def no_bills(answers: Answers) -> str | None:
    return "no bills here" if answers["topic"].value == "billing" else None


async def test_what_is_answered_is_noted_and_its_tokens_count() -> None:
    model = ScriptedModel(says)
    answer = await Guarded(model, [ClassifierProcessor(MAIL)], first=True).call(CALL, Heard())
    (noted,) = [one for one in answer.processed if one.action == "noticed"]
    assert noted == Processed("classifier", "input", "noticed", 2, "topic=billing, urgent=True", took_us=noted.took_us)
    assert answer.usage.completion_tokens == 3
    assert {call.effect for call in model.calls} >= {f"{CALL.effect}.classifier-input-topic"}


async def test_what_trips_stops_the_call_before_the_model_is_asked_or_its_answer_is_told() -> None:
    for looks_at, asked in (("input", 2), ("result", 3)):
        model, heard = ScriptedModel(says), Heard()
        processor = ClassifierProcessor(MAIL, no_bills, (looks_at,))  # type: ignore[arg-type]
        with pytest.raises(CallFailed, match="no bills here"):
            await Guarded(model, [processor], first=True).call(CALL, heard)
        assert (len(model.calls), heard.text) == (asked, "")


async def test_where_it_does_not_look_nobody_is_asked() -> None:
    model = ScriptedModel(says)
    await Guarded(model, [ClassifierProcessor(MAIL, looks_at=())], first=True).call(CALL, Heard())
    assert len(model.calls) == 1
