"""Structured answers, from a script that brings the stack along: `python examples/extraction.py`."""

import asyncio
from typing import Literal

import msgspec

from ostinato import Agent, inline


class Ticket(msgspec.Struct):
    """What a customer wants."""

    topic: Literal["invoice", "delivery", "other"]
    urgent: bool


extraction = Agent("extraction", "Sort what customers write.", max_tokens=100)


async def main() -> None:
    """Sort one message."""
    async with inline(__file__) as client:
        answer = await client.run(extraction, "Where is my parcel? I need it today!", output_type=Ticket)
        print(answer.output)  # noqa: T201  a script


if __name__ == "__main__":
    asyncio.run(main())
