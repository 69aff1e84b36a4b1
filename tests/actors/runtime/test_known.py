"""The filter of all threads of a shard."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from actors.runtime.known import Known
from bus.snapshots import ThreadKey

KEYS = st.tuples(st.sampled_from(["agent", "generation"]), st.text(max_size=5), st.text(max_size=8))


@given(st.lists(KEYS, max_size=50), st.lists(KEYS, max_size=50))
def test_what_was_added_is_known_also_after_it_was_stored(first: list[ThreadKey], second: list[ThreadKey]) -> None:
    known = Known()
    for key in first:
        known.add(key)
    known = Known(bytes(known))
    for key in second:
        known.add(key)
    assert all(key in known for key in (*first, *second))
    assert bytes(Known(bytes(known))) == bytes(known)


def test_few_new_keys_look_known_however_many_there_are() -> None:
    known = Known()
    for n in range(60_000):
        known.add(("agent", "acme", f"t{n}"))
    assert len(bytes(known)) < 60_000 * 8
    wrong = sum(("agent", "acme", f"n{n}") in known for n in range(10_000))
    assert wrong < 200
    assert ("agent", "acme", "t0") not in Known()
