"""What a model is told to have made of its tokens: equal to `transformers`, and to itself in any company."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from engine.engine import Engine
from engine.logprobs import LogprobsMode, measure
from schemas.generation import Accepted, Refused, Sampling, Submit, TokenLogprobs
from schemas.steps import RequestEvent
from tests.engine.conftest import VOCABULARY, Tiny
from tests.engine.test_llm import make_engine

PROMPT = (5, 9, 33, 71, 2, 2, 18, 64, 90, 11, 7, 3, 55, 42, 8, 16, 23, 4, 15, 99, 31)


class Told:
    """All that an engine said of each request."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.logprobs: dict[str, list[TokenLogprobs]] = {}
        self.prompts: dict[str, tuple[TokenLogprobs, ...]] = {}

    def add(self, event: RequestEvent) -> None:
        self.tokens.setdefault(event.request, []).extend(event.tokens)
        self.logprobs.setdefault(event.request, []).extend(event.logprobs)
        if event.prompt_logprobs:
            self.prompts[event.request] = event.prompt_logprobs


def finish(engine: Engine, *submits: Submit) -> Told:
    told = Told()
    for submit in submits:
        assert isinstance(engine.add(submit), Accepted)
    left = {submit.request for submit in submits}
    while left:
        for event in engine.step():
            told.add(event)
            if event.finish is not None:
                assert event.finish == "length"
                left.remove(event.request)
    return told


def ask(request: str, prompt: tuple[int, ...] = PROMPT, tokens: int = 12, **wanted: object) -> Submit:
    sampling = Sampling(max_tokens=tokens, **wanted)  # type: ignore[arg-type]
    return Submit(request=request, prompt=prompt, sampling=sampling, frontend="f", tenant="t")


def expected(tiny: Tiny, tokens: list[int]) -> torch.Tensor:
    """Return the reference's log-probabilities after every token, [tokens, vocabulary]."""
    return torch.log_softmax(tiny.logits(tokens).float(), dim=-1)


def assert_alike(found: TokenLogprobs, row: torch.Tensor, token: int, best: int, ids: tuple[int, ...] = ()) -> None:
    top = row.topk(best)
    assert found.tokens == (token, *top.indices.tolist(), *ids)
    assert found.logprobs == pytest.approx([row[name].item() for name in found.tokens], abs=2e-4)
    assert found.rank == 1 + int((row > row[token]).sum())


def test_sampled_tokens_come_with_the_reference_s_log_probabilities_and_ranks(tiny: Callable[[str], Tiny]) -> None:
    reference = tiny("qwen3-tied")
    told = finish(make_engine(reference), ask("r", logprobs=5, logprob_token_ids=(3, 77), temperature=1, seed=4))
    rows = expected(reference, [*PROMPT, *told.tokens["r"]])
    assert len(told.logprobs["r"]) == 12
    for at, found in enumerate(told.logprobs["r"]):
        assert_alike(found, rows[len(PROMPT) - 1 + at], told.tokens["r"][at], 5, (3, 77))
    assert any(found.rank > 1 for found in told.logprobs["r"])
    assert told.prompts == {}


@pytest.mark.parametrize("kind", ["qwen3-tied", "gemma2"])
def test_tokens_that_are_given_are_said_and_told_as_the_reference_has_them(
    tiny: Callable[[str], Tiny], kind: str
) -> None:
    reference, given = tiny(kind), (88, 3, 3, 61, 0, 12, 97, 44)
    wanted = {"logprobs": 4, "logprob_token_ids": (5,), "trace_decode_token_ids": given}
    forced = ask("r", PROMPT, len(given), temperature=1, seed=9, **wanted)
    told = finish(make_engine(reference), ask("o", temperature=1), forced, ask("p", PROMPT[:3]))
    assert told.tokens["r"] == [*given]
    rows = expected(reference, [*PROMPT, *given])
    for at, found in enumerate(told.logprobs["r"]):
        assert_alike(found, rows[len(PROMPT) - 1 + at], given[at], 4, (5,))
    alone = finish(make_engine(reference), forced)
    assert alone.logprobs["r"] == told.logprobs["r"]
    # neighbours draw their own
    assert finish(make_engine(reference), ask("p", PROMPT[:3])).tokens["p"] == told.tokens["p"]


