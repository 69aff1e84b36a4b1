"""The model is spoken to in its language, and people in theirs; and what costs too much is not begun."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from actors.errors import CallFailed, DefinitionError
from actors.models.provider import ModelCall
from actors.processors.costs import CostControl
from actors.processors.guarded import Guarded
from actors.processors.recall import RecordedLibrary
from actors.processors.translation import Translator
from actors.testing import ScriptedModel
from bus.errors import Unavailable
from bus.projector import bring_up
from bus.store import Store
from schemas.memory import ThreadCreated
from schemas.messages import Message
from tests.actors.processors.test_guarded import CALL, Heard, untimed
from tests.bus.test_following import called, returned, started
from tests.bus.test_projector import write
from tests.bus.test_threads import events

pytestmark = pytest.mark.anyio

GERMAN = replace(CALL, messages=(Message("system", "Help."), Message("user", "Wie heisst meine Katze?")))


def bilingual(call: ModelCall) -> Any:
    prompt = call.messages[-1].content
    if prompt.startswith("Translate the text"):
        return "What is my cat called?" if "Katze" in prompt else "SAME"
    if prompt.startswith("Between the lines"):
        return "Sie heisst Mitzi."
    assert prompt in {"What is my cat called?", "hi a@b.org"}
    return "She is called Mitzi."


async def test_the_model_is_asked_in_its_language_and_answers_in_the_users() -> None:
    model, heard = ScriptedModel(bilingual), Heard()
    answer = await Guarded(model, [Translator()], first=True).call(GERMAN, heard)
    assert answer.text == heard.text == "Sie heisst Mitzi."
    changed = [(one.hook, one.reason) for one in untimed(answer.processed) if one.reason]
    assert changed == [("prompt", "into English"), ("result", "from English")]
    assert (answer.sampled, answer.token_ids) == (None, ())
    assert answer.usage.prompt_tokens > 0


async def test_each_message_is_translated_once_and_what_is_in_the_language_already_is_not() -> None:
    model, translator = ScriptedModel(bilingual), Translator()
    for _ in range(3):
        await Guarded(model, [translator], first=True).call(GERMAN, Heard())
    assert sum(call.messages[0].content.startswith("Translate") for call in model.calls) == 1
    english = ScriptedModel(bilingual)
    answer = await Guarded(english, [Translator()], first=True).call(CALL, Heard())
    assert answer.text == "She is called Mitzi."
    assert len(english.calls) == 2


@pytest.mark.parametrize("same", ["SAME", "Same.", "`SAME`", '"same"'])
async def test_that_there_is_nothing_to_translate_may_be_said_in_any_quotes(same: str) -> None:
    model = ScriptedModel(lambda call: same if call.messages[-1].content.startswith("Translate") else "fine")
    answer = await Guarded(model, [Translator()], first=True).call(CALL, Heard())
    assert answer.text == "fine"
    assert model.calls[-1].messages[-1].content == "hi a@b.org"


async def test_each_text_is_asked_about_by_a_name_of_its_own() -> None:
    # an engine that is asked again by the same name gives the answer that it gave
    model = ScriptedModel(lambda call: "SAME" if call.messages[-1].content.startswith("Translate") else "fine")
    said = (Message("user", "one"), Message("assistant", "yes"), Message("user", "two"), Message("user"))
    await Guarded(model, [Translator(back=False)], first=True).call(replace(CALL, messages=said), Heard())
    names = [call.effect for call in model.calls if call.messages[-1].content.startswith("Translate")]
    assert len(set(names)) == len(names) == 2


def test_a_translator_needs_a_language_and_a_control_a_bound() -> None:
    for bad in (lambda: Translator(into=" "), lambda: Translator(most=0), CostControl,
                lambda: CostControl(tokens=-1), lambda: CostControl(tokens=1, scope="planet")):  # type: ignore[arg-type]  # fmt: skip
        with pytest.raises(DefinitionError):
            bad()


async def test_a_prompt_that_is_too_long_is_not_sent() -> None:
    model = ScriptedModel(lambda _: "fine")
    long = replace(CALL, messages=(Message("user", "word " * 1000),))
    with pytest.raises(CallFailed, match="about 1504 tokens, not 1000"):
        await Guarded(model, [CostControl(prompt_tokens=1000)], first=False).call(long, Heard())
    assert model.calls == []
    warned = await Guarded(model, [CostControl(prompt_tokens=9, strategy="warn")], first=False).call(long, Heard())
    assert [one.action for one in untimed(warned.processed)] == ["noticed"]


@pytest.mark.servers
@pytest.mark.deadline(30)
async def test_who_has_used_their_tokens_up_begins_no_run_and_others_do(store: Store) -> None:
    told = [("acme", thread, event) for thread, resource in (("t1", "ann"), ("t2", "bob")) for event in (
        ThreadCreated(resource=resource), started, called, returned(60, 40))]  # fmt: skip
    await write(store, [_of_run(stored) for stored in events(*told)])
    await bring_up(store)

    async def opened() -> Store:
        return store

    async def away() -> Store:
        raise Unavailable("Postgres cannot be used")

    async def begun(thread: str, resource: str, library: Any, root: Any = None, **bounds: Any) -> bool:
        guarded = Guarded(ScriptedModel(lambda _: "fine"), [CostControl(**bounds)], True, library, resource)
        try:
            await guarded.call(replace(CALL, thread=thread, root=root), Heard())
        except CallFailed as failed:
            return "tokens of 100 are used up" not in failed.problem.message
        return True

    library = RecordedLibrary(opened)
    assert not await begun("t9", "ann", library, tokens=100)
    assert await begun("t9", "ann", library, tokens=101)
    assert await begun("t9", "eve", library, tokens=100)
    assert await begun("t9", "", library, tokens=100)
    assert not await begun("t1", "", library, tokens=100)
    assert not await begun("t9", "eve", library, tokens=100, scope="tenant")
    assert not await begun("t2", "eve", library, tokens=100, scope="thread")
    # another agent's thread is one of whom it works for
    for scope in ("thread", "resource"):
        assert not await begun("s1", "", library, root=("t2", "r2"), tokens=100, scope=scope)
        assert await begun("s1", "", library, root=("t9", "r9"), tokens=100, scope=scope)
    # what was used long ago does not count, and what cannot be read stops nobody
    assert await begun("t9", "ann", library, tokens=100, days=1)
    assert await begun("t9", "ann", RecordedLibrary(away), tokens=100)


def _of_run(stored: Any) -> Any:
    fact = stored.fact
    if fact.type == "thread.created":
        return stored
    return stored._replace(fact=replace(fact, kind="run", entity=f"r-{fact.thread}"))
