"""Push notifications of the Agent2Agent protocol: the official client, a receiver of its own, and deaths in between."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from a2a.client.client import Client
from a2a.helpers.proto_helpers import get_artifact_text, get_data_parts
from a2a.types.a2a_pb2 import (
    AuthenticationInfo,
    DeleteTaskPushNotificationConfigRequest,
    GetTaskPushNotificationConfigRequest,
    ListTaskPushNotificationConfigsRequest,
    Task,
    TaskPushNotificationConfig,
    TaskState,
)
from a2a.utils.errors import InvalidParamsError, TaskNotFoundError
from google.protobuf.json_format import ParseDict

from infra.privacy import known_master, opened_store
from schemas import codec
from schemas.pushes import PushTried, push_id
from tests.system.certificates import THIS_MACHINE, Authority, authority
from tests.system.conftest import UpProcess, start
from tests.system.test_a2a import BINDINGS, SUM, asked, connected, events
from tests.system.test_keys import created, self_signed, url

pytestmark = pytest.mark.servers
waited = pytest.mark.deadline(120)
ATTEMPTS = 4
LOOK_S = 0.05


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Word(NamedTuple):
    """What somebody was told."""

    path: str
    headers: dict[str, str]
    task: Task

    @property
    def state(self) -> int:
        return self.task.status.state


class Receiver:
    """A receiver of notifications in a process of its own."""

    def __init__(self, *argv: str) -> None:
        command = [sys.executable, "-m", "tests.system.receiver", *argv]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self._lines = self.process.stdout
        self.port = int(self._lines.readline())

    async def next(self) -> Word:
        """Wait for the next word."""
        line = await asyncio.to_thread(self._lines.readline)
        assert line, "the receiver is gone"
        told = json.loads(line)
        assert set(told["body"]) == {"task"}
        headers = {name.lower(): value for name, value in told["headers"].items()}
        return Word(told["path"], headers, ParseDict(told["body"]["task"], Task()))

    def begin(self) -> None:
        """Be there, where it was to be later."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._lines.close()
        if self.process.stdin is not None:
            self.process.stdin.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One that is there."""
    receiver = Receiver()
    yield receiver
    receiver.stop()


@pytest.fixture(scope="module")
def trusted() -> Authority:
    """Whose certificates the stack trusts."""
    return authority("trusted")


@pytest.fixture(scope="module")
def telling(system_folder: Path, trusted: Authority) -> Iterator[UpProcess]:
    """A stack that tells this machine, and lets nobody in without a key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSTINATO_A2A_PUSH_HOSTS", "127.0.0.1,localhost")
        patch.setenv("SSL_CERT_FILE", str(trusted.write(system_folder / "trusted.pem")))
        patch.setenv("OSTINATO_A2A_PUSH_ATTEMPTS", str(ATTEMPTS))
        up = start(system_folder / "telling", "--host", "0.0.0.0")
    yield up
    assert up.stop() == 0


@asynccontextmanager
async def reaching(
    up: UpProcess, agent: str, binding: str = "JSONRPC", tenant: str = "push-acme"
) -> AsyncIterator[Client]:
    key = (await asyncio.to_thread(created, up, "--tenant", tenant))["key"]
    async with connected(url(up), agent, binding, key) as client:
        yield client


def hook(receiver: Receiver, path: str, **about: Any) -> TaskPushNotificationConfig:
    return TaskPushNotificationConfig(url=f"http://127.0.0.1:{receiver.port}{path}", **about)


async def begun(client: Client, text: str, config: TaskPushNotificationConfig, **about: Any) -> Task:
    heard = await events(client.send_message(asked(text, task_push_notification_config=config, **about)))
    task: Task = heard[0][1]
    return task


async def tries(
    up: UpProcess, task: Task, enough: Callable[[list[PushTried]], bool], tenant: str = "push-acme"
) -> list[PushTried]:
    """What the log holds of attempts to tell of a task, when they are enough."""
    run, _, thread = task.id.partition(".")
    async with await opened_store(up.postgres_url, await asyncio.to_thread(known_master, up.data)) as store:
        while True:
            found = [event.fact for event in await store.events_of_thread(tenant, push_id(thread, run))]
            read = [codec.decode_event(fact.payload) for fact in found if fact.type == "push.tried"]
            tried = [event for event in read if isinstance(event, PushTried)]
            if enough(tried):
                return tried
            await asyncio.sleep(LOOK_S)


