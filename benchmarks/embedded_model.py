"""How often the embedded model is right: held-out conversations, served by the whole stack at temperature 0.

A conversation with tools is a thread of an agent that is asked over the bus and runs its own tools; one without is sent
to `/v1/chat/completions`. It counts as right only if every turn made the right calls with the right arguments and ended
in a right answer. Prints failures and a table of skills, then one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.embedded_agents import MOST, agent_name, conversation, thread_name
from infra.cli.asking import agent_command
from infra.embedded.dialogues import Conversation
from infra.embedded.evaluate import (
    FULL,
    QUICK,
    Message,
    Score,
    Verdict,
    by_aspect,
    fault_in_answer,
    fault_in_calls,
    report,
    trial,
)
from infra.embedded.world import Call
from infra.follow import follow
from infra.launcher import Stack, running
from infra.readback import read_back_from
from infra.settings import EngineSettings, Settings
from schemas import codec
from schemas.live import Committed, Frame
from schemas.runs import RunFinished, ToolCalled

AGENTS = Path(__file__).with_name("embedded_agents.py")
TOGETHER = 16
TURN_S = 120.0


async def judge(stack: Stack, number: int) -> Verdict:
    """Hold one conversation through the door that suits it."""
    held = conversation(number)
    return await (as_agent(stack, number, held) if held.setting.tools else over_http(stack, held))


async def as_agent(stack: Stack, number: int, held: Conversation) -> Verdict:
    """Ask an agent turn by turn; stop at the first turn that goes wrong."""
    skills: list[str] = []
    transcript: list[Message] = []
    fault: str | None = None
    for turn in held.turns:
        skills.append(turn.skill)
        transcript.append({"role": "user", "content": turn.user})
        command = agent_command(agent_name(held.setting), turn.user, thread_name(number))
        command = msgspec.structs.replace(command, data=msgspec.structs.replace(command.data, thread="any"))
        made: list[Call | None] = []
        answer = ""
        async for frame in follow(stack.connection, read_back_from(stack.store), command, TURN_S):
            made += calls_in(frame)
            answer = answer_in(frame) or answer
        transcript.append({"role": "assistant", "content": answer, "tool_calls": made})
        fault = fault_in_calls(turn.calls, made) or fault_in_answer(turn, answer)
        if fault is not None:
            break
    return Verdict(held.seed, tuple(skills), fault, tuple(transcript))


def calls_in(frame: Frame) -> list[Call | None]:
    """Read the tool call that a frame tells of, as what it asks for, or None where its arguments are no object."""
    if not isinstance(frame, Committed) or frame.type != "tool.called":
        return []
    call = codec.decode(frame.data, ToolCalled).call
    try:
        arguments = json.loads(call.arguments or "{}")
        return [Call(call.name, {key: str(given) for key, given in arguments.items()})]
    except (ValueError, AttributeError):
        return [None]


def answer_in(frame: Frame) -> str | None:
    """Read the last answer of a run from the frame that ends it."""
    if not isinstance(frame, Committed) or frame.type != "run.finished":
        return None
    return codec.decode(frame.data, RunFinished).text


async def over_http(stack: Stack, held: Conversation) -> Verdict:
    """Hold a conversation without tools as any OpenAI client would."""
    running_trial = trial(held)
    messages, tools = next(running_trial)
    async with httpx.AsyncClient(base_url=stack.url, timeout=TURN_S) as client:
        while True:
            body = {"model": stack.settings.engine.name, "messages": messages, "temperature": 0}
            if tools:
                body["tools"] = list(tools)
            answer = await client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            try:
                messages, tools = running_trial.send(answer.json()["choices"][0]["message"])
            except StopIteration as ended:
                verdict: Verdict = ended.value
                return verdict


async def judge_all(numbers: Sequence[int], checkpoint: Path | None, data: Path) -> Score:
    """Start a stack, hold all conversations, some at a time, and stop it."""
    engine = EngineSettings()
    if checkpoint is not None:
        engine = msgspec.structs.replace(engine, model=str(checkpoint))
    settings = Settings(data=str(data), port=0, agents=(str(AGENTS),), engine=engine)
    async with running(settings, lambda stage, seconds: None) as stack:
        room = asyncio.Semaphore(TOGETHER)

        async def one(number: int) -> Verdict:
            async with room:
                return await judge(stack, number)

        return Score(tuple(await asyncio.gather(*(one(number) for number in numbers))))


def figures(numbers: Sequence[int], result: Score) -> dict[str, Any]:
    """Give the figures: the share of right conversations, and how many were right of how many tried.

    `skills` counts turns; `aspects` counts conversations of five turns, with an error, and so on.
    """
    return {
        "accuracy": round(result.accuracy, 4),
        "conversations": len(result.verdicts),
        "skills": {skill: list(counts) for skill, counts in result.by_skill().items()},
        "aspects": {
            aspect: list(counts) for aspect, counts in by_aspect([conversation(n) for n in numbers], result).items()
        },
    }


def main() -> None:
    """Judge and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK} conversations")
    parser.add_argument("--first", type=int, default=0, help=f"number of the first conversation, below {MOST}")
    parser.add_argument("--count", type=int, default=FULL, help="how many conversations")
    parser.add_argument("--checkpoint", type=Path, default=None, help="another checkpoint than the embedded one")
    chosen = parser.parse_args()
    count = QUICK if chosen.quick else chosen.count
    if not 0 < chosen.first + count <= MOST:
        parser.error(f"--first and --count: conversations are numbered 0 to {MOST - 1}")
    numbers = range(chosen.first, chosen.first + count)
    with tempfile.TemporaryDirectory(prefix="ostinato-benchmark-") as folder:
        Path(folder).chmod(0o755)
        result = asyncio.run(judge_all(numbers, chosen.checkpoint, Path(folder) / "data"))
    print(report(result))  # noqa: T201
    print(json.dumps(figures(numbers, result)))  # noqa: T201


if __name__ == "__main__":
    main()
