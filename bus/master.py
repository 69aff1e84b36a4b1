"""The master key, which wraps the keys of threads and is never where they are."""

from __future__ import annotations

from hashlib import blake2b

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bus.errors import BusError
from schemas.context import Chance

_NONCE = 12


class WrongMaster(BusError):
    """A key was wrapped with another master key than ours."""

    def __init__(self, theirs: str, ours: str) -> None:
        super().__init__(
            f"payloads are sealed with master key {theirs!r}, and ours is {ours!r}: set `privacy.master_key` to that "
            "one, or put its file `master.key` back into the data directory; where a rotation was broken off, run "
            "`ostinato keys rotate-master` again"
        )


class Master:
    """A master key."""

    def __init__(self, secret: bytes, chance: Chance) -> None:
        """Make it of any bytes that are hard to guess."""
        digest = blake2b(secret, digest_size=32, person=b"ostinato-master").digest()
        self.secret = secret
        """What another process needs to open the same."""
        self.name = blake2b(digest, digest_size=4).hexdigest()
        """Tells master keys apart; says nothing of what it is."""
        self._cipher = AESGCM(digest)
        self._chance = chance

    def wrap(self, name: str, key: bytes) -> bytes:
        """Wrap a key, for its own row alone."""
        nonce = self._chance.bits(8 * _NONCE).to_bytes(_NONCE, "big")
        return nonce + self._cipher.encrypt(nonce, key, name.encode())

    def unwrap(self, name: str, wrapped: bytes, by: str) -> bytes:
        """Give the key that was wrapped; `by` names the master key that did.

        Raises:
            WrongMaster: it is another one.
        """
        try:
            return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], name.encode())
        except InvalidTag as error:
            raise WrongMaster(by, self.name) from error
