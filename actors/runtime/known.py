"""Which threads there are, in a few bits each: a Bloom filter that grows.

After Almeida et al., Scalable Bloom Filters, 2007. It says of a thread that it is new, and is right; or that it may be
known, and then the record is asked. So a new conversation begins without a look into Postgres, and an owner's memory
does not grow with every thread there ever was.
"""

from __future__ import annotations

from hashlib import blake2b

_BITS_PER_KEY = 12
_HASHES = 8
"""With so many bits and hashes about 0.3 % of new keys look known, in each part."""
_FIRST = 16
"""The first part has 2 to the power of this many bits, each further one four times as many."""
_NUMBER = 8


class _Part:
    """A plain Bloom filter."""

    def __init__(self, power: int, count: int = 0, bits: bytes | None = None) -> None:
        self.power = power
        self.count = count
        self.bits = bytearray((1 << power) // 8 if bits is None else bits)

    @property
    def full(self) -> bool:
        return self.count * _BITS_PER_KEY >= 1 << self.power

    def has(self, first: int, second: int) -> bool:
        mask = (1 << self.power) - 1
        for n in range(_HASHES):
            place = (first + n * second) & mask
            if not self.bits[place >> 3] & 1 << (place & 7):
                return False
        return True

    def add(self, first: int, second: int) -> None:
        mask = (1 << self.power) - 1
        for n in range(_HASHES):
            place = (first + n * second) & mask
            self.bits[place >> 3] |= 1 << (place & 7)
        self.count += 1


class Known:
    """A growing set of keys that may say yes wrongly, never no."""

    def __init__(self, data: bytes = b"") -> None:
        """Make an empty one, or the one that `data` is the bytes of."""
        self._parts: list[_Part] = []
        while data:
            power, count = (int.from_bytes(data[at : at + _NUMBER], "big") for at in (0, _NUMBER))
            end = 2 * _NUMBER + (1 << power) // 8
            self._parts.append(_Part(power, count, data[2 * _NUMBER : end]))
            data = data[end:]

    def __bytes__(self) -> bytes:
        return b"".join(
            part.power.to_bytes(_NUMBER, "big") + part.count.to_bytes(_NUMBER, "big") + part.bits
            for part in self._parts
        )

    def __contains__(self, key: tuple[str, ...]) -> bool:
        first, second = _hashes(key)
        return any(part.has(first, second) for part in self._parts)

    def add(self, key: tuple[str, ...]) -> None:
        """Add a key; nothing changes if it is there."""
        first, second = _hashes(key)
        if any(part.has(first, second) for part in self._parts):
            return
        if not self._parts or self._parts[-1].full:
            self._parts.append(_Part(self._parts[-1].power + 2 if self._parts else _FIRST))
        self._parts[-1].add(first, second)


def _hashes(key: tuple[str, ...]) -> tuple[int, int]:
    digest = blake2b("\0".join(key).encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big") | 1
