"""Journal: the protocol between a bus and whatever keeps its events.

A journal is an append-only log of events, and for each durable subscription a note of how far it
has come. It knows no event loop, no handler and no subscription object: every call blocks, and the
bus makes them one at a time, from a thread of its own. So an implementation is plain sequential
code, and the bus alone decides what is committed together.

Guarantees an implementation gives:

* **All or nothing.** `Journal.commit` takes a list of operations, does them in order in one
  transaction, and returns only when they are durable. If it raises, none of them has happened, and
  none will: what is unclear after a failed commit (a write error, say) is cleared up before. If
  not even that is possible, the error says so, and every call fails until it is.
* **Order.** Events get increasing sequence numbers in the order of their `Append`; a number is
  never given twice, not even after pruning.
* **Once.** Of two entries that ask for it (`Entry.once`) with one id inside the window only the
  first is kept; the second gets its number and is told so.
* **Nothing needed is removed.** An event behind the oldest cursor stays. If there is no room for
  another one, `commit` raises `JournalFullError`; it works again when there is. At its own limit a
  journal still takes commits without an `Append`, for what settles or exhumes makes room; dead
  letters may have an end, too, but never keep what settles from being noted.
* **Damage is seen.** What comes out is what went in, or it is marked as damaged; never something
  else. Damage that may have swallowed committed operations raises `JournalCorruptError` at `open`.
* **One owner.** Between `open` and `close` every other opener gets a `JournalLockedError`, in this
  process or another; a forked child that inherits an open journal can do nothing with it.

Source: a log with a cursor per consumer is Kafka's; group commit is as old as databases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from actorbus.errors import TransactionError
from actorbus.journal.effects import Transact

Wants = Callable[[str], bool]
"""Says whether a topic is wanted; pure, and called in the thread of the journal."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event as a journal keeps it; the journal does not look inside `meta` and `body`.

    Attributes:
        id: Of the event.
        topic: Of the event.
        time: Unix seconds of the publish.
        body: The encoded payload.
        meta: The encoded rest: key, headers, whose consequence it is.
        codec: Number of the encoding of both.
        once: Whether an entry of the same id inside the window makes this one a duplicate.
    """

    id: str
    topic: str
    time: float
    body: bytes
    meta: bytes = b""
    codec: int = 0
    once: bool = False


class Record(msgspec.Struct, frozen=True, gc=False):
    """An entry that was committed.

    Attributes:
        seq: Its number.
        entry: What was committed, if `sound`; otherwise what could be read of it.
        sound: Whether it is what was committed.
    """

    seq: int
    entry: Entry
    sound: bool = True


class Grave(msgspec.Struct, frozen=True, gc=False):
    """A dead letter as a journal keeps it, with its own copy of the event.

    Attributes:
        id: Of the dead letter.
        subscription: Whose delivery it was; empty if it was nobody's.
        reason: Why it is dead.
        entry: The event.
        died_at: Unix seconds.
        detail: The encoded rest: the error's text and type, the traceback, the attempts.
        seq: The number of the event in the journal; 0 if it has none.
        sound: Whether it is what was buried; otherwise what could be read of it.
    """

    id: str
    subscription: str
    reason: str
    entry: Entry
    died_at: float
    detail: bytes = b""
    seq: int = 0
    sound: bool = True


# -- operations: what a commit consists of --------------------------------------------------------


class Append(msgspec.Struct, frozen=True, gc=False):
    """Keep an event. The result is `Appended`."""

    entry: Entry


class Join(msgspec.Struct, frozen=True, gc=False):
    """Open a durable subscription, or make one that starts behind the last event appended before.

    The result is `Standing`.

    Attributes:
        durable: Its name.
        patterns: What it listens to now; kept for whoever looks into the journal.
        window: The most of its deliveries that may be begun and not settled, from now on.
        after: The number a new one starts behind, if not the last one: where it would have started,
            had the journal been able to make it at once.
    """

    durable: str
    patterns: tuple[str, ...]
    window: int
    after: int | None = None


class Settle(msgspec.Struct, frozen=True, gc=False):
    """Note what a durable subscription has settled. The result is None.

    Settling what is settled already changes nothing; a cursor never goes back, nor beyond the last
    event. Of a durable subscription that does not exist nothing is noted.

    Attributes:
        durable: Its name.
        cursor: Every event up to this number that concerns it is settled.
        ahead: Numbers beyond the cursor that are settled, too.
        trusted: Whether none of those that are left is suspect any more (`Standing.suspects`).
    """

    durable: str
    cursor: int
    ahead: tuple[int, ...] = ()
    trusted: bool = False


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """Note that a delivery is about to be attempted; settling it removes the note.

    The result is the number of attempts noted, this one included; 0, and nothing is noted, if the
    delivery is settled already, or if there is no such event or durable subscription.
    """

    durable: str
    seq: int


class Bury(msgspec.Struct, frozen=True, gc=False):
    """Keep a dead letter, if there is none of its id. The result is None.

    It is kept until it is exhumed, whatever its age.

    Attributes:
        grave: The dead letter.
        instead: Id of the one whose place it takes: that is removed, if there is one.
    """

    grave: Grave
    instead: str = ""


class Exhume(msgspec.Struct, frozen=True, gc=False):
    """Remove dead letters. The result is how many there were.

    Attributes:
        ids: Of the dead letters.
    """

    ids: tuple[str, ...]


class Replay(msgspec.Struct, frozen=True, gc=False):
    """Mark dead letters that are to be replayed to their subscriptions.

    The result is how many of them will be: not those of no subscription, nor damaged ones. The mark
    stays until the dead letter is removed.

    Attributes:
        ids: Of the dead letters.
    """

    ids: tuple[str, ...]


class Leave(msgspec.Struct, frozen=True, gc=False):
    """Forget a durable subscription; the result is whether there was one.

    It holds nothing back any more.
    """

    durable: str


Operation = Append | Join | Settle | Attempt | Bury | Exhume | Replay | Leave | Transact
"""The last one only where the journal is `actorbus.journal.effects.Transactional`, too."""


# -- results --------------------------------------------------------------------------------------


class Appended(msgspec.Struct, frozen=True, gc=False):
    """What became of an `Append`.

    Attributes:
        seq: The number of the event.
        duplicate: Whether it had been appended before, inside the window: then nothing was kept.
    """

    seq: int
    duplicate: bool = False


class Standing(msgspec.Struct, frozen=True):
    """How far a durable subscription has come.

    Attributes:
        cursor: Every event up to this number that concerns it is settled.
        ahead: Numbers beyond the cursor that are settled, too.
        attempts: Attempts noted, by number of the event; only of what is not settled.
        suspects: How many of the first unsettled deliveries may have been running when the journal
            was last left without `close`, by the window it had then; until a `Settle` trusts them.
        created: Whether it is new.
    """

    cursor: int
    ahead: frozenset[int] = frozenset()
    attempts: dict[int, int] = {}
    suspects: int = 0
    created: bool = False


Result = Appended | Standing | int | bool | TransactionError | None


class Opening(msgspec.Struct, frozen=True):
    """What opening a journal has found.

    Attributes:
        last: The number of the last event; 0 if there was never one.
        clean: Whether it was closed properly the last time, or is new.
        warnings: What an operator should know, a line each.
    """

    last: int = 0
    clean: bool = True
    warnings: tuple[str, ...] = ()


class Page(msgspec.Struct, frozen=True):
    """A piece of the log.

    Attributes:
        records: What was wanted, in order of their numbers.
        upto: Everything up to this number has been looked at.
        end: Whether there is nothing behind it.
    """

    records: list[Record]
    upto: int
    end: bool


class Status(msgspec.Struct, frozen=True):
    """A journal's figures.

    Attributes:
        events: Events kept.
        first: Number of the oldest one kept; 0 if there is none.
        last: Number of the last one ever kept; 0 if there was none.
        bytes: Size on disk, with everything that belongs to it.
        limit: The most it may grow to; 0 for no limit.
        dead: Dead letters kept.
        cursors: How far each durable subscription has come.
        oldest: Unix seconds of the oldest event kept; 0.0 if there is none.
        patterns: What each durable subscription listened to when it last joined.
        ahead: How many deliveries beyond its cursor each has settled, where there are any.
        marked: How many dead letters are to be replayed to each subscription that has such.
    """

    events: int
    first: int
    last: int
    bytes: int
    limit: int
    dead: int
    cursors: dict[str, int]
    oldest: float
    patterns: dict[str, tuple[str, ...]] = {}
    ahead: dict[str, int] = {}
    marked: dict[str, int] = {}


@runtime_checkable
class Journal(Protocol):
    """What a bus needs of a journal; see the module for the guarantees.

    Every method blocks and may be called from any thread, but only one at a time.
    """

    @property
    def url(self) -> str:
        """Where it is, for people: such as ``sqlite:///events.db``."""

    def open(self, durability: str) -> Opening:
        """Take possession.

        Args:
            durability: ``"power"``: a commit survives power loss; ``"process"``: it survives the
                death of the process, and power loss may take the newest ones, always a suffix.

        Raises:
            JournalLockedError: Somebody else has it open.
            JournalCorruptError: Committed operations may be missing.
            JournalError: It cannot be opened; the text says why.
        """

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        """Do all of it, or nothing; return the result of each when it is durable.

        Raises:
            JournalFullError: There is no room.
            JournalError: It could not be done; the text says why.
        """

    def read(self, after: int, limit: int, wants: Wants) -> Page:
        """Return the first wanted records behind a number, at most `limit`.

        A page may hold fewer, or none, and not be the end: a call looks at a bounded number of
        events. A damaged one is returned whether it is wanted or not, for its topic may be what is
        damaged; so is a number whose event cannot be found, with an empty entry.
        """

    def recent(
        self, limit: int, wants: Wants, *, since: float = 0.0, behind: int = 0, before: int = 0
    ) -> list[Record]:
        """Return the last wanted records, at most `limit`, oldest first.

        Args:
            limit: Records at most.
            wants: Which topics.
            since: Only those from this Unix time on.
            behind: Only those behind this number.
            before: Only those before this number; 0 for no limit. With `behind` it bounds what one
                call looks at: a call holds up commits while it looks.
        """

    def dead(self, after: str = "", limit: int = 1000, *, marked: str = "") -> list[Grave]:
        """Return dead letters in order of burial.

        Args:
            after: Those behind the one of this id. All of them, if there is none: so a caller may
                exhume what it has been given, and ask for the next ones.
            limit: Dead letters at most.
            marked: Those only that are to be replayed to the subscription of this name.
        """

    def prune(self, now: float) -> bool:
        """Remove some of what is past retention and needed by nobody; return whether there is more.

        Args:
            now: Unix seconds.

        One call is short: it never holds up a commit by more than 20 ms.
        """

    def status(self) -> Status:
        """Return its figures."""

    def verify(self, *, whole: bool = True) -> Iterator[tuple[int, int, str | None]]:
        """Look at everything: yield (looked at, all there is, what is wrong if anything).

        A piece at a time: between two steps other calls may be made.

        Args:
            whole: Whether also to look at what takes long in one piece.

        Raises:
            JournalCorruptError: What is wrong leaves nothing to go on with.
        """

    def close(self, *, clean: bool) -> None:
        """Give it up; does nothing if it is not open.

        Args:
            clean: Whether no delivery is running: otherwise the next opener takes care.
        """
