"""What processors of other packages do to logits, and what becomes of those that do not work."""

from __future__ import annotations

import re

import msgspec
import pytest

from engine.errors import BadRequest
from engine.llm import LLM
from engine.runner.loading import RunnerConfig
from infra.settings import EMBEDDED_CHECKPOINT
from schemas.generation import Sampling
from tests.engine.conftest import Install

PACKAGE = """
def only(logits, argument, prompt, output):
    if not isinstance(argument, list):
        raise ValueError("give a list of token ids")
    kept = logits[argument].clone()
    logits.fill_(float("-inf"))
    logits[argument] = kept

def in_turn(logits, argument, prompt, output):
    only(logits, [argument[len(output) % len(argument)]], prompt, output)

def echo(logits, argument, prompt, output):
    logits[int(prompt[len(output) % len(prompt)])] = 1000.0

def nothing(logits, argument, prompt, output):
    logits.fill_(float("-inf"))

def no_number(logits, argument, prompt, output):
    logits[3] = float("nan")

def broken(logits, argument, prompt, output):
    raise RuntimeError("out of order")

def scribbler(logits, argument, prompt, output):
    prompt[0] = 5

no_function = 7
"""
NAMES = ("only", "in_turn", "echo", "nothing", "no_number", "broken", "scribbler", "no_function")


@pytest.fixture
def llm(install: Install) -> LLM:
    install("played", PACKAGE, logits_processors="\n".join(f"{name} = played:{name}" for name in NAMES))
    return LLM(str(EMBEDDED_CHECKPOINT), device="cpu", runner=RunnerConfig(model="", blocks=64))


def test_a_processor_decides_what_may_come_next(llm: LLM) -> None:
    for sampling in (Sampling(), Sampling(temperature=1.0, seed=3)):
        wanted = msgspec.structs.replace(sampling, max_tokens=6, ignore_eos=True, extra_args={"in_turn": [40, 50, 60]})
        (answer,) = llm.generate(["Hello"], wanted)
        assert answer.tokens == (40, 50, 60, 40, 50, 60)


def test_it_is_told_the_prompt_and_concerns_only_who_asks_for_it(llm: LLM) -> None:
    plain = Sampling(max_tokens=4)
    (alone,) = llm.generate([[7, 8, 9]], plain)
    (echoed,) = llm.generate([[7, 8, 9]], msgspec.structs.replace(plain, extra_args={"echo": None}))
    assert echoed.tokens == (7, 8, 9, 7)
    assert llm.generate([[7, 8, 9]], plain)[0].tokens == alone.tokens


@pytest.mark.parametrize(
    ("extra_args", "message"),
    [
        ({"only": 3}, "extra_args.only: give a list of token ids"),
        ({"nobody": 3}, "extra_args: there is no logits processor 'nobody': installed are broken, echo, in_turn"),
        ({"no_function": 3}, "there is no logits processor 'no_function'"),
        ({"nothing": 3}, "leave no token that could come next"),
        ({"no_number": 3}, "'no_number' made numbers that are none"),
        ({"scribbler": 3}, "extra_args.scribbler: assignment destination is read-only"),
        ({"broken": 3}, "'broken' broke: RuntimeError('out of order')"),
    ],
)
def test_what_goes_wrong_ends_that_request_alone(llm: LLM, extra_args: dict[str, object], message: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(message)):
        llm.generate([[7, 8, 9]], Sampling(max_tokens=4, extra_args=extra_args))
    (right,) = llm.generate([[7, 8, 9]], Sampling(max_tokens=4))
    assert len(right.tokens) == 4
