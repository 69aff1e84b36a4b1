"""Whatever one tenant has is nothing to another: every route of the document, asked with ids that are somebody's."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest

from actors.processors.shared import shared_thread
from tests.infra.bridge.documented import holding
from tests.system.conftest import UpProcess, start
from tests.system.test_keys import created, url
from tests.system.test_rest import SUM, WAIT_S, begun, good, until, waits_in

pytestmark = pytest.mark.servers

SECRET: Final = "zanzibar4711"
TENANT: Final = "walk-acme"
AGENT: Final = "clerk"
MODEL: Final = "ostinato-mini"
NAMES: Final = re.compile(r"{(\w+)}")
GIVEN: Final = {"agent": AGENT, "model": MODEL}
"""Of what a path names, what belongs to nobody."""

EMPTY: Final[Mapping[tuple[str, str], tuple[int, str]]] = {
    ("GET", "/api/resources/{resource}/memory"): (200, '{"content":""}'),
    ("POST", "/ag-ui/{agent}/threads/{thread_id}/stop"): (204, ""),
    **{
        (method, f"{path}/{{chat_id}}/{verb}"): told
        for path in ("/api/chat", "/api/agents/{agent}/chat")
        for method, verb, told in (
            ("GET", "messages", (200, "[]")),
            ("GET", "stream", (204, "")),
            ("POST", "stop", (204, "")),
        )
    },
}
"""Routes to which what is not there is empty; to all others it is 404."""
OWN: Final[Mapping[tuple[str, str], Any]] = {
    ("PUT", "/api/schedules/{schedule}"): {"cron": "0 4 * * *", "agent": AGENT, "text": "Hello!"},
    ("POST", "/api/threads/{thread}/runs"): {"agent": AGENT, "text": "Hello!", "wait_s": 30},
    ("PUT", "/api/threads/{thread}/goal"): {"agent": AGENT, "text": "Hello!", "budget": 1},
    ("POST", "/v1/sessions/notes"): {"session_id": "walk-session", "event": "ended"},
}
"""Routes that begin something of the caller's own, under whatever name that has with others; and their bodies."""
BODIES: Final[Mapping[tuple[str, str], Any]] = {
    ("POST", "/api/recall"): {"text": "my name", "scope": "tenant", "embedder": "words-256"},
    ("PATCH", "/api/threads/{thread}"): {"title": "taken"},
    ("PUT", "/api/threads/{thread}/memory"): {"content": "taken"},
    ("PUT", "/api/threads/{thread}/mode"): {"mode": "taken"},
    ("POST", "/api/threads/{thread}/grants"): {"tool": "taken"},
    ("POST", "/api/threads/{thread}/grants/withdraw"): {"tool": "taken"},
    ("POST", "/api/threads/{thread}/waits/{effect}/approve"): {"arguments": "{}"},
    ("POST", "/api/threads/{thread}/waits/{effect}/result"): {"content": "1"},
    ("POST", "/api/threads/{thread}/waits/{effect}/resume"): {"answer": 1},
}
LISTS: Final = {"/api/runs", "/api/schedules", "/api/threads", "/api/waits", "/v1/batches", "/v1/files"}
GOES_ON: Final = "/api/threads/{thread}/runs/{run}/events"
"""A stream that ends when its run does."""

AIMING: Final = "walk-goal"
"""The thread that has a goal."""

Ids = Mapping[str, str]


class Step(NamedTuple):
    """One request of the walk."""

    method: str
    path: str
    ids: Ids

    @property
    def route(self) -> tuple[str, str]:
        return self.method, self.path


def spoken(text: str) -> list[dict[str, Any]]:
    return [{"id": "m1", "role": "user", "content": text, "parts": [{"type": "text", "text": text}]}]


def make(ours: httpx.Client) -> list[Ids]:
    """Have something of every kind; name what belongs together."""
    with httpx.Client(base_url=f"{ours.base_url}/api", headers=ours.headers, timeout=60) as api:
        return [_thread(api), _waiting(api), _digging(api), _aiming(api), _scheduled(api), *_of_other_protocols(ours)]


