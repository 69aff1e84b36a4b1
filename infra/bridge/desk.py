"""What the routes of a protocol need of the bridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response

from bus.connection import Connection
from infra.bridge.exchange import Exchange
from infra.bridge.under_way import UnderWay
from infra.follow import ReadBack
from schemas.commands import Command, CommandData
from schemas.context import Ids
from schemas.openai import ChatRequest


class Desk(Protocol):
    """Takes what a request becomes, and answers with what becomes of that."""

    @property
    def connection(self) -> Connection:
        """The bus."""

    @property
    def read_back(self) -> ReadBack:
        """The record."""

    @property
    def ids(self) -> Ids:
        """Names for what is new."""

    @property
    def models(self) -> tuple[str, ...]:
        """What is served here."""

    @property
    def poolers(self) -> tuple[str, ...]:
        """What gives vectors or scores here."""

    @property
    def agents(self) -> tuple[str, ...]:
        """Who can be asked here."""

    @property
    def under_way(self) -> UnderWay:
        """What clients wait for."""

    @property
    def trouble(self) -> Callable[[], str]:
        """Why nothing can be taken now; empty while all is well."""

    def seconds(self) -> int:
        """Say what time it is, in seconds since the Unix epoch."""

    def conversation(self, request: Request, asked: ChatRequest, thread: str | None = None) -> Command:
        """Make a command of messages to a model, or to an agent in a thread.

        Raises:
            BadRequest: a header does not fit, or its caller may not.
        """

    def command(self, request: Request, data: CommandData, thread: str | None = None) -> Command:
        """Make a command of what a caller asks for, under a fresh name."""

    async def abort(self, tenant: str, name: str, reason: str, thread: str | None = None) -> None:
        """End a generation, or an agent's run in a thread, by the name that its command has."""

    async def served(self, request: Request, ask: Callable[[Request, bytes], Exchange]) -> Response:
        """Answer with what a request becomes.

        Raises:
            BadRequest: there is no answer; the door tells it as its protocol does.
        """
