"""A program on a journal that is killed again and again, and what must be true of it afterwards.

Every life of it publishes and consumes: `live` is what runs in the process. What it knows to be
done it writes to files beside the journal, a system call a line, so a kill takes none of it back:
``acks`` has each event whose ``await publish`` has returned, and for each durable subscription a
file has each start and each end of its handler.

A publisher goes on where its acknowledgements end, with the same ids: so an event whose commit it
did not live to hear of is published twice. The first publisher has no ids of its own to go by.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from actorbus import Event, EventBus, RetryPolicy
from actorbus.journal.base import Record
from actorbus.journal.sqlite import SqliteJournal

Durability = Literal["power", "process"]

PUBLISHERS = 8
NAMELESS = 0  # the publisher without ids
ROOM = 40  # of each mailbox
DURABLES: dict[str, dict[str, Any]] = {
    "orderly": {"patterns": "load:*"},
    "keyed": {"patterns": "load:*", "concurrency": 4, "key": "key"},
    "slow": {"patterns": "load:0"},
    "threaded": {"patterns": ["load:1", "load:2"]},
}
ALL = {f"load:{number}" for number in range(PUBLISHERS)}
TOPICS = {"orderly": ALL, "keyed": ALL, "slow": {"load:0"}, "threaded": {"load:1", "load:2"}}
"""What each of them matches."""
KEYS = 10
TRIES = RetryPolicy(max_attempts=1000)
"""A busy machine may kill a process again and again at one event, poison if it had fewer tries."""


class Notes:
    """Files in which every line is there as soon as the call returns.

    Args:
        directory: Where they are.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._handles: dict[str, int] = {}

    def write(self, name: str, line: str) -> None:
        """Add a line."""
        if name not in self._handles:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            self._handles[name] = os.open(self._directory / name, flags, 0o600)
        os.write(self._handles[name], f"{line}\n".encode())


def lines(path: Path) -> list[list[str]]:
    """Return the words of every line of a file; none if there is no such file."""
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# -- in the process that is killed -----------------------------------------------------------------


def live(directory: Path, durability: Durability, life: int, *, last: bool = False) -> None:
    """Live until killed; the last life publishes nothing, and ends when all is handled."""
    asyncio.run(_live(directory, durability, life, last=last))


async def _live(directory: Path, durability: Durability, life: int, *, last: bool) -> None:
    notes = Notes(directory)
    bus = EventBus("lives", journal=f"sqlite:///{directory}/events.db", durability=durability)
    for name, options in DURABLES.items():
        handler = _handler(name, notes, life)
        bus.subscribe(
            handler=handler, name=name, durable=name, mailbox=ROOM, retry=TRIES, **options
        )
    plain: Counter[str] = Counter()

    @bus.subscribe("load:**", name="plain", mailbox=ROOM)
    async def count(event: Event) -> None:
        plain[event.id] += 1

    async with bus:
        notes.write("up", str(life))
        if last:
            await bus.settle()
        else:
            known = Counter(int(publisher) for publisher, _ in lines(directory / "acks"))
            await asyncio.gather(*(_publish(bus, notes, p, known[p]) for p in range(PUBLISHERS)))
        assert bus.audit().balanced, str(bus.audit())
        assert not list(bus.dead_letters)
        assert max(plain.values(), default=1) == 1
    notes.write("end", str(life))


async def _publish(bus: EventBus, notes: Notes, publisher: int, number: int) -> None:
    while True:
        ident = None if publisher == NAMELESS else f"{publisher}-{number}"
        receipt = await bus.publish(f"load:{publisher}", number, key=number % KEYS, id=ident)
        notes.write("acks", f"{publisher} {receipt.event.id}")
        number += 1


def _handler(name: str, notes: Notes, life: int) -> Any:
    def note(sign: str, event: Event) -> None:
        notes.write(name, f"{life} {sign} {event.id}")

    async def handle(event: Event) -> None:
        note("+", event)
        if name == "slow":
            await asyncio.sleep(0.002)
        note("-", event)

    def handle_in_a_thread(event: Event) -> None:
        note("+", event)
        note("-", event)

    return handle_in_a_thread if name == "threaded" else handle


