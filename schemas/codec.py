"""All encoding: bytes to shapes and back. Old shapes are upcast here on reading; stored bytes are never rewritten."""

from __future__ import annotations

import contextlib
from hashlib import blake2b
from typing import Any, TypeVar, get_args

import msgspec

from schemas.batches import CancelBatch, CreateBatch
from schemas.blobs import BlobReference
from schemas.commands import (
    AbortRun,
    Approve,
    CancelTask,
    CloudCommand,
    Command,
    CommandData,
    Deny,
    Generate,
    PostResult,
    RawPrompt,
    Resume,
    RunAgent,
)
from schemas.envelope import FORMAT, Envelope, Fact
from schemas.errors import BadShape, Erased, Sealed, UnknownEvent, UnknownFormat
from schemas.forks import Fork
from schemas.keys import IssueKey, RevokeKey
from schemas.live import Frame
from schemas.memory import CreateThread, DeleteThread, Observe, Remember, RenameThread
from schemas.messages import Message
from schemas.old import UPCASTS
from schemas.pushes import ForgetPushes, SubscribePush, UnsubscribePush
from schemas.runs import Event
from schemas.schedules import AddSchedule, FireSchedule, PauseSchedule, RemoveSchedule, UnpauseSchedule
from schemas.standing import StandingCommand

T = TypeVar("T")

_MISFITS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding bytes from outside may raise: bad JSON or shape, bad UTF-8, nesting without end."""

_encoder = msgspec.json.Encoder()
_envelopes: msgspec.json.Decoder[Envelope] = msgspec.json.Decoder(Envelope)
_events: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_frames: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)
_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}

EVENT_TYPES: dict[str, type[Any]] = {str(kind.__struct_config__.tag): kind for kind in get_args(Event)}
"""Tag to class of every event."""

_TAGS = {shape: name for name, shape in EVENT_TYPES.items()}
"""Class to tag: msgspec builds a class's configuration anew each time it is asked for."""

READABLE = EVENT_TYPES.keys() | {str(old.shape.__struct_config__.tag) for old in UPCASTS}
"""Tags of events that can be read, those of old shapes included."""

_VERBS: dict[tuple[str, str], type[Any]] = {
    ("agent", "run"): RunAgent,
    ("agent", "approve"): Approve,
    ("agent", "deny"): Deny,
    ("agent", "abort"): AbortRun,
    ("agent", "fork"): Fork,
    ("agent", "resume"): Resume,
    ("agent", "result"): PostResult,
    ("agent", "cancel"): CancelTask,
    ("agent", "create"): CreateThread,
    ("agent", "rename"): RenameThread,
    ("agent", "delete"): DeleteThread,
    ("agent", "remember"): Remember,
    ("agent", "observe"): Observe,
    **{("agent", str(shape.__struct_config__.tag)): shape for shape in get_args(StandingCommand)},
    ("generation", "generate"): Generate,
    ("generation", "abort"): AbortRun,
    ("generation", "delete"): DeleteThread,
    ("key", "issue"): IssueKey,
    ("key", "revoke"): RevokeKey,
    ("schedule", "add"): AddSchedule,
    ("schedule", "pause"): PauseSchedule,
    ("schedule", "unpause"): UnpauseSchedule,
    ("schedule", "fire"): FireSchedule,
    ("schedule", "remove"): RemoveSchedule,
    ("batch", "submit"): CreateBatch,
    ("batch", "withdraw"): CancelBatch,
    ("push", "subscribe"): SubscribePush,
    ("push", "unsubscribe"): UnsubscribePush,
    ("push", "forget"): ForgetPushes,
}


def encode(value: object) -> bytes:
    """Encode any wire shape as JSON."""
    return _encoder.encode(value)


def decode(data: bytes, shape: type[T] | Any) -> T:
    """Decode JSON into `shape`.

    Raises:
        BadShape: the bytes do not fit; the message names the field.
    """
    decoder = _decoders.get(shape)
    if decoder is None:
        decoder = _decoders.setdefault(shape, msgspec.json.Decoder(shape))
    try:
        value: T = decoder.decode(data)
    except _MISFITS as error:
        raise BadShape(str(error)) from error
    return value


def decode_frame(data: bytes) -> Frame:
    """Decode what a watcher hears.

    Raises:
        BadShape: the bytes are no frame; the message names the field.
    """
    try:
        return _frames.decode(data)  # `decode` would look a union up by all its members
    except _MISFITS as error:
        raise BadShape(str(error)) from error


def tag(event: Event) -> str:
    """Return an event's type as the log names it."""
    return _TAGS[type(event)]


def payload(event: Event) -> msgspec.Raw:
    """Encode an event for a `Fact`."""
    return msgspec.Raw(_encoder.encode(event))


_REFERENCE = b'{"type":"blob.reference",'


ERASED = msgspec.Raw(b'{"type":"payload.erased"}')
"""What is left of a sealed payload whose key was destroyed, for whoever reads it."""


DAMAGED = msgspec.Raw(b'{"type":"payload.damaged"}')
"""What stands for a sealed payload that is not what was sealed: no event, whoever reads it."""


def is_sealed(payload: bytes | msgspec.Raw) -> bool:
    """Say whether a payload is still sealed: a JSON string in the place of an object."""
    return bytes(memoryview(payload)[:1]) == b'"'


