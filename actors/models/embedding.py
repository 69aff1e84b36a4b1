"""Vectors of texts by models of providers elsewhere, and by those that the stack itself serves."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from actors.errors import CallFailed
from actors.models.budgets import Books, tokens_of
from actors.models.poolers import LOCAL, Embedded, Poolers
from actors.models.registry import Reached, Registry, reach
from actors.models.remote import UNREADABLE, Outside, discreet
from actors.models.transport import Answered, Lost, Slow
from actors.models.wires.failures import broken, late, refused, unheeded, unreachable
from actors.models.wires.vectors import most_texts, request_of, told_of
from schemas.messages import Usage
from schemas.runs import Problem

_MOST_BYTES: Final = 64 << 20
"""Of one answer."""


class Embeddings:
    """Asks any provider for vectors, by `provider/model`; `local/NAME` is a model that the stack serves."""

    def __init__(
        self, registry: Registry, outside: Outside, books: Books | None = None, poolers: Poolers | None = None
    ) -> None:
        """Take what there is to ask.

        Args:
            registry: the providers.
            outside: what their models share.
            books: what is spent, where there are budgets.
            poolers: the models that the stack serves.
        """
        self._poolers = poolers
        self._registry = registry
        self._outside = outside
        self._books = books

    def reached(self, name: str) -> Reached:
        """Find a model by its name.

        Raises:
            CallFailed: its provider is not known, or its key is missing.
        """
        given, _, model = name.partition("/")
        found = self._registry.find(given)
        if found is None or not model:
            message = f"no model {name!r} gives vectors here: name one as `provider/model`"
            raise CallFailed(Problem(kind="unknown_model", message=message, field="model"))
        return reach(*found, model, self._outside.environment)

    def check(self, name: str) -> None:
        """See that a model can be asked, as far as that is known before; one of the stack may come up later.

        Raises:
            CallFailed: its provider is not known, or its key is missing.
        """
        if self._poolers is None or not name.startswith(LOCAL):
            self.reached(name)

    async def embed(self, name: str, texts: Sequence[str], dimensions: int | None = None, tenant: str = "") -> Embedded:
        """Give a vector for each text, in their order.

        Args:
            name: `provider/model`, or `local/NAME`.
            texts: any number of them.
            dimensions: only so many of each vector, for models that were trained for it.
            tenant: whose budget it is.

        Raises:
            CallFailed: there are none; no problem holds a key.
        """
        if self._poolers is not None and name.startswith(LOCAL):
            return await self._poolers.embed(name.removeprefix(LOCAL), texts, dimensions)
        reached, vectors, tokens = self.reached(name), list[list[float]](), 0
        most = most_texts(reached)
        for first in range(0, len(texts), most):
            # an empty text is refused nearly everywhere
            part = [text if text.strip() else "." for text in texts[first : first + most]]
            try:
                told = await self._part(reached, part, dimensions, tenant)
            except CallFailed as failure:
                raise discreet(failure, reached, self._outside.signer) from None
            vectors += told.vectors
            tokens += told.tokens
        return Embedded(vectors, tokens)

    async def _part(self, reached: Reached, texts: Sequence[str], dimensions: int | None, tenant: str) -> Embedded:
        if self._books is None:
            return await self._ask(reached, texts, dimensions)
        size = tokens_of(sum(len(text.encode("utf-8", "replace")) for text in texts))
        held, took = await self._books.begin(reached.name, (tenant, "", ""), "embed", Usage(size)), Usage()
        try:
            told = await self._ask(reached, texts, dimensions)
            took = Usage(told.tokens or size)
        finally:
            await self._books.end(held, took)
        return told

    async def _ask(self, reached: Reached, texts: Sequence[str], dimensions: int | None) -> Embedded:
        request = request_of(reached, texts, dimensions)
        headers = {"accept": "application/json", **reached.headers, **request.headers}
        headers |= await self._outside.signer.headers(reached, request)
        transport = await self._outside.transport()
        try:
            async with (
                asyncio.timeout(self._outside.first_s or None),
                transport.post(request.url, headers, request.body) as answered,
            ):
                if answered.status != 200:
                    now = self._outside.clock.now()
                    raise refused(reached.name, answered.status, answered.headers, await answered.whole(), now)
                body = await _whole(answered, reached)
        except TimeoutError:
            raise late(reached.name, f"no vectors came within {self._outside.first_s:g} s") from None
        except Slow as slow:
            raise late(reached.name, str(slow)) from None
        except Lost as lost:
            raise unreachable(reached.name, str(lost)) from None
        return _read(body, reached, len(texts))


async def _whole(answered: Answered, reached: Reached) -> bytes:
    read = bytearray()
    async for data in answered.body:
        read += data
        if len(read) > _MOST_BYTES:
            raise broken(reached.name, f"its answer has more than {_MOST_BYTES} bytes")
    return bytes(read)


def _read(body: bytes, reached: Reached, count: int) -> Embedded:
    try:
        vectors, tokens = told_of(reached, body)
        lengths = [math.sqrt(sum(number * number for number in vector)) for vector in vectors]
    except UNREADABLE as error:
        raise broken(reached.name, f"its answer holds no vectors ({type(error).__name__})") from None
    widths = {len(vector) for vector in vectors}
    if len(vectors) != count or len(widths) != 1 or not all(0 < length < math.inf for length in lengths):
        raise broken(reached.name, f"{count} texts were asked about, and it gave {len(vectors)} vectors")
    units = [[number / length for number in vector] for vector, length in zip(vectors, lengths, strict=True)]
    return Embedded(units, tokens)


class RoutedEmbedder:
    """An `Embedder` that is a model of a provider, or `local/NAME`, one that the stack serves (`pooling.model`).

    `RoutedEmbedder("openai/text-embedding-3-small")`: what is said goes to the provider, also what is only to be found
    again. `RoutedEmbedder("local/all-MiniLM-L6-v2")`: nothing leaves the stack, and no process of agents loads a model.
    """

    def __init__(self, model: str, dimensions: int | None = None) -> None:
        """Name it; as `Embeddings.embed`."""
        self._model = model
        self._dimensions = dimensions
        self._embeddings: Embeddings | None = None

    @property
    def name(self) -> str:
        """Which vectors may be compared."""
        return f"{self._model}-{self._dimensions or 'all'}"

    def bind(self, embeddings: Embeddings) -> None:
        """Say by whom it asks: the process that serves its agents does.

        Raises:
            CallFailed: its provider is not known, or its key is missing.
        """
        self._embeddings = embeddings
        embeddings.check(self._model)

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return a vector for each text.

        Raises:
            CallFailed: there are none.
        """
        if self._embeddings is None:
            raise unheeded(self._model, "embedder", "is asked by `ostinato up`: give it to an agent that is served")
        return (await self._embeddings.embed(self._model, texts, self._dimensions)).vectors
