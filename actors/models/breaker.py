"""Circuit breakers: a model that fails again and again is left alone for a while."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.context import Clock


@dataclass
class Breaker:
    """One model's breaker: closed while all is well, open for a while after failures, then open to one call."""

    clock: Clock
    failures: int
    """Failures in a row after which it opens; 0 never does."""
    open_s: float
    """Seconds that it stays open, unless its provider asks for more."""
    _failed: int = 0
    _until: int = 0
    _trying: bool = False

    def closed_in_ms(self) -> int:
        """Give how long it is still open, milliseconds; 0 lets a call through: after a while one, which decides."""
        left = self._until - self.clock.now()
        if left > 0:
            return -(-left // 1000)
        if self._until and self._trying:
            return max(1, int(self.open_s * 1000))
        self._trying = self._until > 0
        return 0

    def heard(self) -> None:
        """A call was answered: all is well."""
        self._failed, self._until, self._trying = 0, 0, False

    def missed(self, retry_after_ms: int) -> None:
        """A call failed for a reason that lies with the provider."""
        self._failed += 1
        if self.failures and (self._failed >= self.failures or self._trying):
            wait_us = max(int(self.open_s * 1e6), retry_after_ms * 1000)
            self._until = self.clock.now() + wait_us
        self._trying = False

    def left(self) -> None:
        """A call ended without telling anything of the provider: whoever comes next may try."""
        self._trying = False
