"""Reads what is recorded of requests, and has each generated again with the model that it was made with."""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

from bus.retention import steps_gone_before
from bus.steps import StoredStep, steps_around_request, worker_of
from bus.store import Store
from engine.core.transcript import Transcript
from engine.errors import EngineError
from infra.cli.replay.regenerated import Regenerated
from infra.environment import COMPUTING
from schemas import codec
from schemas.answers import Sampled
from schemas.generation import request_id
from schemas.runs import ModelReturned
from schemas.steps import StepPlan, StepResult, WorkerBegan
from schemas.times import rfc3339

_UNSAID = "no record says what it was computed with"
_FORGED = "the trace holds other tokens than the log vouches for"
_CHANGED = "processors changed the answer: compared is what the model made, and the log vouches for none of it"
_NO_MODEL = "no record says what model it was: name its folder with --model"


class Comparing:
    """Holds one model at a time: requests of one engine are to follow one another."""

    def __init__(self, store: Store, model: str | None) -> None:
        """Begin; `model` is a folder or hub id in place of the one that is recorded."""
        self._store = store
        self._model = model
        self._workers: dict[tuple[str, str], WorkerBegan | None] = {}
        self._log: dict[str, Sampled | None] = {}
        """What the log says of the tokens of the requests of one thread."""
        self._changed: set[str] = set()
        """Those of them whose answers are not as the model gave them."""
        self._loaded: Mapping[str, Any] = {}
        self._again: Any = None  # an `Again`, or why there is none

    async def read(self, request: str) -> tuple[Transcript, str]:
        """Read a request; say with it of which engine it is."""
        steps = await steps_around_request(self._store, request)
        return transcript(request, steps), steps[0].engine if steps else ""

    async def ready(self, found: Transcript, engine: str) -> tuple[str, str]:
        """Load the model of a request, unless it is the one that is loaded.

        Gives what keeps the request from being generated again, and what is not as it was when it was recorded: a
        difference may come of that.
        """
        problem = await self._lacking(found, await self._vouched(found.request))
        if problem:
            return problem, ""
        workers = [await self._worker(engine, name) for name in found.workers]
        known = [worker for worker in workers if worker is not None]
        loaded = {**(known[0].loaded if known else {}), **({"model": self._model} if self._model else {})}
        if "model" not in loaded:
            return _NO_MODEL, ""
        await self._load(loaded)
        if isinstance(self._again, EngineError):
            return str(self._again), ""
        unsaid = [_UNSAID] if len(known) < len(workers) or not workers else []
        elsewhere: str = self._again.elsewhere(known)
        return "", "; ".join([*unsaid, *filter(None, [elsewhere])])

    async def compare(self, found: Transcript) -> Regenerated:
        """Generate a request again with the model that is ready."""
        compared: Regenerated = await asyncio.to_thread(self._again.compare, found)
        vouched = await self._vouched(found.request)
        compared.forged = vouched is not None and not found.holds(vouched)
        if compared.forged:
            compared.state, compared.problem = "differs", _FORGED
        elif found.request in self._changed and not compared.problem:
            compared.problem = _CHANGED
        return compared

    async def _vouched(self, request: str) -> Sampled | None:
        """Find what the log says of a request's tokens; None if it says nothing."""
        if request not in self._log:
            tenant, thread, *_ = (*request.split("/", 2), "")
            self._log, self._changed = {}, set()
            for stored in await self._store.events_of_thread(tenant, thread):
                event = codec.event_of(stored.fact)
                if isinstance(event, ModelReturned):
                    given = enumerate(event.alternatives())
                    said = {request_id(tenant, thread, event.effect, at): one.sampled for at, one in given}
                    self._log |= said
                    self._changed |= {name for name, sampled in said.items() if event.processed and sampled is None}
            self._log.setdefault(request, None)
        return self._log[request]

    async def _lacking(self, found: Transcript, vouched: Sampled | None) -> str:
        """Say what of its record is missing; empty if all is there that is needed."""
        count = max(found.count, 0 if vouched is None else vouched.count)
        missing = len(found.missing) + count - found.count
        if found.prompt is not None and found.count and not missing:
            return ""
        if found.prompt is not None and found.count:
            return f"{missing} of its {count} tokens are not in the trace"
        if found.prompt is not None:
            return found.failed or "no token of it is recorded"
        before = await steps_gone_before(self._store)
        expired = f": steps from before {rfc3339(before)[:10]} are not kept" if before else ""
        return f"the step in which it began is not recorded{expired}"

    async def _worker(self, engine: str, worker: str) -> WorkerBegan | None:
        key = (engine, worker)
        if key not in self._workers:
            self._workers[key] = await worker_of(self._store, engine, worker)
        return self._workers[key]

    async def _load(self, loaded: Mapping[str, Any]) -> None:
        if self._again is not None and loaded == self._loaded:
            return
        self._loaded, self._again = loaded, None
        os.environ.update(COMPUTING)  # before anything computes: libraries look once
        try:
            module = importlib.import_module("infra.cli.replay.again")
            self._again = await asyncio.to_thread(module.Again, loaded)
        except EngineError as error:
            self._again = error


def transcript(request: str, steps: Sequence[StoredStep]) -> Transcript:
    """Read recorded steps.

    Raises:
        BadShape: one cannot be read.
    """
    found = Transcript(request)
    for step in steps:
        results: list[StepResult] = [codec.decode(result, StepResult) for result in step.results]
        plan: StepPlan = codec.decode(step.plan, StepPlan)
        found.follow(plan, results)
    return found


def contradicted(found: Transcript) -> Regenerated | None:
    """Say where a record contradicts itself; None if it does not."""
    place = found.contradiction
    if place is None:
        return None
    return Regenerated(
        request=found.request,
        state="differs",
        problem="it tells of another prompt, or of another way to draw, than the steps before",
        scheduler=place.epoch,
        step=place.n,
        what="prompt",
    )
