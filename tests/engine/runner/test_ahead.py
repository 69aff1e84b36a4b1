"""Where the device goes ahead of the host a step is launched before the tokens of the one before are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from engine.models.decoder import Decoder
from engine.models.registry import load_model
from engine.runner.kv_cache import KvCache
from engine.runner.landing import Here, Numbers
from engine.runner.model_runner import ModelRunner
from schemas.generation import Sampling
from schemas.steps import Arrival, Slice
from tests.engine.conftest import Tiny, platform
from tests.engine.runner.test_model_runner import PROMPT, Plans, arrive

pytest.importorskip("triton", reason="the extra 'gpu' is not installed")

READS: Final = {
    *(getattr(Tensor, name) for name in ("tolist", "item", "numpy", "cpu", "nonzero", "__bool__", "__int__")),
    *(getattr(Tensor, name) for name in ("__float__", "__index__", "__contains__", "equal", "masked_select")),
    *(torch.nonzero, torch.equal, torch.masked_select, torch.unique),
}
"""What waits for a device when it is asked of one of its tensors."""


class NoReading(TorchFunctionMode):
    """Remembers who reads a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func is Tensor.__getitem__ and getattr(args[1], "dtype", None) is torch.bool
        if func in READS or by_mask:
            self.read.append(getattr(func, "__name__", str(func)))
        return func(*args, **(kwargs or {}))


