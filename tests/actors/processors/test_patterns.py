"""The regex filter: nothing that a rule finds gets through, however the text comes in pieces."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import DefinitionError
from actors.processors.patterns import RegexFilter
from actors.processors.processor import About, Tripped
from actors.processors.rules import PERSONAL, SECRETS, Rule
from schemas.messages import Message
from schemas.processing import Processed

pytestmark = pytest.mark.anyio

FOUND = {
    "EMAIL": ["ann.lee+x@mail.example.org"],
    "IBAN": ["DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432"],
    "CARD": ["4111 1111 1111 1111", "378282246310005"],
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
    for rules in ((SMALL[rule],), (SMALL[0], SMALL[2], SMALL[3]), SMALL):
        regexes = RegexFilter(rules=rules)
        whole = regexes.cleaned(text, About(None), "stream")
        assert "".join(streamed(regexes, cut(text, places))) == whole


def test_long_texts_flow_and_are_not_held_to_the_end() -> None:
    out = streamed(RegexFilter(rules=PERSONAL), ["word " * 40] * 20)
    assert sum(1 for part in out[:-1] if part) > 10


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
