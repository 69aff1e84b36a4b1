"""The thread in which a model runs: nothing stands between two plans but the order in which they came."""

from __future__ import annotations

import asyncio
from functools import partial
from threading import Event
from typing import cast

import pytest

from actors.serving.device import Device
from engine.runner.model_runner import ModelRunner
from engine.runner.pending import Deferred, Pending
from schemas.steps import StepPlan, StepResult

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(20)]

PATIENCE_S = 10.0


class PlayedModel:
    """Counts its steps; runs none before it may."""

    def __init__(self) -> None:
        self.may = Event()
        self.began = Event()
        self.run: list[int] = []
        self.third = Event()

    def launch(self, plan: StepPlan) -> Pending:
        return Deferred(partial(self.execute, plan))

    def execute(self, plan: StepPlan) -> StepResult:
        self.began.set()
        assert self.may.wait(PATIENCE_S)
        self.run.append(plan.n)
        if plan.n == 3:
            self.third.set()
        if plan.n == 13:
            raise ArithmeticError("thirteen")
        return StepResult(plan.n, plan.epoch, "worker", ())


def plan(n: int) -> StepPlan:
    return StepPlan(n=n, epoch="epoch", time=0, full=False, arrivals=(), slices=(), gone=())


async def test_a_step_that_is_planned_begins_though_the_event_loop_is_busy() -> None:
    model = PlayedModel()
    device = Device(cast("ModelRunner", model))
    for n in (1, 2, 3):
        device.run(plan(n))
    assert device.under_way == 3
    model.may.set()
    # on purpose: while this waits the loop does nothing else
    assert model.third.wait(PATIENCE_S)
    assert [(await device.result()).n for _ in range(3)] == [1, 2, 3]
    assert device.under_way == 0
    device.stop()


async def test_what_a_step_raises_is_raised_where_its_result_is_waited_for() -> None:
    model = PlayedModel()
    model.may.set()
    device = Device(cast("ModelRunner", model))
    device.run(plan(1))
    device.run(plan(13))
    assert (await device.result()).n == 1
    with pytest.raises(ArithmeticError, match="thirteen"):
        await device.result()
    device.stop()


async def test_nothing_more_is_run_once_it_is_to_stop() -> None:
    model = PlayedModel()
    device = Device(cast("ModelRunner", model))
    device.run(plan(1))
    device.run(plan(2))
    assert await asyncio.to_thread(model.began.wait, PATIENCE_S)
    device.stop()
    model.may.set()
    assert (await device.result()).n == 1
    assert model.run == [1]


class Computed:
    """A step that a device computes by itself, and ends when it may."""

    under_way = True

    def __init__(self, model: PlayedAccelerator, plan: StepPlan) -> None:
        self._model, self._plan = model, plan

    def wait(self) -> None:
        assert self._model.may.wait(PATIENCE_S)

    def result(self) -> StepResult:
        self._model.told.append(self._plan.n)
        if self._plan.n == 13:
            raise ArithmeticError("thirteen")
        return StepResult(self._plan.n, self._plan.epoch, "worker", ())


class PlayedAccelerator:
    """Takes what is launched at once."""

    def __init__(self) -> None:
        self.may, self.second = Event(), Event()
        self.told: list[int] = []

    def launch(self, plan: StepPlan) -> Pending:
        if plan.n == 2:
            self.second.set()
        return Computed(self, plan)


async def test_a_step_is_launched_while_the_one_before_is_computed() -> None:
    model = PlayedAccelerator()
    device = Device(cast("ModelRunner", model))
    device.run(plan(1))
    device.run(plan(2))
    assert await asyncio.to_thread(model.second.wait, PATIENCE_S)
    assert not model.told
    model.may.set()
    assert [(await device.result()).n for _ in range(2)] == [1, 2]
    device.run(plan(13))
    with pytest.raises(ArithmeticError, match="thirteen"):
        await device.result()
    device.stop()
