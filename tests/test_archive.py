"""Dead letters in a journal: what is damaged is seen, and harms nothing else."""

from __future__ import annotations

import pytest

from actorbus import DeadReason
from actorbus.archive import PAGE, graves, letter_of
from actorbus.journal.base import Bury, Entry, Grave
from actorbus.journal.memory import MemoryJournal

EVENT = Entry("e", "order:paid", 1.0, b'{"id": 1}')


@pytest.mark.parametrize(
    "damaged",
    [
        Grave("g", "billing", "rejected", EVENT, 2.0, sound=False),
        Grave("g", "billing", "rejec\\xffed", EVENT, 2.0),
    ],
)
def test_a_damaged_grave_is_a_letter_without_payload(damaged: Grave) -> None:
    """What is not what was buried is never given out as if it were, and stops nothing."""
    letter = letter_of(damaged)

    assert (letter.id, letter.reason, letter.event.data) == ("g", DeadReason.CHECKSUM, None)


class Unreadable(MemoryJournal):
    """A journal in which the ids of some dead letters have become unreadable."""

    def dead(self, after: str = "", limit: int = 1000, *, marked: str = "") -> list[Grave]:
        whole = super().dead(after, limit, marked=marked)
        return [
            Grave(f"?{each.id}", "", "", EVENT, 0.0, sound=False) if each.id.endswith("7") else each
            for each in whole
        ]


def test_every_grave_is_read_once() -> None:
    """Also where the last one of a page is one whose id the journal does not know."""
    journal = Unreadable()
    journal.open("process")
    count = 2 * PAGE + 8  # the last is a 7
    journal.commit([Bury(Grave(f"{n}", "s", "rejected", EVENT, 0.0)) for n in range(8, count)])

    found = [each.id.removeprefix("?") for each in graves(journal)]

    assert found == [f"{n}" for n in range(8, count)]
