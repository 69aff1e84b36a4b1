"""Judges a backend on held-out conversations: `python -m infra.embedded.evaluate [--checkpoint DIR] [--quick]`.

A backend is any `answer(messages, tools) -> assistant message` in the OpenAI shape: transformers here, HTTP elsewhere.
The tools are real, the clock stands still, and a conversation is right when every one of its turns is.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from infra.arithmetic import value
from infra.embedded.agent import TOOLS
from infra.embedded.dialogues import STANDARD, Conversation, held_out
from infra.embedded.template import CHECKPOINT, read_answer, render_prompt
from infra.embedded.toolbox import Toolbox
from infra.embedded.vocabulary import token_id
from infra.embedded.world import Call, Turn

Message = dict[str, Any]
Prompt = tuple[list[Message], tuple[dict[str, Any], ...]]
_STEPS: Final = 4
_LONGEST: Final = 120
_TOGETHER: Final = 64
FULL: Final = 500
QUICK: Final = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one conversation went."""

    seed: str
    skills: tuple[str, ...]
    """The skills of the turns that were tried; all but the last were right."""
    fault: str | None
    """What went wrong in the last turn tried, or None when all is right."""
    transcript: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Score:
    """How all conversations went."""

    verdicts: tuple[Verdict, ...]

    @property
    def accuracy(self) -> float:
        """The share of conversations in which every turn was right."""
        return sum(verdict.fault is None for verdict in self.verdicts) / len(self.verdicts)

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The conversations that went wrong."""
        return tuple(verdict for verdict in self.verdicts if verdict.fault is not None)

    def by_skill(self) -> dict[str, tuple[int, int]]:
        """Count right and tried turns of each skill."""
        tried = Counter(skill for verdict in self.verdicts for skill in verdict.skills)
        wrong = Counter(verdict.skills[-1] for verdict in self.failures)
        return {skill: (count - wrong[skill], count) for skill, count in sorted(tried.items())}


def aspects(conversation: Conversation) -> frozenset[str]:
    """Name what makes a conversation harder than one question to the demo agent."""
    given = {tool["function"]["name"]: tool["function"]["description"] for tool in TOOLS}
    offered = [tool["function"] for tool in conversation.setting.tools]
    found = {
        "five turns": len(conversation.turns) >= 5,
        "several calls": any(len(turn.calls) > 1 for turn in conversation.turns),
        "tool error": any(turn.skill == "sum that fails" for turn in conversation.turns),
        "changed tool": any(each["description"] != given[each["name"]] for each in offered),
        "other setting": conversation.setting != STANDARD,
    }
    return frozenset(name for name, holds in found.items() if holds)


def by_aspect(conversations: Sequence[Conversation], result: Score) -> dict[str, tuple[int, int]]:
    """Count right conversations and all of each aspect; `conversations` are those judged, in order."""
    counts: dict[str, tuple[int, int]] = {}
    for conversation, verdict in zip(conversations, result.verdicts, strict=True):
        for aspect in aspects(conversation):
            right, tried = counts.get(aspect, (0, 0))
            counts[aspect] = (right + (verdict.fault is None), tried + 1)
    return dict(sorted(counts.items()))


def score(
    conversations: Sequence[Conversation], answer: Callable[[list[Message], tuple[dict[str, Any], ...]], Message]
) -> Score:
    """Judge a backend that answers one prompt at a time."""
    return score_together(conversations, lambda prompts: [answer(*prompt) for prompt in prompts])


def score_together(conversations: Sequence[Conversation], answers: Callable[[list[Prompt]], list[Message]]) -> Score:
    """Judge a backend that answers many prompts at once; conversations advance in step."""
    verdicts: dict[int, Verdict] = {}
    for first in range(0, len(conversations), _TOGETHER):
        trials = {number: trial(each) for number, each in enumerate(conversations[first : first + _TOGETHER], first)}
        waiting = {number: next(running) for number, running in trials.items()}
        while waiting:
            said = dict(zip(waiting, answers(list(waiting.values())), strict=True))
            waiting = {}
            for number, message in said.items():
                try:
                    waiting[number] = trials[number].send(message)
                except StopIteration as ended:
                    verdicts[number] = ended.value
    return Score(tuple(verdicts[number] for number in sorted(verdicts)))


def trial(conversation: Conversation) -> Generator[Prompt, Message, Verdict]:
    """Hold one conversation: yield prompts, take answers, stop at the first turn that goes wrong."""
    setting = conversation.setting
    messages: list[Message] = []
    if setting.instructions is not None:
        messages.append({"role": "system", "content": setting.instructions})
    toolbox = Toolbox(conversation.world.toolbox.now, dict(conversation.notes))
    skills: list[str] = []
    fault: str | None = None
    for turn in conversation.turns:
        skills.append(turn.skill)
        messages.append({"role": "user", "content": turn.user})
        made: list[Call | None] = []
        said: Message = {}
        for _ in range(_STEPS):
            said = yield list(messages), setting.tools
            messages.append(said)
            if not said.get("tool_calls"):
                break
            made += _carry_out(said["tool_calls"], toolbox, messages)
        fault = fault_in_calls(turn.calls, made) or fault_in_answer(turn, said.get("content") or "")
        if fault is not None:
            break
    return Verdict(conversation.seed, tuple(skills), fault, tuple(messages))


def _carry_out(calls: Sequence[Mapping[str, Any]], toolbox: Toolbox, messages: list[Message]) -> list[Call | None]:
    made: list[Call | None] = []
    for each in calls:
        function = each["function"]
        try:
            arguments = json.loads(function["arguments"])
            made.append(Call(function["name"], {key: str(given) for key, given in arguments.items()}))
            result = toolbox.run(function["name"], arguments)
        except (ValueError, AttributeError, TypeError):
            made.append(None)
            result = "error: arguments are no JSON object"
        messages.append({"role": "tool", "tool_call_id": each.get("id"), "content": result})
    return made


def fault_in_calls(expected: Sequence[Call], made: Sequence[Call | None]) -> str | None:
    """Say what is wrong with the calls of a turn, in whatever order they came, or return None."""
    left = list(made)
    for call in expected:
        found = next((each for each in left if each is not None and same_call(call, each)), None)
        if found is None:
            return f"expected {call}, got {list(made)}"
        left.remove(found)
    return f"unexpected calls {left}" if left else None


def same_call(expected: Call, made: Call) -> bool:
    """Say whether a call does what was expected."""
    if expected.name != made.name or expected.arguments.keys() != made.arguments.keys():
        return False
    match expected.name:
        case "calculator":
            return same_sum(expected.arguments["expression"], made.arguments["expression"])
        case "save_note":
            return (
                expected.arguments["topic"].casefold() == made.arguments["topic"].casefold()
                and expected.arguments["text"] in made.arguments["text"]
            )
        case _:
            return expected.arguments == made.arguments


def same_sum(expected: str, made: str) -> bool:
    """Say whether two expressions have the same numbers and the same value, or fail alike."""
    if re.sub(r"\s", "", expected) == re.sub(r"\s", "", made):
        return True
    numbers = [sorted(re.findall(r"[\d.]+", text)) for text in (expected, made)]
    try:
        return numbers[0] == numbers[1] and abs(value(expected) - value(made)) <= 1e-9 * abs(value(expected))
    except ValueError:
        return False


def fault_in_answer(turn: Turn, text: str) -> str | None:
    """Say what a turn's last answer lacks, or return None."""
    if not text.strip():
        return "no answer"
    for needed in turn.needs:
        if not re.search(rf"(?<![\w.-]){re.escape(needed)}(?![\w]|\.\d)", text, re.IGNORECASE):
            return f"{needed!r} is not in the answer {text!r}"
    if turn.one_of and not any(part in text.casefold() for part in turn.one_of):
        return f"none of {turn.one_of} is in the answer {text!r}"
    return None