def _thread(api: httpx.Client) -> Ids:
    about = {"title": SECRET, "resource": "walk-ada", "metadata": {"kind": SECRET}}
    thread = good(api.post("/threads", json=about))["thread"]
    asked = {"agent": AGENT, "text": f"Hello, my {SECRET}!", "resource": "walk-ada", "wait_s": 30}
    run = good(api.post(f"/threads/{thread}/runs", json=asked))
    shared = good(api.post("/threads", json={"thread": shared_thread(TENANT, "walk-ada")}))["thread"]
    for one in (thread, shared):
        good(api.put(f"/threads/{one}/memory", json={"content": f"- name: {SECRET}"}))
    return {"thread": thread, "run": run["run"], "resource": "walk-ada"}


def _waiting(api: httpx.Client) -> Ids:
    path, thread = begun(api, "careful", SUM, messages=[{"role": "user", "content": SECRET}])
    (wait,) = waits_in(api, thread)
    until(api, path, "waiting")
    return {"thread": thread.rpartition("/")[2], "run": path.rpartition("/")[2], "effect": wait["effect"]}


def _digging(api: httpx.Client) -> Ids:
    path, thread = begun(api, "digger", SUM)
    end = time.monotonic() + WAIT_S
    while not (tasks := good(api.get(f"{thread}/tasks"))["data"]):
        assert time.monotonic() < end
    until(api, path, "finished")
    return {"thread": thread.rpartition("/")[2], "run": path.rpartition("/")[2], "task": tasks[0]["task"]}


def _aiming(api: httpx.Client) -> Ids:
    goal = f"/threads/{AIMING}/goal"
    good(api.put(goal, json={"agent": AGENT, "text": SECRET, "budget": 1}))
    end = time.monotonic() + WAIT_S
    while good(api.get(goal))["status"] == "active":
        assert time.monotonic() < end
    return {"thread": AIMING}


def _scheduled(api: httpx.Client) -> Ids:
    good(api.put("/schedules/walk-daily", json={"cron": "0 3 * * *", "agent": AGENT, "text": SECRET}))
    good(api.get("/schedules/walk-daily"))
    return {"schedule": "walk-daily"}


def _of_other_protocols(ours: httpx.Client) -> Iterator[Ids]:
    for model in (MODEL, f"agent/{AGENT}"):
        response = good(ours.post("/v1/responses", json={"model": model, "input": SECRET, "max_output_tokens": 8}))
        yield {"response_id": response["id"]}
    chat: Any = {"id": "walk-chat", "messages": spoken(SECRET)}
    agui: Any = {"threadId": "walk-agui", "runId": "r1", "messages": spoken(SECRET)}
    for path, body in ((f"/api/agents/{AGENT}/chat", chat), (f"/ag-ui/{AGENT}", agui)):
        told = ours.post(path, json=body)
        assert (told.status_code, "text/event-stream" in told.headers["content-type"]) == (200, True), told.text
    yield {"chat_id": chat["id"], "thread": chat["id"]}
    yield {"thread_id": agui["threadId"], "thread": agui["threadId"]}
    body = {"model": MODEL, "messages": spoken(SECRET), "max_tokens": 2}
    line = {"custom_id": SECRET, "method": "POST", "url": "/v1/chat/completions", "body": body}
    content = json.dumps(line).encode() + b"\n"
    file = good(ours.post("/v1/files", files={"file": (SECRET, content)}, data={"purpose": "batch"}))["id"]
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = good(ours.post("/v1/batches", json=asked))["id"]
    done = until(ours, f"/v1/batches/{batch}", "completed")
    yield from ({"file_id": file, "batch_id": batch}, {"file_id": done["output_file_id"]})
    message = {"messageId": "m1", "role": "ROLE_USER", "parts": [{"text": SECRET}]}
    task = good(ours.post(f"/a2a/{AGENT}/message:send", json={"message": message}))["task"]
    yield {"a2a_task": task["id"], "thread": task["contextId"]}


def steps(client: httpx.Client, made: Sequence[Ids]) -> list[Step]:
    """Give all routes, those too that the document cannot have, each with all ids that fit it."""
    document = good(client.get("/openapi.json"))
    routes = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    task = f"/a2a/{AGENT}/tasks/{{a2a_task}}"
    routes += [("GET", task), ("POST", f"{task}:cancel"), ("GET", f"{task}:subscribe")]
    found = list[Step]()
    for method, path in routes:
        names = set(NAMES.findall(path)) - GIVEN.keys()
        fitting = [ids for ids in made if names <= ids.keys()] if names else [{}]
        assert fitting, f"nothing was made that {method} {path} could be asked for"
        found += [Step(method, path, {name: ids[name] for name in names}) for ids in fitting]
    return found