# -- afterwards ------------------------------------------------------------------------------------


@dataclass
class Findings:
    """What the files of all lives say, and the journal.

    Attributes:
        acknowledged: Events whose publishers were told that they are committed.
        lost: Those of them that are not in the journal.
        duplicate_rows: Events that are in the journal more than once.
        never: For each durable subscription the matching events it has never handled to the end.
        invented: For each the events it was given that are not in the journal, or not for it.
        disorder: For each the first deliveries that came out of the order of the journal.
        again: For each how many deliveries a life has had that an earlier one had begun.
        left: Dead letters, and durable subscriptions that have not come to the end.
    """

    kills: int
    acknowledged: int = 0
    lost: set[str] = field(default_factory=set)
    duplicate_rows: set[str] = field(default_factory=set)
    never: dict[str, set[str]] = field(default_factory=dict)
    invented: dict[str, set[str]] = field(default_factory=dict)
    disorder: dict[str, list[str]] = field(default_factory=dict)
    again: dict[str, list[int]] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the figures, for a report."""
        most = {name: max(counts) for name, counts in self.again.items()}
        mean = {name: round(sum(c) / max(self.kills, 1), 1) for name, c in self.again.items()}
        never = sum(map(len, self.never.values()))
        return (
            f"{self.kills} kills, {self.acknowledged} acknowledged, {len(self.lost)} lost, "
            f"{len(self.duplicate_rows)} duplicate rows, {never} never handled, "
            f"again per kill: mean {mean}, most {most}"
        )


def look(directory: Path, kills: int) -> Findings:
    """Compare what the lives have noted with what is in the journal."""
    journal = SqliteJournal(directory / "events.db")
    journal.open("power")
    rows = [*_rows(journal)]
    status = journal.status()
    journal.close(clean=True)
    found = Findings(kills)
    acks = [ident for _, ident in lines(directory / "acks")]
    ids = Counter(row.entry.id for row in rows)
    found.acknowledged = len(acks)
    found.lost = set(acks) - set(ids)
    found.duplicate_rows = {ident for ident, count in ids.items() if count > 1}
    if status.dead:
        found.left.append(f"{status.dead} dead letters")
    for name in DURABLES:
        mine = [row for row in rows if row.entry.topic in TOPICS[name]]
        if mine and status.cursors[name] < mine[-1].seq:
            found.left.append(f"{name} stands at {status.cursors[name]} before {mine[-1].seq}")
        _look_at(name, mine, lines(directory / name), found)
    return found


def _rows(journal: SqliteJournal) -> Iterator[Record]:
    after, end = 0, False
    while not end:
        page = journal.read(after, 1_000, lambda _: True)
        after, end = page.upto, page.end
        yield from page.records


def _look_at(name: str, rows: list[Record], notes: list[list[str]], found: Findings) -> None:
    places = {row.entry.id: row for row in rows}
    begun: dict[str, None] = {}
    again: Counter[str] = Counter()
    for life, sign, ident in notes:
        if sign == "+":
            again[life] += ident in begun
            begun.setdefault(ident)
    found.never[name] = set(places) - {ident for _, sign, ident in notes if sign == "-"}
    found.invented[name] = set(begun) - set(places)
    found.again[name] = [*again.values()] or [0]
    found.disorder[name] = disorder(
        [places[ident] for ident in begun if ident in places], keyed="key" in DURABLES[name]
    )


def disorder(deliveries: list[Record], *, keyed: bool) -> list[str]:
    """Return the ids of those that came after one behind them in the journal, or of their key."""
    last: dict[object, int] = {}
    found = []
    for row in deliveries:
        lane = int(row.entry.body) % KEYS if keyed else None
        if row.seq < last.get(lane, 0):
            found.append(row.entry.id)
        last[lane] = row.seq
    return found