class Greedy:
    """The checkpoint under transformers, decoding greedily, many prompts at once."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._network: Any = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        self._end = token_id(self._tokenizer, "<|im_end|>")
        self._tokenizer.enable_padding(direction="left", pad_id=token_id(self._tokenizer, "<|endoftext|>"))

    def answers(self, prompts: list[Prompt]) -> list[Message]:
        """Answer prompts of any length together."""
        encoded = self._tokenizer.encode_batch([render_prompt(*each) for each in prompts], add_special_tokens=False)
        ids = torch.tensor([each.ids for each in encoded])
        mask = torch.tensor([each.attention_mask for each in encoded])
        with torch.inference_mode():
            out = self._network.generate(input_ids=ids, attention_mask=mask, max_new_tokens=_LONGEST, do_sample=False)
        return [read_answer(self._text(row.tolist())) for row in out[:, ids.shape[1] :]]

    def _text(self, ids: list[int]) -> str:
        end = ids.index(self._end) if self._end in ids else len(ids)
        return str(self._tokenizer.decode(ids[:end], skip_special_tokens=True))


def report(result: Score, transcripts: int = 12) -> str:
    """Write a score for people: the accuracy, each skill, and some failures."""
    right = len(result.verdicts) - len(result.failures)
    lines = [f"{right} of {len(result.verdicts)} conversations right ({result.accuracy:.1%})"]
    lines += [f"  {skill:<16} {good} of {count}" for skill, (good, count) in result.by_skill().items()]
    for verdict in result.failures[:transcripts]:
        asked = next(m["content"] for m in reversed(verdict.transcript) if m["role"] == "user")
        lines.append(f"  {verdict.seed} [{verdict.skills[-1]}] {asked!r}: {verdict.fault}")
    return "\n".join(lines)


def main() -> None:
    """Read the command line and judge a checkpoint."""
    parser = argparse.ArgumentParser(description="Judge the embedded model.")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--count", type=int, default=FULL, help="held-out conversations")
    parser.add_argument("--quick", action="store_true", help=f"only {QUICK} conversations")
    chosen = parser.parse_args()
    conversations = held_out(QUICK if chosen.quick else chosen.count)
    sys.stdout.write(report(score_together(conversations, Greedy(chosen.checkpoint).answers), FULL) + "\n")


if __name__ == "__main__":
    main()
