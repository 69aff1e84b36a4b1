"""The providers that are known, as data: where they are, which variable holds their key, and how they differ."""

from __future__ import annotations

import difflib
import fnmatch
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from actors.errors import CallFailed
from actors.models.keys import Key
from schemas.messages import Usage
from schemas.models import Price
from schemas.runs import Problem
from schemas.wire import Wire

TABLE = Path(__file__).with_name("providers.toml")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_INSTEAD = {
    "AWS_REGION": "AWS_DEFAULT_REGION",
    "GOOGLE_VERTEX_PROJECT": "GOOGLE_CLOUD_PROJECT",
    "GOOGLE_VERTEX_LOCATION": "GOOGLE_CLOUD_LOCATION",
}

WireName = Literal["chat", "anthropic", "gemini", "azure", "bedrock", "vertex", "responses"]
Auth = Literal["bearer", "x-api-key", "x-goog-api-key", "api-key", "aws", "google"]
ToolIds = Literal["any", "short", "plain", "nine"]
SchemaKind = Literal["plain", "openai", "anthropic", "gemini"]


class Provider(Wire, frozen=True, forbid_unknown_fields=True):
    """One provider."""

    url: str = ""
    """Its base, in which `${NAME}` stands for a variable of the environment."""
    keys: tuple[str, ...] = ()
    """Variables of the environment that may hold the key: the first one that is set does."""
    also: tuple[str, ...] = ()
    """Other names that it goes by."""
    wire: WireName = "chat"
    responses: tuple[str, ...] = ()
    """Patterns of models that are asked by `responses` all the same."""
    auth: Auth = "bearer"
    """How the key is sent."""
    keyless: bool = False
    """Whether it may be asked without a key."""
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    seed: Literal["", "seed", "random_seed"] = ""
    """The field that it takes a seed in; empty where it knows of none."""
    usage: bool = True
    """Whether a stream must be asked to tell what it cost."""
    parallel: bool = True
    """Whether it knows `parallel_tool_calls`."""
    thoughts: Literal["", "reasoning_content", "reasoning", "reasoning_details"] = ""
    """The field of an assistant's message in which it wants back what was thought."""
    tool_ids: ToolIds = "any"
    """What ids of tool calls may look like: `actors.models.history`."""
    schema: SchemaKind = "plain"
    """What it takes of JSON Schema: `actors.models.parameters`."""
    structured: Literal["schema", "object", "none"] = "schema"
    """What it can bind an answer to."""
    alternate: bool = False
    """Whether user and assistant must take turns."""
    untempered: tuple[str, ...] = ()
    """Patterns of models that take neither a temperature nor what is like it."""
    idempotency: str = ""
    """The header by which it knows a request that comes again."""
    version: str = ""
    """Of its interface, where requests name one."""
    headers: Mapping[str, str] = {}
    """Sent with every request, with variables as in `url`."""
    prices: Mapping[str, Price] = {}
    """By pattern of models."""
    knobs: tuple[str, ...] = ()
    """Further fields of `Sampling` that it takes by the same name."""
    logprobs: bool = False
    """Whether it tells what it made of tokens."""
    images: bool = True
    """Whether any of its models sees pictures."""
    thinks: tuple[str, ...] = ()
    """Patterns of models that tell what they think when they are asked to."""

    def speaks(self, model: str) -> WireName:
        """Name the format that a model is asked in."""
        return "responses" if _matches(model, self.responses) else self.wire

    def tempered(self, model: str) -> bool:
        """Say whether a model takes a temperature."""
        return not _matches(model, self.untempered)

    def told(self, model: str) -> bool:
        """Say whether a model tells what it thinks when it is asked to."""
        return _matches(model, self.thinks)

    def cost(self, model: str, usage: Usage) -> float | None:
        """Give what a call cost, US dollars; None where no price is known."""
        for pattern, price in self.prices.items():
            if fnmatch.fnmatchcase(model, pattern):
                return paid(price, usage)
        return None


def paid(price: Price, usage: Usage) -> float:
    """Give what so many tokens cost, US dollars."""
    prompt, answer, cached = price[:3]
    thought = price[3] if len(price) > 3 else answer
    fresh, said = usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens - usage.reasoning_tokens
    tokens = (fresh, usage.cached_tokens, said, usage.reasoning_tokens)
    return sum(count * each for count, each in zip(tokens, (prompt, cached, answer, thought), strict=True)) / 1e6


