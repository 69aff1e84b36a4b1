"""Which model answers: chosen by a model, before a run's first step."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from actors.agent.definition import Agent
from actors.agent.effects import PrepareStep
from actors.agent.hooks import prepared
from actors.agent.selection import ModelSelection
from actors.errors import DefinitionError
from actors.models.aside import Asker
from actors.models.provider import ModelCall
from actors.testing import ScriptedModel
from schemas.generation import Sampling
from schemas.hooks import StepPrepared
from schemas.messages import Usage
from schemas.runs import ModelCalled, Problem, RunFinished
from tests.actors.agent.test_loop import PROFILE, World, call, returned, said

pytestmark = pytest.mark.anyio

MODELS = {"small": "small talk", "big": "hard questions"}
PREPARED = replace(PROFILE, prepares=True, edition=1)


async def chosen(world: World, effect: str, selection: ModelSelection, says: Any = "B") -> StepPrepared:
    opened = world.open[effect]
    assert isinstance(opened, PrepareStep)
    model = ScriptedModel(lambda call: says, price=0.25)
    asker = Asker({"m": model}, ModelCall(effect, "m", (), (), Sampling(), "acme", "t1"))
    return await prepared(Agent("a", "", prepare_step=selection).hooks, opened, "t1", asker)


async def run(selection: ModelSelection, says: Any = "B") -> World:
    """A run of two steps."""
    world = World()
    world.ask("c1", PREPARED, text="Prove it.")
    world.result(await chosen(world, "c1-1-p", selection, says))
    world.result(said("c1-1-m", "", [call(1)]))
    returned(world, "c1-1-t0")
    world.crash()
    world.result(await chosen(world, "c1-2-p", selection, says))
    world.result(said("c1-2-m", "proved"))
    world.verified()
    return world


def models(world: World) -> list[str]:
    return [event.model for event in world.events(ModelCalled)]


@pytest.mark.parametrize(("scope", "asked"), [("run", ["big", "big"]), ("first_step", ["big", "m"])])
async def test_a_model_is_chosen_for_the_whole_run_or_the_first_step(scope: Any, asked: list[str]) -> None:
    world = await run(ModelSelection(MODELS, scope=scope))
    assert models(world) == asked
    assert [event.why for event in world.events(StepPrepared)] == ["big", ""]
    (finished,) = world.events(RunFinished)
    assert [event.engines for event in world.events(StepPrepared)] == [{"m": Usage(1, 1)}, {}]
    assert (finished.usage, finished.cost) == (Usage(3 + 3 + 1, 2 + 2 + 1, 1 + 1), None)


async def test_where_none_is_chosen_another_answers() -> None:
    assert models(await run(ModelSelection(MODELS, abstain="none", otherwise="spare"), "C")) == ["spare", "spare"]
    assert models(await run(ModelSelection(MODELS, abstain="none"), "C")) == ["m", "m"]


async def test_a_classifier_that_fails_fails_the_run() -> None:
    world = World()
    world.ask("c1", PREPARED, text="Prove it.")
    event = await chosen(world, "c1-1-p", ModelSelection(MODELS), Problem(kind="engine", message="gone"))
    assert "gone" in event.failure


def test_a_selection_that_cannot_be_is_refused_where_it_is_written() -> None:
    with pytest.raises(DefinitionError, match="scope='all'"):
        ModelSelection(MODELS, scope="all")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError, match="2 to 19"):
        ModelSelection({"big": "x"})
