"""What can go wrong between us, NATS and Postgres.

BusError
├── BadSubject        a subject or id that does not follow the grammar
├── Unavailable       the server cannot be reached, or nobody answers
├── ServerTooOld      nats-server lacks what we rely on
├── IncompatibleStream  a stream exists with settings that cannot be changed in place
├── Refused           JetStream said no: stream full, permission, oversize (`code` is its error code)
├── NoSuchLetter      no dead letter has the number
├── IngestLost        a batch of records is over before its time
├── Fenced            another process owns the shard now; drop all state
├── OutcomeUnknown    an acknowledgement was lost for good: the append may or may not have happened
├── NoMasterKey       what is recorded is sealed, and there is nothing here to open it with
├── LogDamaged        sequences or hashes do not follow one another
└── LogLost           an envelope is whole neither in JetStream nor in Postgres
"""

from __future__ import annotations

TOO_LARGE = 10054
"""JetStream's code for a message over a limit; `Connection` uses it for the server's own limit too."""


class BusError(Exception):
    """The root of what this package raises."""


class BadSubject(BusError):
    """A subject that is not ours, or an id that cannot be part of one."""


class Unavailable(BusError):
    """The server cannot be reached, or no service answers on the subject."""


class ServerTooOld(BusError):
    """The nats-server lacks a feature we rely on."""

    def __init__(self, found: str, needed: str) -> None:
        super().__init__(f"nats-server {found} is too old: need {needed} or newer (upgrade the server)")
        self.found = found
        self.needed = needed


class IncompatibleStream(BusError):
    """A stream of that name exists, made with settings that cannot be changed in place."""

    def __init__(self, stream: str, problem: str) -> None:
        super().__init__(f"stream {stream!r}: {problem} (use a fresh data directory, or change the setting back)")
        self.stream = stream


class Refused(BusError):
    """JetStream answered with an error."""

    def __init__(self, code: int, description: str) -> None:
        says = f"too large: {description}" if code == TOO_LARGE else f"JetStream refused: {description} (error {code})"
        super().__init__(says)
        self.code = code
        self.description = description

    @property
    def too_large(self) -> bool:
        """Whether it was the size: sending the same again can never succeed."""
        return self.code == TOO_LARGE


class NoSuchLetter(BusError):
    """No dead letter has the number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"no dead letter {number}: `ostinato dead ls` lists them")
        self.number = number


class IngestLost(BusError):
    """A batch of records is over before its time: what is not confirmed may or may not be stored."""


class Fenced(BusError):
    """Somebody else has appended to the shard since we last did: we are not its owner any more."""

    def __init__(self, shard: int, expected: int) -> None:
        super().__init__(f"shard {shard} was taken over: its log has gone past sequence {expected}")
        self.shard = shard
        self.expected = expected


class OutcomeUnknown(BusError):
    """An append was sent, and no acknowledgement came before its deadline or before another owner took the shard."""

    def __init__(self, shard: int, commit: str) -> None:
        super().__init__(f"shard {shard}: no acknowledgement of commit {commit!r}; it may or may not be in the log")
        self.shard = shard
        self.commit = commit


class NoMasterKey(BusError):
    """What is recorded is sealed, and there is nothing here to open it with."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"what is recorded is sealed (key {key!r}), and there is no master key here: set privacy.master_key "
            "(OSTINATO_PRIVACY_MASTER_KEY) to the stack's, or name its data directory with --data"
        )
        self.key = key


class LogDamaged(BusError):
    """The log has a gap, or bytes that are not those that were written."""

    def __init__(self, stream: str, sequence: int, problem: str) -> None:
        super().__init__(
            f"stream {stream!r} is damaged at sequence {sequence}: {problem} "
            "(`ostinato log verify` says more; stop the stack, and `ostinato log repair` mends it)"
        )
        self.stream = stream
        self.sequence = sequence


class LogLost(BusError):
    """No copy of an envelope is whole."""

    def __init__(self, sequence: int) -> None:
        super().__init__(
            f"sequence {sequence} of the log is whole neither in JetStream nor in Postgres: restore a backup of one"
        )
        self.sequence = sequence
