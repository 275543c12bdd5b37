"""The suite any journal must pass.

A journal of your own is tested by a class that says how one is made::

    from actorbus.testing.journal_contract import JournalContract

    class TestMyJournal(JournalContract):
        def make(self, place, **options):
            return MyJournal(place / "events", **options)

Two journals made in one place hold the same events, one after the other. The options are those of
`actorbus.journal.sqlite.SqliteJournal`: ``max_bytes`` (the suite asks for 1 MiB), ``retention``
and ``window``. Each test is a guarantee of `actorbus.journal.base`; what only a real disk can do
(power cuts, damage, a killed process) is beyond a suite and up to you.

Needs ``pytest`` and ``hypothesis``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from actorbus.errors import JournalError, JournalFullError, JournalLockedError
from actorbus.journal.base import (
    Append,
    Appended,
    Attempt,
    Bury,
    Entry,
    Exhume,
    Grave,
    Join,
    Journal,
    Leave,
    Record,
    Replay,
    Settle,
    Standing,
)
from actorbus.testing.journal_model import QUICK, JournalMachine

START = 1_700_000_000.0
MIB = 1 << 20

any_entry = st.builds(
    Entry,
    id=st.text(max_size=40) | st.just("\ud800"),
    topic=st.text(max_size=40),
    time=st.floats(0, 4e9),
    body=st.binary(max_size=200) | st.just(bytes(10_000)),
    meta=st.binary(max_size=50),
    codec=st.integers(0, 255),
)


def entry(ident: str = "1", body: bytes = b"{}", time: float = START, **more: Any) -> Entry:
    """Return an entry that a test does not care much about."""
    return Entry(ident, more.pop("topic", "a:b"), time, body, **more)


def everything(_: str) -> bool:
    """Want every topic."""
    return True


class JournalContract:
    """A test for each guarantee of a journal; see the module."""

    def make(self, place: Path, **options: Any) -> Journal:
        """Return a journal in a directory.

        Args:
            place: The directory; the same one again is the same journal again.
            options: ``max_bytes``, ``retention`` and ``window``, or none of them.
        """
        raise NotImplementedError

    @contextmanager
    def opened(self, place: Path, *, clean: bool = True, **options: Any) -> Iterator[Journal]:
        """Give an open journal and close it afterwards."""
        journal = self.make(place, **options)
        journal.open("process")
        try:
            yield journal
        finally:
            journal.close(clean=clean)

    @pytest.fixture
    def journal(self, tmp_path: Path) -> Iterator[Journal]:
        """Give an open journal."""
        with self.opened(tmp_path) as journal:
            yield journal

    def test_it_does_what_the_model_does(self) -> None:
        """Whatever is committed, read, pruned and reopened, every answer is the model's."""
        run_state_machine_as_test(
            type("Machine", (JournalMachine,), {"make": staticmethod(self.make)})
        )

    def test_it_is_a_journal(self, tmp_path: Path) -> None:
        """It has every method of the protocol, and says where it is before it is open."""
        journal = self.make(tmp_path)

        assert isinstance(journal, Journal)
        assert "://" in journal.url

    def test_what_comes_out_is_what_went_in(self) -> None:
        """Any text, any bytes, any size: before and after a restart."""

        @given(some=st.lists(any_entry, max_size=8))
        def check(some: list[Entry]) -> None:
            expected = [Record(number, each) for number, each in enumerate(some, 1)]
            with TemporaryDirectory(dir=QUICK) as place:
                with self.opened(Path(place)) as journal:
                    journal.commit([Append(each) for each in some])
                    assert journal.read(0, 100, everything).records == expected
                with self.opened(Path(place)) as journal:
                    assert journal.read(0, 100, everything).records == expected
                    assert journal.recent(100, everything) == expected

        check()

    def test_a_grave_comes_out_as_it_went_in(self, tmp_path: Path) -> None:
        """A dead letter has its own copy of the event, with all that belongs to it."""
        event = entry(body=b"\x00\xff", meta=b"m", codec=3, once=True)
        grave = Grave("g", "billing", "rejected", event, START + 0.5, b"detail", 7)
        with self.opened(tmp_path, clean=False) as journal:
            journal.commit([Bury(grave)])
        with self.opened(tmp_path) as journal:
            assert journal.dead() == [grave]
            assert journal.commit([Exhume(("g", "none"))]) == [1]
            assert journal.dead() == []

    def test_what_is_to_be_replayed_is_marked(self, tmp_path: Path) -> None:
        """By subscription, for good, until it leaves; not what nobody has failed on."""
        whose = {"a": "billing", "b": "mail", "c": "", "d": "billing"}
        graves = {key: Grave(key, name, "rejected", entry(), START) for key, name in whose.items()}
        with self.opened(tmp_path, clean=False) as journal:
            journal.commit([Bury(grave) for grave in graves.values()])
            assert journal.commit([Replay(("a", "b", "c", "none")), Replay(("a",))]) == [2, 1]
        with self.opened(tmp_path) as journal:
            assert journal.status().marked == {"billing": 1, "mail": 1}
            assert journal.dead(marked="billing") == [graves["a"]]
            assert journal.commit([Replay(("d",)), Exhume(("a",))]) == [1, 1]
            journal.commit([Bury(Grave("e", "mail", "rejected", entry(), START), instead="b")])
            assert journal.status().marked == {"billing": 1}
            assert journal.dead(marked="mail") == []
            assert journal.dead("d", marked="billing") == []
            journal.commit([Exhume(("c", "d", "e"))])
            journal.commit([Bury(graves["a"]), Bury(graves["b"]), Bury(graves["d"])])
            assert journal.status().marked == {}

    def test_a_number_is_never_given_twice(self, tmp_path: Path) -> None:
        """Not after everything has been pruned, and not after a restart."""
        with self.opened(tmp_path, retention=10.0) as journal:
            journal.commit([Append(entry("1")), Append(entry("2"))])
            while journal.prune(START + 11.0):
                pass
            assert journal.status().events == 0
        with self.opened(tmp_path, retention=10.0) as journal:
            assert journal.commit([Append(entry("3"))]) == [Appended(3)]

    def test_an_id_is_kept_once_inside_the_window(self, tmp_path: Path) -> None:
        """Also in one commit, and after a restart; not after the window, not unless asked."""
        first, later = entry("1", once=True), entry("1", once=True, time=START + 601.0)
        with self.opened(tmp_path) as journal:
            twice = journal.commit([Append(first), Append(first), Append(entry("1"))])
            assert twice == [Appended(1), Appended(1, duplicate=True), Appended(2)]
        with self.opened(tmp_path) as journal:
            results = journal.commit([Append(first), Append(later)])
            assert results == [Appended(1, duplicate=True), Appended(3)]

    def test_many_ids_in_one_commit(self, journal: Journal) -> None:
        """However many there are, each is looked up."""
        ids = [str(number) for number in range(500)]
        journal.commit([Append(entry(ident, once=True)) for ident in ids[::3]])

        results = journal.commit([Append(entry(ident, once=True)) for ident in ids])

        new = [not isinstance(result, Appended) or not result.duplicate for result in results]
        assert new == [number % 3 != 0 for number in range(500)]
        assert journal.status().last == 500

    def test_a_page_looks_at_a_part(self, journal: Journal) -> None:
        """What is wanted is found behind many that are not, and each page comes further."""
        journal.commit([Append(entry(str(number))) for number in range(9_999)])
        journal.commit([Append(entry("last", topic="rare"))])
        pages = [journal.read(0, 10, "rare".__eq__)]
        while not pages[-1].end:
            pages.append(journal.read(pages[-1].upto, 10, "rare".__eq__))
            assert pages[-1].upto > pages[-2].upto

        assert [[record.seq for record in page.records] for page in pages if page.records] == [
            [10_000]
        ]
        assert journal.recent(10, "rare".__eq__) == pages[-1].records
        assert journal.recent(10, "rare".__eq__, before=10_000) == []

    def test_a_clock_set_back_forgets_no_id(self, tmp_path: Path) -> None:
        """What was published a moment ago by no clock that goes back is a duplicate still."""
        day = 86_400.0
        with self.opened(tmp_path) as journal:
            journal.commit([Append(entry("1", once=True))])
        with self.opened(tmp_path) as journal:
            again = Append(entry("1", once=True, time=START - day))
            assert journal.commit([again]) == [Appended(1, duplicate=True)]
            while journal.prune(START - day + 1.0):
                pass
            assert journal.commit([again]) == [Appended(1, duplicate=True)]

    def test_a_clock_set_back_remembers_no_id_for_ever(self, journal: Journal) -> None:
        """A day back, an id is remembered for a window from there, not for a day."""
        day = 86_400.0
        journal.commit([Append(entry("1", once=True))])
        journal.commit([Append(entry("2", once=True, time=START - day))])

        later = entry("1", once=True, time=START - day + 601.0)

        assert journal.commit([Append(later)]) == [Appended(3)]

    def test_a_durable_starts_behind_what_was_there(self, journal: Journal) -> None:
        """The order in a commit decides what a new one gets."""
        before, standing, after = journal.commit(
            [Append(entry("1")), Join("billing", ("**",), 10), Append(entry("2"))]
        )

        assert standing == Standing(cursor=1, created=True)
        assert (before, after) == (Appended(1), Appended(2))

    def test_what_is_settled_is_settled_for_good(self, tmp_path: Path) -> None:
        """Cursor and numbers ahead last; neither goes back."""
        with self.opened(tmp_path) as journal:
            journal.commit([Join("billing", ("**",), 10)])
            journal.commit([Append(entry(str(i))) for i in range(9)])
            journal.commit([Attempt("billing", 6), Attempt("billing", 8), Attempt("billing", 8)])
            journal.commit([Settle("billing", 4, (6, 7)), Settle("billing", 2, (3,))])
        with self.opened(tmp_path) as journal:
            (standing,) = journal.commit([Join("billing", ("**",), 10)])
            assert standing == Standing(4, frozenset({6, 7}), {8: 2})

    def test_status_tells_how_far_each_durable_is(self, journal: Journal) -> None:
        """What it listens to, its cursor, and how much it has settled beyond."""
        journal.commit([Join("billing", ("a:*", "b"), 10), Join("audit", ("**",), 10)])
        journal.commit([Append(entry(str(i))) for i in range(9)])
        journal.commit([Settle("billing", 4, (6, 7))])
        status = journal.status()

        assert status.patterns == {"billing": ("a:*", "b"), "audit": ("**",)}
        assert status.cursors == {"billing": 4, "audit": 0}
        assert status.ahead == {"billing": 2}

    def test_suspects_are_those_of_the_last_end(self, tmp_path: Path) -> None:
        """As many as the window it had, kept until it is told that they have been run."""

        def join(window: int, *, clean: bool) -> int:
            with self.opened(tmp_path, clean=clean) as journal:
                (standing,) = journal.commit([Join("billing", ("**",), window)])
                assert isinstance(standing, Standing)
                return standing.suspects

        assert join(5, clean=False) == 0
        with self.opened(tmp_path, clean=True):
            pass
        assert join(7, clean=False) == 5
        assert join(9, clean=True) == 7
        assert join(9, clean=True) == 7
        with self.opened(tmp_path) as journal:
            journal.commit([Settle("billing", 0), Settle("billing", 0, trusted=True)])
        assert join(9, clean=True) == 0

    def test_who_leaves_holds_nothing_back(self, tmp_path: Path) -> None:
        """What only one durable needed goes as soon as that one has left, and not before."""
        with self.opened(tmp_path, retention=10.0) as journal:
            journal.commit([Join("billing", ("**",), 10), Append(entry())])
            journal.prune(START + 11.0)
            assert journal.status().events == 1
            assert journal.commit([Leave("billing"), Leave("billing")]) == [True, False]
            journal.prune(START + 11.0)
            assert journal.status().events == 0

    def test_it_has_one_owner(self, tmp_path: Path) -> None:
        """Another opener is refused until it is closed, and so is the owner itself."""
        owner = self.make(tmp_path)
        owner.open("power")
        with pytest.raises(JournalLockedError):
            self.make(tmp_path).open("power")
        with pytest.raises(JournalLockedError):
            owner.open("power")

        assert owner.commit([Append(entry())]) == [Appended(1)]

        owner.close(clean=True)
        with self.opened(tmp_path) as journal:
            assert journal.status().last == 1

    def test_a_closed_one_refuses(self, tmp_path: Path) -> None:
        """Whoever does not own it can do nothing with it; closing twice does nothing."""
        journal = self.make(tmp_path)
        for _ in range(2):
            with pytest.raises(JournalError):
                journal.commit([Append(entry())])
            with pytest.raises(JournalError):
                journal.status()
            journal.close(clean=True)

    def test_full_is_an_error_and_nothing_of_the_commit_is_kept(self, tmp_path: Path) -> None:
        """What a durable still needs is not removed; settling works, and makes room again."""
        with self.opened(tmp_path, max_bytes=MIB) as journal:
            journal.commit([Join("billing", ("**",), 10)])
            last = self.fill(journal)
            before = journal.status()
            grave = Grave("g", "billing", "rejected", entry(), START)
            with pytest.raises(JournalFullError):
                journal.commit([Bury(grave), Append(entry(body=bytes(MIB)))])
            assert (journal.status(), journal.dead()) == (before, [])

            journal.commit([Attempt("billing", last), Settle("billing", last - 1, (last,))])
            journal.commit([Settle("billing", last)])

            assert journal.commit([Append(entry(body=bytes(50_000)))]) == [Appended(last + 1)]
            assert journal.status().first > before.first

    def test_at_the_limit_dead_letters_are_taken(self, tmp_path: Path) -> None:
        """They never keep a settlement from being noted; what that lets go makes room for more."""
        with self.opened(tmp_path, max_bytes=MIB) as journal:
            journal.commit([Join("billing", ("**",), 10)])
            last = self.fill(journal)
            for number in range(1, last):
                try:
                    journal.commit([self.letter(number)])
                except JournalFullError:
                    break
            assert journal.status().dead > 0

            journal.commit([Settle("billing", 0, tuple(range(2, last)))])
            journal.commit([Settle("billing", last)])

            before = journal.status().dead
            for number in range(last, last + 20):
                journal.commit([self.letter(number)])
            assert journal.status().dead == before + 20

    def letter(self, number: int) -> Bury:
        """Return a dead letter of some size."""
        return Bury(Grave(f"g{number}", "", "rejected", entry(body=bytes(10_000)), START))

    def test_what_nobody_needs_makes_room(self, tmp_path: Path) -> None:
        """Without a durable, the oldest go where the newest need room, and it never is full."""
        with self.opened(tmp_path, max_bytes=MIB) as journal:
            for number in range(1, 61):
                big = entry(str(number), bytes(50_000))
                assert journal.commit([Append(big)]) == [Appended(number)]
            assert journal.recent(1, everything)[0].seq == 60
            assert journal.status().first > 1

    def fill(self, journal: Journal) -> int:
        """Append until there is no room; return the last number."""
        with pytest.raises(JournalFullError):
            for number in range(1000):
                journal.commit([Append(entry(str(number), bytes(10_000)))])
        last = journal.status().last
        assert 0 < last < 1000
        return last

    def test_verify_sees_nothing_wrong(self, journal: Journal) -> None:
        """What is sound is said to be, with progress up to the end."""
        journal.commit([Append(entry(str(number))) for number in range(10)])
        for whole in (True, False):
            steps = list(journal.verify(whole=whole))

            assert {problem for _, _, problem in steps} == {None}
            assert steps[-1][0] == steps[-1][1]

    def test_what_comes_and_goes_while_it_is_verified_is_not_wrong(self, tmp_path: Path) -> None:
        """Between two steps events are appended and pruned, and letters buried and exhumed."""
        with self.opened(tmp_path, retention=10.0) as journal:
            journal.commit([Append(entry(str(number))) for number in range(5_000)])
            journal.commit([self.letter(number) for number in range(3)])
            for number, (_, _, problem) in enumerate(journal.verify(), 3):
                assert problem is None
                journal.commit([Append(entry(str(number))), Exhume((f"g{number - 3}",))])
                journal.commit([self.letter(number)] if number < 20 else [])
                journal.prune(START + 11.0)
                assert number < 100
