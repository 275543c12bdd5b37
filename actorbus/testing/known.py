"""Known: what a journal must hold, worked out from the commits it has acknowledged."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from actorbus.journal.base import (
    Append,
    Appended,
    Attempt,
    Bury,
    Entry,
    Exhume,
    Grave,
    Join,
    Leave,
    Operation,
    Result,
    Settle,
    Standing,
    Status,
)


@dataclass
class Place:
    """How far a durable subscription has come.

    Attributes:
        start: The number of the last event that was not for it any more.
        cursor: Everything up to it that concerns it is settled.
        ahead: What is settled beyond.
        attempts: Attempts noted, of what is not settled.
    """

    start: int
    cursor: int
    ahead: set[int] = field(default_factory=set)
    attempts: dict[int, int] = field(default_factory=dict)

    def has_settled(self, seq: int) -> bool:
        """Return whether an event is settled as far as the journal knows."""
        return seq <= self.cursor or seq in self.ahead


@dataclass
class Known:
    """What has been committed.

    Attributes:
        log: The events; number ``n`` is at ``n - 1``, pruned or not.
        places: Of the durable subscriptions.
        graves: The dead letters.
        buried: Whose deliveries have had one, and of which event, even if it has been replayed.
        maybe: After a power cut, the attempts of each durable in the states that a journal may have
            gone back to, as far as its figures tell; who joins is told which of them it was.
    """

    log: list[Entry] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    graves: dict[str, Grave] = field(default_factory=dict)
    buried: set[tuple[str, int]] = field(default_factory=set)
    maybe: list[dict[str, dict[int, int]]] = field(default_factory=list)

    def image(self) -> Known:
        """Return what is known now, for later."""
        return Known([*self.log], copy.deepcopy(self.places), {**self.graves}, {*self.buried})

    def attempts(self) -> dict[str, dict[int, int]]:
        """Return the attempts noted, of each durable subscription."""
        return {name: dict(place.attempts) for name, place in self.places.items()}

    def settled(self, durable: str, seq: int) -> bool:
        """Return whether the journal knows an event to be settled."""
        place = self.places.get(durable)
        return place is not None and place.has_settled(seq)

    def has(self, ident: str) -> bool:
        """Return whether there is an event of an id."""
        return any(entry.id == ident for entry in self.log)

    def add(self, operation: Operation, result: Result) -> str | None:
        """Take note of an operation that was committed; return what contradicts it, if anything."""
        match operation, result:
            case Append(entry), Appended(seq, duplicate):
                return self._append(entry, seq, duplicate)
            case Join(name, after=after), Standing():
                return self._join(name, len(self.log) if after is None else after, result)
            case Settle(name, cursor, ahead), _:
                self._settle(name, cursor, ahead)
            case Attempt(name, seq), int(count):
                if count:
                    self.places[name].attempts[seq] = count
            case Bury(grave, instead), _:
                self.graves.pop(instead, None)
                self.graves.setdefault(grave.id, grave)
                self.buried.add((grave.subscription, grave.seq))
            case Exhume(ids), _:
                for ident in ids:
                    self.graves.pop(ident, None)
            case Leave(name), _:
                self.places.pop(name, None)
        return None

    def _append(self, entry: Entry, seq: int, duplicate: bool) -> str | None:
        if duplicate:
            return None if self.has(entry.id) else f"{entry.id} is a duplicate of nothing"
        self.log.append(entry)
        return None if seq == len(self.log) else f"event {len(self.log)} got the number {seq}"

    def _join(self, name: str, start: int, standing: Standing) -> str | None:
        place = self.places.setdefault(name, Place(start, start))
        if self.maybe and name in self.maybe[0]:  # it is the first to ask since
            self.maybe = [each for each in self.maybe if each.pop(name) == standing.attempts]
            if self.maybe:
                place.attempts = dict(standing.attempts)
        told = standing.cursor, standing.ahead, standing.attempts
        true = place.cursor, frozenset(place.ahead), place.attempts
        return None if told == true else f"{name!r} has come to {true}, and is told {told}"

    def _settle(self, name: str, cursor: int, ahead: tuple[int, ...]) -> None:
        place = self.places.get(name)
        if place is not None:
            place.cursor = max(place.cursor, min(cursor, len(self.log)))
            place.ahead = {seq for seq in {*place.ahead, *ahead} if seq > place.cursor}
            place.attempts = {
                seq: count for seq, count in place.attempts.items() if not place.has_settled(seq)
            }

    def differs(self, status: Status) -> str | None:
        """Return how the figures of a journal differ from what must be there, if they do."""
        told = status.last, status.cursors, status.ahead, status.dead
        true = (
            len(self.log),
            {name: place.cursor for name, place in self.places.items()},
            {name: len(place.ahead) for name, place in self.places.items() if place.ahead},
            len(self.graves),
        )
        return None if told == true else f"the journal has {told}, and should have {true}"
