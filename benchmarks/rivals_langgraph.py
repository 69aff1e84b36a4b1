"""The loop of `rivals.py` as a LangGraph graph; each step is checkpointed in Postgres before the next."""

import asyncio
import json
import sys
import time
from typing import Any, TypedDict

from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool


class State(TypedDict):
    """What the graph carries."""

    messages: list[str]
    calls: int


async def model(state: State) -> dict[str, Any]:
    """Ask for the tool, or answer."""
    return {"messages": [*state["messages"], f"call {state['calls']}"]}


async def add(state: State) -> dict[str, Any]:
    """Add one."""
    return {"messages": [*state["messages"], str(state["calls"] + 1)], "calls": state["calls"] + 1}


async def main(url: str, calls: int, together: int) -> None:
    """Measure and print."""
    graph = StateGraph(State)
    graph.add_node("model", model)
    graph.add_node("add", add)
    graph.add_edge(START, "model")
    graph.add_edge("model", "add")
    graph.add_conditional_edges("add", lambda state: END if state["calls"] >= calls else "model")
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(url, min_size=4, max_size=16, kwargs=options) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        built = graph.compile(checkpointer=saver)

        async def run(name: str) -> None:
            config = {"configurable": {"thread_id": name}, "recursion_limit": 2 * calls + 5}
            done = await built.ainvoke({"messages": [], "calls": 0}, config, durability="sync")
            assert done["calls"] == calls

        await run("warm")
        found = {}
        for name, runs in (("alone", 1), ("together", together)):
            began = time.perf_counter()
            await asyncio.gather(*(run(f"{name}{n}") for n in range(runs)))
            found[name] = 1e3 * (time.perf_counter() - began) / (runs * 2 * calls)
        print(json.dumps(found))  # noqa: T201


asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
