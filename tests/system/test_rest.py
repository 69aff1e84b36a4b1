"""The REST API on a whole stack: threads, runs that are told of byte for byte, approvals, memory and schedules."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.infra.bridge.documented import holding
from tests.system.conftest import UpProcess, start
from tests.system.test_keys import created, guarded, url

pytestmark = pytest.mark.servers
__all__ = ["guarded"]

SUM = "What is 12 times 34?"
WAIT_S = 30.0
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


@pytest.fixture
def api(stack: UpProcess) -> Iterator[httpx.Client]:
    with holding(httpx.Client(base_url=f"{stack.url}/api", timeout=60)) as client:
        yield client


def good(answer: httpx.Response) -> Any:
    assert answer.status_code in {200, 201, 202}, answer.text
    return answer.json()


def refused(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def until(client: httpx.Client, path: str, *statuses: str) -> Any:
    """Ask until something has one of these statuses."""
    end = time.monotonic() + WAIT_S
    while (found := good(client.get(path)))["status"] not in statuses:
        assert time.monotonic() < end, found
    return found


def begun(client: httpx.Client, agent: str, text: str, **wanted: Any) -> tuple[str, str]:
    """Begin a run; return its path, and its thread's."""
    run = good(client.post("/runs", json={"agent": agent, "text": text, **wanted}))
    thread = f"/threads/{run['thread']}"
    return f"{thread}/runs/{run['run']}", thread


def waits_in(client: httpx.Client, thread: str) -> list[dict[str, Any]]:
    """What a thread waits for, when it waits for something."""
    end = time.monotonic() + WAIT_S
    while not (found := good(client.get(f"{thread}/waits"))["data"]):
        assert time.monotonic() < end, thread
    return list(found)


def taken(stream: httpx.Response, until_there: str) -> str:
    """Read whole events of a stream until something was told."""
    got = ""
    for piece in stream.iter_text():
        got += piece
        if until_there in got and "\n\n" in got[got.index(until_there) :]:
            break
    return got[: got.rindex("\n\n") + 2]


def events(text: str) -> list[tuple[str, str]]:
    """The id and name of each event of a stream that has an id."""
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("id: ")]
    return [(block[0].removeprefix("id: "), block[1].removeprefix("event: ")) for block in blocks]


def test_agents_and_tools_are_told(api: httpx.Client) -> None:
    agents = {agent["name"]: agent for agent in good(api.get("/agents"))["data"]}
    assert agents["demo"] == good(api.get("/agents/demo"))
    tools = {tool["name"]: tool for tool in agents["demo"]["tools"]}
    assert tools["calculator"]["effect"] == "pure"
    assert tools["calculator"]["parameters"]["required"] == ["expression"]
    of_all = good(api.get("/tools"))["data"]
    assert [one["approval"] for one in of_all if "careful" in one["agents"] and one["name"] == "calculator"] == [True]
    assert refused(api.get("/agents/nobody")) == (404, "agent_not_found", "agent")


def listed(api: httpx.Client, path: str, **wanted: str) -> list[dict[str, Any]]:
    """List what there is, once there is any: lists are a moment behind."""
    end = time.monotonic() + WAIT_S
    while not (lines := good(api.get(path, params=wanted))["data"]):
        assert time.monotonic() < end
    return list(lines)


