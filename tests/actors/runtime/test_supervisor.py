"""Children that end, crash, hang or cannot start, and what becomes of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.supervisor import CRASHES, WINDOW_S, Child, Crashes, Supervisor

seconds = st.lists(st.floats(0, 1000), min_size=1, max_size=30).map(sorted)


@given(seconds)
def test_only_the_crashes_of_the_window_count(times: list[float]) -> None:
    crashes = Crashes()
    for at in times:
        crashes = crashes.after(at)
    recent = [at for at in times if times[-1] - at < WINDOW_S]
    assert list(crashes.times) == recent
    assert crashes.looping == (len(recent) >= CRASHES)


def test_the_first_restart_is_at_once_and_later_ones_wait_longer_up_to_a_bound() -> None:
    crashes, waits = Crashes(), []
    assert crashes.wait_s == 0
    for at in range(8):
        crashes = crashes.after(float(at))
        waits.append(crashes.wait_s)
    assert waits == [0.0, 0.2, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_a_child_that_crashes_once_an_hour_is_never_given_up() -> None:
    crashes = Crashes()
    for hour in range(100):
        crashes = crashes.after(hour * 3600.0)
    assert not crashes.looping
    assert crashes.wait_s == 0


def child(folder: Path, name: str, program: str) -> Child:
    return Child(name, (sys.executable, "-u", "-c", program), {"PATH": "/usr/bin:/bin"}, folder / f"{name}.log")


SLEEP = "import time\nprint('up')\nwhile True: time.sleep(60)"
STUBBORN = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\nwhile True: time.sleep(60)"


@asynccontextmanager
async def supervising(supervisor: Supervisor) -> AsyncIterator[Supervisor]:
    supervisor.start()
    try:
        yield supervisor
    finally:
        await supervisor.stop()


async def until(fits: Callable[[], bool]) -> None:
    """Wait for something that only another process can bring about."""
    while not await asyncio.to_thread(fits):
        pass


def up(of: Child, times: int = 1) -> Callable[[], bool]:
    return lambda: of.log.exists() and of.log.read_text(encoding="utf-8").count("up") >= times


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.mark.anyio
async def test_a_child_that_crashes_is_started_again_and_its_end_is_told(tmp_path: Path) -> None:
    ends: list[tuple[str, int]] = []
    one = child(tmp_path, "one", "import sys\nprint('up')\nsys.exit(7)")
    two = child(tmp_path, "two", SLEEP)
    async with supervising(Supervisor([one, two], lambda name, code: ends.append((name, code)))) as supervisor:
        await until(up(one, 2))
        await until(up(two))
        status = {status.name: status for status in supervisor.statistics()}
        assert status["one"].restarts >= 1
        assert status["two"].restarts == 0
        assert status["two"].pid is not None
    assert ends[0] == ("one", 7)
    assert up(two)()
    assert gone(status["two"].pid)


@pytest.mark.anyio
async def test_a_killed_child_is_started_again_under_another_pid(tmp_path: Path) -> None:
    one = child(tmp_path, "one", SLEEP)
    async with supervising(Supervisor([one])) as supervisor:
        await until(up(one))
        (before,) = supervisor.statistics()
        supervisor._running["one"].kill()
        await until(up(one, 2))
        (after,) = supervisor.statistics()
        assert after.pid != before.pid
        assert (after.restarts, after.given_up) == (1, False)


@pytest.mark.anyio
@pytest.mark.deadline(12)
async def test_a_child_that_only_crashes_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good = child(tmp_path, "bad", "raise SystemExit(1)"), child(tmp_path, "good", SLEEP)
    async with supervising(Supervisor([bad, good])) as supervisor:
        await supervisor.failed.wait()
        status = {status.name: status for status in supervisor.statistics()}
        assert status["bad"].given_up
        assert status["bad"].restarts == CRASHES - 1
        assert status["bad"].pid is None
        assert not status["good"].given_up
        assert status["good"].pid is not None


@pytest.mark.anyio
async def test_a_program_that_is_not_there_is_given_up_at_once(tmp_path: Path) -> None:
    missing = Child("missing", ("/nowhere/to/be/found",), {}, tmp_path / "missing.log")
    async with supervising(Supervisor([missing])) as supervisor:
        await supervisor.failed.wait()
        assert [status.given_up for status in supervisor.statistics()] == [True]


@pytest.mark.anyio
async def test_a_child_that_ignores_the_polite_signal_is_killed_after_the_bound(tmp_path: Path) -> None:
    one = child(tmp_path, "one", STUBBORN)
    supervisor = Supervisor([one], stop_s=0.2)
    async with supervising(supervisor):
        await until(up(one))
        (status,) = supervisor.statistics()
    assert status.pid is not None
    assert gone(status.pid)


@pytest.mark.anyio
async def test_children_stop_in_the_order_asked_for_and_none_is_forgotten(tmp_path: Path) -> None:
    order = tmp_path / "order"
    program = (
        "import signal, sys, time\n"
        "def end(*_):\n    open({path!r}, 'a').write({name!r})\n    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\nprint('up')\nwhile True: time.sleep(60)"
    )
    children = [child(tmp_path, name, program.format(path=str(order), name=name)) for name in "abc"]
    supervisor = Supervisor(children)
    async with supervising(supervisor):
        for one in children:
            await until(up(one))
        await supervisor.stop(["c", "b"])
    assert await asyncio.to_thread(order.read_text, encoding="utf-8") == "cba"


@pytest.mark.anyio
async def test_stopping_right_after_starting_leaves_nobody_behind(tmp_path: Path) -> None:
    children = [child(tmp_path, f"child-{n}", SLEEP) for n in range(4)]
    started: list[int] = []

    class Watched(Supervisor):
        async def _spawn(self, child: Child) -> asyncio.subprocess.Process:
            process = await super()._spawn(child)
            started.append(process.pid)
            return process

    supervisor = Watched(children)
    supervisor.start()
    await asyncio.sleep(0)
    await supervisor.stop()
    assert all(gone(pid) for pid in started)


@pytest.mark.anyio
async def test_a_child_that_waits_to_be_restarted_does_not_hold_up_the_end(tmp_path: Path) -> None:
    one = child(tmp_path, "one", "print('up')")
    async with supervising(Supervisor([one])) as supervisor:
        await until(up(one, 4))  # now it waits for a second
        async with asyncio.timeout(0.8):
            await supervisor.stop()
