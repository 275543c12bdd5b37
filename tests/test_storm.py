"""Failure storms: the first few in full, then counted."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from actorbus import JournalError, JournalFullError, JournalLockedError, Reject, RetryPolicy
from actorbus.storm import FULL, KINDS, StormLog

if TYPE_CHECKING:
    from actorbus import Event, EventBus

ONCE = RetryPolicy.none()


def texts(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines logged to `actorbus`."""
    return [r.getMessage() for r in caplog.records if r.name == "actorbus"]


async def fail(bus: EventBus, times: int) -> None:
    """Publish so many events that fail."""
    for _ in range(times):
        bus.publish("a:b", {"secret": "hunter2"})
    await bus.settle()


def failing(bus: EventBus, name: str = "storm", error: type[Exception] = ValueError) -> None:
    """Subscribe a handler that always fails."""

    async def handler(data: Any) -> None:
        raise error("it broke")

    bus.subscribe("a:b", handler, name=name, retry=ONCE, mailbox=10_000)


async def test_the_first_few_are_logged_in_full(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """Three warnings with name, reason and traceback go to the logger `actorbus`."""
    failing(bus)
    await fail(bus, 3)
    records = [r for r in caplog.records if r.name == "actorbus"]
    assert len(records) == FULL == 3
    for record in records:
        assert record.levelno == logging.WARNING
        assert "storm" in record.getMessage()
        assert "retries_exhausted" in record.getMessage()
        assert record.exc_info is not None
        assert "it broke" in str(record.exc_info[1])
    assert "Traceback" in caplog.text


async def test_a_storm_is_summed_up_in_a_few_lines(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """5,000 failures make three full entries and one counted line per power of ten."""
    failing(bus)
    await fail(bus, 5000)
    lines = texts(caplog)
    assert len(lines) == 3 + 3
    assert all(f" {count} " in line for count, line in zip((10, 100, 1000), lines[3:], strict=True))
    assert all("storm" in line and "ValueError" in line for line in lines[3:])
    assert [r.exc_info for r in caplog.records if r.name == "actorbus"][3:] == [None] * 3


async def test_each_kind_of_failure_has_its_own_count(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """A storm of one subscription, or of one error, does not hide another."""
    failing(bus, "one")
    failing(bus, "two")
    failing(bus, "three", Reject)
    await fail(bus, 9)
    lines = texts(caplog)
    for name in ("one", "two", "three"):
        assert len([line for line in lines if repr(name) in line]) == FULL


async def test_the_count_starts_over_after_a_minute_of_silence(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """A later failure is news again, and logged in full."""
    failing(bus)
    await fail(bus, 9)
    await asyncio.sleep(59)
    await fail(bus, 1)
    assert len(texts(caplog)) == FULL + 1  # the tenth
    await asyncio.sleep(61)
    await fail(bus, 1)
    assert len(texts(caplog)) == FULL + 2
    assert caplog.records[-1].exc_info is not None


async def test_no_payload_is_logged_by_the_bus(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """The event is shown without its data."""
    failing(bus)
    await fail(bus, 100)
    assert "hunter2" not in caplog.text


async def test_a_broken_on_failure_does_not_flood_the_log(
    bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    """A function that fails to decide is told of once, not once for every failure."""

    def decide(error: BaseException, event: Event | None) -> str:
        raise RuntimeError("undecided")

    async def handler(data: Any) -> None:
        raise ValueError

    bus.subscribe("a:b", handler, retry=ONCE, on_failure=decide)
    await fail(bus, 500)
    assert len([line for line in texts(caplog) if line.startswith("on_failure of")]) == 1


@pytest.mark.parametrize("error", [JournalFullError, JournalLockedError])
def test_what_is_expected_of_a_journal_is_one_line(
    caplog: pytest.LogCaptureFixture, error: type[JournalError]
) -> None:
    """A full or locked one is named, with what to do, and without a traceback."""
    StormLog().failure("s", "commit_failed", error("journal 'a.db' is so: do this"), "event", 0.0)
    (record,) = caplog.records
    assert record.getMessage().endswith("commit_failed: journal 'a.db' is so: do this")
    assert record.exc_info is None


def test_what_is_not_expected_of_a_journal_is_logged_in_full(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Any other failure of it keeps its traceback."""
    StormLog().failure("s", "commit_failed", JournalError("journal 'a.db' broke"), "event", 0.0)
    (record,) = caplog.records
    assert record.exc_info is not None


async def test_retries_are_not_logged(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """A delivery that succeeds in the end leaves no line."""
    attempts: list[int] = []

    async def handler(data: Any) -> None:
        attempts.append(1)
        if len(attempts) < 4:
            raise ValueError

    bus.subscribe("a:b", handler)
    await fail(bus, 1)
    assert len(attempts) == 4
    assert texts(caplog) == []


def test_a_silent_logger_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Where warnings are off nothing is counted, so nothing is kept."""
    caplog.set_level(logging.ERROR, "actorbus")
    storm = StormLog()
    storm.failure("s", "rejected", None, "event", 0.0)
    caplog.set_level(logging.WARNING, "actorbus")
    storm.failure("s", "rejected", None, "event", 0.0)
    assert [r.count for r in caplog.records] == [1]  # type: ignore[attr-defined]  # given as extra


def test_what_is_not_logged_is_not_put_into_words(caplog: pytest.LogCaptureFixture) -> None:
    """A suppressed failure makes no record and no text of its event."""
    told: list[str] = []

    class Told:
        def __repr__(self) -> str:
            told.append("told")
            return "event"

    storm, event = StormLog(), Told()
    for _ in range(FULL):
        storm.failure("s", "rejected", None, event, 0.0)
    before = len(told)
    for _ in range(96):
        storm.failure("s", "rejected", None, event, 0.0)
    assert before > 0
    assert len(told) == before
    assert len(caplog.records) == FULL + 1


def test_a_storm_of_many_kinds_is_bounded_too(caplog: pytest.LogCaptureFixture) -> None:
    """However many subscriptions fail, the table stays small, and those beyond it share a count."""
    storm = StormLog()
    for round_ in range(5):
        for number in range(3000):
            storm.failure(f"s{number}", "rejected", None, "event", float(round_))
    assert len(storm._kinds) <= KINDS + 1
    assert len(caplog.records) == KINDS * FULL + FULL + len((10, 100, 1000, 10_000))


def test_quiet_kinds_make_room_for_new_ones(caplog: pytest.LogCaptureFixture) -> None:
    """A minute later the table is free again: each newcomer's first failures are shown."""
    storm = StormLog()
    for when in (0.0, 100.0):
        caplog.clear()
        for number in range(KINDS):
            storm.failure(f"s{number} at {when}", "rejected", None, "event", when)
        assert len(caplog.records) == KINDS
    assert len(storm._kinds) == KINDS


def test_a_storm_of_a_late_kind_is_counted_too(caplog: pytest.LogCaptureFixture) -> None:
    """A full table does not mean that the next kind floods the log."""
    storm = StormLog()
    for number in range(1000):
        storm.failure(f"s{number}", "rejected", None, "event", 0.0)
    caplog.clear()
    for _ in range(500):
        storm.failure("late", "rejected", None, "event", 1.0)
    assert len(caplog.records) == FULL + 2
