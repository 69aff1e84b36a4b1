"""What a stack under fire finds beside it, in processes of their own: a scripted model, tools that are NATS services.

`python -m tests.chaos.neighbour model|tools RUNTIME`: RUNTIME is the `runtime.json` that says where NATS is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path

import msgspec
import nats
from nats.micro import add_service
from nats.micro.request import Request

from actors.models.nearby import offer_model
from actors.models.provider import ModelCall
from actors.testing import Say, ScriptedModel
from bus.connection import Connection
from bus.errors import BusError
from schemas.messages import ToolCall
from tests.chaos.witness import leave

LOOK_S = 0.1
TAKES_S = 0.02
SERVICE_S = "2"
"""How long a call of a tool may take."""
FOREIGN = "bitte "
"""Before what is said in another language."""
BACK = "zurück: "
"""Before what is translated back."""
WANTS = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
TOOLS = {"post": "once", "fetch": "idempotent"}


def script(call: ModelCall) -> Say:
    """Do what the last message says, then say what came of it; answer whoever asks beside a turn."""
    last = call.messages[-1]
    if call.effect.endswith("-c"):
        return "- condensed"
    _, _, beside = call.effect.rpartition("-m")[2].partition(".")
    if beside:
        return _beside(beside, last.content)
    wanted = last.content.rpartition("\n")[2].split()
    if last.role == "user" and wanted[:1] == ["use"]:
        return ToolCall("k1", wanted[1], json.dumps(_arguments(wanted[1], wanted[2])))
    return f"{call.agent} says {last.content}"


def _beside(who: str, prompt: str) -> str:
    if who.startswith("title"):
        return "A title"
    if who.startswith("translator"):
        # the text stands between two lines that are the same, the last of two texts before the last line
        text = prompt.rpartition("\n")[0].rpartition("\n")[2]
        return BACK + text if "-back" in who else text.removeprefix(FOREIGN)
    return "none"


def _arguments(tool: str, what: str) -> dict[str, str]:
    match tool:
        case "helper":
            return {"message": f"use note {what}"}
        case "payer":
            return {"message": f"use pay {what}"}
        case "update_working_memory":
            return {"content": what}
        case _:
            return {} if tool.startswith("hand_over") else {"what": what}


async def serve_model(url: str) -> None:
    """Offer the model until killed."""
    async with await Connection.open(url, "neighbour-model") as connection:
        await offer_model(connection, "scripted", "1.0.0", ScriptedModel(script))
        await asyncio.Event().wait()


async def serve_tools(url: str) -> None:
    """Offer the tools until killed."""
    async with await Connection.open(url, "neighbour-tools") as connection:
        for name, effect in TOOLS.items():
            await _serve_tool(connection.client, name, effect)
        await asyncio.Event().wait()


async def _serve_tool(client: nats.NATS, name: str, effect: str) -> None:
    about = {"parameters": json.dumps(WANTS), "effect": effect, "timeout_s": SERVICE_S}
    service = await add_service(
        client, name=f"tool-{name}", version="1.0.0", description=f"{name.title()} something.", metadata=about
    )

    async def take(request: Request) -> None:
        key, what = (request.headers or {})["Ostinato-Key"], json.loads(request.data)["what"]
        await asyncio.to_thread(leave, effect, key, what)
        await asyncio.sleep(TAKES_S)
        await request.respond(f"{what} done".encode())

    await service.add_endpoint(name="call", subject=f"rpc.tool-{name}.call", handler=take)


async def main(role: str, runtime: Path) -> None:
    """Serve as soon as there is a NATS."""
    serve = {"model": serve_model, "tools": serve_tools}[role]
    while True:
        try:
            url = msgspec.json.decode(await asyncio.to_thread(runtime.read_bytes))["urls"]["nats"]
            await serve(url)
        except (OSError, BusError, nats.errors.Error, msgspec.DecodeError):
            await asyncio.sleep(LOOK_S)


if __name__ == "__main__":
    logging.basicConfig(level=logging.CRITICAL)  # clients of a dying stack have much to say
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