def is_erased(payload: bytes | msgspec.Raw) -> bool:
    """Say whether nobody can read a payload any more."""
    return memoryview(payload) == memoryview(ERASED)


def is_reference(payload: bytes | msgspec.Raw) -> bool:
    """Say whether something stands in the place of a payload."""
    return memoryview(payload)[: len(_REFERENCE)] == _REFERENCE


def reference_of(payload: bytes | msgspec.Raw) -> BlobReference:
    """Read what stands in the place of a payload.

    Raises:
        BadShape: nothing does.
    """
    reference: BlobReference = decode(bytes(payload), BlobReference)
    return reference


def reference_payload(reference: BlobReference) -> msgspec.Raw:
    """Encode what stands in the place of a payload: the same bytes for the same reference, always."""
    return msgspec.Raw(_encoder.encode(reference))


def decode_event(data: bytes | msgspec.Raw) -> Event:
    """Decode an event; one of an old shape becomes what it is today.

    Raises:
        BadShape: the bytes are no event; the message names the field.
        Sealed: they are sealed.
        Erased: they were, and are erased.
    """
    try:
        return _events.decode(data)
    except _MISFITS as error:
        _refuse_hidden(data, "event")
        old = _old(data)
        if old is None:
            raise BadShape(str(error)) from error
        return old


def _refuse_hidden(payload: bytes | msgspec.Raw, place: str) -> None:
    if is_erased(payload):
        raise Erased(place)
    if is_sealed(payload):
        raise Sealed(place)


def _old(data: bytes | msgspec.Raw) -> Event | None:
    """Read what no shape of today fits."""
    for old in UPCASTS:
        with contextlib.suppress(BadShape):
            return old.today(decode(bytes(data), old.shape))
    return None


def event_of(fact: Fact) -> Event:
    """Decode a fact's payload.

    Raises:
        UnknownEvent: this code knows no event of that type.
        BadShape: the payload does not fit its type.
        Sealed: it is sealed.
        Erased: it was, and is erased.
    """
    if fact.type not in READABLE:
        raise UnknownEvent(fact.type)
    try:
        event = _events.decode(fact.payload)
    except _MISFITS as error:
        _refuse_hidden(fact.payload, _place(fact))
        old = _old(fact.payload)
        if old is None:
            raise BadShape(f"{_place(fact)}: {error}") from error
        event = old
    if tag(event) != fact.type and fact.type in EVENT_TYPES:
        raise BadShape(f"{_place(fact)}: its payload is of type {tag(event)!r}")
    return event


def _place(fact: Fact) -> str:
    return f"event {fact.type!r} of {fact.kind} {fact.entity!r} version {fact.version}"


def decode_envelope(data: bytes) -> Envelope:
    """Decode a commit envelope; payloads stay raw.

    Raises:
        UnknownFormat: written by newer code.
        BadShape: not an envelope.
    """
    try:
        envelope = _envelopes.decode(data)
    except _MISFITS as error:
        # a newer format may have another shape: its number comes first, so say that rather than what does not fit
        found = _format(data)
        if found not in {None, FORMAT}:
            raise UnknownFormat(found) from error
        raise BadShape(f"commit envelope: {error}") from error
    if envelope.format != FORMAT:
        raise UnknownFormat(envelope.format)
    return envelope


def _format(data: bytes) -> int | None:
    try:
        return msgspec.convert(msgspec.json.decode(data, type=list[Any])[0], int)
    except (*_MISFITS, IndexError):
        return None


def digest(data: bytes) -> str:
    """Hash bytes for the envelope chain: BLAKE2b, 128 bits, hexadecimal."""
    return blake2b(data, digest_size=16).hexdigest()


def chained(previous: str, message: Message | RawPrompt) -> str:
    """Extend a conversation's prefix hash by one message, or make that of a raw prompt."""
    return blake2b(previous.encode() + _encoder.encode(message), digest_size=16).hexdigest()


def decode_command(tenant: str, kind: str, thread: str, verb: str, body: bytes) -> Command:
    """Decode what a client published on `in.<tenant>.<kind>.<thread>.<verb>`.

    Raises:
        BadShape: the message names the field and what was expected.
    """
    shape = _VERBS.get((kind, verb))
    if shape is None:
        known = ", ".join(f"{k}/{v}" for k, v in sorted(_VERBS))
        raise BadShape(f"no command {verb!r} for {kind!r}: known are {known}")
    cloud: CloudCommand = decode(body, CloudCommand)
    try:
        fields = msgspec.json.decode(cloud.data, type=dict[str, Any])
        data: CommandData = msgspec.convert({**fields, "type": verb}, shape, str_keys=True)
    except _MISFITS as error:
        raise BadShape(f"command {cloud.id!r}: {error} (in `data`)") from error
    if not cloud.traceparent.isprintable():
        raise BadShape(
            f"command {cloud.id!r}: traceparent: control characters (leave it out, or see W3C Trace Context)"
        )
    if not cloud.requestid.isprintable():
        raise BadShape(
            f"command {cloud.id!r}: requestid: control characters (leave it out, or send letters and digits)"
        )
    return Command(
        id=cloud.id,
        tenant=tenant,
        kind=kind,
        thread=thread,
        verb=verb,
        data=data,
        source=cloud.source,
        time=cloud.time,
        traceparent=cloud.traceparent,
        request_id=cloud.requestid,
    )
