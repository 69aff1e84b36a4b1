"""The scheduler and a model worker in every order chance finds: losses, restarts, aborts, grammars, too little memory.

The worker follows plans as diffs, as the real one does, and its KV memory remembers what was written for whom. Its
next token is a function of all tokens before, so whatever happened, each request must end with the tokens that it
would have got alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.config import Policy, SchedulerConfig
from engine.core import diary, parking, step
from engine.core.retrace import Retrace
from engine.core.scheduler import Scheduler
from schemas.generation import Accepted, Refused, Sampling, Submit
from schemas.programs import PERSON, ProgramEnded, ToolBegan, ToolEnded
from schemas.steps import Prepared, RequestEvent, Resync, StepPlan, StepResult, ToldMore
from schemas.structured import Structured

HEADS = ((0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3), (3, 3, 2, 2, 1, 1, 0, 0, 1, 1, 2, 2))
TENANTS = ("acme", "evil")
PROGRAMS = ("one", "two", "three")
GRAMMARS = ("one", "two", "three", "four")
BAD = "four"
"""The grammar that is none."""
MOST_TOLD = 45
"""Tokens of arrivals in one plan: few, so that they come in several."""


@pytest.fixture(autouse=True, scope="module")
def little_is_told_at_once() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "MOST_TOLD", MOST_TOLD)
        patch.setattr(diary, "MOST_TOKENS", 40)
        patch.setattr(parking, "MOST_READY", 2)
        patch.setattr(parking, "MOST_ASKED", 4)
        yield


def next_token(tokens: list[int]) -> int:
    """The model."""
    state = 7
    for token in tokens:
        state = (state * 31 + token + 1) % 1_000_003
    return state % 50


def is_whole(sampling: Sampling, output: list[int]) -> bool:
    """Whether the grammar, if there is one, asks for no more."""
    return sampling.structured is not None and bool(output) and output[-1] % 7 == 3


def closed_at(sampling: Sampling, output: Sequence[int]) -> int | None:
    """Where the grammar, if there is one, first put another token in the place of what was drawn."""
    if sampling.structured is None:
        return None
    return next((at for at, token in enumerate(output) if token % 5 == 1), None)


def alone(submit: Submit, context: int) -> tuple[list[int], str]:
    """What a request ends with when nobody else is there."""
    tokens, output = [*submit.prompt, *submit.output], list(submit.output)
    limit = min(len(submit.prompt) + submit.sampling.max_tokens, context)
    while True:
        if output and output[-1] in submit.sampling.stop_tokens:
            return output, "stop" if closed_at(submit.sampling, output) is None else "length"
        if is_whole(submit.sampling, output[len(submit.output) :]):
            return output, "stop" if closed_at(submit.sampling, output) is None else "length"
        if len(tokens) >= limit:
            return output, "length"
        output.append(next_token(tokens))
        tokens.append(output[-1])


def first_seen(config: SchedulerConfig, group: int, position: int) -> int:
    """The first position that layers of a group see from one."""
    if config.window is None or group < config.groups - config.windowed:
        return 0
    return max(0, position - config.window + 1)


def most(config: SchedulerConfig, tokens: int) -> int:
    """Blocks that a request of so many tokens may need: a block for each that is seen or under way, in each group."""
    rows, near = -(-tokens // config.block_size), -(-tokens // config.block_size)
    if config.window is not None:
        near = min(rows, -(-(config.window - 1 + config.ahead) // config.block_size) + 1)
    return rows * (config.groups - config.windowed) + near * config.windowed


@dataclass
class Held:
    """A request as the worker knows it."""

    tenant: str
    tokens: list[int]
    blocks: list[int]
    computed: int
    sampling: Sampling


@dataclass
class Worker:
    """Runs plans; fails if one contradicts what it knows or would make it read what nobody wrote for this request."""

    name: str
    blocks: int
    config: SchedulerConfig
    tenants: dict[str, str]
    failing: set[str]
    """Requests whose numbers are not finite from now on."""
    expected: int | None = None
    held: dict[str, Held] = field(default_factory=dict)
    grammars: set[str] = field(default_factory=set)
    memory: dict[tuple[int, int], tuple[str, int, tuple[int, ...]]] = field(default_factory=dict)
    """Block and offset to the tenant, the group of layers and the tokens up to there, for which this was computed."""

    def follows(self, plan: StepPlan) -> bool:
        """Whether the plan can be run; if not a full one is needed."""
        if not plan.full and plan.n != self.expected:
            return False
        self.expected = plan.n + 1
        return True

    def run(self, plan: StepPlan) -> StepResult:
        if plan.full:
            self.held.clear()
        assert set(plan.preempted) <= set(plan.gone)
        for request in plan.gone:
            assert plan.full or request in self.held, f"{request} cannot leave: it is not here"
            self.held.pop(request, None)
        for arrival in plan.arrivals:
            assert arrival.request not in self.held
            held = Held(
                self.tenants[arrival.request],
                list(arrival.tokens),
                list(arrival.blocks),
                arrival.computed,
                arrival.sampling,
            )
            structured = held.sampling.structured
            assert structured is None or structured.key() in self.grammars, "a step waits for a grammar"
            assert held.computed < len(held.tokens)
            self.held[arrival.request] = held
            self.may_read(arrival.request, held.computed, held.computed)
        assert len(self.held) <= self.config.max_running
        assert sum(part.count for part in plan.slices) <= self.config.max_step_tokens
        assert len({part.request for part in plan.slices}) == len(plan.slices)
        written: dict[int, str] = {}
        sampled = [self.compute(part, written) for part in plan.slices]
        tokens = tuple(pair for pair in sampled if pair is not None and pair[0] not in self.failing)
        errors = tuple((part.request, "not finite") for part in plan.slices if part.request in self.failing)
        whole = tuple(name for name, token in tokens if is_whole(self.held[name].sampling, [token]))
        closed = tuple(name for name, token in tokens if closed_at(self.held[name].sampling, [token]) is not None)
        return StepResult(plan.n, plan.epoch, self.name, tokens, errors, whole=whole, closed=closed)

    def prepare(self, plan: StepPlan) -> Iterator[Prepared]:
        """Compile what the plan asks for."""
        for prepare in plan.prepare:
            assert prepare.key == prepare.structured.key()
            problem = "it is none" if prepare.structured.text == BAD else ""
            if not problem:
                self.grammars.add(prepare.key)
            yield Prepared(plan.epoch, self.name, prepare.key, problem)

    def compute(self, part: Any, written: dict[int, str]) -> tuple[str, int] | None:
        held, size = self.held[part.request], self.config.block_size
        held.blocks.extend(part.blocks)
        assert len(held.blocks) % self.config.groups == 0, "a row of blocks is not whole"
        assert all(0 <= block < self.blocks for block in held.blocks)
        end = part.start + part.count
        assert part.start == held.computed
        assert 0 < part.count <= self.config.prefill_chunk
        assert end <= len(held.tokens), "a token is computed that nobody knows"
        assert part.sample == (end == len(held.tokens))
        for at in range(part.start, end):
            for group in range(self.config.groups):
                block = held.blocks[at // size * self.config.groups + group]
                writer = f"{part.request}, group {group}"
                assert written.setdefault(block, writer) == writer, "two write one block"
                made = () if part.request in self.failing else tuple(held.tokens[: at + 1])
                self.memory[block, at % size] = (held.tenant, group, made)
        if part.request not in self.failing:
            self.may_read(part.request, part.start, end)
        held.computed = end
        if not part.sample:
            return None
        held.tokens.append(next_token(held.tokens))
        return part.request, held.tokens[-1]

    def may_read(self, request: str, start: int, end: int) -> None:
        """Fail unless what positions from `start` on see, up to `end`, was computed for these tokens and tenant."""
        held, size, groups = self.held[request], self.config.block_size, self.config.groups
        for group in range(groups):
            for at in range(first_seen(self.config, group, start), end):
                found = self.memory.get((held.blocks[at // size * groups + group], at % size))
                own = (held.tenant, group, tuple(held.tokens[: at + 1]))
                assert found == own, f"position {at} of {request} is not its own in group {group}"


class Orders(RuleBasedStateMachine):
    """One scheduler, one worker at a time, and a wire between them that loses messages."""

    @initialize(
        depth=st.sampled_from([1, 2, 2, 3]),
        size=st.sampled_from([1, 2, 4]),
        positions=st.integers(16, 56),
        context=st.sampled_from([14, 20, 40]),
        running=st.sampled_from([1, 3, 8]),
        step=st.sampled_from([1, 3, 8, 30]),
        chunk=st.sampled_from([1, 3, 8, 30]),
        policy=st.sampled_from(get_args(Policy)),
        long=st.sampled_from([2, 6, 100]),
        watermark=st.sampled_from([0.0, 0.0, 0.3]),
        window=st.sampled_from([None, None, 2, 5, 9]),
        groups=st.sampled_from([(1, 1), (1, 1), (2, 1), (3, 1), (3, 2)]),
        least_shared=st.sampled_from([1, 1, 4, 64]),
        least_tail=st.sampled_from([1, 1, 2, 64]),
    )
    def start(self, depth: int, size: int, positions: int, context: int, running: int, step: int, **more: Any) -> None:
        self.config = SchedulerConfig(
            blocks=positions // size * more["groups"][0],
            context_length=context,
            block_size=size,
            max_running=running,
            max_step_tokens=step,
            prefill_chunk=more["chunk"],
            max_waiting=12,
            max_waiting_tokens=60,
            max_in_flight=depth,
            policy=more["policy"],
            long_prefill=more["long"],
            least_shared=more["least_shared"],
            least_tail=more["least_tail"],
            watermark=more["watermark"],
            window=more["window"],
            groups=more["groups"][0],
            windowed=more["groups"][1],
        )
        self.scheduler = Scheduler(self.config, "epoch")
        self.told: list[tuple[str, tuple[Any, ...], bytes]] = []
        self.submits: dict[str, Submit] = {}
        self.tenants: dict[str, str] = {}
        self.got: dict[str, list[int]] = {}
        self.finish: dict[str, str] = {}
        self.failing: set[str] = set()
        self.spent: dict[str, tuple[int, int, int]] = {}
        self.plans: deque[StepPlan] = deque()
        self.made: list[StepPlan | ToldMore] = []
        self.results: deque[StepResult] = deque()
        self.answers: deque[Prepared] = deque()
        self.workers = 0
        self.now = 0
        self.new_worker(self.config.blocks)

    def tell(self, name: str, *arguments: Any) -> Any:
        """Call the scheduler, and remember what it was told and what it answered."""
        answer = getattr(self.scheduler, name)(*arguments)
        self.told.append((name, arguments, msgspec.json.encode(answer)))
        self.scheduler.check()
        return answer

    def hear(self, events: list[RequestEvent | None]) -> None:
        for event in events:
            if event is None:
                continue
            assert event.request not in self.finish, "a request speaks after its end"
            got = self.got[event.request]
            assert event.start == len(got), "tokens are missing or told twice"
            got.extend(event.tokens)
            assert event.closed == closed_at(self.submits[event.request].sampling, got)
            if event.finish is not None:
                self.finish[event.request] = event.finish
                self.spent[event.request] = (event.cached, event.preemptions, event.recomputed)

    # what requests do

    @rule(
        head=st.sampled_from(HEADS),
        shared=st.integers(0, 12),
        tail=st.lists(st.integers(0, 3), min_size=1, max_size=5),
        max_tokens=st.integers(1, 12),
        stops=st.lists(st.integers(0, 49), max_size=8),
        tenant=st.sampled_from(TENANTS),
        done=st.integers(0, 12),
        resumed=st.booleans(),
        salt=st.sampled_from(["", "", "pepper"]),
        reads=st.sampled_from([True, True, False]),
        priority=st.integers(-1, 2),
        lasts=st.sampled_from([0, 0, 0, 1, 4, 20]),
        grammar=st.sampled_from(["", "", *GRAMMARS]),
        program=st.sampled_from(["", *PROGRAMS]),
    )
    def submit(
        self,
        head: tuple[int, ...],
        shared: int,
        tail: list[int],
        max_tokens: int,
        stops: list[int],
        tenant: str,
        done: int,
        salt: str = "",
        priority: int = 0,
        lasts: int = 0,
        grammar: str = "",
        program: str = "",
        *,
        resumed: bool,
        reads: bool = True,
    ) -> None:
        structured = Structured(kind="regex", text=grammar) if grammar else None
        sampling = Sampling(max_tokens=max_tokens, stop_tokens=tuple(stops), structured=structured)
        request = f"r{len(self.tenants)}"
        submit = Submit(request, (*head[:shared], *tail), sampling, "front", tenant, program=program)
        deadline = self.now + lasts if lasts else 0
        submit = msgspec.structs.replace(
            submit, cache_salt=salt, read_cache=reads, priority=priority, deadline=deadline
        )
        if resumed and len(submit.prompt) < self.config.context_length:
            output, _ = alone(submit, self.config.context_length)
            closed = closed_at(sampling, output[:done])
            submit = msgspec.structs.replace(submit, output=tuple(output[:done]), closed=closed)
        self.tenants[request] = tenant + salt
        answer = self.tell("submit", submit, self.now)
        if isinstance(answer, Refused):
            assert answer.reason in {"too_long", "overloaded"}
            longest = min(len(submit.prompt) + max_tokens, self.config.context_length)
            if answer.reason == "too_long" and len(submit.prompt) < self.config.context_length:
                assert most(self.config, longest) > self.worker.blocks, "it would have fitted"
            return
        self.submits[request] = submit
        self.got[request] = list(submit.output)
        self.hear([self.tell("attach", request, len(submit.output))])

    @precondition(lambda self: self.submits)
    @rule(data=st.data(), more=st.lists(st.integers(0, 3), min_size=1, max_size=4), max_tokens=st.integers(1, 6))
    def a_program_goes_on(self, data: st.DataObject, more: list[int], max_tokens: int) -> None:
        """The next turn of what has ended, said or not."""
        before = self.submits[data.draw(st.sampled_from(sorted(self.submits)))]
        history = [*before.prompt, *self.got[before.request], *more]
        self.submit(
            tuple(history), len(history), more, max_tokens, [], before.tenant, 0, program=before.program, resumed=False
        )

    @rule(
        program=st.sampled_from(PROGRAMS),
        what=st.sampled_from(["began", "ended", "person", "over"]),
        call=st.sampled_from(["1", "2"]),
    )
    def a_tool_is_told_of(self, program: str, what: str, call: str) -> None:
        notes = {
            "began": ToolBegan(program, call, "search"),
            "ended": ToolEnded(program, call),
            "person": ToolBegan(program, call, PERSON),
            "over": ProgramEnded(program),
        }
        self.tell("note", notes[what], self.now)

    @rule(passed=st.sampled_from([1000, 100_000, 10_000_000, 1_000_000_000]))
    def time_passes(self, passed: int) -> None:
        self.now += passed

    @rule(count=st.integers(2, 5), shared=st.integers(0, 12), tenant=st.sampled_from(TENANTS))
    def a_crowd_comes(self, count: int, shared: int, tenant: str) -> None:
        for number in range(count):
            self.submit(HEADS[0], shared, [number % 4, 1], 12, [], tenant, 0, resumed=False)

    @precondition(lambda self: self.submits)
    @rule(data=st.data())
    def submit_again(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.submits)))
        got = tuple(self.got[request])
        assert isinstance(self.tell("submit", msgspec.structs.replace(self.submits[request], output=got)), Accepted)
        event = self.tell("attach", request, 0)
        assert list(event.tokens) == self.got[request]
        assert event.finish == self.finish.get(request)

    @precondition(lambda self: self.submits)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        self.hear([self.tell("abort", data.draw(st.sampled_from(sorted(self.submits))))])

    @rule()
    def the_cache_is_emptied(self) -> None:
        known = self.scheduler.statistics().cached_blocks
        assert self.tell("forget_prefixes") == known
        assert self.scheduler.statistics().cached_blocks == 0

    # what steps do; several at once, so that most orders get somewhere

    @rule(times=st.integers(1, 6))
    def plan(self, times: int) -> None:
        for _ in range(times):
            self.now += 1
            self.expire()
            self.told_more()
            preempted = self.scheduler.statistics().preemptions
            plan = self.tell("plan", self.now)
            if plan is None:
                before = self.scheduler.statistics()
                assert before.in_flight or not (before.running or before.waiting), "somebody waits for nothing"
                assert before.in_flight or not self.scheduler._parking.asks, "a grammar is asked for, and by no plan"
                return
            assert sum(len(one.tokens) for one in plan.arrivals) <= MOST_TOLD or len(plan.arrivals) == 1
            self.nobody_waits_who_could_begin(plan, gave_way=self.scheduler.statistics().preemptions - preempted)
            self.plans.append(plan)
            self.made.append(plan)
            self.told_more()

    def nobody_waits_who_could_begin(self, plan: StepPlan, *, gave_way: int) -> None:
        """Whoever is next and lacks nothing is in the step, if that has room for a token of his."""
        waiting = self.scheduler._waiting
        if not len(waiting) or gave_way or self.config.policy == "agents":
            return
        room = self.config.max_step_tokens - sum(part.count for part in plan.slices)
        told = sum(len(one.tokens) for one in plan.arrivals)
        (_, reason) = self.scheduler.waits().reasons[0]
        if room and (not told or told + waiting.first.bulk <= MOST_TOLD):
            assert (
                reason.startswith(("a seat", "the token that was under way", "request ")) or "more KV blocks" in reason
            ), reason

    def told_more(self) -> None:
        more = self.tell("told_more")
        if more is not None:
            self.made.append(more)

    def expire(self) -> None:
        """End what is due, and nothing else."""
        ended = self.tell("expire", self.now)
        due = {
            name for name, submit in self.submits.items() if name not in self.finish and 0 < submit.deadline <= self.now
        }
        assert {event.request for event in ended} == due
        assert all(event.finish == "timeout" for event in ended)
        self.hear(ended)
        following = self.scheduler.deadlines.next
        assert following is None or following > self.now

    @rule(times=st.integers(1, 6))
    def work(self, times: int) -> None:
        for _ in range(min(times, len(self.plans))):
            plan = self.plans.popleft()
            if self.worker.follows(plan):
                self.answers += self.worker.prepare(plan)
                self.results.append(self.worker.run(plan))
            else:
                self.ask_again()

    @rule(times=st.integers(1, 6))
    def result(self, times: int) -> None:
        for _ in range(min(times, len(self.results))):
            events = self.tell("apply", self.results.popleft())
            assert all(event.finish != "error" or event.request in self.failing for event in events)
            self.hear(events)

    @rule(times=st.integers(1, 4))
    def answer(self, times: int) -> None:
        """What became of grammars is told."""
        for _ in range(min(times, len(self.answers))):
            answer = self.answers.popleft()
            for event in self.tell("prepared", answer):
                structured = self.submits[event.request].sampling.structured
                assert structured is not None
                assert structured.text == BAD
                assert (event.finish, event.problem) == ("error", "it is none")
                self.hear([event])

    @rule(times=st.integers(1, 12))
    def turn(self, times: int) -> None:
        """All goes well for a while."""
        for _ in range(times):
            self.plan(1)
            self.work(1)
            self.answer(1)
            self.result(1)

    # what goes wrong

    @rule(
        what=st.sampled_from(
            ["plan lost", "result lost", "results overtake", "result comes twice", "answer lost", "answers overtake"]
        )
    )
    def the_wire_errs(self, what: str) -> None:
        if what == "plan lost" and self.plans:
            self.plans.popleft()
        elif what == "result lost" and self.results:
            self.results.popleft()
        elif what == "results overtake":
            self.results.rotate(1)
        elif what == "result comes twice" and self.results:
            self.results.append(self.results[0])
        elif what == "answer lost" and self.answers:
            self.answers.popleft()
        elif what == "answers overtake":
            self.answers.rotate(1)

    @rule(share=st.sampled_from([0, 0, 0, 1, 1, 2, 3]))
    def a_worker_asks(self, share: int) -> None:
        """The same again, or a new one with all or part of the memory."""
        if share:
            self.new_worker(-(-self.config.blocks // share))
        else:
            self.ask_again()

    @precondition(lambda self: len(self.finish) < len(self.submits))
    @rule(data=st.data())
    def numbers_are_not_finite(self, data: st.DataObject) -> None:
        """What is computed for a request from now on is of no use to anybody; what was before is."""
        self.failing.add(data.draw(st.sampled_from(sorted(self.submits.keys() - self.finish.keys()))))

    def ask_again(self) -> None:
        self.hear(self.tell("resync", Resync(self.worker.name, self.worker.expected or 0, "gap", self.worker.blocks)))

    def new_worker(self, blocks: int) -> None:
        # what was planned for the one before is of no use to it, and whatever it made of that would be ignored
        self.plans.clear()
        self.workers += 1
        self.worker = Worker(f"w{self.workers}", blocks, self.config, self.tenants, self.failing)
        events = self.tell("resync", Resync(self.worker.name, 0, "started", blocks))
        for event in events:
            submit = self.submits[event.request]
            longest = min(len(submit.prompt) + submit.sampling.max_tokens, self.config.context_length)
            assert event.finish == "error"
            assert most(self.config, longest) > blocks, "it would have fitted"
        self.hear(events)

    # what is always so

    @invariant()
    def the_books_balance(self) -> None:
        self.scheduler.check()
        now = self.scheduler.statistics()
        assert now.running <= self.config.max_running
        assert now.running + now.waiting + now.parked == len(self.submits) - len(self.finish)
        told = self.scheduler.waits()
        assert (told.running, told.waiting, told.parked) == (now.running, now.waiting, now.parked)
        assert len(told.reasons) == now.waiting + now.parked
        assert all(reason for _, reason in told.reasons)

    def teardown(self) -> None:
        """Once messages arrive again every request ends, with its own tokens."""
        if not hasattr(self, "worker"):
            return
        self.ask_again()
        patience = 200 + 100 * len(self.submits)
        while len(self.finish) < len(self.submits):
            self.plan(self.config.max_in_flight)
            self.work(1)
            self.answer(1)
            self.result(1)
            patience -= 1
            assert patience > 0, f"no end: {self.scheduler.statistics()}"
        for request, finish in self.finish.items():
            tokens, natural = alone(self.submits[request], self.config.context_length)
            got = self.got[request]
            assert got == tokens[: len(got)]
            assert finish in {"abort", "error", "timeout"} or (got, finish) == (tokens, natural)
        left = self.scheduler.statistics()
        assert (left.running, left.waiting, left.idle_blocks) == (0, 0, self.worker.blocks)
        self.what_each_is_told_is_what_was_spent()
        self.told_the_same_it_does_the_same()
        self.what_was_recorded_makes_the_same_plans_again()

    def what_each_is_told_is_what_was_spent(self) -> None:
        """What requests hear in their usage adds up to what there was, and what came twice was computed twice."""
        now = self.scheduler.statistics()
        assert sum(cached for cached, _, _ in self.spent.values()) == now.cached_tokens
        assert sum(preemptions for _, preemptions, _ in self.spent.values()) == now.preemptions
        computed, positions = Counter[str](), defaultdict[str, set[int]](set)
        for plan in self.made:
            for part in plan.slices if isinstance(plan, StepPlan) else ():
                computed[part.request] += part.count
                positions[part.request].update(range(part.start, part.start + part.count))
        for request, (cached, _, recomputed) in self.spent.items():
            submit = self.submits[request]
            assert cached <= len(submit.prompt) - (not submit.output), "the last token is computed"
            # what it once found, it may have to compute
            found = cached + len(submit.output)
            assert 0 <= recomputed <= computed[request] - len(positions[request]) + found

    def what_was_recorded_makes_the_same_plans_again(self) -> None:
        retrace = Retrace()
        for made in self.made:
            recorded = msgspec.json.decode(msgspec.json.encode(made), type=type(made))
            if isinstance(recorded, ToldMore):
                retrace.follow_more(recorded)
            else:
                assert retrace.follow(recorded) is None
                retrace.scheduler.check()

    def told_the_same_it_does_the_same(self) -> None:
        twin = Scheduler(self.config, "epoch")
        for name, arguments, answer in self.told:
            assert msgspec.json.encode(getattr(twin, name)(*arguments)) == answer


TestOrders = Orders.TestCase
TestOrders.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
