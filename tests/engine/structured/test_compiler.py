"""A worker's grammars: compiled once, kept for a while, and never the end of the worker."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, EntryPoints
from typing import Any, cast

import pytest

from engine.errors import BadRequest
from engine.structured import compiler, registry
from engine.structured.compiler import Grammars
from engine.structured.grammar import Backend, Grammar, Vocabulary
from engine.structured.guidance import Guidance
from schemas.structured import MOST_SOURCE, Structured


@dataclass
class Counting:
    """A backend that says how often it was asked."""

    vocabulary: Vocabulary
    compiled: list[str] = field(default_factory=list)

    def compile(self, structured: Structured) -> Grammar:
        if structured.text == "broken":
            raise ZeroDivisionError("oh")
        self.compiled.append(structured.text)
        return cast("Grammar", object())


def regex(text: str, **more: Any) -> Structured:
    return Structured(kind="regex", text=text, **more)


@pytest.fixture
def made(vocabulary: Vocabulary) -> tuple[Grammars, list[Counting]]:
    backends: list[Counting] = []

    def make(given: Vocabulary) -> Backend:
        backends.append(Counting(given))
        return backends[-1]

    return Grammars(make, lambda: vocabulary), backends


def test_a_grammar_is_compiled_once_whatever_it_is_called(made: tuple[Grammars, list[Counting]]) -> None:
    grammars, backends = made
    assert not backends
    assert grammars.prepare(regex("a")) == ""
    assert grammars.get(regex("a", field="response_format", after="</think>")) is grammars.get(regex("a"))
    assert [backend.compiled for backend in backends] == [["a"]]


def test_threads_that_want_the_same_get_the_same(made: tuple[Grammars, list[Counting]]) -> None:
    grammars, backends = made
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: grammars.get(regex(str(n % 3))), range(60)))
    assert len(set(map(id, found))) == 3
    assert sorted(backends[0].compiled) == ["0", "1", "2"]


def test_the_latest_are_kept(made: tuple[Grammars, list[Counting]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "MOST_KEPT", 2)
    grammars, backends = made
    for text in ("a", "b", "a", "c", "a", "b"):
        grammars.get(regex(text))
    assert backends[0].compiled == ["a", "b", "c", "b"]


def test_a_backend_that_breaks_is_a_problem_of_that_grammar(made: tuple[Grammars, list[Counting]]) -> None:
    grammars, _ = made
    assert grammars.prepare(regex("broken")) == "the grammar backend broke: ZeroDivisionError('oh')"
    assert grammars.prepare(regex("a")) == ""


def test_what_came_past_the_checks_is_looked_at_again(made: tuple[Grammars, list[Counting]]) -> None:
    grammars, backends = made
    assert grammars.prepare(regex("a" * (MOST_SOURCE + 1))).startswith("structured: this has 131073 characters")
    assert not backends


def test_a_large_schema_does_not_hold_others_up_for_long(vocabulary: Vocabulary) -> None:
    grammars = Grammars(Guidance, lambda: vocabulary)
    names = [f'"p{n}": {{"type": "string", "minLength": 2}}' for n in range(300)]
    required = ", ".join(f'"p{n}"' for n in range(300))
    text = f'{{"type": "object", "properties": {{{", ".join(names)}}}, "required": [{required}]}}'
    grammars.prepare(regex("a"))
    began = time.process_time()
    assert grammars.prepare(Structured(kind="json_schema", text=text)) == ""
    assert time.process_time() - began < 10


def test_a_backend_of_another_package_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = EntryPoint("mine", f"{__name__}:Counting", registry.GROUP)

    def installed(group: str) -> EntryPoints:
        assert group == registry.GROUP
        return EntryPoints([mine])

    monkeypatch.setattr(registry, "entry_points", installed)
    assert registry.backend("mine") is Counting
    assert registry.backend(registry.BUILT_IN) is Guidance
    with pytest.raises(BadRequest, match="installed are llguidance, mine"):
        registry.backend("other")
