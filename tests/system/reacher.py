"""Agents whose tools and models are of other processes: for tests of what a crash leaves of their calls."""

from __future__ import annotations

import os
import sys

from ostinato import Agent, McpTools, Memory, Services, Translator

SCRIPTED = "local/scripted"
STAMPS = McpTools(
    command=(sys.executable, "-m", "tests.chaos.stamps"),
    env={"OSTINATO_CHAOS_WITNESS": os.environ.get("OSTINATO_CHAOS_WITNESS", "/dev/null")},
)

poster = Agent("poster", "Do it.", SCRIPTED, tools=[Services("post", "fetch")])
stamper = Agent("stamper", "Do it.", SCRIPTED, tools=[STAMPS])
titled = Agent("titled", "Answer.", SCRIPTED, memory=Memory(titles=True))
linguist = Agent("linguist", "Answer.", SCRIPTED, processors=[Translator()])