def sent(client: httpx.Client, step: Step) -> httpx.Response:
    body = OWN.get(step.route, BODIES.get(step.route))
    return client.request(
        step.method, step.path.format(**GIVEN, **step.ids), **({} if body is None else {"json": body})
    )


def seen(ours: httpx.Client, walk: Sequence[Step], made: Sequence[Ids]) -> dict[str, str]:
    """Read all that its owner can read."""
    under_way = {ids["run"] for ids in made if "effect" in ids}
    told = dict[str, str]()
    for step in walk:
        going_on = step.path == GOES_ON and step.ids["run"] in under_way
        aimless = step.path.endswith("/goal") and step.ids["thread"] != AIMING
        if step.method == "GET" and not going_on and not aimless and (step.ids or step.path in LISTS):
            answer = sent(ours, step)
            over = step.path.endswith((":subscribe", "/stream"))
            assert over or answer.status_code == 200, (step, answer.text)
            told[str(step)] = answer.text
    recalled = ours.post("/api/recall", json=BODIES["POST", "/api/recall"])
    return told | {"recalled": recalled.text}


def settled(ours: httpx.Client, walk: Sequence[Step], made: Sequence[Ids]) -> dict[str, str]:
    """Read it once the record holds all of it: lists are a moment behind."""
    end, told = time.monotonic() + WAIT_S, seen(ours, walk, made)
    while (again := seen(ours, walk, made)) != told:
        assert time.monotonic() < end
        told = again
    return told


def check(step: Step, answer: httpx.Response, ours: Sequence[str]) -> None:
    """See that an answer tells a stranger nothing."""
    about = (step, answer.status_code, answer.text[:500])
    assert SECRET not in answer.text, about
    text = answer.text
    for own in step.ids.values():
        text = text.replace(own, "")  # what is wrong is told by its name
    assert not [one for one in ours if one in text], about
    if step.route in EMPTY:
        assert (answer.status_code, answer.text) == EMPTY[step.route], about
    elif step.ids:
        assert answer.status_code in ({200, 202} if step.route in OWN else {404}), about
    elif step.path in LISTS and step.method == "GET":
        assert (answer.status_code, answer.json()["data"]) == (200, []), about
    else:
        assert answer.status_code in {200, 201, 400, 403, 404, 415, 422}, about


def keyed(up: UpProcess, tenant: str) -> httpx.Client:
    key = created(up, "--tenant", tenant)["key"]
    headers = {"authorization": f"Bearer {key}", "a2a-version": "1.0"}
    return holding(httpx.Client(base_url=url(up), headers=headers, timeout=60))


@pytest.fixture(scope="module")
def walked(system_folder: Path) -> Iterator[UpProcess]:
    """A stack that asks for keys, with agents that leave something of every kind behind."""
    up = start(system_folder / "walked", "--host", "0.0.0.0", "--agents", str(Path(__file__).parent / "walked.py"))
    yield up
    assert up.stop() == 0


def test_no_route_tells_a_stranger_of_what_is_somebody_elses_or_changes_it(walked: UpProcess) -> None:
    with keyed(walked, TENANT) as ours, keyed(walked, "walk-stranger") as theirs:
        made = make(ours)
        walk = steps(theirs, made)
        before = settled(ours, walk, made)
        telling = [step for step, text in before.items() if SECRET in text]
        assert len(telling) > 15
        assert "recalled" in telling
        everything = sorted({value for ids in made for value in ids.values()})
        # what begins something of theirs comes last: under these names there is something then
        for step in sorted(walk, key=lambda step: step.route in OWN):
            check(step, sent(theirs, step), everything)
        for response in (ids["response_id"] for ids in made if "response_id" in ids):
            model = f"agent/{AGENT}" if "." in response else MODEL
            answer = theirs.post(
                "/v1/responses", json={"model": model, "input": "Go on.", "previous_response_id": response}
            )
            assert (answer.status_code, SECRET in answer.text) == (404, False)
            named = {"request_ids": [response.removeprefix("resp_").partition(".")[0]]}
            assert theirs.post("/inference/v1/abort_requests", json=named).status_code == 200
        after = seen(ours, walk, made)
        assert {step: text for step, text in after.items() if text != before[step]} == {}
