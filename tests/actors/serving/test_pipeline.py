"""Two steps ahead of results, over the bus: what is served is what the model says alone, whatever happens to it."""

from __future__ import annotations

import asyncio

import pytest
from msgspec.structs import replace

from actors.models.provider import ModelCall
from engine.config import SchedulerConfig
from engine.llm import LLM
from engine.platforms import detect
from engine.runner.loading import RunnerConfig, load_runner
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling
from schemas.structured import Structured
from tests.actors.serving.test_serving import ENGINE, Listener, PlayedModel, stage

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(120)]

BLOCKS = 14
CONFIG = SchedulerConfig(blocks=BLOCKS, context_length=128, watermark=0.0)
PLAIN = Sampling(max_tokens=40, ignore_eos=True)
ASKED = [
    PLAIN,
    replace(PLAIN, temperature=1.0, seed=7),
    replace(PLAIN, temperature=0.8, seed=11, top_k=20),
    Sampling(max_tokens=40, temperature=1.0, seed=3, stop_tokens=tuple(range(40, 60))),
    Sampling(max_tokens=40, structured=Structured(kind="regex", text="[0-9]{3}-[a-c]{2,30}")),
    Sampling(max_tokens=30, structured=Structured(kind="json_object")),
    replace(PLAIN, max_tokens=1),
    replace(PLAIN, logprobs=2),
]


class Model(PlayedModel):
    """The embedded model itself, with memory for two or three requests."""

    def __init__(self) -> None:
        super().__init__(blocks=BLOCKS)
        runner = RunnerConfig(model=str(EMBEDDED_CHECKPOINT), blocks=BLOCKS, context_length=128)
        loaded = load_runner(runner, detect("cpu"), "worker")
        self.execute, self.prepare = loaded.execute, loaded.prepare  # type: ignore[method-assign]


def prompt(number: int) -> tuple[int, ...]:
    return tuple(60 + (number * 37 + at * 11) % 200 for at in range(20 + number))


def call(number: int, sampling: Sampling) -> ModelCall:
    return ModelCall(
        *(f"e{number}", ENGINE, (), (), sampling, "default", "t1"), prompt=prompt(number), return_token_ids=True
    )


@pytest.fixture(scope="module")
def alone() -> list[tuple[int, ...]]:
    """What each request says when nothing runs beside it."""
    llm = LLM(str(EMBEDDED_CHECKPOINT), device="cpu", runner=RunnerConfig(model="", blocks=64, context_length=128))
    return [llm.generate([prompt(number)], sampling, use_tqdm=False)[0].tokens for number, sampling in enumerate(ASKED)]


async def test_requests_that_stop_give_way_or_are_aborted_say_what_they_say_alone(
    nats_url: str, alone: list[tuple[int, ...]]
) -> None:
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1", config=CONFIG)
        await on.worker(await asyncio.to_thread(Model))
        frontend = await on.frontend("f1")
        heard = Listener()
        unwanted = asyncio.create_task(frontend.call(call(90, replace(PLAIN, max_tokens=80)), heard))
        calls = [asyncio.create_task(frontend.call(call(*asked), Listener())) for asked in enumerate(ASKED)]
        await heard.first.wait()
        await frontend.abort(call(90, PLAIN).request)
        answers = [await one for one in calls]
        broken = await unwanted
    assert [answer.token_ids for answer in answers] == alone
    assert sum(answer.usage.preemptions for answer in answers) > 0
    assert broken.finish_reason == "abort"
    assert broken.usage.completion_tokens < 80
