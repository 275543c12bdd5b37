"""Encoding: an event as a journal keeps it, and back.

JSON, because an operator can read it with the tools there are. Whatever msgspec can write may be
published, and pydantic models; handlers get what JSON makes of it (a tuple comes back as a list),
and they get it whether the event has just been published or is read after a crash.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from actorbus.errors import PayloadError
from actorbus.event import Event
from actorbus.journal.base import Entry, Record

JSON = 0


class DamagedError(Exception):
    """A record does not hold what was put into it."""


def _plain(value: Any) -> Any:
    """Return a form that can be written of what msgspec does not know: a pydantic model."""
    dump = getattr(value, "model_dump", None)
    if dump is None:
        raise TypeError(f"objects of type {type(value).__qualname__} cannot be written as JSON")
    return dump(mode="json")


_write = msgspec.json.Encoder(enc_hook=_plain).encode
_read = msgspec.json.Decoder().decode


def encoded(event: Event, *, once: bool = False) -> tuple[Event, Entry]:
    """Encode an event.

    Args:
        event: As it was published.
        once: Whether an event of the same id that was published before makes it a duplicate.

    Returns:
        The event with the payload, key and headers that handlers get, and the entry of a journal.

    Raises:
        PayloadError: Payload, key or headers cannot be written.
    """
    topic, key, headers, meta = event.topic, event.key, event.headers, b""
    body = _written(topic, event.data)
    if not (key is None and headers is None and event._correlation is None):
        correlation = None if event._correlation is None else event.correlation_id
        meta = _written(topic, [key, headers, correlation, event.causation_id, event._hops])
        key, headers, *_ = _read(meta)
    entry = Entry(event.id, topic, event.time, body, meta, JSON, once)
    return msgspec.structs.replace(event, data=_read(body), key=key, headers=headers), entry


def decoded(record: Record) -> Event:
    """Return the event of a record.

    Raises:
        DamagedError: It is not what was put in, or was written by a version that knows more.
    """
    entry = record.entry
    if not record.sound or entry.codec != JSON:
        raise DamagedError
    try:
        data = _read(entry.body)
        rest = _read(entry.meta) if entry.meta else (None, None, None, None, 0)
        key, headers, correlation, causation, hops = rest
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise DamagedError from error
    return Event(
        entry.topic, data, entry.time, key, headers,
        _id=entry.id, _correlation=correlation, _causation=causation, _hops=hops,
    )  # fmt: skip


def remains(record: Record) -> Event:
    """Return what can be said of an event whose record is damaged; it has no payload."""
    entry = record.entry
    time = entry.time if math.isfinite(entry.time) else 0.0
    return Event(entry.topic, None, time, _id=entry.id or f"damaged-{record.seq}")


def _written(topic: str, value: Any) -> bytes:
    try:
        return _write(value)
    except Exception as error:
        raise PayloadError(topic, "encode") from error