async def given_up(up: UpProcess, task: Task) -> list[PushTried]:
    return await tries(up, task, lambda found: bool(found) and not found[-1].again)


@waited
@pytest.mark.anyio
@BINDINGS
async def test_who_was_named_with_the_message_hears_that_it_waits_and_how_it_ended(
    telling: UpProcess, receiver: Receiver, binding: str
) -> None:
    async with reaching(telling, "careful", binding) as client:
        given = AuthenticationInfo(scheme="Bearer", credentials="key-1")
        config = hook(receiver, "/here?x=1", id="mine", token="secret-1", authentication=given)
        task = await begun(client, SUM, config)
        first = await receiver.next()
        assert (first.path, first.task.id, first.state) == ("/here?x=1", task.id, TaskState.TASK_STATE_INPUT_REQUIRED)
        assert first.headers["x-a2a-notification-token"] == "secret-1"
        assert first.headers["authorization"] == "Bearer key-1"
        assert first.headers["host"] == f"127.0.0.1:{receiver.port}"
        (waits,) = get_data_parts(first.task.status.message.parts)
        assert waits["waits"][0]["tool"] == "calculator"
        await events(client.send_message(asked("yes", task)))
        last = await receiver.next()
        assert (last.task.id, last.state) == (task.id, TaskState.TASK_STATE_COMPLETED)
        assert "408" in get_artifact_text(last.task.artifacts[0])
        assert first.headers["x-ostinato-delivery"] != last.headers["x-ostinato-delivery"]


@waited
@pytest.mark.anyio
@BINDINGS
async def test_who_is_told_is_set_read_listed_and_deleted(telling: UpProcess, receiver: Receiver, binding: str) -> None:
    async with reaching(telling, "careful", binding) as client:
        task = (await events(client.send_message(asked(SUM))))[0][1]
        given = AuthenticationInfo(scheme="Basic", credentials="YTpi")
        mine = hook(receiver, "/mine", task_id=task.id, id="mine", token="secret-2", authentication=given)
        assert await client.create_task_push_notification_config(mine) == mine
        unnamed = await client.create_task_push_notification_config(hook(receiver, "/unnamed", task_id=task.id))
        assert unnamed.id == task.id
        get = GetTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
        assert await client.get_task_push_notification_config(get) == mine
        every = ListTaskPushNotificationConfigsRequest(task_id=task.id)
        listed = await client.list_task_push_notification_configs(every)
        assert sorted(listed.configs, key=lambda one: one.id) == sorted([mine, unnamed], key=lambda one: one.id)
        for _ in range(2):
            await client.delete_task_push_notification_config(
                DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
            )
        with pytest.raises(TaskNotFoundError):
            await client.get_task_push_notification_config(get)
        assert list((await client.list_task_push_notification_configs(every)).configs) == [unnamed]
        await events(client.send_message(asked("no", task)))
        heard = await receiver.next()
        while heard.state != TaskState.TASK_STATE_COMPLETED:  # that it waited may have been told to both
            heard = await receiver.next()
        assert heard.path == "/unnamed"


@waited
@pytest.mark.anyio
async def test_who_is_named_after_the_end_hears_of_it_all_the_same(telling: UpProcess, receiver: Receiver) -> None:
    async with reaching(telling, "demo") as client:
        task = (await events(client.send_message(asked("Hello!"))))[0][1]
        for name in ("first", "second"):
            await client.create_task_push_notification_config(hook(receiver, f"/{name}", task_id=task.id, id=name))
            heard = await receiver.next()
            assert (heard.path, heard.state) == (f"/{name}", TaskState.TASK_STATE_COMPLETED)


@waited
@pytest.mark.anyio
async def test_what_is_answered_with_an_error_is_tried_again(telling: UpProcess, receiver: Receiver) -> None:
    async with reaching(telling, "demo") as client:
        task = await begun(client, "Hello!", hook(receiver, "/first"))
        words = [await receiver.next(), await receiver.next()]
        assert {word.headers["x-ostinato-delivery"] for word in words} == {words[0].headers["x-ostinato-delivery"]}
        assert [one.code for one in await given_up(telling, task)] == [500, 200]


