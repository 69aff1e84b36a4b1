"""What a parsed answer is made of, in the order it was written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of what is said."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of what is thought before."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A tool call begins: its name is known."""

    index: int
    """Calls of an answer are numbered from 0, without gaps."""
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """A piece of a call's arguments: joined up they are the JSON text of an object, or the beginning of one."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnded:
    """Nothing more comes of the call's arguments."""

    index: int
    whole: bool = True


Part = Content | Reasoning | CallBegun | CallArguments | CallEnded


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A tool call as written."""

    name: str
    arguments: str
    """JSON text of the arguments object; exactly as the model wrote it, where it wrote JSON."""
    whole: bool = True
    """Whether it is one: arguments that were cut off, or go on as no JSON does, are told up to there."""


def joined(parts: Iterable[Part]) -> list[Part]:
    """Join neighbours of the same kind: what is left does not depend on where the input was cut."""
    whole: list[Part] = []
    for part in parts:
        last = whole[-1] if whole else None
        match part, last:
            case (Content(text), Content(before)):
                whole[-1] = Content(before + text)
            case (Reasoning(text), Reasoning(before)):
                whole[-1] = Reasoning(before + text)
            case (CallArguments(index, text), CallArguments(of, before)) if of == index:
                whole[-1] = CallArguments(index, before + text)
            case _:
                whole.append(part)
    return whole