def test_an_answer_whose_tokens_were_drawn_has_the_same_numbers_when_they_are_given(
    tiny: Callable[[str], Tiny],
) -> None:
    reference = tiny("qwen3-tied")
    drawn = finish(make_engine(reference), ask("r", tokens=40, logprobs=2, temperature=1, seed=7))
    wanted = {"logprobs": 2, "trace_decode_token_ids": tuple(drawn.tokens["r"])}
    others = [ask(f"o{index}", PROMPT[index:] * 2, 40) for index in range(5)]
    # too few blocks for all: some are thrown out and computed again
    engine = make_engine(reference, blocks=40)
    again = finish(engine, *others[:3], ask("r", tokens=40, **wanted), *others[3:])
    assert engine._scheduler.statistics().preemptions > 0
    assert again.tokens["r"] == drawn.tokens["r"]
    assert again.logprobs["r"] == drawn.logprobs["r"]


def test_zero_tells_of_the_sampled_token_alone(tiny: Callable[[str], Tiny]) -> None:
    told = finish(make_engine(tiny("qwen3-tied")), ask("r", logprobs=0))
    assert [found.tokens for found in told.logprobs["r"]] == [(token,) for token in told.tokens["r"]]


def test_a_prompt_s_tokens_are_judged_in_chunks_as_they_are_whole(tiny: Callable[[str], Tiny]) -> None:
    reference = tiny("llama-untied")
    prompt = PROMPT * 4  # several chunks of 16, and several steps
    told = finish(make_engine(reference), ask("r", prompt, prompt_logprobs=3))
    rows = expected(reference, list(prompt))
    assert len(told.prompts["r"]) == len(prompt) - 1
    for at, found in enumerate(told.prompts["r"], 1):
        assert_alike(found, rows[at - 1], prompt[at], 3)


def test_the_prefix_cache_hides_no_part_of_a_prompt_that_is_to_be_judged(tiny: Callable[[str], Tiny]) -> None:
    engine = make_engine(tiny("qwen3-tied"))
    first = finish(engine, ask("a", prompt_logprobs=2))
    again = finish(engine, ask("b", prompt_logprobs=2))
    assert again.prompts["b"] == first.prompts["a"]


@pytest.mark.parametrize("kind", ["llama-untied", "mistral-windowed"])
@pytest.mark.parametrize("start", [0, 1, 15, 16, 33, 82, 83, 200])
def test_a_prompt_is_judged_from_a_position_on_as_it_is_whole(
    tiny: Callable[[str], Tiny], kind: str, start: int
) -> None:
    engine = make_engine(tiny(kind))
    prompt = PROMPT * 4
    whole = finish(make_engine(tiny(kind)), ask("r", prompt, prompt_logprobs=3))
    told = finish(engine, ask("r", prompt, prompt_logprobs=3, prompt_logprob_start=start))
    # the first that is told of is the one behind it
    assert told.prompts.get("r", ()) == whole.prompts["r"][start:]
    again = finish(engine, ask("s", prompt, prompt_logprobs=3, prompt_logprob_start=start))
    assert again.prompts.get("s", ()) == told.prompts.get("r", ())
    # what is before it is found, in blocks of 4, and the last token never is
    assert engine._scheduler.attach("s", 0).cached == min(start, len(prompt) - 1) // 4 * 4  # type: ignore[union-attr]


ROWS = tuple(((7 * at) % 97, (5 * at + 1) % 97)[: at % 3] for at in range(1, len(PROMPT) * 4))
"""Of each token of a prompt but the first two tokens, one or none."""