@waited
@pytest.mark.anyio
async def test_who_will_not_hear_is_given_up_and_the_log_says_so(telling: UpProcess, receiver: Receiver) -> None:
    async def told(code: int) -> list[PushTried]:
        async with reaching(telling, "demo") as client:
            return await given_up(
                telling, await begun(client, "Hello!", hook(receiver, f"/{code}?secret-3", token="secret-3"))
            )

    # at once: each waits longer and longer before it tells again
    counts = {500: ATTEMPTS, 302: ATTEMPTS, 410: 1}
    for code, found in zip(counts, await asyncio.gather(*map(told, counts)), strict=True):
        assert [one.code for one in found] == [code] * counts[code]
        assert all(one.problem for one in found)
    # nobody is sent on to another place
    heard = Counter([(await receiver.next()).path for _ in range(sum(counts.values()))])
    assert heard == {f"/{code}?secret-3": count for code, count in counts.items()}
    log = (telling.data / "logs" / "agents-0.log").read_text()
    assert all(f"given up: answered {code}" in log for code in counts)
    assert "secret-3" not in log


@contextmanager
def secure(certificate: Path) -> Iterator[Receiver]:
    """A receiver that speaks TLS."""
    receiver = Receiver(str(certificate))
    yield receiver
    receiver.stop()


@waited
@pytest.mark.anyio
@pytest.mark.parametrize("host", THIS_MACHINE)
async def test_a_receiver_whose_certificate_is_trusted_is_told_over_tls(
    telling: UpProcess, trusted: Authority, tmp_path: Path, host: str
) -> None:
    with secure(trusted.signed(tmp_path / "own.pem", host)) as receiver:
        async with reaching(telling, "demo") as client:
            there = TaskPushNotificationConfig(url=f"https://{host}:{receiver.port}/tls", token="secret-5")
            task = await begun(client, "Hello!", there)
            word = await receiver.next()
            assert (word.path, word.task.id, word.state) == ("/tls", task.id, TaskState.TASK_STATE_COMPLETED)
            assert word.headers["x-a2a-notification-token"] == "secret-5"
            assert word.headers["host"] == f"{host}:{receiver.port}"
            assert [one.code for one in await given_up(telling, task)] == [200]


@waited
@pytest.mark.anyio
async def test_a_receiver_whose_certificate_is_not_trusted_is_told_nothing_and_the_log_says_why(
    telling: UpProcess, receiver: Receiver, trusted: Authority, tmp_path: Path
) -> None:
    certificates = {
        "self-signed certificate": self_signed(tmp_path),
        "unable to get local issuer certificate": authority("other").signed(tmp_path / "foreign.pem", *THIS_MACHINE),
        "IP address mismatch": trusted.signed(tmp_path / "of-another.pem", "example.com"),
        "certificate has expired": trusted.signed(tmp_path / "old.pem", *THIS_MACHINE, years=1),
    }
    with ExitStack() as stack:
        receivers = {f"not trusted: {why}": stack.enter_context(secure(one)) for why, one in certificates.items()}
        receivers["it speaks no TLS"] = receiver
        async with reaching(telling, "demo") as client:
            tasks = {
                why: await begun(client, "Hello!", TaskPushNotificationConfig(url=f"https://127.0.0.1:{one.port}/"))
                for why, one in receivers.items()
            }
            for why, task in tasks.items():
                found = await given_up(telling, task)
                assert [one.code for one in found] == [0] * ATTEMPTS
                assert why in found[-1].problem
        log = await asyncio.to_thread((telling.data / "logs" / "agents-0.log").read_text)
        assert log.count("given up: its certificate is not trusted") == len(certificates)
        for one in receivers.values():
            one.process.kill()
            assert one.process.stdout is not None
            assert await asyncio.to_thread(one.process.stdout.read) == ""  # it heard nothing


@waited
@pytest.mark.anyio
async def test_who_is_away_for_a_moment_is_told_when_back(telling: UpProcess) -> None:
    away = Receiver("later")
    try:
        async with reaching(telling, "demo") as client:
            task = await begun(client, "Hello!", hook(away, "/back"))
            await tries(telling, task, bool)
            away.begin()
            assert (await away.next()).task.id == task.id
            assert not (await given_up(telling, task))[-1].problem
    finally:
        away.stop()


@waited
@pytest.mark.anyio
@BINDINGS
@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("http://10.0.0.1/", "not public"),
        ("http://169.254.169.254/latest/meta-data", "not public"),
        ("http://[::1]:8000/", "not public"),
        ("http://127.0.0.2:8000/", "not public"),
        ("file:///etc/passwd", "http"),
    ],
)
async def test_nobody_is_told_inside(telling: UpProcess, binding: str, address: str, why: str) -> None:
    async with reaching(telling, "demo", binding) as client:
        with pytest.raises(InvalidParamsError, match=why):
            await begun(client, "Hello!", TaskPushNotificationConfig(url=address))
        config = TaskPushNotificationConfig(url="http://127.0.0.1/", token="a\r\nx-more: b")
        with pytest.raises(InvalidParamsError, match="token"):
            await begun(client, "Hello!", config)


