"""What is told of answers while they are written."""

from __future__ import annotations

from collections import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from engine.errors import BadRequest
from engine.generator import Completion, Generator, Run
from schemas.generation import TokenLogprobs

OutputKind = Literal["cumulative", "delta", "final"]
"""All that there is so far, or what is new since, or nothing until the end."""

OUTPUT_KINDS: Final[tuple[OutputKind, ...]] = get_args(OutputKind)


@dataclass(frozen=True, slots=True)
class Streamed:
    """An answer as far as it is told. Its text may be behind its tokens: characters come whole, and what may become a
    text that ends it is held back."""

    prompt: int
    """Which of the prompts it answers, from 0."""
    choice: int
    """Which of that prompt's answers it is, from 0."""
    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of each token, where `Sampling.logprobs` asks for it."""
    completion: Completion | None = None
    """The whole of it, once it is over."""


def streamed(
    generator: Generator, runs: Sequence[Run], n: int, kind: OutputKind
) -> abc.Generator[Streamed, None, None]:
    """Run requests, `n` of each prompt, and tell of them.

    Raises:
        BadRequest: There is no such kind.
    """
    if kind not in OUTPUT_KINDS:
        raise BadRequest("output_kind", f"{kind!r} is none of {', '.join(OUTPUT_KINDS)}")
    return _told(generator, runs, n, kind)


def _told(generator: Generator, runs: Sequence[Run], n: int, kind: OutputKind) -> abc.Generator[Streamed, None, None]:
    places = {run.submit.request: divmod(at, n) for at, run in enumerate(runs)}
    said = dict.fromkeys(places, (0, 0))
    for run in generator.run(runs):
        name = run.submit.request
        completion = None if run.finish is None else run.completion()
        if kind == "final" and completion is None:
            continue
        characters, tokens = said[name]
        if kind == "delta":
            said[name] = (len(run.answer.text), len(run.tokens))
        text, logprobs = run.answer.text[characters:], tuple(run.logprobs[tokens:])
        yield Streamed(*places[name], text, tuple(run.tokens[tokens:]), logprobs, completion)
