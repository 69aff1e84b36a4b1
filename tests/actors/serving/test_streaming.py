"""What is told of an answer while it comes, over a real bus: each token once, whatever is lost on the way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from actors.models.provider import ModelAnswer, ModelCall, Piece
from actors.serving.frontend import Frontend
from bus.connection import Message
from schemas.answers import TokenTold
from schemas.generation import Output, Sampling, TokenLogprobs
from schemas.messages import Calling
from schemas.steps import StepPlan, StepResult
from schemas.structured import Structured
from tests.actors.serving.test_serving import CALL, CLOCK, REPLY, TOKENIZER, Listener, PlayedModel, model_call, stage

pytestmark = [pytest.mark.anyio, pytest.mark.servers, pytest.mark.deadline(20)]


@dataclass
class TellingModel(PlayedModel):
    """Tells of each token, and may have put one in the place of what was drawn."""

    closes: int | None = None
    """Which token that is, counted from 0."""

    def execute(self, plan: StepPlan) -> StepResult:
        result = super().execute(plan)
        counts = {part.request: part.start + part.count for part in plan.slices}
        logprobs = tuple(
            (name, TokenLogprobs((token, 5), (-1.0 - counts[name], -0.5), 2)) for name, token in result.tokens
        )
        closed = tuple(name for name, _ in result.tokens if counts[name] - self.prompts[name] == self.closes)
        return replace(result, logprobs=logprobs, closed=closed)


def told_call(effect: str, **more: Any) -> ModelCall:
    wanted = Sampling(max_tokens=100, logprobs=1)
    return replace(model_call(effect), sampling=wanted, return_token_ids=True, **more)


def check(heard: Listener, answer: ModelAnswer) -> None:
    """What was heard is the beginning of what the answer tells."""
    assert heard.text == answer.text
    assert heard.logprobs == list(answer.logprobs[: len(heard.logprobs)])
    assert heard.token_ids == list(answer.token_ids[: len(heard.logprobs)])
    assert heard.token_ids
    assert [one.token for one in answer.logprobs] == list(answer.token_ids)


def written(told: list[TokenTold]) -> str:
    return b"".join(one.piece for one in told).decode()


async def test_pieces_bring_the_tokens_whose_text_they_hold(nats_url: str) -> None:
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(TellingModel())
        heard = Listener()
        answer = await (await on.frontend("f1")).call(told_call("e1"), heard)
    check(heard, answer)
    assert written(heard.logprobs) == REPLY
    assert all(written(list(piece.logprobs)) == piece.text for piece in heard.pieces)
    assert len(answer.logprobs) == len(heard.logprobs) + 1  # the one that ends it has no text


async def test_pieces_bring_nothing_of_tokens_unless_it_is_asked_for(nats_url: str) -> None:
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(PlayedModel())
        heard = Listener()
        await (await on.frontend("f1")).call(model_call("e1"), heard)
    assert {(piece.before, piece.logprobs, piece.token_ids) for piece in heard.pieces} == {(0, (), ())}


async def test_pieces_come_at_the_interval_that_is_asked_for(nats_url: str) -> None:
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(TellingModel())
        heard = Listener()
        answer = await (await on.frontend("f1")).call(told_call("e1", stream_interval=8), heard)
    check(heard, answer)
    assert len(heard.pieces) <= 2 + len(answer.token_ids) // 8
    assert len(heard.pieces[0].token_ids) == 1


async def test_nothing_is_told_of_tokens_that_came_behind_the_text_that_ends_an_answer(nats_url: str) -> None:
    class Ahead(Frontend):
        """Has all tokens before the second piece goes out."""

        async def _take(self, opened: Any, output: Output) -> None:
            await super()._take(opened, output)
            if output.finish is not None:
                whole.set()

    class Slow(Listener):
        async def __call__(self, piece: Piece) -> None:
            await super().__call__(piece)
            await whole.wait()

    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(TellingModel())
        whole, heard = asyncio.Event(), Slow()
        answer = await (await on.frontend("f1", Ahead)).call(told_call("e1", stop=(" fox",)), heard)
    check(heard, answer)
    assert (answer.text, answer.finish_reason) == ("The quick brown", "stop")
    assert written(list(answer.logprobs)).startswith("The quick brown fox")
    assert len(answer.token_ids) < len(TOKENIZER.encode(REPLY))
    assert answer.usage.completion_tokens == len(answer.token_ids) == len(answer.logprobs)


async def test_tokens_lost_on_the_way_are_told_of_once(nats_url: str) -> None:
    class Forgetful(Frontend):
        """Loses every third message with tokens."""

        heard = 0

        async def _hear(self, message: Message) -> None:
            self.heard += 1
            if self.heard % 3:
                await super()._hear(message)

    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(TellingModel())
        heard = Listener()
        answer = await (await on.frontend("f1", Forgetful)).call(told_call("e1"), heard)
    check(heard, answer)
    assert len({one.logprob for one in answer.logprobs}) == len(answer.logprobs)


async def test_a_new_scheduler_goes_on_telling_where_the_last_one_was_lost(nats_url: str) -> None:
    async with stage(nats_url) as on:
        stop = await on.scheduler("epoch-1")
        stop_worker = await on.worker(TellingModel())
        heard = Listener()
        call = asyncio.create_task((await on.frontend("f1")).call(told_call("e1"), heard))
        await heard.first.wait()
        await stop_worker()
        await stop()
        await on.scheduler("epoch-2")
        await on.worker(TellingModel())
        answer = await call
    check(heard, answer)


async def test_another_frontend_tells_the_same_from_the_beginning(nats_url: str) -> None:
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(TellingModel())
        heard, again = Listener(), Listener()
        lost = asyncio.create_task((await on.frontend("f1")).call(told_call("e1"), heard))
        await heard.first.wait()
        lost.cancel()
        await asyncio.wait({lost})
        answer = await (await on.frontend("f2")).call(told_call("e1"), again)
    check(again, answer)
    assert heard.logprobs == again.logprobs[: len(heard.logprobs)]


# for want of tokens


def formed(effect: str, **more: Any) -> ModelCall:
    wanted = Sampling(max_tokens=100, structured=Structured(kind="json_object"))
    return replace(told_call(effect, **more), sampling=wanted)


@pytest.mark.parametrize(("closes", "finish"), [(None, "stop"), (3, "length")])
async def test_an_answer_that_was_brought_to_its_end_ran_out_of_tokens(
    nats_url: str, closes: int | None, finish: str
) -> None:
    async with stage(nats_url) as on:
        stop = await on.scheduler("epoch-1")
        stop_worker = await on.worker(TellingModel(closes=closes))
        frontend, heard = await on.frontend("f1"), Listener()
        call = asyncio.create_task(frontend.call(formed("e1"), heard))
        while len(heard.token_ids) < 5:
            heard.first.clear()
            await heard.first.wait()
        # the one that goes on is told by nobody but the frontend
        await stop_worker()
        await stop()
        await on.scheduler("epoch-2")
        await on.worker(TellingModel())
        answer = await call
    assert (answer.text, answer.finish_reason) == (REPLY, finish)


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize(("closes", "finish"), [(None, "tool_calls"), (3, "length")])
async def test_a_call_that_was_brought_to_its_end_is_one(
    nats_url: str, closes: int | None, finish: str, parallel: bool
) -> None:
    async with stage(nats_url) as on:
        await on.scheduler("epoch-1")
        await on.worker(TellingModel(CALL, closes=closes))
        wanted = formed("e1", tools=(CLOCK,), calling=Calling("required", "clock", parallel=parallel))
        answer = await (await on.frontend("f1")).call(wanted, Listener())
    assert ([call.name for call in answer.tool_calls], answer.finish_reason) == (["clock"], finish)


async def test_a_text_that_ends_an_answer_before_it_is_brought_to_its_end_ends_it(nats_url: str) -> None:
    tokens = len(TOKENIZER.encode("The quick brown fox"))
    for effect, closes, finish in (("e1", 1, "length"), ("e2", tokens + 3, "stop")):
        async with stage(nats_url) as on:
            await on.scheduler("epoch-1")
            await on.worker(TellingModel(closes=closes))
            answer = await (await on.frontend("f1")).call(formed(effect, stop=(" fox",)), Listener())
        assert (answer.text, answer.finish_reason) == ("The quick brown", finish)
