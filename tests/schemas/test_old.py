"""Shapes that events once had are read for ever, and what was released only grows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from actors.agent.loop import ConversationMachine
from actors.runtime.replay import verify
from schemas import codec
from schemas.envelope import Fact
from schemas.errors import BadShape
from schemas.generation import Sampling
from schemas.json_schema import event_schema
from schemas.messages import Usage
from schemas.old import UPCASTS, Upcast
from schemas.profiles import Profile, ToolBinding
from schemas.runs import RunFinished, RunStarted
from schemas.wire import Wire
from tests.actors.agent.test_loop import World, said

GOLDEN = Path(__file__).parents[1] / "golden"
OLD = sorted((GOLDEN / "old").glob("*.json"))
RELEASED = sorted((GOLDEN / "schemas").glob("*.json"))
TODAY = {
    "run.started-0": RunStarted(
        profile=Profile(
            agent="demo",
            model="Qwen/Qwen3-0.6B",
            instructions="Be kind. Ünïcödé ☂",
            tools=(ToolBinding("calculator", "once", ""), ToolBinding("send_mail", "once", "")),
            sampling=Sampling(temperature=0.7, top_p=0.9, top_k=40, seed=123, max_tokens=64, stop_tokens=(2, 3)),
            max_steps=8,
        )
    )
}
"""What the golden files of old shapes mean."""


def fact(type_: str, payload: bytes) -> Fact:
    return Fact("acme", "t", "run", "r1", 3, type_, "", msgspec.Raw(payload))


def test_every_old_shape_has_a_golden_file() -> None:
    assert len(OLD) == len(UPCASTS) == len(TODAY)
    for upcast in UPCASTS:
        assert any(_fits(path.read_bytes(), upcast.shape) for path in OLD), upcast.shape


def _fits(data: bytes, shape: type) -> bool:
    try:
        codec.decode(data, shape)
    except BadShape:
        return False
    return True


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_an_old_shape_is_read_as_what_it_is_today(path: Path) -> None:
    data = path.read_bytes()
    assert codec.event_of(fact(path.stem.rpartition("-")[0], data)) == TODAY[path.stem]
    assert codec.decode_event(codec.encode(TODAY[path.stem])) == TODAY[path.stem]


def test_a_payload_that_fits_no_shape_is_told_by_what_todays_lacks() -> None:
    with pytest.raises(BadShape, match="`profile`"):
        codec.event_of(fact("run.started", b'{"type":"run.started","agent":"demo"}'))


def test_a_thread_recorded_in_an_old_shape_is_decided_the_same() -> None:
    world = World()
    world.ask("c1", msgspec.structs.replace(TODAY["run.started-0"].profile, tools=()), text="hi", seed=123)
    world.result(said("c1-1-m", "hello"))
    old = json.loads((GOLDEN / "old" / "run.started-0.json").read_bytes()) | {"tools": []}
    log = [
        item._replace(payload=msgspec.json.encode(old)) if item.type == "run.started" else item for item in world.log
    ]
    assert log != world.log
    assert verify(ConversationMachine(), "acme", "t1", log).events == len(log)


class RunDone(Wire, frozen=True, tag="run.done"):
    """As if a run's end had had another name once."""

    answer: str
    steps: int


def test_an_event_that_has_another_name_today_is_read_and_decided_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def finished(old: RunDone) -> RunFinished:
        return RunFinished(text=old.answer, steps=old.steps, usage=Usage(3, 2, 1))

    monkeypatch.setattr(codec, "UPCASTS", (*UPCASTS, Upcast(RunDone, finished)))
    monkeypatch.setattr(codec, "READABLE", codec.READABLE | {"run.done"})
    world = World()
    world.ask("c1", text="hi")
    world.result(said("c1-1-m", "hello"))
    done = codec.encode(RunDone("hello", 1))
    log = [*world.log[:-1], world.log[-1]._replace(type="run.done", payload=done)]
    assert codec.event_of(fact("run.done", done)) == world.events(RunFinished)[0]
    assert verify(ConversationMachine(), "acme", "t1", log).events == len(log)


def lost(released: dict[str, Any], today: dict[str, Any], names: frozenset[str]) -> list[str]:
    """Say what today's shapes cannot read of what a release wrote; old shapes of the classes `names` are read apart."""
    told = []
    for name, then in released["$defs"].items():
        now = today["$defs"].get(name)
        if name in names:
            continue
        if now is None:
            told.append(f"{name} is gone")
            continue
        old, new = _fields(then), _fields(now)
        told += [f"{name}.{field} is gone" for field in old.keys() - new.keys()]
        told += [f"{name}.{field} is needed now" for field in _needed(now) - _needed(then)]
        for field in old.keys() & new.keys():
            was, shape = old[field], new[field]
            if was.get("type") != shape.get("type"):
                told.append(f"{name}.{field} is no {was.get('type')} any more")
            choices = {*was.get("enum", ())} - {*shape.get("enum", ())}
            told += [f"{name}.{field}: {value!r} is no choice any more" for value in choices]
    return told


def _fields(shape: dict[str, Any]) -> dict[str, Any]:
    """Name the fields of an object; those of a tuple are named by where they are."""
    places = {str(at): one for at, one in enumerate(shape.get("prefixItems", ()))}
    return {**shape.get("properties", {}), **places}


def _needed(shape: dict[str, Any]) -> set[str]:
    return {*shape.get("required", ()), *(str(at) for at in range(shape.get("minItems", 0)))}


READ_APART = frozenset[str]()
"""Classes whose released shapes `schemas.old` reads: none yet, the one that is there is older than any release."""


@pytest.mark.parametrize("path", RELEASED, ids=lambda path: path.stem)
def test_what_was_released_only_grows_by_fields_with_defaults(path: Path) -> None:
    assert lost(json.loads(path.read_bytes()), event_schema(), READ_APART) == [], (
        "give the changed event a new class and keep the old one in schemas/old.py"
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda shapes: shapes.pop("RunFinished"), "RunFinished is gone"),
        (lambda shapes: shapes["RunFinished"]["properties"].pop("steps"), "RunFinished.steps is gone"),
        (lambda shapes: shapes["RunFinished"]["required"].append("cost"), "RunFinished.cost is needed now"),
        (
            lambda shapes: shapes["RunFinished"]["properties"].update(steps={"type": "string"}),
            "RunFinished.steps is no",
        ),
        (lambda shapes: shapes["Message"]["properties"]["role"]["enum"].remove("tool"), "Message.role: 'tool' is no"),
    ],
)
def test_a_change_that_old_bytes_would_not_survive_is_named(change: Callable[[Any], Any], told: str) -> None:
    today = copy.deepcopy(event_schema())
    change(today["$defs"])
    (found,) = lost(event_schema(), today, frozenset())
    assert found.startswith(told)
