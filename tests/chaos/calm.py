"""Tells the model's own mistakes from those of the fire: what was answered wrongly is asked again in the calm after it.

The model is small and not always right at sums; but it decodes greedily, so the same conversation has the same mistake
again. An answer that is wrong and not the one of the calm is the fire's fault.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from bus.errors import BusError
from infra.follow import follow
from schemas import codec
from schemas.live import Committed
from schemas.runs import RunFinished
from tests.chaos.load import Asked, Ledger, Line, question

ANSWER_S = 60.0


async def forgive_the_model(line: Line, ledger: Ledger) -> list[str]:
    """Expect of each wrong answer what is answered in the calm, if that is the same; say which they are.

    Args:
        line: to a stack in which all is well.
        ledger: of what was asked; its expectations change.
    """
    own = []
    try:
        for asked in ledger.asked:
            text = said(asked.heard)
            if asked.kind or text is None or asked.expected in text:
                continue
            if await _again(line, ledger, asked) == text:
                own.append(f"{asked.command.id} said {text!r}, not {asked.expected}, in the calm too")
                asked.expected = text
    finally:
        await line.close()
    return own


def said(heard: Sequence[Committed]) -> str | None:
    """Give the answer that a run ended with, if it had one."""
    for frame in heard:
        if frame.type == "run.finished":
            finished: RunFinished = codec.decode(frame.data, RunFinished)
            return finished.text
    return None


async def _again(line: Line, ledger: Ledger, wrong: Asked) -> str | None:
    """Hold the conversation up to a wrong answer once more; None where it could not be held."""
    heard: list[Committed] = []
    try:
        async with asyncio.timeout(ANSWER_S):
            connection, late = await line.open()
            for asked in ledger.up_to(wrong):
                command = question(asked.command.data.agent, asked.command.data.text, f"calm-{wrong.command.id}")
                frames = [frame async for frame in follow(connection, late.read_back, command, ANSWER_S)]
                heard = [frame for frame in frames if isinstance(frame, Committed)]
    except (BusError, TimeoutError, OSError):
        return None
    return said(heard)
