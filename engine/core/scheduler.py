"""Continuous batching over paged KV blocks, as a deterministic machine of plain integers.

There is no prefill or decode phase: in every step each running request closes some of the gap between the tokens it
has and those computed, within one token budget: first those with one token to compute, then prompts in chunks, then
new requests. When blocks run out the last in rank gives way and is recomputed later (Kwon et al., "Efficient Memory
Management for Large Language Model Serving with PagedAttention", 2023; chunked prefill after Agrawal et al.,
"Sarathi-Serve", 2024).

Plans may run ahead of results: a request is planned one position further while its last token is still being
sampled. A result that shows it had ended makes the extra token void.

`plan` and `apply` depend on their arguments and the order of calls alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from operator import attrgetter

from engine.config import SchedulerConfig
from engine.core.admission import refusal
from engine.core.agents import rules_within
from engine.core.ahead import Ahead
from engine.core.deadlines import Deadlines
from engine.core.diary import Diary
from engine.core.heard import Heard
from engine.core.memory import memory_within
from engine.core.parking import Parking
from engine.core.prefix_cache import PrefixCache
from engine.core.request import Request
from engine.core.statistics import Statistics
from engine.core.step import Draft, Planned
from engine.core.victims import victims
from engine.core.waiting import WaitingQueue
from engine.core.waits import Books, Waits
from schemas.generation import Accepted, Answer, FinishReason, Submit
from schemas.programs import ProgramNote
from schemas.steps import Prepared, RequestEvent, Resync, StepPlan, StepResult, ToldMore

_rank = attrgetter("rank")


class Scheduler:
    """Plans one engine's steps."""

    def __init__(self, config: SchedulerConfig, epoch: str) -> None:
        self._config = config
        self._epoch = epoch
        self._memory = memory_within(config, config.blocks)
        self.rules = rules_within(config, self._memory)
        self._waiting = WaitingQueue()
        self._ahead = Ahead(config)
        self._parking = Parking()
        self.deadlines = Deadlines()
        """When `expire` will have something to end."""
        self._diary = Diary(config)
        self._running: dict[str, Request] = {}
        self._requests: dict[str, Request] = {}
        self._finished: OrderedDict[str, Request] = OrderedDict()
        self._in_flight: OrderedDict[int, list[Planned]] = OrderedDict()
        self._gone: list[str] = []
        self._preempted: list[str] = []
        self._worker: str | None = None
        self._full = True
        self._n = self._arrived = 0
        self._prompt_tokens = self._cached_tokens = self._preemptions = 0

    # requests in

    def submit(self, submit: Submit, now: int = 0) -> Answer:
        """Take a request on, `now`, in microseconds. One that is known is accepted again and not begun twice."""
        if submit.request in self._requests or submit.request in self._finished:
            return Accepted(request=submit.request)
        refused = refusal(submit, self._config, self._memory, self._waiting, self._parking)
        if refused is not None:
            return refused
        self._arrived += 1
        root = PrefixCache.root(submit.tenant, submit.cache_salt, *filter(None, (submit.sampling.adapter,)))
        request = Request(submit, self._config.context_length, root, (0, self._arrived))
        self._requests[request.id] = request
        self._diary.submitted(submit, self.rules.submitted(submit, request, now))
        self._parking.place(request, self._waiting)
        self.deadlines.add(request, self._requests)
        finish = request.over()
        if finish is not None:
            self._end(request, finish)
        return Accepted(request=submit.request)

    def abort(self, request: str) -> RequestEvent | None:
        """End a request now; None when it is unknown or over."""
        found = self._requests.get(request)
        if found is None:
            return None
        self._diary.aborted(request)
        return self._ended(found, "abort")

    def expire(self, now: int) -> list[RequestEvent]:
        """End what has come to its deadline; to be called before `plan`, with the same time."""
        events = [self._ended(request, "timeout") for request in self.deadlines.due(now, self._requests)]
        if events:
            self._diary.expired(now)
        return events

    def forget_prefixes(self) -> int:
        """Empty the prefix cache; return how many blocks were in it. Running requests keep what they have."""
        self._diary.forgot()
        return self._memory.forget()

    def told_more(self) -> ToldMore | None:
        """Tell what the next plan would, if that has become very much because none can be made."""
        return self._diary.spill(self._epoch, self._n)

    def note(self, note: ProgramNote, now: int) -> None:
        """Hear of a program between its turns."""
        if self.rules.note(note, now):
            self._diary.noted(note, now)

    def attach(self, request: str, start: int) -> RequestEvent | None:
        """Tell a request's output from index `start` on; None when it is unknown or was long ago."""
        found = self._requests.get(request) or self._finished.get(request)
        return None if found is None else found.tell(max(start, 0))

    # steps out

    def plan(self, now: int) -> StepPlan | None:
        """Plan the next step, `now`, in microseconds; None when there is nothing to do or enough plans are out."""
        if len(self._in_flight) >= self._config.max_in_flight:
            return None
        self.rules.begin_plan(now)
        draft = self._draft()
        behind = []
        for request in self.rules.in_turn(self._running.values()):
            length = len(request.tokens) + request.pending
            if length >= request.limit:
                continue  # computing more of it is in vain
            if length - request.computed == 1:
                self._continue(draft, request, 1)
            else:
                behind.append(request)
        long = self._catch_up(draft, behind) if behind else ()
        if len(self._waiting) and not draft.preempted:
            self._admit(draft)
        for request in long:
            self._prefill(draft, request)
        if draft.slices or self._parking.asks:
            return self._publish(draft, now)
        if draft.preempted or self.rules.is_changed:
            self._diary.tried(now)
            self.rules.keep_plan()
        return None

    def _draft(self) -> Draft:
        """Begin a step. A full plan tells of no more than a message holds: others begin again in the plans after it."""
        draft = Draft(self._config.max_step_tokens, self._config.most_numbers)
        for request in sorted(self._running.values(), key=_rank) if self._full else ():
            if draft.is_told_much(request):
                self._preempt(draft, request)
            else:
                draft.told += request.bulk
        return draft

    def _catch_up(self, draft: Draft, behind: Sequence[Request]) -> list[Request]:
        """Continue prompts; return those for what others leave: less urgent than who waits, or long but not first."""
        urgent = self._waiting.first.rank[0] if len(self._waiting) else inf
        later, longs = list[Request](), 0
        for request in behind:
            longs += (is_long := request.length - request.computed > self._config.long_prefill)
            if request.rank[0] > urgent or (is_long and longs > 1):
                later.append(request)
            else:
                self._prefill(draft, request)
        return later

    def _prefill(self, draft: Draft, request: Request) -> None:
        if request.id not in draft.slices:  # a long one may have given way, and begun again
            self._continue(draft, request, min(request.length - request.computed, self._config.prefill_chunk))

    def _continue(self, draft: Draft, request: Request, count: int) -> None:
        """Give a running request its slice, taking blocks from those of a higher rank if need be."""
        if count > draft.budget:
            count = draft.budget
        if not count or request.state != "running" or draft.brings_much(request, count):
            return
        while (fresh := self._memory.grow(request, request.computed + count)) is None:
            last = max(self._running.values(), key=_rank)
            self._preempt(draft, last)
            if last is request:
                return
        draft.add(request, count, fresh)

    def _admit(self, draft: Draft) -> None:
        """Begin waiting requests in their order, as long as budget, places and blocks last: each only if its whole
        prompt fits beside what running ones still lack, or two long ones would take turns at throwing each other out.
        """
        promised, turns = self._memory.promised(self._running.values()), self._ahead.turns(self._memory, draft)
        while draft.budget > 0 and (request := turns.next(self.rules, self._waiting, len(self._running))) is not None:
            # preempted with a token under way, it cannot say yet what it knows
            if request.pending or draft.is_told_much(request):
                return
            if self._make_way(draft, request, promised + turns.reserved):
                promised = self._memory.promised(self._running.values())
            spared = promised + turns.reserved
            if len(self._running) >= self._config.max_running or not self._memory.open(request, spared):
                return
            self._begin(draft, request)
            promised += self._memory.missing(request) + (self._memory.watermark if len(self._running) == 1 else 0)

    def _make_way(self, draft: Draft, request: Request, promised: int) -> bool:
        """Have less urgent requests give way to a waiting one, if it lacks a seat or blocks, and not in vain."""
        found = victims(request, self._running.values(), self._config, self._memory, promised)
        for victim in found:
            self._preempt(draft, victim)
        return bool(found)

    def _begin(self, draft: Draft, request: Request) -> None:
        self._waiting.remove(request)
        request.move("running")
        self._running[request.id] = request
        self.rules.begun(request)
        self._ahead.begun(request)
        if request.cached is None:
            request.cached = min(request.computed, request.prompt_tokens)
            self._prompt_tokens += request.prompt_tokens
            self._cached_tokens += request.cached
        draft.admit(request)
        self._prefill(draft, request)

    def _publish(self, draft: Draft, now: int) -> StepPlan:
        self._n += 1
        planned = list(draft.slices.values())
        self._in_flight[self._n] = planned
        plan = StepPlan(
            n=self._n,
            epoch=self._epoch,
            time=now,
            full=self._full,
            arrivals=tuple(draft.all_arrivals(self._running.values()) if self._full else draft.arrivals(self._running)),
            slices=tuple([part for _, part, _ in planned]),
            gone=tuple(self._gone),
            preempted=tuple(self._preempted),
            told=self._diary.take(draft.admitted),
            prepare=self._parking.ask(),
            decisions=self.rules.take(),
        )
        self._full = False
        self._gone, self._preempted = [], []
        return plan

    # results in

    def apply(self, result: StepResult) -> list[RequestEvent]:
        """Take a step's result; tell what it means for each request.

        A result of a forgotten plan is ignored. One that came before its predecessor's means that this was lost:
        everything under way is forgotten and planned again.
        """
        if result.epoch != self._epoch or result.n not in self._in_flight:
            return []
        if next(iter(self._in_flight)) != result.n:
            self._diary.lost(result.n)
            self._forget_in_flight()
            return []
        planned, heard = self._in_flight.pop(result.n), Heard(result)
        self._diary.applied(planned, result, heard.tokens)
        events, is_plain = list[RequestEvent](), heard.is_plain
        for request, part, life in planned:
            if request.state == "finished":
                continue
            if not is_plain:
                if heard.failed(request):
                    events.append(self._ended(request, "error"))
                    continue
                heard.learn(request)
            if life == request.life:
                self._memory.settle(request, part.start + part.count)
            if part.sample:
                token = heard.token(request)
                # a worker that sampled nothing, and does not say why, has lost the request
                events.append(self._ended(request, "error") if token is None else self._sampled(request, token))
        return events

    def _ended(self, request: Request, finish: FinishReason) -> RequestEvent:
        start = request.outputs
        self._end(request, finish)
        return request.tell(start)

    def _sampled(self, request: Request, token: int) -> RequestEvent:
        start = len(request.tokens) - request.prompt_tokens
        finish = request.accept(token)
        if finish is not None:
            self._end(request, finish)
        return request.event((token,), start)

    def prepared(self, prepared: Prepared) -> list[RequestEvent]:
        """A worker has compiled a grammar, or says why it cannot; tell which requests this ends."""
        if prepared.epoch != self._epoch or self._worker not in {None, prepared.worker}:
            return []
        self._diary.compiled(prepared)
        return [self._ended(request, "error") for request in self._parking.answer(prepared, self._waiting)]

    def resync(self, resync: Resync) -> list[RequestEvent]:
        """A worker needs a full plan; tell which requests this ends.

        One that missed a number still has its KV memory: what is under way is planned again. A new one has none:
        every request is computed afresh, in as many blocks as the worker holds (but no more than configured), and
        ends with an error if so many could never do.
        """
        self._diary.resynced(resync.worker, resync.blocks)
        self._forget_in_flight()
        self._parking.ask_again()
        if resync.worker == self._worker:
            return []
        self._worker = resync.worker
        for request in reversed(list(self._running.values())):
            self._suspend(request)
        self._memory = memory_within(self._config, max(min(self._config.blocks, resync.blocks), 0))
        self.rules.renew(self._memory)
        wanted, room, known = self._memory.tables.wanted, self._memory.size, (*self._waiting, *self._parking)
        ended = [self._ended(request, "error") for request in known if wanted(request.limit) > room]
        self._parking.renew(self._waiting)
        return ended

    def _forget_in_flight(self) -> None:
        self._in_flight.clear()
        self._full = True
        for request in self._requests.values():
            request.pending = 0
            request.computed = request.settled

    # requests out

    def _preempt(self, draft: Draft, request: Request) -> None:
        """Make a running request give its blocks up; it will be computed again from the tokens it has."""
        known = draft.drop(request)
        self._memory.leave_tail(request)
        self.rules.gives_way(request)
        self._suspend(request)
        if known:
            self._gone.append(request.id)
            self._preempted.append(request.id)
        self._preemptions += 1
        request.preemptions += 1

    def _suspend(self, request: Request) -> None:
        del self._running[request.id]
        request.move("waiting")
        self._memory.close(request)
        self._waiting.add(request)
        request.life += 1

    def _end(self, request: Request, finish: FinishReason) -> None:
        if finish != "error":  # what was written last is not to be read then
            self._memory.leave_tail(request)
        self.rules.ends(request)
        if request.state == "running":
            del self._running[request.id]
            self._gone.append(request.id)
            self._memory.close(request)
        else:
            (self._parking if request.state == "parked" else self._waiting).remove(request)
        request.end(finish)
        del self._requests[request.id]
        self._finished[request.id] = request
        if len(self._finished) > self._config.max_finished:
            self._finished.popitem(last=False)

    # looking in

    def statistics(self) -> Statistics:
        """Say how it does."""
        return Statistics(
            running=len(self._running),
            waiting=len(self._waiting),
            finished=len(self._finished),
            idle_blocks=self._memory.idle,
            cached_blocks=self._memory.cached,
            steps=self._n,
            in_flight=len(self._in_flight),
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            preemptions=self._preemptions,
            parked=len(self._parking),
            blocks=self._memory.size,
        )

    def waits(self) -> Waits:
        """Say what is under way, and what each request waits for that does not run."""
        return self._books().waits()

    def check(self) -> None:
        """Fail if the books do not balance. Cheap enough to call between steps in tests."""
        assert not set(self._requests) & set(self._finished)
        self._books().check(self._requests)
        self.rules.check(self._requests)

    def _books(self) -> Books:
        queues = (self._running, self._waiting, self._parking)
        return Books(self._config, self._memory, *queues, self._in_flight, self._worker, self.rules, self._ahead)
