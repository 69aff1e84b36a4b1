"""Finds the model that a name means: an engine here, a chain, or `provider/model` elsewhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from actors.errors import CallFailed
from actors.models.breaker import Breaker
from actors.models.chain import Chained
from actors.models.guarded import Guarded
from actors.models.pricing import Pricing
from actors.models.provider import ModelProvider
from actors.models.registry import Registry, reach
from actors.models.remote import Outside, RemoteModel
from actors.models.sight import Unseeing
from schemas.messages import Usage
from schemas.models import ModelChain, ModelEntry
from schemas.runs import Problem

LOCAL = "local/"
"""What the names of engines here may begin with."""

MOST_NAMES = 1024
"""Models elsewhere that are kept, the latest asked ones, with their breakers: a request may name any."""

Binding = Literal["none", "object", "schema", "grammar"]
_WEAKEST: tuple[Binding, ...] = ("none", "object", "schema", "grammar")

Wrap = Callable[[str, ModelProvider], ModelProvider]


class Router(Mapping[str, ModelProvider]):
    """Every model that can be asked by name; iterated over, those that need no provider elsewhere."""

    def __init__(
        self,
        engines: Mapping[str, ModelProvider],
        registry: Registry,
        outside: Outside,
        chains: Mapping[str, ModelChain],
        breaker: Callable[[], Breaker],
        wrap: Wrap = lambda _, model: model,
        nearby: Callable[[str], ModelProvider] | None = None,
        pricing: Pricing | None = None,
    ) -> None:
        """Take what there is to choose from.

        Args:
            engines: by the names that clients know them by.
            registry: the providers elsewhere.
            outside: what their models share.
            chains: by name.
            breaker: makes one, for each model elsewhere.
            wrap: put around every model, inside of its breaker.
            nearby: makes the model of another process on the same NATS; without it only engines here are `local`.
            pricing: what calls cost.
        """
        self._registry = registry
        self._outside = outside
        self._chains = dict(chains)
        self._breaker = breaker
        self._wrap = wrap
        self._nearby = nearby
        self._pricing = pricing
        self._engines = {name: wrap(name, Unseeing(name, engine)) for name, engine in engines.items()}
        self._found: OrderedDict[str, ModelProvider] = OrderedDict()

    def __iter__(self) -> Iterator[str]:
        return iter([*self._engines, *self._chains])

    def __len__(self) -> int:
        return len(self._engines) + len(self._chains)

    def __contains__(self, name: object) -> bool:
        """Say whether a model can be asked now: its provider is known, and its key is there."""
        return isinstance(name, str) and self.explain(name) is None

    def __getitem__(self, name: str) -> ModelProvider:
        """Give the model of a name; a missing key is told when it is asked.

        Raises:
            KeyError: there is none.
        """
        engine = self._engines.get(name.removeprefix(LOCAL))
        if engine is not None:
            return engine
        if name in self._chains:
            return self.chained(self._chains[name])
        if name not in self._found:
            self._found[name] = self._remote(name)
            if len(self._found) > MOST_NAMES:
                self._found.popitem(last=False)
        self._found.move_to_end(name)
        return self._found[name]

    def chained(self, chain: ModelChain) -> ModelProvider:
        """Give the models of a chain as one."""
        return Chained(chain, self)

    def binds(self, name: str) -> Binding:
        """Say what a model's answers can be bound to: an engine here to any grammar, a chain to what each of it can."""
        if name in self._chains:
            return min((self.binds(entry.model) for entry in self._chains[name].entries), key=_WEAKEST.index)
        provider, _, model = name.partition("/")
        found = None if name in self._engines or not model else self._registry.find(provider)
        return "grammar" if found is None else found[1].structured

    def is_priced(self, name: str) -> bool:
        """Say whether it is known what a model's calls cost: of a chain, each one's."""
        if name in self._chains:
            return all(self.is_priced(entry.model) for entry in self._chains[name].entries)
        return self._pricing is not None and self._pricing.cost(name.removeprefix(LOCAL), Usage()) is not None

    def explain(self, name: str) -> Problem | None:
        """Say why a model cannot be asked; None where it can."""
        if name in self._engines or name.removeprefix(LOCAL) in self._engines:
            return None
        if name in self._chains:
            return self.explain_all(self._chains[name])
        provider, _, model = name.partition("/")
        if name.startswith(LOCAL) and model and self._nearby is not None:
            return None  # whoever offers it is found when it is asked
        found = self._registry.find(provider)
        if found is None or not model:
            return self._unknown(name, provider if model and provider != "local" else "")
        try:
            reach(*found, model, self._outside.environment)
        except CallFailed as failure:
            return failure.problem
        return None

    def explain_all(self, chain: ModelChain) -> Problem | None:
        """Say why a chain cannot be asked: a part of it that cannot is found out now, not on the day it is needed."""
        return next(filter(None, map(self._explain_entry, chain.entries)), None)

    def _explain_entry(self, entry: ModelEntry) -> Problem | None:
        problem = self.explain(entry.model)
        if problem is not None or not entry.headers:
            return problem
        provider, _, model = entry.model.partition("/")
        found = self._registry.find(provider)
        if found is None or entry.model in self._engines:
            message = f"no headers can be sent to {entry.model!r}, which is no model of a provider: leave `headers` out"
            return Problem(kind="invalid", message=message, field="headers")
        try:
            reach(*found, model, self._outside.environment, entry.headers)
        except CallFailed as failure:
            return failure.problem
        return None

    def _unknown(self, name: str, provider: str) -> Problem:
        message = f"no model {name!r}: this server has {', '.join(sorted(self))}"
        if provider:
            near = self._registry.near(provider)
            hint = f" (did you mean {near!r}?)" if near else ""
            message = (
                f"no model {name!r}: provider {provider!r} is not known{hint}; give its `url` in `models.providers`"
            )
        return Problem(kind="unknown_model", message=message, field="model")

    def _remote(self, name: str) -> ModelProvider:
        given, _, model = name.partition("/")
        if name.startswith(LOCAL) and model and self._nearby is not None:
            return self._wrap(model, Unseeing(name, self._nearby(model)))
        found = self._registry.find(given)
        if found is None or not model:
            raise KeyError(name)
        provider, entry = found
        whole = f"{provider}/{model}"
        remote = self._wrap(whole, RemoteModel(provider, entry, model, self._outside))
        return Guarded(whole, remote, self._breaker())
