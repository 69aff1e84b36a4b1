"""Every process of the stack answers on `$SRV.STATS`, as NATS services do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats
import pytest
from nats.errors import TimeoutError as NatsTimeout

from tests.system.conftest import UpProcess, ask, chat

pytestmark = pytest.mark.servers

SLOTS = {"agents-0", "host", "recorder-0", "scheduler-0", "worker-0"}


def test_every_process_says_how_full_its_queues_are(stack: UpProcess) -> None:
    assert chat(stack, ask("What is 12 times 34?")).status_code == 200

    async def asked() -> dict[str, Any]:
        client = await nats.connect(stack.nats_url)
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        await client.publish("$SRV.STATS", b"", reply=inbox)
        found: dict[str, Any] = {}
        try:
            while set(found) != SLOTS:
                answer = json.loads((await subscription.next_msg(5)).data)
                if "slot" in answer["metadata"]:  # others are services that a process offers, such as its model
                    found[answer["metadata"]["slot"]] = answer
        except NatsTimeout:
            pass
        await client.close()
        return found

    found = asyncio.run(asked())
    assert set(found) == SLOTS
    assert {answer["name"] for answer in found.values()} == {f"ostinato-{slot.split('-')[0]}" for slot in SLOTS}
    numbers = {slot: answer["endpoints"][0]["data"] for slot, answer in found.items()}
    shards = numbers["agents-0"]["shards"].values()
    assert sum(shard["threads"] for shard in shards) >= 1
    assert all({"commands", "effects", "appends", "stopped"} <= shard.keys() for shard in shards)
    assert numbers["agents-0"]["trace"]["shed"] == 0
    assert numbers["agents-0"]["threads_left_behind"] == {}
    assert numbers["scheduler-0"]["steps"] > 0
    assert numbers["worker-0"]["steps"] > 0
    assert numbers["recorder-0"]["EV"]["recorded"] > 0
    assert numbers["host"]["restarts"]["worker-0"] >= 0
    projections = numbers["host"]["projections"]
    assert projections.pop("problem") == ""
    assert set(projections) == {"threads", "runs", "usage", "schedules", "batches"}
    assert all({"sequence", "incarnation", "behind"} == place.keys() for place in projections.values())
