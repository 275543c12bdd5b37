"""Faults in what a journal is told and what is read from it: durable subscriptions."""

from __future__ import annotations

from tests.mutants.fault import DURABLE_MODEL, Fault

WINDOW = "tests/test_durable.py::test_no_more_may_be_running_than_the_journal_was_told"
"""The model's thread tells of all commits it has made together at once, which hides these."""

FAULTS = (
    Fault(
        "told-before-the-commit",
        "A receipt says that its event is committed before it is.",
        "recorder.py",
        "receipt.route = route.stand_in or _unrouted(route)",
        "pass",
        (DURABLE_MODEL,),
    ),
    Fault(
        "duplicate-admitted",
        "An event that was published before is handled again.",
        "recorder.py",
        "        elif appended.duplicate:",
        "        elif False:",
        (DURABLE_MODEL,),
    ),
    Fault(
        "cursor-beyond-an-open-delivery",
        "The journal is told that a delivery is settled which is still open.",
        "window.py",
        "return next(iter(self._open)) - 1 if self._open else self._position",
        "return self._position",
        (DURABLE_MODEL,),
    ),
    Fault(
        "skipped-when-falling-behind",
        "The event for which there was no room is not read later.",
        "window.py",
        "self.live, self._position = False, seq - 1",
        "self.live, self._position = False, seq",
        (DURABLE_MODEL,),
    ),
    Fault(
        "more-begun-than-told",
        "A window hands over what its mailbox holds, however much the journal does not know.",
        "window.py",
        "min(inbox.room, self._most - self._unknown)",
        "inbox.room",
        (WINDOW,),
    ),
    Fault(
        "window-one-too-wide",
        "One delivery more may be begun than the journal was told.",
        "window.py",
        "self._most - self._unknown)",
        "self._most + 1 - self._unknown)",
        (WINDOW,),
    ),
    Fault(
        "attempt-not-noted",
        "What may have ended the process is begun again without a note.",
        "window.py",
        "self._scribe.put(attempt, self._in_this_round(noted))",
        "self._in_this_round(noted)(1, None)",
        (DURABLE_MODEL,),
    ),
    Fault(
        "suspects-together",
        "What may have ended the process is begun beside others.",
        "window.py",
        "return 0 if self._open else 1",
        "return 1",
        (DURABLE_MODEL,),
    ),
    Fault(
        "never-poison",
        "An event that ends the process is begun again and again.",
        "window.py",
        "DeadReason.POISON if count > noted_at_most else None",
        "None",
        (DURABLE_MODEL,),
    ),
    Fault(
        "settled-ahead-begun-again",
        "What was settled behind an open delivery is handled again after a crash.",
        "window.py",
        "if record.seq not in self._skip:",
        "if True:",
        ("tests/test_durable.py::test_settled_out_of_order",),
    ),
    Fault(
        "settlement-said-once",
        "What a failed commit should have noted is never said again.",
        "window.py",
        "            self._unnoted = [*self._ahead]\n            self._noted = 0",
        "            pass",
        ("tests/test_durable.py::test_what_is_settled_ahead_is_said_again",),
    ),
    Fault(
        "joined-once",
        "A durable subscription whose join has failed is idle for ever.",
        "window.py",
        "self._try_later(error, self.join)",
        "pass",
        (DURABLE_MODEL,),
    ),
    Fault(
        "joined-too-early",
        "Who subscribes again at once is told how far the one before had come some time ago.",
        "window.py",
        "self._scribe.seal()  # first",
        "pass  # first",
        ("tests/test_durable.py::test_who_subscribes_again_at_once_gets_nothing_twice",),
    ),
    Fault(
        "died-unnoticed",
        "A receipt says acked of a durable delivery that died before anybody looked.",
        "ends.py",
        "self._dead[seq] = fate",
        "pass",
        (DURABLE_MODEL,),
    ),
)
