"""The loop of `rivals.py` as a DBOS workflow, each step recorded in Postgres before the next."""

import json
import sys
import time

from dbos import DBOS

url, calls, together = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
DBOS(config={"name": "rivals", "system_database_url": url, "log_level": "ERROR", "run_admin_server": False})


@DBOS.step()
def model(number: int) -> str:
    """Ask for the tool, or answer."""
    return f"call {number}"


@DBOS.step()
def add(number: int) -> int:
    """Add one."""
    return number + 1


@DBOS.workflow()
def converse(name: str) -> int:
    """Hold one conversation to its end."""
    number = 0
    while number < calls:
        model(number)
        number = add(number)
    return number


DBOS.launch()
assert converse("warm") == calls
found = {}
for kind, runs in (("alone", 1), ("together", together)):
    began = time.perf_counter()
    handles = [DBOS.start_workflow(converse, f"{kind}{n}") for n in range(runs)]
    assert all(handle.get_result() == calls for handle in handles)
    found[kind] = 1e3 * (time.perf_counter() - began) / (runs * 2 * calls)
print(json.dumps(found))  # noqa: T201
DBOS.destroy()
