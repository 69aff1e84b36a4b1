"""The agents that `embedded_model.py` asks: one for each setting of the held-out conversations.

A thread is named after its conversation, so a tool knows whose notebook and whose standing clock it works with.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cache
from hashlib import blake2b
from typing import Any

import msgspec

from actors.agent.definition import Agent
from actors.tools import Tool, ToolContext, tool
from infra.embedded.dialogues import Conversation, Setting, held_out, held_out_setting
from infra.embedded.toolbox import Toolbox

MOST = 2000
"""Conversations that have an agent here."""


def agent_name(setting: Setting) -> str:
    """Name the agent of a setting."""
    return "setting-" + blake2b(msgspec.json.encode((setting.instructions, setting.tools)), digest_size=8).hexdigest()


def thread_name(number: int) -> str:
    """Name the thread of a conversation."""
    return f"held-out-{number}"


def conversation(number: int) -> Conversation:
    """Return the one conversation of a number."""
    return held_out(1, number)[0]


@cache
def _toolbox(thread: str) -> Toolbox:
    held = conversation(int(thread.rpartition("-")[2]))
    return Toolbox(held.world.toolbox.now, dict(held.notes))


def _run(name: str, context: ToolContext, **arguments: Any) -> str:
    result = _toolbox(context.thread).run(name, arguments)
    if result.startswith("error: "):
        raise ValueError(result.removeprefix("error: "))
    return result


@tool(effect="pure")
def calculator(expression: str, context: ToolContext) -> str:
    """Work out an arithmetic expression."""
    return _run("calculator", context, expression=expression)


@tool(effect="pure")
def clock(context: ToolContext) -> str:
    """Tell the current date and time."""
    return _run("clock", context)


@tool(effect="idempotent")
def save_note(topic: str, text: str, context: ToolContext) -> str:
    """Remember a fact under a topic."""
    return _run("save_note", context, topic=topic, text=text)


@tool(effect="pure")
def find_note(topic: str, context: ToolContext) -> str:
    """Recall what was remembered about a topic."""
    return _run("find_note", context, topic=topic)


_TOOLS = {each.name: each for each in (calculator, clock, save_note, find_note)}


def _offered(function: dict[str, Any]) -> Tool:
    return replace(_TOOLS[function["name"]], description=function["description"])


def agent_of(setting: Setting) -> Agent:
    """Make the agent that has a setting's instructions and tools."""
    tools = [_offered(each["function"]) for each in copy.deepcopy(setting.tools)]
    return Agent(agent_name(setting), setting.instructions or "", tools=tools, max_tokens=120, max_steps=4)


_SETTINGS = [held_out_setting(number) for number in range(MOST)]
globals().update({agent_name(setting): agent_of(setting) for setting in _SETTINGS if setting.tools})
