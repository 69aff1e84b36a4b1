"""How a graph is captured, with a stand-in for PyTorch's: which calls are made, in which order and with what."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from engine.runner.graphs import CudaCapture

Calls = list[tuple[Any, ...]]


class Stream:
    """Tells whom it waits for."""

    def __init__(self, calls: Calls, name: str) -> None:
        self.calls, self.name = calls, name

    def wait_stream(self, other: Stream) -> None:
        self.calls.append((self.name, "waits for", other.name))


class Graph:
    """Tells that it is replayed."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def replay(self) -> None:
        self.calls.append(("replay", self))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    found: Calls = []
    there = inspect.signature(torch.cuda.graph.__init__)

    @contextmanager
    def capturing(*given: Any, **named: Any) -> Iterator[None]:
        bound = there.bind(None, *given, **named).arguments  # fails where PyTorch's would
        found.append(("capture", bound["pool"], bound["stream"].name, bound["capture_error_mode"]))
        yield
        found.append(("captured",))

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        found.append(("on", stream.name))
        yield
        found.append(("off", stream.name))

    main = Stream(found, "main")
    for name, other in {
        "graph_pool_handle": lambda: (0, 7),
        "Stream": lambda: Stream(found, "aside"),
        "current_stream": lambda: main,
        "stream": on,
        "CUDAGraph": lambda: Graph(found),
        "graph": capturing,
        "empty_cache": lambda: found.append(("emptied",)),
        "mem_get_info": lambda: (found.append(("asked",)), 42, 99)[1:],
    }.items():
        monkeypatch.setattr(torch.cuda, name, other)
    return found


def test_a_step_is_done_once_before_it_is_captured_on_the_stream_that_all_graphs_share(calls: Calls) -> None:
    capture, out = CudaCapture(), torch.zeros(2)

    def compute() -> torch.Tensor:
        calls.append(("computed",))
        return out

    expected = [
        ("aside", "waits for", "main"),
        ("on", "aside"),
        ("computed",),
        ("off", "aside"),
        ("main", "waits for", "aside"),
        ("capture", (0, 7), "aside", "thread_local"),
        ("computed",),
        ("captured",),
    ]
    first, second = capture(compute), capture(compute)
    assert calls == expected * 2
    calls.clear()
    assert first() is out
    assert second() is out
    assert [name for name, _ in calls] == ["replay", "replay"]
    assert calls[0][1] is not calls[1][1]


def test_memory_that_the_allocator_holds_for_nobody_is_free(calls: Calls) -> None:
    assert CudaCapture().free() == 42
    assert calls == [("emptied",), ("asked",)]


def test_a_capture_that_fails_leaves_its_error_to_whoever_asked(calls: Calls) -> None:
    def refused() -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        CudaCapture()(refused)
    assert ("captured",) not in calls