@pytest.mark.parametrize("start", [0, 1, 15, 16, 82])
def test_each_token_of_a_prompt_is_told_with_its_own_candidates(tiny: Callable[[str], Tiny], start: int) -> None:
    reference, prompt = tiny("llama-untied"), PROMPT * 4
    wanted = {"prompt_logprobs": 1, "prompt_logprob_start": start, "prompt_logprob_token_ids": ROWS[start:]}
    told = finish(make_engine(reference), ask("r", prompt, **wanted), ask("o", PROMPT, prompt_logprobs=0))
    rows = expected(reference, list(prompt))
    assert len(told.prompts["r"]) == len(prompt) - 1 - start
    for at, found in enumerate(told.prompts["r"], start + 1):
        assert_alike(found, rows[at - 1], prompt[at], 1, ROWS[at - 1])


def test_the_same_candidates_stand_beside_every_token_of_a_prompt_and_others_beside_the_answer_s(
    tiny: Callable[[str], Tiny],
) -> None:
    reference = tiny("qwen3-tied")
    wanted = {"prompt_logprobs": 0, "prompt_logprob_token_ids": (3, 77), "logprobs": 0, "logprob_token_ids": (5,)}
    told = finish(make_engine(reference), ask("r", **wanted))
    rows = expected(reference, [*PROMPT, *told.tokens["r"]])
    for at, found in enumerate(told.prompts["r"], 1):
        assert_alike(found, rows[at - 1], PROMPT[at], 0, (3, 77))
    for at, found in enumerate(told.logprobs["r"], len(PROMPT)):
        assert_alike(found, rows[at - 1], found.tokens[0], 0, (5,))


def test_neighbours_chunks_and_lost_blocks_change_no_digit(tiny: Callable[[str], Tiny]) -> None:
    reference = tiny("qwen3-tied")
    wanted = {"logprobs": 4, "prompt_logprobs": 1}
    alone = finish(make_engine(reference), ask("r", tokens=40, **wanted))
    others = [
        ask(f"o{index}", tuple((3 * index + 5 * at) % VOCABULARY for at in range(7 + 9 * index)), 40)
        for index in range(5)
    ]
    # too few blocks for all: some are thrown out and computed again
    engine = make_engine(reference, blocks=40)
    crowd = finish(engine, *others[:3], ask("r", tokens=40, **wanted), *others[3:])
    assert engine._scheduler.statistics().preemptions > 0
    assert crowd.logprobs["r"] == alone.logprobs["r"]
    assert crowd.prompts["r"] == alone.prompts["r"]


def test_whoever_asks_again_is_told_all_of_it_again(tiny: Callable[[str], Tiny]) -> None:
    engine = make_engine(tiny("qwen3-tied"))
    told = finish(engine, ask("r", logprobs=1, prompt_logprobs=0))
    event = engine._scheduler.attach("r", 0)
    assert event is not None
    assert list(event.logprobs) == told.logprobs["r"]
    assert event.prompt_logprobs == told.prompts["r"]
    later = engine._scheduler.attach("r", 9)
    assert later is not None
    assert list(later.logprobs) == told.logprobs["r"][9:]
    assert later.prompt_logprobs == ()


def test_an_answer_that_is_taken_up_again_keeps_what_was_told_before(tiny: Callable[[str], Tiny]) -> None:
    reference = tiny("qwen3-tied")
    told = finish(make_engine(reference), ask("r", logprobs=1))
    sampling = Sampling(max_tokens=12, logprobs=1)
    begun, known = tuple(told.tokens["r"][:5]), tuple(told.logprobs["r"][:5])
    submit = Submit(
        request="r", prompt=PROMPT, sampling=sampling, frontend="f", tenant="t", output=begun, logprobs=known
    )
    engine = make_engine(reference)
    rest = finish(engine, submit)
    assert [*known, *rest.logprobs["r"]] == told.logprobs["r"]
    whole = engine._scheduler.attach("r", 0)
    assert whole is not None
    assert list(whole.logprobs) == told.logprobs["r"]