def _matches(model: str, patterns: Iterable[str]) -> bool:
    name = model.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def read_table() -> dict[str, Provider]:
    """Read the table of providers that are known."""
    return msgspec.convert(tomllib.loads(TABLE.read_text(encoding="utf-8")), dict[str, Provider])


class Registry:
    """Providers by name."""

    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = dict(providers)
        self._names = {other: name for name, provider in providers.items() for other in (name, *provider.also)}

    @classmethod
    def load(cls, changes: Mapping[str, Mapping[str, object]] | None = None) -> Registry:
        """Read the table, and change or add what a user does; as `changed`."""
        return cls(read_table()).changed(changes or {})

    def changed(self, changes: Mapping[str, Mapping[str, object]]) -> Registry:
        """Give these with changes, and with new ones.

        Raises:
            ValueError: a change has a field that no provider has, or one of the wrong type; a new one has no URL.
        """
        table = dict(self._providers)
        for name, fields in changes.items():
            whole = msgspec.to_builtins(table.get(name, Provider()))
            try:
                table[name] = msgspec.convert({**whole, **fields}, Provider)
            except msgspec.ValidationError as error:
                raise ValueError(f"provider {name!r}: {error}") from error
            if not table[name].url:
                raise ValueError(f"provider {name!r} is not a known one: give its `url`")
        return Registry(table)

    def __iter__(self) -> Iterator[str]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def find(self, name: str) -> tuple[str, Provider] | None:
        """Give a provider and its own name, by any name that it goes by."""
        own = self._names.get(name)
        return None if own is None else (own, self._providers[own])

    def named(self, name: str) -> Provider:
        """Give the provider of a name that is its own.

        Raises:
            KeyError: there is none.
        """
        return self._providers[name]

    def near(self, name: str) -> str:
        """Give the name that is likest."""
        return next(iter(difflib.get_close_matches(name, self._names, n=1)), "")


@dataclass(frozen=True, slots=True)
class Reached:
    """A model of a provider, with what is needed to ask it."""

    name: str
    """`provider/model`."""
    model: str
    provider: Provider
    url: str
    """The provider's, with its variables filled in."""
    key: Key | None
    """None where it is asked without one, or signs by other means."""
    headers: Mapping[str, str] = field(repr=False)
    """Sent with every request."""
    hidden: tuple[str, ...] = field(repr=False)
    """What of those came from the environment."""
    environment: Mapping[str, str] = field(repr=False)
    """Where further secrets are, for those that sign."""


def reach(
    name: str, provider: Provider, model: str, environment: Mapping[str, str], headers: Mapping[str, str] | None = None
) -> Reached:
    """Fill in what the environment holds; `headers` are sent over the provider's.

    Raises:
        CallFailed: a variable is not set; the problem names it.
    """
    value, variable = _first(provider.keys, environment)
    key = None if value is None else Key.of(value, variable)
    if key is None and not provider.keyless and provider.auth not in {"aws", "google"}:
        raise _missing(name, " or ".join(provider.keys), "its key")

    def filled(text: str, what: str) -> str:
        for needed in _VARIABLE.findall(text):
            if not _variable(needed, environment):
                raise _missing(name, needed, what)
        return _VARIABLE.sub(lambda found: _variable(found[1], environment).strip(), text)

    url = filled(provider.url, "a part of its address").rstrip("/")
    given = {header.lower(): value for header, value in (*provider.headers.items(), *(headers or {}).items())}
    sent = {header: filled(value, f"its header {header!r}") for header, value in given.items()}
    hidden = [_variable(found, environment) for value in given.values() for found in _VARIABLE.findall(value)]
    return Reached(f"{name}/{model}", model, provider, url, key, sent, tuple(hidden), environment)


def _variable(name: str, environment: Mapping[str, str]) -> str:
    """Give a variable's value, or that of the one that is customary in its place; empty where neither is set."""
    return environment.get(name) or environment.get(_INSTEAD.get(name, ""), "")


def _first(variables: Iterable[str], environment: Mapping[str, str]) -> tuple[str | None, str]:
    for variable in variables:
        value = environment.get(variable, "").strip()
        if value:
            return value, variable
    return None, ""


def _missing(name: str, variable: str, what: str) -> CallFailed:
    message = f"provider {name!r}: {what} is missing: set {variable} in the environment of `ostinato up`"
    return CallFailed(Problem(kind="key", message=message, field=variable))
