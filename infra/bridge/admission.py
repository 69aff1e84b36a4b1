"""How much is let in at once, and how often one key may come. Pure: whoever asks says what time it is.

A queue that is longer than what is done soon helps nobody: its requests time out, and what was done for them is lost.
So places are few, and who finds none is told at once, and told when to come again.
"""

from __future__ import annotations

from dataclasses import dataclass

_SOONEST_MS = 50
_LATEST_MS = 30_000
_WEIGHT = 0.1
"""Of the latest interval in the mean of them."""
_MOST_KEYS = 10_000


class Admission:
    """So many places; a place is taken until it is left.

    Those who are turned away are told to come one after the other, as places will be left, not all at once.
    """

    def __init__(self, places: int) -> None:
        self.places = places
        self.taken = 0
        self.turned_away = 0
        """Since the beginning."""
        self._coming = 0.0
        """Who was turned away and has not had his turn."""
        self._interval = 0.0
        """Seconds between two places that are left, in the mean; 0 while nothing is known."""
        self._left = 0.0

    def enter(self, now: float) -> int | None:
        """Take a place and return None, or return in how many milliseconds to come again."""
        if self.taken < self.places:
            if self.taken == 0:
                self._left = now  # nobody was there: that was no interval
            self.taken += 1
            return None
        self.turned_away += 1
        self._coming = min(self._coming + 1, 10.0 * self.places)
        wait = int(self._interval * self._coming * 1000) if self._interval else 1000
        return min(max(wait, _SOONEST_MS), _LATEST_MS)

    def leave(self, now: float) -> None:
        """Give a place back."""
        assert self.taken > 0, "a place was left that nobody had"
        self.taken -= 1
        self._coming = max(0.0, self._coming - 1)
        passed, self._left = now - self._left, now
        self._interval += (passed - self._interval) * (_WEIGHT if self._interval else 1.0)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a key stands after it came: what OpenAI's `x-ratelimit` headers tell."""

    limit: int
    remaining: int
    reset_s: float
    """Until all is as if it had never come."""


class Bucket:
    """So much a minute, whole at the beginning; more may be taken from it than there is, and is missing then."""

    def __init__(self, per_minute: int, now: float) -> None:
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._at = now

    def wait_s(self, now: float) -> float:
        """Say in how many seconds there is one; 0 where there is, or where there is no bound."""
        if not self.per_minute:
            return 0.0
        self._fill(now)
        return 0.0 if self._left >= 1 else (1 - self._left) * 60 / self.per_minute

    def take(self, count: int) -> None:
        """Take some; of what has no bound nothing is missing."""
        if self.per_minute:
            self._left -= count

    def full(self, now: float) -> bool:
        """Say whether a new one would be the same."""
        self._fill(now)
        return self._left >= self.per_minute

    def standing(self) -> Standing | None:
        """Say how it stands; None where there is no bound."""
        if not self.per_minute:
            return None
        missing = self.per_minute - self._left
        return Standing(self.per_minute, max(0, int(self._left)), missing * 60 / self.per_minute)

    def _fill(self, now: float) -> None:
        self._left = min(float(self.per_minute), self._left + (now - self._at) * self.per_minute / 60)
        self._at = now


@dataclass(frozen=True, slots=True)
class Rates:
    """What a key may have; 0 is no bound, or what the server is set to."""

    requests: int = 0
    """A minute."""
    concurrent: int = 0
    """At the same time."""
    tokens: int = 0
    """A minute, of prompts and answers together."""

    def over(self, usual: Rates) -> Rates:
        """Give these, and what is usual where they say nothing."""
        return Rates(self.requests or usual.requests, self.concurrent or usual.concurrent, self.tokens or usual.tokens)


class Quota:
    """How often one key may come, how many of its requests at the same time, and how many tokens they may take.

    What a request takes is known when it is answered, so the tokens of a minute are passed by what began before.
    """

    def __init__(self, rates: Rates, now: float = 0.0) -> None:
        self.requests = Bucket(rates.requests, now)
        self.tokens = Bucket(rates.tokens, now)
        self._concurrent = rates.concurrent
        self.taken = 0

    def enter(self, now: float) -> float:
        """Take one and return 0, or return in how many seconds there is one."""
        if self._concurrent and self.taken >= self._concurrent:
            return 1.0
        wait_s = max(self.requests.wait_s(now), self.tokens.wait_s(now))
        if wait_s:
            return wait_s
        self.requests.take(1)
        self.taken += 1
        return 0.0

    def leave(self) -> None:
        """Note that one of its requests is over."""
        self.taken -= 1

    def idle(self, now: float) -> bool:
        """Say whether a new one would be the same."""
        return not self.taken and self.requests.full(now) and self.tokens.full(now)


class Quotas:
    """The quota of every key that has come lately."""

    def __init__(self, usual: Rates) -> None:
        """Make them: what is given goes for keys that have no numbers of their own."""
        self._usual = usual
        self._known: dict[tuple[str, str], Quota] = {}

    def of(self, tenant: str, key: str, rates: Rates, now: float) -> Quota:
        """Return a key's quota."""
        found = self._known.get((tenant, key))
        if found is None:
            if len(self._known) >= _MOST_KEYS:
                self._known = {name: quota for name, quota in self._known.items() if not quota.idle(now)}
            found = self._known[tenant, key] = Quota(rates.over(self._usual), now)
        return found


def spelled(seconds: float) -> str:
    """Write a time as OpenAI's headers do: `120ms`, `1.5s`, `6m0s`."""
    if seconds < 1:
        return f"{int(seconds * 1000)}ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)}m{int(rest)}s" if minutes else f"{rest:.3f}".rstrip("0").rstrip(".") + "s"
