"""A tool in a process of its own, in plain nats-py: `python examples/weather_service.py nats://127.0.0.1:4222`."""

import asyncio
import json
import sys

import nats
from nats.micro import add_service
from nats.micro.request import Request

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def weather(request: Request) -> None:
    """Answer one call: its body is the arguments, `Ostinato-Key` is the same whenever this call comes again."""
    city = json.loads(request.data)["city"]
    await request.respond(f"sun in {city}".encode())


async def serve(url: str) -> None:
    """Be the tool `weather` until the process ends."""
    client = await nats.connect(url)
    about = {"parameters": json.dumps(PARAMETERS), "effect": "pure"}
    service = await add_service(
        client, name="tool-weather", version="1.0.0", description="Tell the weather of a city.", metadata=about
    )
    await service.add_endpoint(name="call", subject="rpc.tool-weather.call", handler=weather)
    try:
        await service.stopped.wait()
    finally:
        await client.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
