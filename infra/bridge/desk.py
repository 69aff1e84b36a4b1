"""What the routes of a protocol need of the bridge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from bus.connection import Connection
from bus.store import Store
from infra.bridge.exchange import Exchange
from infra.bridge.under_way import UnderWay
from infra.follow import ReadBack
from infra.settings import A2ASettings
from infra.spans.asides import Aside
from schemas.commands import Command, CommandData
from schemas.context import Clock, Ids
from schemas.openai import ChatRequest
from schemas.rest import AgentOffered

Timed = TypeVar("Timed", bound=CommandData)


class Around(Protocol):
    """What a bridge stands between."""

    @property
    def connection(self) -> Connection:
        """The bus."""

    @property
    def read_back(self) -> ReadBack:
        """The record."""

    @property
    def store(self) -> Callable[[], Awaitable[Store]]:
        """Opens the record."""

    @property
    def offered(self) -> tuple[AgentOffered, ...]:
        """What the agents are."""

    @property
    def ids(self) -> Ids:
        """Names for what is new."""

    @property
    def models(self) -> tuple[str, ...]:
        """What is served here."""

    @property
    def adapters(self) -> tuple[str, ...]:
        """What is served here with an adapter of the first of `models`."""

    @property
    def poolers(self) -> tuple[str, ...]:
        """What gives vectors or scores here."""

    @property
    def routed(self) -> tuple[str, ...]:
        """What can be asked elsewhere."""

    @property
    def agents(self) -> tuple[str, ...]:
        """Who can be asked here."""

    @property
    def keyed(self) -> bool:
        """Whether nobody comes in without a key or token."""

    @property
    def clock(self) -> Clock:
        """What time it is."""

    @property
    def aside(self) -> Callable[[Aside], None]:
        """Hears of what is in no record and has a span."""

    @property
    def a2a(self) -> A2ASettings:
        """What is set of the Agent2Agent protocol."""

    @property
    def under_way(self) -> UnderWay:
        """What clients wait for."""


class Desk(Around, Protocol):
    """Takes what a request becomes, and answers with what becomes of that."""

    def seconds(self) -> int:
        """Say what time it is, in seconds since the Unix epoch."""

    def timed(self, data: Timed, timeout_s: float | None) -> Timed:
        """Say when it is to be over."""

    def conversation(self, request: Request, asked: ChatRequest, thread: str | None = None) -> Command:
        """Make a command of messages to a model, or to an agent in a thread.

        Raises:
            BadRequest: a header does not fit, or its caller may not.
        """

    def command(self, request: Request, data: CommandData, thread: str | None = None) -> Command:
        """Make a command of what a caller asks for, under a fresh name."""

    async def ready(self, command: Command) -> Command:
        """Make a command ready to be sent: its pictures are put away.

        Raises:
            BadRequest: one is none, or nothing can be taken now.
        """

    async def abort(self, tenant: str, name: str, reason: str, thread: str | None = None) -> None:
        """End a generation, or an agent's run in a thread, by the name that its command has."""

    async def served(self, request: Request, ask: Callable[[Request, bytes], Exchange]) -> Response:
        """Answer with what a request becomes.

        Raises:
            BadRequest: there is no answer; the door tells it as its protocol does.
        """
