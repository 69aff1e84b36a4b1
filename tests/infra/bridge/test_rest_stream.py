"""A run as a stream that is the same bytes for whoever asks, whenever."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from infra.bridge.rest.stream import LONGEST_PIECE, RunEvents, cuts, place_of
from schemas import codec
from schemas.answers import CallTold
from schemas.generation import Sampling
from schemas.hooks import StepPrepared
from schemas.live import Committed, Delta, Frame, Progress
from schemas.messages import ToolCall, Usage
from schemas.profiles import ModePlan, Profile
from schemas.runs import Event, ModelReturned, RunFinished, RunQueued, RunStarted, ToolReturned

EFFECT = "r1-1-m"


def event(version: int, kind: str, data: Event | None = None) -> Committed:
    payload = b"{}" if data is None else codec.encode(data)
    about = {"subject": "r1", "thread": "t1", "time": "2026-01-01T00:00:00Z", "tenant": "acme", "cause": "r1"}
    return Committed(id=f"{version}-0", type=kind, version=version, data=msgspec.Raw(payload), **about)


class Answer:
    """What a model writes, in an order in which models write."""

    def __init__(self, reasoning: str, text: str, arguments: Sequence[str]) -> None:
        self.reasoning, self.text = reasoning, text
        self.calls = tuple(ToolCall(f"c{at}", "look", piece) for at, piece in enumerate(arguments))

    def frames(self, steps: Sequence[int]) -> list[Frame]:
        """Tell of it in pieces of these lengths, or all at the end."""
        deltas: list[Frame] = []
        sizes = iter(steps)
        for kind, call, whole in (
            ("reasoning", None, self.reasoning),
            ("text", None, self.text),
            *(("arguments", CallTold(at, one.id, one.name), one.arguments) for at, one in enumerate(self.calls)),
        ):
            begin = 0
            while begin < len(whole) and (size := next(sizes, None)) is not None:
                deltas.append(piece(kind, call, begin, whole[begin : begin + size]))
                begin += size
        returned = ModelReturned(EFFECT, self.text, "stop", Usage(), self.calls, reasoning=self.reasoning)
        finished = RunFinished(self.text, 1, Usage())
        ends = [event(2, "model.returned", returned), event(3, "run.finished", finished)]
        return [event(1, "model.called"), *deltas, *ends]


def test_instructions_are_told_to_nobody() -> None:
    mode = ModePlan("plan", "Never say Rumpelstiltskin.")
    secret = Profile("a", "m", "The word is Rumpelstiltskin.", (), Sampling(), 4, modes=(mode,))
    told = RunEvents()
    handed = ToolReturned("e", "c", "it is theirs", handover=secret)
    for version, data in enumerate([RunStarted(secret), RunQueued("r0", secret), handed]):
        (written,) = told.feed(event(version + 1, codec.tag(data), data))
        assert b"Rumpelstiltskin" not in written
        assert b'"agent":"a"' in written
    (written,) = told.feed(event(9, "step.prepared", StepPrepared("e", instructions="Rumpelstiltskin", model="n")))
    assert b"Rumpelstiltskin" not in written
    assert b'"model":"n"' in written


def piece(kind: str, call: CallTold | None, offset: int, text: str) -> Delta:
    about = {"subject": "r1", "thread": "t1", "effect": EFFECT, "version": 1, "call": call}
    said = {"offset": 0, "text": ""}
    said |= {kind: text, "offset" if kind == "text" else f"{kind}_offset": offset}
    return msgspec.convert({**about, "frame": "delta", **said}, Delta)


def streamed(frames: Sequence[Frame], after: str = "") -> bytes:
    encoder = RunEvents(place_of(after))
    return b"".join(told for frame in frames for told in encoder.feed(frame))


texts = st.text(st.sampled_from("ab \n\té世"), max_size=90)
answers = st.builds(Answer, texts, texts, st.lists(texts, max_size=2))
lengths = st.lists(st.integers(1, 40), max_size=60)


@given(answers, lengths, lengths)
def test_the_bytes_do_not_depend_on_how_an_answer_came(answer: Answer, some: list[int], others: list[int]) -> None:
    recorded = streamed(answer.frames([]))
    assert streamed(answer.frames(some)) == recorded
    assert streamed(answer.frames(others)) == recorded


@given(answers, lengths)
def test_whoever_comes_back_with_any_id_gets_the_rest(answer: Answer, some: list[int]) -> None:
    whole = streamed(answer.frames([]))
    blocks = whole.split(b"\n\n")[:-1]
    for at, block in enumerate(blocks):
        identity = block.partition(b"\n")[0].removeprefix(b"id: ").decode()
        rest = b"".join(later + b"\n\n" for later in blocks[at + 1 :])
        assert streamed(answer.frames(some), identity) == rest


@given(answers)
def test_pieces_come_to_what_was_written(answer: Answer) -> None:
    written: dict[str, str] = {}
    for block in streamed(answer.frames([])).split(b"\n\n")[:-1]:
        data = msgspec.json.decode(block.partition(b"data: ")[2])
        if data["frame"] == "delta":
            name = data.get("call", data["kind"])
            assert data["offset"] == len(written.get(name, ""))
            written[name] = written.get(name, "") + data["text"]
    assert written.get("text", "") == answer.text
    assert written.get("reasoning", "") == answer.reasoning
    assert [written.get(call.id, "") for call in answer.calls] == [call.arguments for call in answer.calls]


@given(texts, st.integers(0, 90))
def test_where_a_text_is_cut_depends_on_nothing_behind_that(text: str, known: int) -> None:
    certain = list(cuts(text[:known], 0, whole=False))
    assert list(cuts(text, 0, whole=True))[: len(certain)] == certain
    ends = [0, *cuts(text, 0, whole=True)]
    assert all(0 < end - begin <= LONGEST_PIECE for begin, end in pairwise(ends))


def test_a_piece_of_text_is_told_before_the_answer_is_whole() -> None:
    encoder = RunEvents()
    encoder.feed(event(1, "model.called"))
    assert encoder.feed(piece("text", None, 0, "Hello")) == []
    (told,) = encoder.feed(piece("text", None, 5, " world"))
    assert told.startswith(b"id: 1.2.6\nevent: delta\n")
    assert msgspec.json.decode(told.partition(b"data: ")[2])["text"] == "Hello "


@given(answers, lengths, st.lists(st.integers(0, 200), min_size=1, max_size=8), st.lists(st.integers(1, 9), max_size=9))
def test_progress_between_events_neither_hides_nor_repeats_one(
    answer: Answer, some: list[int], said: list[int], read: list[int]
) -> None:
    """Whoever is cut off after so many blocks, again and again, and comes back with the last id, has all once."""
    frames = answer.frames(some)
    for n, at in enumerate(said):
        frames.insert(at % (len(frames) + 1), Progress("r1", "t1", "r1-1-t0", 1, n + 1, {"line": "x\n\nid: 9"}))
    told, last = b"", ""
    for count in [*read, 1 << 30]:
        for block in streamed(frames, last).split(b"\n\n")[:-1][:count]:
            if block.startswith(b"id: "):
                last = block.partition(b"\n")[0].removeprefix(b"id: ").decode()
                told += block + b"\n\n"
            else:
                assert block.startswith(b"event: progress\n")
    assert told == streamed(answer.frames([]))
