"""A program whose handlers write tables of their own, killed again and again; and what they hold.

Every life publishes and consumes, in a journal that compares no ids: every event but those of the
first publisher is published twice, and what an earlier life did not hear of once more. ``acks`` has
the id of each event whose ``await publish`` has returned, ``runs`` each start of a handler.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actorbus import Event, EventBus, Transaction
from actorbus.journal.effects import Statement, Transact
from actorbus.journal.sqlite import SqliteJournal
from tests.e2e.lives import KEYS, NAMELESS, TRIES, Durability, Notes, lines

PUBLISHERS = 8
SUBSCRIPTIONS: dict[str, dict[str, Any]] = {
    "orderly": {},
    "keyed": {"concurrency": 4, "key": "key"},
    "threaded": {},
}
INSERT = "INSERT INTO effects VALUES(?, ?)"
COUNT = "SELECT count(*) FROM effects WHERE who = ? AND event = ?"


def live(directory: Path, durability: Durability, life: int, *, last: bool = False) -> None:
    """Live until killed; the last life publishes nothing, and ends when all is handled."""
    asyncio.run(_live(directory, durability, life, last=last))


async def _live(directory: Path, durability: Durability, life: int, *, last: bool) -> None:
    notes = Notes(directory)
    bus = EventBus("effects", journal=_journal(directory), durability=durability)
    for who, options in SUBSCRIPTIONS.items():
        handler = _in_a_thread(who, notes) if who == "threaded" else _on_the_loop(who, notes)
        bus.subscribe(
            "load:*", handler, name=who, durable=who, inbox=True, mailbox=40, retry=TRIES, **options
        )  # fmt: skip
    async with bus:
        async with bus.transaction() as tx:
            tx.execute("CREATE TABLE IF NOT EXISTS effects(who, event)")
            tx.execute("CREATE INDEX IF NOT EXISTS effects_of ON effects(who, event)")
        if last:
            await bus.settle()
        else:
            known = Counter(int(publisher) for publisher, _ in lines(directory / "acks"))
            await asyncio.gather(*(_publish(bus, notes, p, known[p]) for p in range(PUBLISHERS)))
        assert bus.audit().balanced, str(bus.audit())
        assert not list(bus.dead_letters)
    notes.write("end", str(life))


def _journal(directory: Path) -> SqliteJournal:
    return SqliteJournal(directory / "events.db", window=0.0)


async def _publish(bus: EventBus, notes: Notes, publisher: int, number: int) -> None:
    while True:
        ident = None if publisher == NAMELESS else f"{publisher}-{number}"
        topic, key = f"load:{publisher}", number % KEYS
        receipt = await bus.publish(topic, number, key=key, id=ident)
        notes.write("acks", f"{publisher} {receipt.event.id}")
        if ident is not None:
            receipt = bus.publish(topic, number, key=key, id=ident)
        await receipt.settled()  # handlers commit each for itself: a backlog would only grow
        number += 1


def _on_the_loop(who: str, notes: Notes) -> Any:
    async def handle(event: Event, tx: Transaction) -> None:
        notes.write("runs", f"{who} {event.id}")
        tx.execute(INSERT, (who, event.id))
        if who == "keyed":
            assert await tx.fetch(COUNT, (who, event.id)) == [(1,)]

    return handle


def _in_a_thread(who: str, notes: Notes) -> Any:
    def handle(event: Event, tx: Transaction) -> None:
        notes.write("runs", f"{who} {event.id}")
        assert tx.fetch_blocking(COUNT, (who, event.id)) == [(0,)]
        tx.execute(INSERT, (who, event.id))

    return handle


@dataclass
class Effects:
    """What was found after all lives.

    Attributes:
        acknowledged: Events whose publishers were told that they are committed.
        missing: Acknowledged events that took no effect, by subscription.
        double: Events that took effect more than once.
        invented: Effects of events that are not in the journal.
        runs: How often handlers were started.
        rows: How many effects there are.
        left: Dead letters.
    """

    acknowledged: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list)
    double: list[tuple[str, str]] = field(default_factory=list)
    invented: set[str] = field(default_factory=set)
    runs: int = 0
    rows: int = 0
    left: int = 0

    def __str__(self) -> str:
        """Return the figures, for a report."""
        return (
            f"{self.acknowledged} acknowledged, {self.rows} effects, {len(self.missing)} missing, "
            f"{len(self.double)} double, {self.runs - self.rows} handler runs without an effect"
        )


def look(directory: Path) -> Effects:
    """Compare what was acknowledged with what took effect."""
    journal = _journal(directory)
    journal.open("power")
    rows = journal.preview(Transact(()), Statement("SELECT who, event FROM effects", ((),)))
    ids = {each.entry.id for each in journal.recent(10_000_000, lambda _: True)}
    left = journal.status().dead
    journal.close(clean=True)
    assert isinstance(rows, list)
    effects = Counter(rows)
    acks = {ident for _, ident in lines(directory / "acks")}
    return Effects(
        acknowledged=len(acks),
        missing=[(who, it) for who in SUBSCRIPTIONS for it in acks if not effects[who, it]],
        double=[key for key, count in effects.items() if count > 1],
        invented={event for _, event in effects} - ids,
        runs=len(lines(directory / "runs")),
        rows=len(rows),
        left=left,
    )
