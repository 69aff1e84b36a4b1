"""Every state machine that owners of shards run, by the family of threads that it folds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from actors.access.key import KeyMachine
from actors.agent.loop import ConversationMachine
from actors.batches.machine import BatchMachine
from actors.pushes.machine import PushMachine
from actors.runtime.machine import Machine
from actors.schedules.machine import ScheduleMachine
from actors.serving.generation import GenerationMachine

MACHINES: Mapping[str, Machine[Any]] = {
    "agent": ConversationMachine(),
    "generation": GenerationMachine(),
    "key": KeyMachine(),
    "schedule": ScheduleMachine(),
    "batch": BatchMachine(),
    "push": PushMachine(),
}