def test_a_thread_is_begun_asked_in_read_found_renamed_and_erased(api: httpx.Client) -> None:
    about = {"title": "Sums of a Tuesday", "metadata": {"kind": "sums"}, "resource": "ada"}
    thread = good(api.post("/threads", json=about))["thread"]
    run = good(
        api.post(f"/threads/{thread}/runs", json={"agent": "demo", "text": SUM, "wait_s": 30, "resource": "ada"})
    )
    assert (run["status"], "408" in run["text"], run["steps"]) == ("finished", True, 2)
    assert run["usage"]["completion_tokens"] > 0
    told = until(api, f"/threads/{thread}/runs/{run['run']}", "finished")
    assert told == run
    messages = good(api.get(f"/threads/{thread}/messages"))
    assert [one["role"] for one in messages["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert good(api.get(f"/threads/{thread}/messages?first=3&limit=1"))["messages"][0]["content"] == run["text"]
    assert [one["number"] for one in good(api.get(f"/threads/{thread}/messages?last=2"))["messages"]] == [2, 3]
    long = api.post("/runs", json={"agent": "demo", "text": "x" * 5_000_000})
    assert refused(long)[:2] == (413, "too_large"), long.text
    assert [one["thread"] for one in listed(api, "/threads", text="tuesday", resource="ada")] == [thread]
    assert good(api.get(f"/threads/{thread}"))["metadata"] == {"kind": "sums"}
    good(api.patch(f"/threads/{thread}", json={"title": "Products", "metadata": {"kind": None}}))
    lines = listed(api, "/runs", thread=thread, status="finished")
    assert [(line["run"], line["thread"], line["status"]) for line in lines] == [(run["run"], thread, "finished")]
    good(api.request("DELETE", f"/threads/{thread}", json={"reason": "asked to"}))
    end = time.monotonic() + WAIT_S
    while (gone := api.get(f"/threads/{thread}/messages")).status_code != 404:
        assert time.monotonic() < end
    assert refused(gone) == (404, "thread_not_found", "thread")
    again = api.post(f"/threads/{thread}/runs", json={"agent": "demo", "text": SUM, "wait_s": 30})
    assert again.status_code in {400, 404}, again.text
    end = time.monotonic() + WAIT_S
    for rest in ("", f"/runs/{run['run']}", f"/runs/{run['run']}/events", "/memory"):
        while (gone := api.get(f"/threads/{thread}{rest}")).status_code != 404:
            assert gone.status_code == 200, gone.text
            assert time.monotonic() < end, rest
    assert good(api.get(f"/threads/{thread}/waits"))["data"] == good(api.get(f"/threads/{thread}/tasks"))["data"] == []


def test_a_page_of_threads_says_where_the_next_one_begins(api: httpx.Client) -> None:
    made = [good(api.post("/threads", json={"resource": "pages"}))["thread"] for _ in range(3)]
    end, seen, before = time.monotonic() + WAIT_S, list[str](), None
    while len(good(api.get("/threads", params={"resource": "pages"}))["data"]) < 3:
        assert time.monotonic() < end
    for _ in range(3):
        page = good(
            api.get("/threads", params={"resource": "pages", "limit": 1} | ({"before": before} if before else {}))
        )
        seen += [one["thread"] for one in page["data"]]
        before = page["before"]
    assert sorted(seen) == sorted(made)


def test_a_stream_is_the_same_bytes_live_and_read_back_from_any_event_on(api: httpx.Client) -> None:
    live = api.post("/runs", json={"agent": "demo", "text": SUM, "stream": True})
    assert live.headers["content-type"].startswith("text/event-stream")
    told = events(live.text)
    assert told[0] == ("1", "run.started")
    assert told[-1][1] == "run.finished"
    assert "delta" in {name for _, name in told}
    started = live.text.split("data: ", 2)[1]
    thread, run = (started.split(f'"{name}":"')[1].split('"')[0] for name in ("thread", "subject"))
    path = f"/threads/{thread}/runs/{run}/events"
    assert api.get(path).text == live.text
    for identity, _ in told:
        rest = api.get(path, headers={"last-event-id": identity}).text
        assert live.text.endswith(rest)
        assert events(rest) == told[told.index((identity, dict(told)[identity])) + 1 :]


def test_a_client_that_goes_away_ends_no_run_and_comes_back_to_the_rest(api: httpx.Client) -> None:
    asked = {"agent": "careful", "text": SUM, "stream": True}
    with api.stream("POST", "/runs", json=asked) as stream:
        got = taken(stream, "event: approval.requested")
    thread, run = (got.split(f'"{name}":"')[1].split('"')[0] for name in ("thread", "subject"))
    path = f"/threads/{thread}/runs/{run}"
    (wait,) = waits_in(api, f"/threads/{thread}")
    good(api.post(f"/threads/{thread}/waits/{wait['effect']}/approve", json={"arguments": wait["arguments"]}))
    rest = api.get(f"{path}/events", headers={"last-event-id": events(got)[-1][0]}).text
    assert events(rest)[-1][1] == "run.finished"
    assert api.get(f"{path}/events").text == got + rest
    assert until(api, path, "finished", "aborted")["status"] == "finished"


def test_whoever_comes_late_to_a_run_hears_what_was_written_and_goes_on_hearing(api: httpx.Client) -> None:
    path, _ = begun(api, "rambler", "Go on.")
    with api.stream("GET", f"{path}/events") as stream:
        got = taken(stream, "event: delta")
    rest = api.get(f"{path}/events", params={"last_event_id": events(got)[-1][0]}).text
    whole = api.get(f"{path}/events").text
    assert whole == got + rest
    assert events(whole)[-1][1] == "run.finished"


def test_a_run_that_is_cancelled_ends(api: httpx.Client) -> None:
    path, _ = begun(api, "careful", SUM)
    until(api, path, "waiting")
    good(api.post(f"{path}/cancel", json={"reason": "enough"}))
    ended = until(api, path, "aborted")
    assert "enough" in ended["problem"]["message"]
    assert refused(api.post(f"{path}/cancel")) == (409, "not_under_way", "run")
    assert refused(api.post("/threads/t-none/runs/r-none/cancel")) == (404, "run_not_found", "run")


def test_what_waits_is_listed_and_agreed_to_with_exactly_what_was_shown(api: httpx.Client) -> None:
    path, thread = begun(api, "careful", SUM)
    (wait,) = waits_in(api, thread)
    assert (wait["kind"], wait["tool"]) == ("approval", "calculator")
    until(api, path, "waiting")
    end = time.monotonic() + WAIT_S
    while wait["effect"] not in {one["effect"] for one in good(api.get("/waits"))["data"]}:
        assert time.monotonic() < end
    one = f"{thread}/waits/{wait['effect']}"
    assert refused(api.post(f"{one}/approve", json={"arguments": '{"expression": "1"}'}))[0] in {400, 409}
    good(api.post(f"{one}/approve", json={"arguments": wait["arguments"]}))
    assert "408" in until(api, path, "finished")["text"]
    assert refused(api.post(f"{one}/approve", json={"arguments": wait["arguments"]})) == (409, "not_waiting", "effect")


def test_a_call_is_declined_with_a_reason_that_the_model_reads(api: httpx.Client) -> None:
    path, thread = begun(api, "careful", SUM)
    (wait,) = waits_in(api, thread)
    good(api.post(f"{thread}/waits/{wait['effect']}/decline", json={"reason": "not on a Sunday"}))
    until(api, path, "finished")
    said = good(api.get(f"{thread}/messages"))["messages"]
    assert any("not on a Sunday" in one["content"] for one in said if one["role"] == "tool")


def test_a_suspended_tool_goes_on_with_data_and_a_callers_tool_with_its_result(api: httpx.Client) -> None:
    path, thread = begun(api, "leaving", SUM)
    (wait,) = waits_in(api, thread)
    assert (wait["kind"], wait["payload"], wait["schema"]["type"]) == ("data", {"expression": "12 * 34"}, "boolean")
    good(api.post(f"{thread}/waits/{wait['effect']}/resume", json={"answer": True}))
    assert "408" in until(api, path, "finished")["text"]
    path, thread = begun(api, "lent", SUM)
    (wait,) = waits_in(api, thread)
    assert wait["kind"] == "caller"
    good(api.post(f"{thread}/waits/{wait['effect']}/result", json={"content": "408"}))
    assert "408" in until(api, path, "finished")["text"]


def test_a_request_with_a_key_of_its_own_begins_one_run_however_often_it_comes(api: httpx.Client) -> None:
    asked = {"agent": "demo", "text": SUM, "wait_s": 30}
    key = {"idempotency-key": f"sum-{time.monotonic_ns()}"}
    runs = [good(api.post("/runs", json=asked, headers=key)) for _ in range(3)]
    assert len({(run["run"], run["thread"]) for run in runs}) == 1
    assert {run["status"] for run in runs} == {"finished"}
    other = api.post("/runs", json=asked | {"text": "Hello!"}, headers=key)
    assert refused(other) == (409, "key_in_use", "idempotency-key")
    streamed = api.post("/runs", json=asked | {"stream": True}, headers=key).text
    assert streamed == api.get(f"/threads/{runs[0]['thread']}/runs/{runs[0]['run']}/events").text


@pytest.mark.parametrize("stream", [False, True], ids=["told", "streamed"])
def test_of_two_requests_with_one_key_that_come_at_once_the_other_is_refused(api: httpx.Client, stream: bool) -> None:
    key = {"idempotency-key": f"race-{time.monotonic_ns()}"}

    def asked(turn: int) -> httpx.Response:
        body = {"agent": "demo", "text": ("Hello!", "Good morning!")[turn % 2], "stream": stream}
        return api.post("/runs", json=body, headers=key)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(asked, range(6)))
    assert [turn % 2 for turn, one in enumerate(answers) if one.status_code != 409] in ([0] * 3, [1] * 3)
    assert {refused(one) for one in answers if one.status_code == 409} == {(409, "key_in_use", "idempotency-key")}


def test_a_picture_that_comes_again_with_its_key_is_the_same_request(api: httpx.Client) -> None:
    key = {"idempotency-key": f"seen-{time.monotonic_ns()}"}

    def asked(picture: str) -> httpx.Response:
        message = {"role": "user", "content": "What is this?", "images": [{"url": picture}]}
        return api.post("/runs", json={"agent": "demo", "messages": [message]}, headers=key)

    run = good(asked(PIXEL))
    until(api, f"/threads/{run['thread']}/runs/{run['run']}", "failed")
    assert good(asked(PIXEL))["run"] == run["run"]
    assert refused(asked(PIXEL.replace("42YAAAAA", "42YAAAAB")))[:2] == (409, "key_in_use")


def test_a_key_whose_thread_was_deleted_says_so(api: httpx.Client) -> None:
    key, asked = {"idempotency-key": f"gone-{time.monotonic_ns()}"}, {"agent": "demo", "text": "Hello!", "wait_s": 30}
    run = good(api.post("/runs", json=asked, headers=key))
    good(api.request("DELETE", f"/threads/{run['thread']}", json={}))
    end = time.monotonic() + WAIT_S
    while (again := api.post("/runs", json=asked, headers=key)).status_code == 202:
        assert time.monotonic() < end
    assert refused(again) == (409, "key_in_use", "idempotency-key")
    assert "deleted" in again.json()["error"]["message"]


def test_what_a_threads_runs_took_is_told_for_all_of_them(api: httpx.Client) -> None:
    runs = [good(api.post("/runs", json={"agent": "demo", "text": SUM, "wait_s": 30}))]
    path = f"/threads/{runs[0]['thread']}"
    runs.append(good(api.post(f"{path}/runs", json={"agent": "demo", "text": "Hello!", "wait_s": 30})))
    end = time.monotonic() + WAIT_S
    while (told := good(api.get(f"{path}/usage")))["runs"] < 2:
        assert time.monotonic() < end, told
    for field in ("prompt_tokens", "completion_tokens"):
        assert told["usage"][field] == sum(run["usage"][field] for run in runs) > 0
    assert (told["cost"], told["unpriced"]) == (None, 2)
    assert refused(api.get("/threads/t-none/usage"))[:2] == (404, "thread_not_found")
    good(api.request("DELETE", path, json={}))
    while api.get(f"{path}/usage").json().get("runs", 0):
        assert time.monotonic() < end


@pytest.mark.parametrize("before", [str(1 << 63), "9" * 20, "-1", "x"])
def test_a_page_that_cannot_be_is_refused_by_name(api: httpx.Client, before: str) -> None:
    for path in ("/runs", "/threads"):
        assert refused(api.get(path, params={"before": before})) == (400, "invalid_value", "before")


@pytest.mark.parametrize(("field", "value"), [("active_tools", ["a\0"]), ("tool", "a\0")])
def test_a_tool_that_is_not_there_is_the_request_s_mistake(api: httpx.Client, field: str, value: object) -> None:
    answer = api.post("/runs", json={"agent": "demo", "text": "Hello!", field: value})
    assert refused(answer) == (400, "invalid_value", field)


def test_a_run_that_was_cancelled_is_listed_as_that(api: httpx.Client) -> None:
    path, thread = begun(api, "careful", SUM)
    waits_in(api, thread)
    good(api.post(f"{path}/cancel", json={}))
    until(api, path, "aborted")
    end, about = time.monotonic() + WAIT_S, {"thread": thread.removeprefix("/threads/")}
    while not good(api.get("/runs", params={**about, "status": "aborted"}))["data"]:
        assert time.monotonic() < end
    assert [run["status"] for run in good(api.get("/runs", params=about))["data"]] == ["aborted"]
    assert not good(api.get("/runs", params={**about, "status": "failed"}))["data"]


def test_working_memory_is_written_and_read(api: httpx.Client) -> None:
    thread = good(api.post("/threads", json={}))["thread"]
    good(api.put(f"/threads/{thread}/memory", json={"content": '{"tea": "green"}'}))
    good(api.put(f"/threads/{thread}/memory", json={"content": '{"milk": "no"}', "merge": True}))
    end, content = time.monotonic() + WAIT_S, ""
    while "milk" not in content:
        content = good(api.get(f"/threads/{thread}/memory"))["content"]
        assert time.monotonic() < end, content
    assert "green" in content
    assert good(api.get("/resources/nobody/at/all/memory"))["content"] == ""
    assert refused(api.post("/recall", json={"text": "tea"}))[0] == 400


def test_a_schedule_is_put_paused_fired_and_ended(api: httpx.Client) -> None:
    name = f"/schedules/s{time.monotonic_ns()}"
    wanted = {"cron": "0 3 1 1 *", "agent": "demo", "text": SUM, "timezone": "Europe/Vienna"}
    good(api.put(name, json=wanted))
    assert good(api.get(name))["schedule"]["timezone"] == "Europe/Vienna"
    good(api.post(f"{name}/pause"))
    until(api, name, "paused")
    good(api.post(f"{name}/resume"))
    until(api, name, "active")
    good(api.post(f"{name}/run"))
    end = time.monotonic() + WAIT_S
    while not (stands := good(api.get(name)))["fired"]:
        assert time.monotonic() < end, stands
    good(api.delete(name))
    assert refused(api.put(name, json=wanted | {"cron": "every day"}))[0] == 400
    while api.get(name).status_code != 404:
        assert time.monotonic() < end
    for gone in (api.delete(name), api.post(f"{name}/pause")):
        assert refused(gone) == (404, "schedule_not_found", "schedule")


def test_a_fork_has_the_history_and_goes_its_own_way(api: httpx.Client) -> None:
    path, thread = begun(api, "demo", SUM, wait_s=30)
    until(api, path, "finished")
    before = good(api.get(f"{thread}/messages"))["messages"]
    fork = good(api.post(f"{thread}/fork", json={}))["thread"]
    good(api.post(f"/threads/{fork}/runs", json={"agent": "demo", "text": "Hello!", "wait_s": 30}))
    end = time.monotonic() + WAIT_S
    while len(said := good(api.get(f"/threads/{fork}/messages"))["messages"]) < len(before) + 2:
        assert time.monotonic() < end, said
    assert [one["content"] for one in said[: len(before)]] == [one["content"] for one in before]
    assert good(api.get(f"{thread}/messages"))["messages"] == before
    assert refused(api.post("/threads/t-none/fork")) == (404, "thread_not_found", "thread")
    far = api.post(f"{thread}/fork", json={"at": 10_000})
    assert refused(far) == (400, "invalid_value", "at")
    assert "--" not in far.text


def test_a_stream_goes_on_after_the_stack_was_killed(system_folder: Path, tmp_path: Path) -> None:
    up = start(system_folder / tmp_path.name)
    with httpx.Client(base_url=f"{up.url}/api", timeout=60) as client:
        path, thread = begun(client, "careful", SUM)
        waits_in(client, thread)
        until(client, path, "waiting")
        with client.stream("GET", f"{path}/events") as stream:
            got = taken(stream, "event: approval.requested")
    os.kill(up.process.pid, signal.SIGKILL)
    up.process.communicate(timeout=30)
    again = start(system_folder / tmp_path.name)
    try:
        with httpx.Client(base_url=f"{again.url}/api", timeout=60) as client:
            (wait,) = waits_in(client, thread)
            good(client.post(f"{thread}/waits/{wait['effect']}/approve", json={"arguments": wait["arguments"]}))
            last = events(got)[-1][0]
            rest = client.get(f"{path}/events", headers={"last-event-id": last}).text
            assert client.get(f"{path}/events").text == got + rest
            assert events(rest)[-1][1] == "run.finished"
    finally:
        assert again.stop() == 0


def test_a_tenant_sees_nothing_of_another(guarded: UpProcess) -> None:
    ours, theirs = (
        httpx.Client(
            base_url=f"{url(guarded)}/api",
            headers={"authorization": f"Bearer {created(guarded, '--tenant', name)['key']}"},
            timeout=60,
        )
        for name in ("rest-acme", "rest-umbrella")
    )
    with ours, theirs:
        path, thread = begun(ours, "demo", SUM, wait_s=30)
        until(ours, path, "finished")
        good(ours.put("/schedules/daily", json={"cron": "0 3 * * *", "agent": "demo", "text": SUM}))
        good(ours.get("/schedules/daily"))
        assert good(ours.get("/threads"))["data"]
        assert good(ours.get("/runs"))["data"]
        for found in ("/threads", "/runs", "/waits", "/schedules"):
            assert good(theirs.get(found))["data"] == []
        for foreign in (path, f"{path}/events", thread, f"{thread}/messages", f"{thread}/memory", "/schedules/daily"):
            assert theirs.get(foreign).status_code == 404, foreign
        assert theirs.post(f"{path}/cancel").status_code == 404
        assert theirs.post(f"{thread}/fork").status_code == 404
        for foreign in (f"{thread}/waits", f"{thread}/tasks"):
            assert theirs.get(foreign).status_code == 404, foreign
        assert theirs.post(f"{thread}/waits/e/approve", json={"arguments": "{}"}).status_code == 404
        assert refused(theirs.request("DELETE", thread)) == (404, "thread_not_found", "thread")
        # what was refused there begins no thread
        assert theirs.get(f"{thread}/waits").status_code == 404
        assert len(good(ours.get(f"{thread}/messages"))["messages"]) == 4
    narrow = created(guarded, "--scope", "inference")["key"]
    answer = httpx.get(f"{url(guarded)}/api/threads", headers={"authorization": f"Bearer {narrow}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")
