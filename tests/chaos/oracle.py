"""Reads JetStream and Postgres whole after the fire, and compares them with what clients and tools wrote down."""

from __future__ import annotations

import asyncio
import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from actors.agent.delegation import child_thread
from bus.connection import Connection
from bus.dead import command_id, letters
from bus.inspection import inspect
from bus.record import recorded_envelopes
from bus.store import Store
from schemas import codec
from schemas.envelope import Fact
from schemas.runs import CommandAccepted, CommandRefused, MessageAdded, RunFailed, RunFinished
from tests.chaos import laws
from tests.chaos.errands import ELSEWHERE
from tests.chaos.load import Asked, Ledger

_EVERY = 1_000_000
AWAY = frozenset({"overloaded", "timeout"})
"""Problems of runs that asked for what was away for too long."""


class Finding(NamedTuple):
    """A promise that did not hold."""

    sentence: str
    began: float = 0.0
    """When the question was asked that it happened to, seconds since the Unix epoch; 0 if it was none."""
    ended: float = math.inf

    def __str__(self) -> str:
        return self.sentence


@dataclass(slots=True)
class Verdict:
    """What was found."""

    commands: int = 0
    events: int = 0
    tool_calls: int = 0
    poison: int = 0
    """Commands that nobody can decode."""
    lost: list[Finding] = field(default_factory=list)
    duplicated: list[Finding] = field(default_factory=list)
    reordered: list[Finding] = field(default_factory=list)
    wrong: list[Finding] = field(default_factory=list)
    """Answers that are not what the tool said, and what does not follow from the log."""
    errands: Counter[str] = field(default_factory=Counter)
    """How many questions of each kind came to what they were to come to."""
    verified: int = 0
    """Threads that were decided again."""
    in_doubt: int = 0
    """Calls of which nobody knows whether they took effect; the model was told."""
    came_to_nothing: Counter[str] = field(default_factory=Counter)
    """Runs of errands that failed, by the kind of problem."""


async def judge(
    connection: Connection, store: Store, ledger: Ledger, witness: Path, poison: Collection[str] = ()
) -> Verdict:
    """Read everything and judge it. Nothing runs any more, and the recorder has caught up."""
    verdict = Verdict(poison=len(poison))
    buried = Counter(command_id(letter.dead.body.encode()) for letter in await letters(connection, _EVERY))
    verdict.lost += [Finding(f"{name} was taken and is not among the dead") for name in poison if not buried[name]]
    verdict.duplicated += [Finding(f"{name} was buried {times} times") for name, times in buried.items() if times > 1]
    found = await inspect(connection, store)
    verdict.lost += [Finding(f"{bad.where}: {bad.first} to {bad.last}: {bad.problem}") for bad in found.damages]
    facts = [fact async for row in recorded_envelopes(store, 0, found.cursor.sequence) for fact in row.envelope.facts]
    if store.keys is not None:
        facts = await store.keys.open(facts)
    if found.cursor.sequence != found.bounds.last:
        verdict.lost.append(Finding(f"recorded up to {found.cursor.sequence} of {found.bounds.last}"))
    verdict.events = len(facts)
    times, books = Times({asked.command.id: asked for asked in ledger.asked}), laws.fold(facts)
    _versions(verdict, facts, times)
    _commands(verdict, facts, ledger, times)
    _heard(verdict, facts, ledger, times)
    _effects(verdict, books, times)
    tools(verdict, books, await asyncio.to_thread(_lines, witness), times)
    await _derived(verdict, store, times)
    return verdict


class Times(NamedTuple):
    """Says when what went wrong was under way, by the question that it belongs to: clocks of processes may be wrong."""

    asked: Mapping[str, Asked]

    def of(self, sentence: str, *names: str) -> Finding:
        """Make a finding of the first of these, commands, runs or effects, that belongs to a question."""
        for name in names:
            # an effect is `<run>-<step>-m` or `<run>-<step>-t<index>`, and a run is named after its command
            asked = self.asked.get(name) or self.asked.get(name.rpartition("/")[2].rsplit("-", 2)[0])
            if asked is not None:
                return Finding(sentence, asked.began, asked.ended)
        return Finding(sentence)

    def told(self, sentence: str) -> Finding:
        """Make a finding of a sentence that names what it is about."""
        return self.of(sentence, *sentence.split())


