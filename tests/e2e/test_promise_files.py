"""A durable bus on a full disk, with a clock that is set, and after a change of its subscriptions.

Real files under virtual time: the loop waits for the journal's thread.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from actorbus import DeadReason, Event, EventBus, JournalFullError, Outcome, world
from actorbus.journal.sqlite import SqliteJournal
from tests.handlers import Seen

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow]

Make = Callable[..., EventBus]

LARGE = "x" * 50_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a directory on a file system of three megabytes."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", str(directory)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


@dataclass
class Books:
    """What was acknowledged, refused, and handled by a plain and by a durable subscription."""

    kept: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    durable: list[str] = field(default_factory=list)

    async def publish(self, bus: EventBus) -> bool:
        """Publish a large event; return whether there was room."""
        receipt = bus.publish("a:b", LARGE)
        try:
            await receipt
        except JournalFullError:
            self.refused.append(receipt.event.id)
            assert set((await receipt.settled()).outcomes.values()) == {Outcome.DEAD}
            return False
        self.kept.append(receipt.event.id)
        return True


async def fill_and_go_on(bus: EventBus, make_room: Callable[[], object]) -> Books:
    """Publish until there is no room, make some, and look whether the bus goes on."""
    gate, books = asyncio.Event(), Books()

    async def note(event: Event) -> None:
        books.plain.append(event.id)

    async def hold(event: Event) -> None:
        await gate.wait()
        books.durable.append(event.id)

    bus.subscribe("a:*", note)
    bus.subscribe("a:*", hold, name="durable", durable="durable", mailbox=2)
    async with bus:
        while await books.publish(bus):
            assert len(books.kept) < 1_000
        assert not await books.publish(bus)
        letters = [(each.event.id, each.subscription, each.reason) for each in bus.dead_letters]
        assert letters == [(each, "", DeadReason.COMMIT_FAILED) for each in books.refused]
        assert books.plain == books.kept
        make_room()
        gate.set()
        await bus.settle()
        assert books.durable == books.kept
        assert await books.publish(bus)
        await bus.settle()
        assert books.plain == books.durable == books.kept
    return books


async def test_a_journal_at_its_limit(
    make_bus: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Publish raises as long as a cursor needs all there is, and works again without a restart."""
    url = f"sqlite:///{tmp_path}/events.db?max_bytes={1 << 20}"
    books = await fill_and_go_on(make_bus(journal=url), lambda: None)
    again = make_bus(journal=url)
    async with again:
        buried = {each.event.id for each in again.dead_letters}
    assert buried <= set(books.refused)
    told = [each for each in caplog.messages if "stays in memory only" in each]
    untold = {ident for ident in books.refused if not any(ident in each for each in told)}
    assert untold <= buried  # who found no room was told of, and buried if there was some later


async def test_a_full_disk(make_bus: Make, disk: Path) -> None:
    """The same, with a disk on which not even the room kept for such a case can be kept."""
    filler = disk / "filler"
    filler.write_bytes(bytes(1_500_000))
    books = await fill_and_go_on(make_bus(journal=f"sqlite:///{disk}/events.db"), filler.unlink)
    assert len(books.kept) > 10


# -- the clock -------------------------------------------------------------------------------------


@pytest.fixture
def by(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give what sets the clock, by so many seconds."""

    def set_clock(seconds: float) -> None:
        now = world.wall() + seconds
        monkeypatch.setattr(world, "wall", lambda: now)

    return set_clock


async def test_the_clock_is_set_back(
    make_bus: Make, tmp_path: Path, by: Callable[[float], None]
) -> None:
    """Order, ids and cursors do not go by it, in one life or from one to the next."""
    seen = Seen()
    for life in range(3):
        bus = make_bus(journal=f"sqlite:///{tmp_path}/events.db?retention=3600")
        bus.subscribe("a:*", seen, durable="d")
        async with bus:
            for number in range(4):
                await bus.publish("a:b", [life, number], id=f"{life}-{number}")
                await bus.publish("a:b", "twice", id=f"{life}-0")
                by(-86_400.0)
            await bus.settle()
            await asyncio.sleep(61.0)
            data = [each["data"] for each in bus.get_history("a:b", limit=100)]
            assert data == seen.got
    assert seen.got == [[life, number] for life in range(3) for number in range(4)]


async def test_a_durable_comes_back_after_a_day(
    make_bus: Make, tmp_path: Path, by: Callable[[float], None]
) -> None:
    """Though all is past retention by far nothing that it needs was pruned; afterwards it is."""
    url = f"sqlite:///{tmp_path}/events.db?retention=60"
    first, seen = make_bus(journal=url), Seen()
    first.subscribe("a:*", seen, durable="d")
    async with first:
        await first.publish("a:b", "before")
        await first.settle()
    meanwhile = make_bus(journal=url)
    async with meanwhile:
        for number in range(20):
            await meanwhile.publish("a:b", number)
        for _ in range(24):
            by(3_600.0)
            await asyncio.sleep(3_600.0)
    last = make_bus(journal=url)
    last.subscribe("a:*", seen, durable="d")
    async with last:
        await last.settle()
        await asyncio.sleep(61.0)
    assert seen.got == ["before", *range(20)]
    journal = SqliteJournal(tmp_path / "events.db")
    journal.open("power")
    assert journal.status().events == 0
    journal.close(clean=True)


# -- a change --------------------------------------------------------------------------------------


async def test_patterns_that_change(make_bus: Make, tmp_path: Path) -> None:
    """What it has not had yet is judged by its patterns of now; its place stays."""
    url = f"sqlite:///{tmp_path}/events.db"
    first, seen = make_bus(journal=url), Seen()
    first.subscribe("a:*", seen, durable="d")
    async with first:
        await first.publish("b:c", "b before")
        await first.publish("a:c", "a before")
        await first.settle()
    async with make_bus(journal=url) as meanwhile:
        for topic in ("a:c", "b:c", "c:c"):
            await meanwhile.publish(topic, f"{topic} meanwhile")
    last = make_bus(journal=url)
    last.subscribe(["b:*", "c:*"], seen, durable="d")
    async with last:
        await last.publish("c:c", "c at last")
        await last.publish("a:c", "a at last")
        await last.settle()
    assert seen.got == ["a before", "b:c meanwhile", "c:c meanwhile", "c at last"]
