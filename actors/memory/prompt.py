"""What a model is shown of a thread, pure: what stays the same comes first, what changes as late as it can.

The working memory stands before the message that the run answers: everything ahead of it is as it was in the turn
before, and everything behind it is new anyway. It is part of that message because chat templates want turns to
alternate, and most refuse a system message anywhere but at the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from actors.memory.state import Memory
from actors.memory.window import first_shown
from schemas.memory import MemoryPlan, Working
from schemas.messages import Message


def shown_from(messages: Sequence[Message], memory: Memory, plan: MemoryPlan | None) -> int:
    """Give the first message that the next call of a run sees."""
    return first_shown(messages, plan, max(memory.first, memory.shown_observed), memory.rate)


def prompt_of(
    messages: Sequence[Message], first: int, seen: int, memory: Memory, plan: MemoryPlan | None, refused: str = ""
) -> tuple[Message, ...]:
    """Give the messages that a call sees.

    Args:
        messages: all of the thread.
        first: the first one that is shown.
        seen: how many there were when the call was decided.
        memory: the thread's.
        plan: of the run.
        refused: why the last answer was not taken.
    """
    shown = list(messages[first:seen])
    if refused:
        shown.append(Message(role="user", content=f"(Your last answer was {refused}. Answer again.)"))
    block = _working(memory, plan)
    if block:
        turns = [at for at in range(min(memory.begun, seen) - first) if shown[at].role == "user"]
        _put(shown, turns[-1] if turns else None, block)
    if memory.shown_observations:
        observed = "<observations>\n" + "\n".join(memory.shown_observations) + "\n</observations>"
        _put(shown, 0 if shown and shown[0].role == "user" else None, observed)
    return tuple(shown)


def _put(shown: list[Message], at: int | None, block: str) -> None:
    """Put a block before a message of the user's, or ahead of all."""
    if at is None:
        shown.insert(0, Message(role="user", content=block))
    else:
        shown[at] = replace(shown[at], content=f"{block}\n\n{shown[at].content}")


def _working(memory: Memory, plan: MemoryPlan | None) -> str:
    if plan is None or plan.working is None or shared_by(memory, plan):
        return ""  # what is shared is looked up when the model is asked
    return working_block(memory.shown, plan.working)


def shared_by(memory: Memory, plan: MemoryPlan | None) -> str:
    """Name the resource whose threads share the working memory; empty where the thread has its own."""
    shares = plan is not None and plan.working is not None and plan.working.scope == "resource"
    return memory.resource if shares else ""


def working_block(held: str, working: Working) -> str:
    """Write what the model is shown of a working memory."""
    return f"<working_memory>\n{held or working.template or '{}'}\n</working_memory>"
