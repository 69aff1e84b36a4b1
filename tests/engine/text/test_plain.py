"""Plain text comes out the same wherever it is cut, up to the first stop string."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.text.plain import PlainText

PIECES = ("STOP", "STO", "TOP", "OP!", "x", "<tool_call>", "\n", " ", "é")
STOPS = ("STOP", "OP!x", "T", "\n\n")


def read(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, bool]:
    text = PlainText(stops)
    content = "".join([text.feed(piece) for piece in pieces])
    return content + text.finish(), text.stopped


@given(st.lists(st.sampled_from(PIECES), max_size=8), st.sets(st.sampled_from(STOPS)), st.data())
def test_what_comes_out_does_not_depend_on_the_cuts(pieces: list[str], stops: set[str], data: st.DataObject) -> None:
    text, given = "".join(pieces), tuple(sorted(stops))
    found = [at for at in (text.find(stop) for stop in given) if at >= 0]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    whole = read([text], given)
    assert read(parts, given) == read(list(text), given) == whole
    assert whole[1] == bool(found)
    assert whole[0] == text[: min(found)] if found else whole[0] == text


def test_what_looks_like_a_call_is_text() -> None:
    text = PlainText()
    assert text.feed('<tool_call>{"name": "f"}</tool_call> ') + text.finish() == '<tool_call>{"name": "f"}</tool_call> '
    assert not text.calls