def test_more_numbers_than_a_message_holds_are_refused(tiny: Callable[[str], Tiny]) -> None:
    engine = make_engine(tiny("qwen3-tied"))
    # more than the context holds are never told
    assert isinstance(engine.add(ask("r", tokens=100_000, logprobs=5)), Accepted)
    answer = engine.add(ask("s", tokens=100_000, logprobs=5, logprob_token_ids=tuple(range(1024))))
    assert isinstance(answer, Refused)
    assert answer.reason == "invalid"
    assert re.search(r"come to \d{6} numbers, of at most 200000", answer.message)
    assert "max_tokens" in answer.message


def test_equals_are_told_in_one_order_and_a_rank_counts_the_likelier_ones() -> None:
    logits = torch.tensor([[1.0, 2.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    first, second = measure(logits, [2, 3], 9, [(1, 400)] * 2)
    assert first.rank == 1
    assert set(first.tokens[1:5]) == {0, 1, 2, 3}
    assert first.tokens[5:] == (1,)
    assert second.rank == 1
    assert measure(logits[1:], [3], 9, [(1, 400)]) == [second]


MODES: tuple[LogprobsMode, ...] = ("raw_logprobs", "raw_logits", "processed_logprobs", "processed_logits")


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_says_of_which_logits_it_is_told_and_how(mode: LogprobsMode) -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, float("-inf")]])
    (told,) = measure(logits, [1], 4, [()], mode)
    chances = torch.log_softmax(logits, dim=-1)[0]
    least = -9999.0 if mode.startswith("processed") else float("-inf")
    expected = (logits[0] if mode.endswith("logits") else chances).tolist()[:3]
    assert (told.tokens, told.rank) == ((1, 0, 1, 2, 3), 2)
    assert told.logprobs == pytest.approx((expected[1], *expected, least))


@pytest.mark.parametrize("mode", MODES)
def test_what_an_engine_tells_is_of_what_the_model_gave_or_of_what_a_token_is_drawn_from(
    tiny: Callable[[str], Tiny], mode: LogprobsMode
) -> None:
    reference, wanted = tiny("qwen3-tied"), {"logprobs": 8, "prompt_logprobs": 2, "seed": 4}
    drawn = {"temperature": 0.5, "top_k": 3, "logit_bias": {9: 5.0}}
    told = finish(make_engine(reference, logprobs_mode=mode), ask("r", tokens=4, **wanted, **drawn))
    rows = reference.logits([*PROMPT, *told.tokens["r"]]).float()
    for at, found in enumerate(told.logprobs["r"]):
        row = rows[len(PROMPT) - 1 + at].clone()
        if mode.startswith("processed"):
            row[9] += 5.0
            row /= 0.5
            row[row < row.topk(3).values[-1]] = -torch.inf
        row = (row if mode.endswith("logits") else torch.log_softmax(row, dim=-1)).clamp(min=-9999)
        assert found.logprobs == pytest.approx([row[name].item() for name in found.tokens], abs=4e-4)
        assert sum(value > -9999 for value in found.logprobs[1:]) == (3 if mode.startswith("processed") else 8)
    # nothing of a prompt is processed
    row = rows[0] if mode.endswith("logits") else torch.log_softmax(rows[0], dim=-1)
    first = told.prompts["r"][0]
    assert first.logprobs == pytest.approx([row[name].item() for name in first.tokens], abs=4e-4)


def test_of_a_greedy_answer_processed_logits_are_those_that_the_likeliest_is_taken_of(
    tiny: Callable[[str], Tiny],
) -> None:
    reference = tiny("qwen3-tied")
    engine = make_engine(reference, logprobs_mode="processed_logits")
    told = finish(engine, ask("r", tokens=2, logprobs=2, top_k=1, bad_words=((9,),)))
    row = reference.logits([*PROMPT]).float()[-1].clone()
    row[9] = -torch.inf
    assert told.logprobs["r"][0].logprobs[1:] == pytest.approx(row.topk(2).values.tolist(), abs=4e-4)