def _lines(witness: Path) -> list[str]:
    return witness.read_text(encoding="utf-8").splitlines() if witness.exists() else []


def _versions(verdict: Verdict, facts: Sequence[Fact], times: Times) -> None:
    """Each entity's versions are 1, 2, 3 … in the order of the log."""
    last: dict[tuple[str, str, str, str], int] = {}
    for fact in facts:
        key = (fact.tenant, fact.thread, fact.kind, fact.entity)
        expected = last.get(key, 0) + 1
        where = f"{fact.kind} {fact.entity} of {fact.thread}: version {fact.version} after {expected - 1}"
        if fact.version < expected:
            verdict.duplicated.append(times.of(where, fact.cause, fact.entity))
        elif fact.version > expected:
            verdict.lost.append(times.of(where, fact.cause, fact.entity))
        last[key] = fact.version


@dataclass(slots=True)
class _Story:
    """What the log says of commands and their runs."""

    accepted: Counter[str] = field(default_factory=Counter)
    refused: set[str] = field(default_factory=set)
    order: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Thread to commands."""
    messages: Counter[tuple[str, str]] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    texts: dict[str, str] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    """Threads in which a model was told of a tool that failed: what it says then is its own affair."""
    failed: dict[str, str] = field(default_factory=dict)
    """Runs that failed, and the kind of problem."""

    def fold(self, fact: Fact) -> None:
        """Take in one fact."""
        data = bytes(fact.payload)
        match fact.type:
            case "command.accepted":
                accepted: CommandAccepted = codec.decode(data, CommandAccepted)
                self.accepted[accepted.command.id] += 1
                self.order[fact.thread].append(accepted.command.id)
            case "command.refused":
                self.refused.add(codec.decode(data, CommandRefused).command.id)
            case "message.added":
                said: MessageAdded = codec.decode(data, MessageAdded)
                self.messages[fact.cause, said.message.content] += 1
            case "tool.indeterminate" | "tool.failed":
                self.unsure.add(fact.thread)
            case "run.finished":
                self.ends[fact.entity] += 1
                self.texts[fact.entity] = codec.decode(data, RunFinished).text
            case "run.failed":
                self.ends[fact.entity] += 1
                self.failed[fact.entity] = codec.decode(data, RunFailed).problem.kind
            case _:
                pass


def _commands(verdict: Verdict, facts: Sequence[Fact], ledger: Ledger, times: Times) -> None:
    """What the stream took is in the log once, in the order it was asked in, and came to an end."""
    story = _Story()
    for fact in facts:
        story.fold(fact)
    for asked in ledger.asked:
        if asked.taken:
            verdict.commands += 1
            _command(verdict, story, asked, times)
    twice = [(key, count) for key, count in story.messages.items() if count > 1]
    verdict.duplicated += [times.of(f"message {key} was added {count} times", key[0]) for key, count in twice]
    asked_in: dict[str, list[str]] = defaultdict(list)
    for asked in ledger.asked:
        asked_in[asked.command.thread].append(asked.command.id)
    for thread, mine in asked_in.items():
        found = [identity for identity in story.order[thread] if identity in mine]
        if found != sorted(found, key=mine.index):
            verdict.reordered.append(times.of(f"thread {thread}: {found}", *_displaced(found, mine)))


def _displaced(found: Sequence[str], asked: Sequence[str]) -> list[str]:
    """Name the commands that are not where they should be."""
    return [is_ for is_, should in zip(found, sorted(found, key=asked.index), strict=True) if is_ != should]


def _command(verdict: Verdict, story: _Story, asked: Asked, times: Times) -> None:
    identity = asked.command.id
    accepted, ends = story.accepted[identity], story.ends[identity]
    if asked.kind:
        _errand(verdict, story, asked, times)
    if asked.refused and identity in story.refused and not accepted:
        return
    if not accepted:
        verdict.lost.append(times.of(f"command {identity} was taken and is not in the log", identity))
    elif not ends:
        verdict.lost.append(times.of(f"run {identity} has no end", identity))
    if accepted > 1 or ends > 1:
        sentence = f"command {identity} was accepted {accepted} times, and ended {ends} times"
        verdict.duplicated.append(times.of(sentence, identity))
    text = story.texts.get(identity, asked.expected)
    unsure = {asked.command.thread, child_thread(asked.command.tenant, asked.command.thread, f"{identity}-1-t0")}
    if not unsure & story.unsure and asked.expected not in text:
        sentence = f"{identity} in {asked.command.thread} said {text!r}, not {asked.expected}"
        verdict.wrong.append(times.of(sentence, identity))


def _heard(verdict: Verdict, facts: Sequence[Fact], ledger: Ledger, times: Times) -> None:
    """What a client was told is in the log with the same bytes, and it was told each event once and in order."""
    logged = {(fact.thread, fact.kind, fact.entity, fact.version): bytes(fact.payload) for fact in facts}
    for asked in ledger.asked:
        versions = [frame.version for frame in asked.heard]
        if versions != list(range(1, len(versions) + 1)):
            sentence = f"run {asked.command.id} was told of versions {versions}"
            verdict.reordered.append(times.of(sentence, asked.command.id))
        for frame in asked.heard:
            if logged.get((frame.thread, "run", frame.subject, frame.version)) != bytes(frame.data):
                sentence = f"a client heard {frame.type} {frame.version} of {frame.subject}: not in the log"
                verdict.lost.append(times.of(sentence, asked.command.id))


def _errand(verdict: Verdict, story: _Story, asked: Asked, times: Times) -> None:
    """An errand comes to nothing only for what was away, or because it was told to."""
    kind = story.failed.get(asked.command.id)
    done = kind == "aborted" if asked.kind == "disowned" else asked.expected in story.texts.get(asked.command.id, "")
    verdict.errands[asked.kind] += done
    verdict.came_to_nothing["refused"] += asked.refused
    if kind is None:
        return
    verdict.came_to_nothing[kind] += 1
    excused = {("disowned", "aborted"), *((one, "definition") for one in ELSEWHERE)}
    if kind not in AWAY and (asked.kind, kind) not in excused:
        sentence = f"errand {asked.kind} {asked.command.id} failed: {kind}"
        verdict.wrong.append(times.of(sentence, asked.command.id))


def _effects(verdict: Verdict, books: laws.Books, times: Times) -> None:
    """Every intention has one result, and what follows from it."""
    verdict.lost += map(times.told, books.open())
    verdict.duplicated += map(times.told, books.twice())
    verdict.wrong += map(times.told, books.wrong())
    verdict.errands["schedule"] = sum(books.by_hand.values())
    verdict.in_doubt = sum(kind == "tool.indeterminate" for kind in books.results.values())


def tools(verdict: Verdict, books: laws.Books, witness: Sequence[str], times: Times) -> None:
    """No `once` call took effect twice, none without its intention, none returned without effect or failed with one."""
    done: Counter[str] = Counter()
    for line in witness:
        effect, key, _ = line.split(" ", 2)
        done[key] += 1
        verdict.tool_calls += 1
        if effect == "once" and done[key] == 2:
            verdict.duplicated.append(times.of(f"once-only {key} took effect more than once", key))
    intended = set[str]()
    for (thread, effect), told in books.called.items():
        if told.call["name"] not in laws.WITNESSED:
            continue
        key, result = laws.key_of(thread, effect, told), books.results.get((thread, effect))
        intended.add(key)
        if result == "tool.returned" and not done[key]:
            verdict.lost.append(times.of(f"{key} returned and never took effect", effect))
        if result == "tool.failed" and told.effect_class == "once" and done[key]:
            verdict.wrong.append(times.of(f"{key} took effect, and is said to have failed", effect))
    unsaid = [key for key in done if key not in intended]
    verdict.lost += [times.of(f"{key} took effect and was never called", key) for key in unsaid]


async def _derived(verdict: Verdict, store: Store, times: Times) -> None:
    """The log verifies by replay, and what is made of it is what is made of it anew."""
    verdict.verified, differing = await laws.verified(store)
    verdict.wrong += map(times.told, differing)
    verdict.wrong += map(times.told, await laws.rebuilt(store))
    verdict.lost += map(times.told, await laws.indexed(store))
