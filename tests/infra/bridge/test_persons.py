"""Keys that are one person's: which routes they open, and that what they say of `resource` counts for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from infra.bridge.callers import ALL_SCOPES, Caller
from infra.bridge.openai import BadRequest
from infra.bridge.persons import OPEN, own_resource, owned, shut_to
from schemas.commands import AbortRun, Generate, RunAgent
from tests.infra.bridge.test_doors import QUESTION, House, issued, routes

ANN = Caller("acme", ALL_SCOPES, "k1", resource="ann")
OFFICE = Caller("acme", ALL_SCOPES, "k2")


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    made = House(monkeypatch)
    issued(made.ring, "ost_ann", "acme", *ALL_SCOPES, resource="ann")
    return made


def test_a_route_that_is_not_known_to_keep_to_a_person_is_shut(house: House) -> None:
    known = {route.path for route, _, _ in routes(house.bridge)}
    assert known >= OPEN
    shut = [one for one in routes(house.bridge) if one[0].path not in OPEN and one[0].wants]
    assert {route.path for route, _, _ in shut} > {"/api/schedules", "/v1/files", "/inference/v1/abort_requests"}
    for route, method, path in shut:
        answer = house.send(method, path, "ost_ann", json=QUESTION)
        assert answer.status_code == 403, (method, path)
        assert method == "HEAD" or "bound_key" in answer.text, (method, path)
        assert shut_to(OFFICE, route.path) is None
    assert house.commands == []


def test_an_agent_is_asked_as_the_person_whose_key_it_is(house: House) -> None:
    answer = house.send("POST", "/v1/chat/completions", "ost_ann", json=QUESTION)
    assert answer.status_code == 404  # as the bus of this house says of everything
    ((command, data),) = ((one, one.data) for one in house.commands)
    assert isinstance(data, RunAgent)
    assert (command.tenant, data.resource) == ("acme", "ann")


@pytest.mark.parametrize("said", ["", "ann"])
def test_what_is_left_out_or_right_is_filled_in(said: str) -> None:
    data = owned(ANN, RunAgent(agent="demo", resource=said))
    assert isinstance(data, RunAgent)
    assert data.resource == "ann"
    assert own_resource(OFFICE, said) == said


def test_who_says_another_is_refused_and_who_is_bound_to_nobody_may_say_any() -> None:
    asked: Any = RunAgent(agent="demo", resource="bob")
    with pytest.raises(BadRequest) as refused:
        owned(ANN, asked)
    assert (refused.value.status, refused.value.body.error.param) == (403, "resource")
    assert owned(OFFICE, asked) is asked
    for other in (Generate(model="m"), AbortRun()):
        assert owned(ANN, other) is other
