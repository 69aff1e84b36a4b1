"""The regex filter: nothing that a rule finds gets through, however the text comes in pieces."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import DefinitionError
from actors.processors import rules
from actors.processors.patterns import RegexFilter
from actors.processors.processor import About, Tripped
from actors.processors.rules import PERSONAL, SECRETS, Rule
from schemas.messages import Message
from schemas.processing import Processed

pytestmark = pytest.mark.anyio

FOUND = {
    "EMAIL": ["ann.lee+x@mail.example.org"],
    "IBAN": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "CARD": ["4111 1111 1111 1111", "378282246310005", "4111-1111-1111-1111"],
    "SOCIAL_SECURITY": ["078-05-1120"],
    "PHONE": ["+44 20 7946 0958", "(555) 010-9999"],
    "IP_ADDRESS": ["192.168.10.7"],
    "AWS_KEY": ["AKIA" + "A" * 16],
    "GITHUB_TOKEN": ["ghp_" + "a1" * 18],
    "API_KEY": ["sk-" + "Ab1_" * 8],
    "SLACK_TOKEN": ["xoxb-12345-67890-abcdef"],
    "GOOGLE_KEY": ["AIza" + "b" * 35],
    "TOKEN": ["eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"],
    "PASSWORD_IN_URL": ["postgres://me:hunter2@"],
    "PRIVATE_KEY": ["-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----"],
}
TEXTS = [(name, text) for name, texts in FOUND.items() for text in texts]
FRAGMENTS = [
    "sk", "sk-", "gh", "ghp_", "eyJ", "-----BEGIN ", "AKIA", "xox", "1", "12", "-", " ", ".", "@", "a", "b.org",
    "http://", "\n", "DE89", "é", "4111 1111", " 1111 1111", "\u0663", "\u200b", *(text for _, text in TEXTS),
]  # fmt: skip
SMALL = (
    Rule("AB", r"a{1,3}b", 4),
    Rule("BCD", r"bc+d", 0),
    Rule("WORD", r"\bxy\b", 2),
    Rule("DIGITS", r"\d{3}(?!\d)", 3),
)


def streamed(regexes: RegexFilter, pieces: list[str], about: About | None = None) -> list[str]:
    stream = regexes.stream(about or About(None))
    return [*(stream.feed(piece) for piece in pieces), stream.end()]


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[first:last] for first, last in pairwise(ends)]


@pytest.mark.parametrize(("name", "text"), TEXTS)
def test_what_secrets_and_personal_data_look_like_is_masked(name: str, text: str) -> None:
    about = About(None)
    cleaned = RegexFilter().cleaned(f"It is {text}, he said.", about, "prompt")
    assert cleaned == f"It is [{name}], he said."
    assert about.done == [Processed("regex-filter", "prompt", "changed", 1, name)]


@pytest.mark.parametrize(
    "text", ["In 2026 we sold 1,200 of 3.14", "version 1.2.3", "4111 1111 1111 1112", "999.1.1.1", "on 2026-11-24"]
)
def test_what_only_looks_a_little_like_it_stays(text: str) -> None:
    assert RegexFilter().cleaned(text, About(None), "prompt") == text


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("4111 1111 1111 1111 12", "[CARD] 12"),
        ("12 4111 1111 1111 1111", "12 [CARD]"),
        ("DE89 3704 0044 0532 0130 00 AND MORE", "[IBAN] AND MORE"),
        ("DE 89 3704", "DE 89 3704"),
        ("D E89 3 7 0 4 0 0 4 4 0 5 3 2 0 1 3 0 0 0", "D E89 3 7 0 4 0 0 4 4 0 5 3 2 0 1 3 0 0 0"),
    ],
)
def test_of_what_looks_like_more_the_number_alone_is_masked(text: str, masked: str) -> None:
    rules = [rule for rule in PERSONAL if rule.name in {"CARD", "IBAN"}]
    assert RegexFilter(rules).cleaned(text, About(None), "prompt") == masked


def test_a_rule_knows_its_longest_match() -> None:
    for name, text in TEXTS:
        (rule,) = [rule for rule in (*SECRETS, *PERSONAL) if rule.name == name]
        assert 0 < len(text) <= rule.longest


@given(st.sampled_from(TEXTS), st.text("ab .x", max_size=30), st.lists(st.integers(0, 999), max_size=8))
def test_nothing_of_it_gets_out_before_it_is_known_not_to_be_one(
    found: tuple[str, str], around: str, places: list[int]
) -> None:
    name, text = found
    pieces = cut(f"{around} {text} {around}", places)
    out = streamed(RegexFilter(), pieces)
    assert "".join(out) == f"{around} [{name}] {around}"
    told = ""
    for part in out:
        told += part
        assert told.strip() in f"{around} [{name}] {around}"


@given(st.text("abcdxy 12", max_size=60), st.lists(st.integers(0, 999), max_size=20), st.sampled_from([0, 1, 3]))
def test_a_text_in_pieces_becomes_what_the_whole_becomes(text: str, places: list[int], rule: int) -> None:
    for some in ((SMALL[rule],), (SMALL[0], SMALL[2], SMALL[3]), SMALL):
        regexes = RegexFilter(rules=some)
        whole = regexes.cleaned(text, About(None), "stream")
        assert "".join(streamed(regexes, cut(text, places))) == whole


def test_long_texts_flow_and_are_not_held_to_the_end() -> None:
    out = streamed(RegexFilter(rules=PERSONAL), ["word " * 40] * 20)
    assert sum(1 for part in out[:-1] if part) > 10


def test_an_answer_is_held_back_for_what_could_become_part_of_a_match_and_no_more() -> None:
    out = streamed(RegexFilter(), ["This is a plain answer of several words. "] * 5)
    assert all(out[1:])
    assert "".join(out) == "This is a plain answer of several words. " * 5
    key = streamed(
        RegexFilter(), ["It is -----BEG", "IN PRIVATE KEY-----\nMIIE", "EEEE\n", "-----END PRIVATE KEY----- bye"]
    )
    assert "".join(key[:-1]) == "It is "
    assert "".join(key) == "It is [PRIVATE_KEY] bye"


@given(
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=12).map("".join),
    st.lists(st.integers(0, 999), max_size=20),
)
def test_whatever_begins_like_something_in_pieces_becomes_what_the_whole_becomes(text: str, places: list[int]) -> None:
    regexes = RegexFilter()
    assert "".join(streamed(regexes, cut(text, places))) == regexes.cleaned(text, About(None), "stream")


@pytest.mark.parametrize("length", [30, 300_000])
async def test_a_pattern_that_takes_for_ever_stops_the_call_and_not_the_process(
    monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(rules, "_LIMIT_S", 0.1)
    monkeypatch.setattr(rules, "_EACH_S", 1e-7)
    endless = RegexFilter(rules=(Rule("ENDLESS", r"(a|aa)+$", 0),))
    text = "a" * 60 + "b" * length
    with pytest.raises(Tripped, match="looking for ENDLESS took too long"):
        await endless.tool_result("look", text, About(None))
    stream = endless.stream(About(None))
    stream.feed(text)
    with pytest.raises(Tripped):
        stream.end()


@pytest.mark.parametrize(("size", "aside"), [(10, False), (2_000_000, True)])
async def test_long_texts_are_looked_through_beside_the_event_loop(size: int, aside: bool) -> None:
    seen = set[threading.Thread]()

    def check(text: str) -> int:
        seen.add(threading.current_thread())
        return len(text)

    regexes = RegexFilter(rules=(Rule("END", "end", 3, check),))
    text = "word " * (size // 5) + "end"
    (shown,) = await regexes.prompt((Message("user", text),), About(None))
    assert shown.content.endswith("word [END]")
    assert (await regexes.tool_result("look", text, About(None))).endswith("word [END]")
    assert len(seen) == 1 or aside
    assert (threading.main_thread() not in seen) == aside


def test_a_rule_without_a_bound_holds_all_back() -> None:
    out = streamed(RegexFilter(rules=(Rule("LONG", r"a+b"),)), ["xxxx"] * 50)
    assert out[:-1] == [""] * 50


def test_the_same_text_gets_the_same_number_and_only_who_has_the_key_can_tell() -> None:
    one, same, other = (
        RegexFilter(strategy="hash", key=key).cleaned("a@b.org c@d.org a@b.org", About(None), "prompt").split()
        for key in ("k", "k", "l")
    )
    assert one == same
    assert one[0] == one[2] != one[1]
    assert one[0] != other[0]
    assert "a@b" not in one[0]


def test_it_can_take_away_and_it_can_stop() -> None:
    assert RegexFilter(strategy="remove").cleaned("a@b.org!", About(None), "prompt") == "!"
    with pytest.raises(Tripped) as tripped:
        RegexFilter(strategy="block").cleaned("it is a@b.org!", About(None), "prompt")
    assert tripped.value.reason == "EMAIL found"


async def test_the_model_is_shown_none_of_it_but_its_instructions_stay() -> None:
    messages = (Message("system", "mail us@b.org"), Message("user", "I am a@b.org"), Message("tool", "to c@d.org"))
    shown = await RegexFilter().prompt(messages, About(None))
    assert [message.content for message in shown] == ["mail us@b.org", "I am [EMAIL]", "to [EMAIL]"]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: RegexFilter(strategy="shout"),  # type: ignore[arg-type]
        lambda: RegexFilter(rules=()),
        lambda: RegexFilter(strategy="hash"),
        lambda: Rule("X", "("),
        lambda: Rule("X", "a*"),
        lambda: Rule("X", "a", -1),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_where_it_is_written(wrong: object) -> None:
    with pytest.raises(DefinitionError):
        wrong()  # type: ignore[operator]
