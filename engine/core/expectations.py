"""What is to be expected of programs: learned from those before, by the kind of tool and the kind of agent."""

from __future__ import annotations

from typing import Final, TypeVar

from engine.core.histogram import Histogram

_UNKNOWN_US: Final = 1_000_000
"""The least that is expected to remain of a wait about which nothing is known."""
TURNS_AHEAD: Final = (0, 1, 2, 3, 4, 6, 8, 12)
"""Turns to come after which the memory must suffice."""
_AGED: Final = 0.99
"""What a turn still counts once another one of its kind has ended."""
_MOST_KINDS: Final = 1024
"""Tools, or kinds of agents, of which something is remembered: clients name them."""


class Chance:
    """Whether programs of a kind ask again after a turn."""

    def __init__(self) -> None:
        self._left = self._came_back = 0.0

    def left(self) -> None:
        """A turn ended."""
        self._left = self._left * _AGED + 1
        self._came_back *= _AGED

    def came_back(self) -> None:
        """The program asked again after one."""
        self._came_back += 1

    @property
    def of_return(self) -> float:
        """A share, near one half while little is known."""
        return min((self._came_back + 1) / (self._left + 2), 1.0)


class Expectations:
    """Histograms, and what follows from them."""

    def __init__(self) -> None:
        self._waits: dict[str, Histogram] = {}
        self._growth: dict[str, Histogram] = {}
        self._finals: dict[str, Histogram] = {}
        self._returns: dict[str, Chance] = {}

    def waited(self, tool: str, duration: int) -> None:
        """A wait for a kind of tool is over, after so many microseconds."""
        _of(self._waits, tool, Histogram).add(duration)

    def grew(self, agent: str, tokens: int) -> None:
        """A context of a kind of agent grew."""
        _of(self._growth, agent, Histogram).add(tokens)

    def came_to(self, agent: str, tokens: int) -> None:
        """A context of a kind of agent grows no more."""
        _of(self._finals, agent, Histogram).add(tokens)

    def left(self, agent: str) -> None:
        """A turn of a kind of agent ended."""
        _of(self._returns, agent, Chance).left()

    def came_back(self, agent: str) -> None:
        """And the next one came."""
        _of(self._returns, agent, Chance).came_back()

    def remaining(self, tool: str, waited: int) -> int:
        """How long a wait is expected to last on that lasted so long, microseconds.

        Of waits that are as long already only such are looked at that were longer: what lasts longer than most is
        expected to last long. Where none was, it is expected to take as long again.
        """
        found = self._waits.get(tool)
        mean = None if found is None else found.mean_above(waited)
        return max(_UNKNOWN_US, waited) if mean is None else int(mean) - waited

    def chance(self, agent: str, tool: str = "", waited: int = 0) -> float:
        """How likely the next turn is after one, of a program of which nobody says that it goes on.

        The longer it is away, beyond what others are that come back, the likelier it is one that does not.
        """
        returns, waits = self._returns.get(agent), self._waits.get(tool)
        if returns is None:
            return 1.0
        comes = returns.of_return * (1.0 if waits is None else waits.share_above(waited))
        return comes / (comes + 1.0 - returns.of_return)

    def outlook(self, agent: str, length: int, shared: int = 0) -> tuple[float, ...]:
        """How much memory a context that has so many tokens is expected to take, after each of `TURNS_AHEAD`.

        One that is over by then takes none: contexts that got as far as this one say how far it goes. `shared` of its
        tokens are counted elsewhere.
        """
        grown, finals = self._growth.get(agent), self._finals.get(agent)
        growth = int((None if grown is None else grown.mean) or length / 4)
        if finals is None:
            return tuple([float(length + min(turns, 2) * growth - shared) for turns in TURNS_AHEAD])
        now = finals.share_above(length)
        lengths = [length + turns * growth for turns in TURNS_AHEAD]
        return tuple([(far - shared) * finals.share_above(far) / now for far in lengths])


_Learned = TypeVar("_Learned", Histogram, Chance)


def _of(learned: dict[str, _Learned], kind: str, make: type[_Learned]) -> _Learned:
    found = learned.get(kind)
    if found is None:
        if len(learned) >= _MOST_KINDS:
            del learned[next(iter(learned))]
        found = learned[kind] = make()
    return found
