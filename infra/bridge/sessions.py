"""A route by which clients with a loop of their own say what goes on between a session's requests.

An agent here tells the scheduler when its tools begin and return, and when it is over; what is told here counts for as
much. It is worth something with `engine.policy: agents` alone, and is lost where no scheduler hears it.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bus import subjects
from bus.errors import BusError
from infra.bridge.callers import caller_of
from infra.bridge.desk import Desk
from infra.bridge.doors import Door, Operation
from infra.bridge.openai import BadRequest, decoded
from schemas import codec
from schemas.programs import ProgramEnded, ProgramNote, ToolBegan, ToolEnded, program_id
from schemas.rest import Done
from schemas.sessions import SessionNote


@dataclass(frozen=True)
class _Sessions:
    desk: Desk

    async def note(self, request: Request) -> Response:
        """Tell the schedulers of all models; those to whom the session is unknown heed nothing."""
        note = codec.encode(_note(decoded(await request.body(), SessionNote), caller_of(request).tenant))
        try:
            for model in self.desk.models:
                await self.desk.connection.publish(subjects.note(model), note)
        except (BusError, TimeoutError) as error:
            raise BadRequest(503, "the event bus does not answer: try again", None, "unavailable") from error
        return Response(msgspec.json.encode(Done()), media_type="application/json")


def _note(said: SessionNote, tenant: str) -> ProgramNote:
    """Read what is said of a tenant's session.

    Raises:
        BadRequest: it does not say which call, or which tool.
    """
    program = program_id(tenant, session=said.session_id)
    if said.event == "ended":
        return ProgramEnded(program)
    if not said.call:
        raise BadRequest(400, f"call: name the call that `{said.event}` is about", "call", "invalid_value")
    if said.event == "tool_ended":
        return ToolEnded(program, said.call)
    if not said.tool:
        raise BadRequest(400, "tool: say what kind of tool begins", "tool", "invalid_value")
    return ToolBegan(program, said.call, said.tool)


def session_doors(desk: Desk) -> list[Door]:
    """List them."""
    told = "Say that a session's tool begins or returns, or that it is over"
    about = Operation(told, SessionNote, Done, fails=(400, 503))
    return [Door("/v1/sessions/notes", _Sessions(desk).note, "inference", methods=("POST",), operation=about)]
