"""Faults in what takes effect with an acknowledgement: notes, savepoints, tables, attempts."""

from __future__ import annotations

from tests.mutants.fault import Fault

INBOX = "tests/test_inbox.py"
TABLES = "tests/journal/test_transacting.py"
JOURNAL = "tests/journal/test_sqlite.py"

FAULTS = (
    Fault(
        "effect-without-a-note",
        "The journal does not remember which events took effect.",
        "journal/transacting.py",
        'ask("INSERT INTO effect VALUES(NULL,?,?,?,?)", note)',
        "pass",
        (INBOX,),
    ),
    Fault(
        "effect-without-its-acknowledgement",
        "What a handler writes is committed, and its delivery is settled later.",
        "journal/writing.py",
        "if op.seq and not isinstance(result, TransactionError):",
        "if False:",
        (JOURNAL,),
    ),
    Fault(
        "half-an-effect",
        "Of a refused transaction stays what was done before.",
        "journal/transacting.py",
        'ask("ROLLBACK TO effect")',
        "pass",
        (INBOX,),
    ),
    Fault(
        "rollback-unseen",
        "A transaction that rolls everything back takes the others with it.",
        "journal/transacting.py",
        "if not connection.in_transaction:",
        "if False:",
        (TABLES,),
    ),
    Fault(
        "tables-within-reach",
        "A program may write the journal's own tables.",
        "journal/transacting.py",
        "if table in _TAKEN:",
        "if False:",
        (TABLES,),
    ),
    Fault(
        "inbox-in-the-reserve",
        "A program's tables fill the room that is for settling and burying.",
        "journal/sqlite.py",
        "if Append in kinds or Transact in kinds:",
        "if Append in kinds:",
        (TABLES,),
    ),
    Fault(
        "notes-for-ever",
        "What took effect is remembered until the journal is full of it.",
        "journal/room.py",
        "return pruning.forget_effects(connection, head, until) or events",
        "return events",
        (TABLES,),
    ),
    Fault(
        "notes-too-short",
        "An id is forgotten while its event is still there.",
        "journal/pruning.py",
        "time < ? AND last <= ? FROM effect",
        "time < ? OR last <= ? FROM effect",
        (TABLES,),
    ),
    Fault(
        "open-outcome-not-asked",
        "An attempt after one that was cut off does not ask whether that took effect.",
        "transaction.py",
        "past.attempts + past.interruptions > 1",
        "False",
        (INBOX,),
    ),
    Fault(
        "effect-of-the-abandoned",
        "A handler whose delivery is a dead letter writes when it returns at last.",
        "transaction.py",
        "if self._hand.receipt is not self._receipt:",
        "if False:",
        (INBOX,),
    ),
    Fault(
        "parameters-by-reference",
        "A parameter that is changed after the call is written as it is then.",
        "transaction.py",
        "return bytes(value)",
        "return value",
        (INBOX,),
    ),
)