@waited
@pytest.mark.anyio
@BINDINGS
async def test_another_tenant_finds_nobody_who_is_told(telling: UpProcess, receiver: Receiver, binding: str) -> None:
    async with (
        reaching(telling, "careful", binding) as client,
        reaching(telling, "careful", binding, "push-umbrella") as foreign,
    ):
        task = await begun(client, SUM, hook(receiver, "/ours", id="mine"))
        for ask in (
            foreign.create_task_push_notification_config(hook(receiver, "/theirs", task_id=task.id)),
            foreign.get_task_push_notification_config(GetTaskPushNotificationConfigRequest(task_id=task.id, id="mine")),
            foreign.list_task_push_notification_configs(ListTaskPushNotificationConfigsRequest(task_id=task.id)),
            foreign.delete_task_push_notification_config(
                DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
            ),
        ):
            with pytest.raises(TaskNotFoundError):
                await ask


@waited
@pytest.mark.anyio
async def test_of_a_thread_that_was_deleted_nobody_hears_and_no_secret_is_left(
    telling: UpProcess, receiver: Receiver
) -> None:
    tenant = "push-gone"
    key = (await asyncio.to_thread(created, telling, "--tenant", tenant))["key"]
    async with connected(url(telling), "careful", key=key) as client:
        task = await begun(client, SUM, hook(receiver, "/gone", token="secret-4"))
        assert (await receiver.next()).state == TaskState.TASK_STATE_INPUT_REQUIRED
        await tries(telling, task, bool, tenant)
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as http:
            gone = await http.request("DELETE", f"{url(telling)}/api/threads/{task.context_id}", json={})
        assert gone.status_code == 200
        store = await opened_store(telling.postgres_url, await asyncio.to_thread(known_master, telling.data))
        try:
            push, found = push_id(task.context_id, task.id.partition(".")[0]), []
            while not found or not all(codec.is_erased(fact.payload) for fact in found):
                stored = await store.events_of_thread(tenant, push)
                found = [event.fact for event in stored if event.fact.type != "push.forgotten"]
        finally:
            await store.close()


@waited
@pytest.mark.anyio
async def test_who_was_to_be_told_is_whoever_dies(
    system_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    """The bridge, with all of its stack, right after it took the message; and the process that tells, as it does."""
    monkeypatch.setenv("OSTINATO_A2A_PUSH_HOSTS", "127.0.0.0/8")
    up = await asyncio.to_thread(start, system_folder / tmp_path.name)
    async with connected(up.url, "careful") as client:
        task = await begun(client, SUM, hook(receiver, "/here"), return_immediately=True)
    up.process.kill()
    await asyncio.to_thread(up.process.communicate)
    again = await asyncio.to_thread(start, system_folder / tmp_path.name)
    try:
        heard = await receiver.next()
        assert (heard.task.id, heard.state) == (task.id, TaskState.TASK_STATE_INPUT_REQUIRED)
        async with connected(again.url, "careful") as client:
            await client.create_task_push_notification_config(hook(receiver, "/hang", task_id=task.id, id="hang"))
            await events(client.send_message(asked("yes", task)))
        while heard.path != "/hang" or heard.state != TaskState.TASK_STATE_COMPLETED:
            heard = await receiver.next()
            assert heard.task.id == task.id
        os.kill(await asyncio.to_thread(again.pid, "agents-0"), signal.SIGKILL)
        repeated = await receiver.next()
        while repeated.path != "/hang":
            repeated = await receiver.next()
        assert repeated.task == heard.task
        assert repeated.headers["x-ostinato-delivery"] == heard.headers["x-ostinato-delivery"]
    finally:
        assert await asyncio.to_thread(again.stop) == 0


def test_the_card_says_that_word_is_sent(telling: UpProcess) -> None:
    headers = {"authorization": f"Bearer {created(telling)['key']}"}
    card = httpx.get(f"{url(telling)}/a2a/demo/.well-known/agent-card.json", headers=headers).json()
    assert card["capabilities"]["pushNotifications"] is True