class Late:
    """Numbers as a device's: they come when they are waited for, as they were when they were sent."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._there = {name: tensor.clone() for name, tensor in tensors.items()}
        self.waits = 0

    def wait(self) -> None:
        self.waits += 1

    def read(self) -> Numbers:
        self.wait()
        return Here(self._there).read()


@pytest.fixture
def model(tiny: Callable[[str], Tiny]) -> Decoder:
    return load_model(tiny("qwen3-tied").folder, platform("triton"))


def runner(model: Decoder, landing: Any = Late) -> ModelRunner:
    return ModelRunner(model, KvCache(model, 64, 16), "w", landing=landing)


@contextmanager
def nothing_is_read() -> Iterator[None]:
    with NoReading() as watch:
        yield
    assert watch.read == []


WISHES: Final = {
    "greedy": Sampling(max_tokens=99),
    "drawn": Sampling(max_tokens=99, temperature=0.9, top_p=0.9, top_k=20, seed=3),
    "told": Sampling(max_tokens=99, logprobs=3, prompt_logprobs=2, logprob_token_ids=(7,)),
    "biased": Sampling(max_tokens=99, logit_bias={4: 1.0}, min_tokens=50, stop_tokens=(3,)),
    "allowed": Sampling(max_tokens=99, allowed_token_ids=tuple(range(5, 60)), bad_words=((9,),)),
    "forced": Sampling(max_tokens=99, trace_decode_token_ids=(8, 9, 10)),
}


def steps(names: list[str]) -> Iterator[tuple[list[Slice], tuple[Arrival, ...]]]:
    blocks = iter(range(64))
    arrivals = tuple(
        arrive(name, PROMPT, (next(blocks), next(blocks)), sampling=WISHES.get(name, READING)) for name in names
    )
    yield [Slice(name, 0, len(PROMPT)) for name in names], arrivals
    for position in range(len(PROMPT), len(PROMPT) + 4):
        yield [Slice(name, position, 1) for name in names], ()


READING: Final = Sampling(max_tokens=99, presence_penalty=1.5, repetition_penalty=1.3)


def test_a_step_is_launched_while_the_one_before_is_on_its_way_and_nothing_is_read(model: Decoder) -> None:
    names, ahead, plain = [*WISHES], runner(model), runner(model, Here)
    plans, same, pending = Plans(), Plans(), []
    for slices, arrivals in steps(names):
        with nothing_is_read():
            pending.append(ahead.launch(plans.step(*slices, arrivals=arrivals)))
        assert pending[-1].under_way
    results = [one.result() for one in pending]  # five in a row, and not one was waited for
    for found, (slices, arrivals) in zip(results, steps(names), strict=True):
        expected = plain.execute(same.step(*slices, arrivals=arrivals))
        assert found.tokens == expected.tokens
        assert found.logprobs == expected.logprobs
        assert found.prompt_logprobs == expected.prompt_logprobs
        assert found.errors == expected.errors == ()


def test_penalties_wait_for_the_tokens_that_they_are_for(model: Decoder) -> None:
    ahead, plain, plans, same, pending = runner(model), runner(model, Here), Plans(), Plans(), []
    for slices, arrivals in steps(["penalised", "greedy"]):
        pending.append(ahead.launch(plans.step(*slices, arrivals=arrivals)))
    for one, (slices, arrivals) in zip(pending, steps(["penalised", "greedy"]), strict=True):
        assert one.result().tokens == plain.execute(same.step(*slices, arrivals=arrivals)).tokens


def test_who_fails_fails_in_the_step_that_was_launched_meanwhile_too_and_harms_nobody(model: Decoder) -> None:
    barren = Sampling(max_tokens=99, allowed_token_ids=(4,), bad_words=((4,),))
    ahead, plans = runner(model), Plans()
    arrivals = (arrive("good", blocks=(0, 1)), arrive("bad", blocks=(2, 3), sampling=barren))
    both = [Slice(name, 0, len(PROMPT)) for name in ("good", "bad")]
    first = ahead.launch(plans.step(*both, arrivals=arrivals))
    second = ahead.launch(plans.step(*(Slice(name, len(PROMPT), 1) for name in ("good", "bad"))))
    told, later = first.result(), second.result()
    assert [name for name, _ in told.errors] == [name for name, _ in later.errors] == ["bad"]
    assert told.refused == ("bad",)
    alone, own = runner(model, Here), Plans()
    expected = [
        alone.execute(own.step(Slice("good", 0, len(PROMPT)), arrivals=(arrive("good", blocks=(0, 1)),))).tokens[0],
        alone.execute(own.step(Slice("good", len(PROMPT), 1))).tokens[0],
    ]
    assert [told.tokens[0], later.tokens[0]] == expected


def test_a_row_that_another_has_taken_gets_no_token_of_the_one_before(model: Decoder) -> None:
    ahead, plans, whole = runner(model), Plans(), Slice("a", 0, len(PROMPT))
    first = ahead.launch(plans.step(whole, arrivals=(arrive("a", blocks=(0, 1)),)))
    other = tuple(reversed(PROMPT))
    second = ahead.launch(plans.step(Slice("b", 0, len(PROMPT)), arrivals=(arrive("b", other, (2, 3)),), gone=("a",)))
    third = ahead.launch(plans.step(Slice("b", len(PROMPT), 1)))
    found = [one.result().tokens for one in (first, second, third)]
    alone, own = runner(model, Here), Plans()
    expected = [
        alone.execute(own.step(Slice("b", 0, len(PROMPT)), arrivals=(arrive("b", other, (2, 3)),))).tokens,
        alone.execute(own.step(Slice("b", len(PROMPT), 1))).tokens,
    ]
    assert found[1:] == expected
    assert found[0][0][0] == "a"


def test_who_goes_on_in_the_block_of_one_that_fails_meanwhile_keeps_what_it_wrote(model: Decoder) -> None:
    barren = Sampling(max_tokens=99, allowed_token_ids=(4,), bad_words=((4,),))
    measured = Sampling(max_tokens=99, logprobs=5)
    tokens = (*PROMPT[:10], 50, 51, 52, 53)
    ahead, plans, begin = runner(model), Plans(), arrive("bad", blocks=(2,), sampling=barren)
    ahead.launch(plans.step(Slice("bad", 0, 10, (), sample=False), arrivals=(begin,))).result()
    failing = ahead.launch(plans.step(Slice("bad", 10, 3)))
    taker = arrive("taker", tokens, (2,), computed=10, sampling=measured)
    pending = [ahead.launch(plans.step(Slice("taker", 10, 4), arrivals=(taker,), gone=("bad",)))]
    assert [name for name, _ in failing.result().errors] == ["bad"]
    pending.append(ahead.launch(plans.step(Slice("taker", 14, 1))))
    alone, own, cold = runner(model, Here), Plans(), arrive("taker", tokens, (2,), sampling=measured)
    alone.execute(own.step(Slice("taker", 0, 10, (), sample=False), arrivals=(cold,)))
    for one, part in zip(pending, (Slice("taker", 10, 4), Slice("taker", 14, 1)), strict=True):
        found, expected = one.result(), alone.execute(own.step(part))
        assert (found.tokens, found.logprobs, found.errors) == (expected.tokens, expected.logprobs, ())


def test_the_results_of_later_steps_take_the_earlier_ones_in_first(model: Decoder) -> None:
    ahead, plans = runner(model), Plans()
    first = ahead.launch(plans.step(Slice("a", 0, len(PROMPT)), arrivals=(arrive("a", blocks=(0, 1)),)))
    second = ahead.launch(plans.step(Slice("a", len(PROMPT), 1)))
    later = second.result()
    assert (first.result().n, later.n) == (1, 2)


def test_a_step_is_computed_again_where_another_token_was_taken_than_was_drawn(model: Decoder) -> None:
    """Thinking ends after two tokens, by one that was not drawn, and the answer goes on from that."""
    budget = Sampling(max_tokens=99, thinking_budget=2, structured_after=(5,))
    found = []
    for landing in (Late, Here):
        own, plans = runner(model, landing), Plans()
        arrivals = (arrive("thinks", blocks=(0, 1), sampling=budget), arrive("not", blocks=(2, 3)))
        pending = [
            own.launch(plans.step(*(Slice(name, 0, len(PROMPT)) for name in ("thinks", "not")), arrivals=arrivals))
        ]
        pending += [
            own.launch(plans.step(*(Slice(name, len(PROMPT) + at, 1) for name in ("thinks", "not")))) for at in range(6)
        ]
        found.append([one.result().tokens for one in pending])
    assert found[0] == found[1]
    assert dict(found[0][2])["thinks"] == 5
