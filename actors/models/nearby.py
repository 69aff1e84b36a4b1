"""Models of other processes on the same NATS: offered as micro services, in whatever language, and asked by name.

The service of model `x` is asked on `rpc.model-x.generate` (`bus.subjects.ask_model`) with a `ModelCall` as JSON. It
sends frames until the last one: `said` for each piece of text, `going` at least every few seconds, and `answer` or
`failed` at the end. Calling again with the same effect id attaches to the generation under way, where the service can.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Final, NoReturn

import msgspec

from actors.errors import CallFailed, ProviderFailed
from actors.models.provider import ModelAnswer, ModelCall, ModelProvider, OnText, Piece
from bus import subjects
from bus.connection import Connection, Message
from bus.conversation import Send, asked, offer
from bus.errors import Unavailable
from schemas.programs import ProgramNote
from schemas.runs import Problem
from schemas.wire import Wire

_GOING_S: Final = 5.0
_SILENCE_S: Final = 20.0


class Said(Wire, frozen=True, tag="said", tag_field="frame"):
    """More of the answer."""

    piece: Piece


class Going(Wire, frozen=True, tag="going", tag_field="frame"):
    """The answer is still being made."""


class Answered(Wire, frozen=True, tag="answer", tag_field="frame"):
    """The whole answer."""

    answer: ModelAnswer


class Failed(Wire, frozen=True, tag="failed", tag_field="frame"):
    """There is none."""

    problem: Problem


Frame = Said | Going | Answered | Failed


@dataclass(frozen=True)
class Nearby:
    """The `ModelProvider` of a model that somebody offers on NATS."""

    name: str
    connection: Connection
    silence_s: float = _SILENCE_S

    async def call(self, call: ModelCall, on_text: OnText) -> ModelAnswer:
        """Ask; pieces that were lost on the way are told at the end.

        Raises:
            CallFailed: nobody offers it, it says nothing for too long, or it fails.
        """
        heard = defaultdict[str, int](int)
        try:
            async with asked(self.connection, subjects.ask_model(self.name), msgspec.json.encode(call)) as replies:
                while True:
                    frame = msgspec.json.decode(await replies.next(self.silence_s), type=Frame)
                    match frame:
                        case Said(piece=piece) if piece.offset == heard[_said_of(piece)]:
                            heard[_said_of(piece)] += len(piece.text)
                            await on_text(piece)
                        case Answered(answer=answer):
                            return await _completed(answer, heard, on_text)
                        case Failed(problem=problem):
                            raise CallFailed(problem)
                        case _:
                            pass  # still going, or a gap before it: the answer has it all
        except Unavailable as error:
            message = f"no model {self.name!r} is offered on NATS: {error} (`nats micro ls` lists what is)"
            raise ProviderFailed(Problem(kind="overloaded", message=message), elsewhere=True) from error
        except TimeoutError as error:
            message = f"model {self.name!r} said nothing for {self.silence_s:g} s"
            raise ProviderFailed(Problem(kind="timeout", message=message), elsewhere=True) from error
        except msgspec.DecodeError as error:
            message = f"model {self.name!r} sent what is no frame: {error}"
            raise ProviderFailed(Problem(kind="engine", message=message), elsewhere=True) from error

    async def search(self, call: ModelCall) -> list[ModelAnswer]:
        """Refuse: a search is for an engine of this process.

        Raises:
            CallFailed: always.
        """
        message = f"use_beam_search: model {self.name!r} is another process's and cannot be searched"
        raise CallFailed(Problem(kind="invalid", message=message, field="use_beam_search"))

    async def note(self, note: ProgramNote) -> None:
        """Nothing: programs are its own process's."""

    async def abort(self, request: str) -> None:
        """Tell whoever offers it."""
        await self.connection.publish(subjects.abort_model(self.name), request.encode())


def _said_of(piece: Piece) -> str:
    """Name what a piece goes on with."""
    return piece.kind if piece.call is None else f"call {piece.call.id}"


async def _completed(answer: ModelAnswer, heard: dict[str, int], on_text: OnText) -> ModelAnswer:
    """Tell what of an answer was not heard while it came."""
    if answer.reasoning[heard["reasoning"] :]:
        await on_text(Piece(heard["reasoning"], answer.reasoning[heard["reasoning"] :], "reasoning"))
    if answer.text[heard["text"] :]:
        await on_text(Piece(heard["text"], answer.text[heard["text"] :]))
    return answer


async def offer_model(connection: Connection, name: str, version: str, model: ModelProvider) -> None:
    """Offer a model of this process to others on the same NATS.

    Raises:
        Unavailable: the connection is closed.
    """

    async def answer(data: bytes, send: Send) -> None:
        going = asyncio.create_task(_keep_going(send))
        answered = asyncio.create_task(_answer(data, model, send))
        try:
            # who asked is out of reach when that cannot be told: the model is not kept at it
            await asyncio.wait((answered, going), return_when=asyncio.FIRST_COMPLETED)
            frame = await (answered if answered.done() else going)
            await send(msgspec.json.encode(frame))
        finally:
            for task in (answered, going):
                task.cancel()
            await asyncio.gather(answered, going, return_exceptions=True)

    async def abort(message: Message) -> None:
        await model.abort(message.data.decode("utf-8", "replace"))

    await connection.subscribe(subjects.abort_model(name), abort)
    service = f"model-{subjects.encoded(name)}"
    await offer(connection, service, version, subjects.ask_model(name), {"model": name}, answer)


async def _answer(data: bytes, model: ModelProvider, send: Send) -> Frame:
    async def hear(piece: Piece, /) -> None:
        await send(msgspec.json.encode(Said(piece)))

    try:
        return Answered(await model.call(msgspec.json.decode(data, type=ModelCall), hear))
    except CallFailed as failure:
        return Failed(failure.problem)
    except msgspec.DecodeError as error:
        return Failed(Problem(kind="invalid", message=f"this is no model call: {error}"))


async def _keep_going(send: Send) -> NoReturn:
    while True:
        await asyncio.sleep(_GOING_S)
        await send(msgspec.json.encode(Going()))
