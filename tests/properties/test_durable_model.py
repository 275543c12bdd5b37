"""A bus on a journal against the model that `actorbus.testing` ships, on journals of every kind.

``ACTORBUS_DURABLE=20`` runs twenty times as many examples.
"""

from __future__ import annotations

import copy
import inspect
import os
import random
import re
import subprocess
import sys
import tempfile
import textwrap
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from actorbus.journal.base import Append, Journal, Opening, Operation, Result, Settle
from actorbus.journal.memory import MemoryJournal
from actorbus.journal.sqlite import SqliteJournal
from actorbus.testing import DurableModel
from actorbus.testing.errors import StepLimitError
from actorbus.testing.invariants import BrokenInvariantError

TIMES = int(os.environ.get("ACTORBUS_DURABLE", "1"))


def examples(share: float) -> settings:
    """Return the settings of a machine that runs a share of what a profile asks for."""
    count = max(1, round(settings().max_examples * share * TIMES))
    return settings(max_examples=count, stateful_step_count=30)


TestDurableModel = pytest.mark.timeout(600)(DurableModel.TestCase)  # shrinking takes its time
TestDurableModel.settings = examples(1)


class SmallModel(DurableModel):
    """A journal that is full after some twenty events, if a durable subscription is behind."""

    def make_journal(self) -> Journal:
        return MemoryJournal(max_bytes=2_000, retention=self.retention, window=self.window)


TestSmallModel = pytest.mark.timeout(600)(SmallModel.TestCase)
TestSmallModel.settings = examples(0.5)


class Forgetful(MemoryJournal):
    """A journal that knows its last states, as a disk that has not been synced."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.images: deque[MemoryJournal] = deque(maxlen=5)

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        self._remember()
        results = super().commit(operations)
        self._remember()
        return results

    def open(self, durability: str) -> Opening:
        self.images.clear()  # as with SQLite, what is found at an opening is synced
        return super().open(durability)

    def _remember(self) -> None:
        images, self.images = self.images, deque(maxlen=5)
        images.append(copy.deepcopy(self))
        self.images = images


class ProcessModel(DurableModel):
    """With durability "process" a power cut takes the newest commits."""

    durability = "process"

    def make_journal(self) -> Journal:
        return Forgetful(retention=self.retention, window=self.window)

    def left_by_power_cut(self, journal: Journal, which: int) -> Journal | None:
        assert isinstance(journal, Forgetful)
        images = [*journal.images] or [journal]
        left = images[which % len(images)]
        left.close(clean=False)
        return left


TestProcessModel = pytest.mark.timeout(600)(ProcessModel.TestCase)
TestProcessModel.settings = examples(0.25)


class OnFile(DurableModel):
    """The production journal on a real file."""

    def make_journal(self) -> Journal:
        place = tempfile.TemporaryDirectory(prefix="durable-")
        self._props.callback(place.cleanup)
        self.place = Path(place.name)
        return self.journal_in(self.place)

    def journal_in(self, place: Path) -> SqliteJournal:
        """Return the journal of a directory."""
        return SqliteJournal(
            place / "events.db", max_bytes=1 << 22, retention=self.retention, window=self.window
        )


TestOnFile = pytest.mark.timeout(600)(OnFile.TestCase)
TestOnFile.settings = examples(0.05)

try:
    from tests.journal.power import Content, Disk, JournalOnDisk
except ImportError:  # the simulated disk is made with apsw
    pass
else:

    class OnDisk(OnFile):
        """The production journal on a disk that loses what is not synced."""

        def journal_in(self, place: Path) -> SqliteJournal:
            self.drive = Disk()
            self._props.callback(self.drive.unregister)
            for file in place.glob("events.db*"):
                content = self.drive.files[str(file)] = Content()
                content.synced += file.read_bytes()
            journal = JournalOnDisk(
                place / "events.db", max_bytes=1 << 22, retention=self.retention,
                window=self.window,
            )  # fmt: skip
            journal.disk = self.drive
            return journal

        def left_by_power_cut(self, journal: Journal, which: int) -> Journal | None:
            self.drive.is_off = True
            journal.close(clean=False)
            before = self.place / str(self._cuts) if self._cuts else self.place
            self._cuts += 1
            after = self.place / str(self._cuts)
            self.drive.survive(before, after, random.Random(which))  # noqa: S311 - chosen by which
            return self.journal_in(after)

        _cuts = 0

    class OnLazyDisk(OnDisk):
        """With durability "process" it syncs seldom."""

        durability = "process"

    TestOnDisk = pytest.mark.timeout(600)(OnDisk.TestCase)
    TestOnDisk.settings = examples(0.05)
    TestOnLazyDisk = pytest.mark.timeout(600)(OnLazyDisk.TestCase)
    TestOnLazyDisk.settings = examples(0.05)


# -- the model sees what is wrong with a journal ---------------------------------------------------


FEW = settings(
    max_examples=100, stateful_step_count=20, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip


class Losing(MemoryJournal):
    """Acknowledges the last of several events, and does not keep it."""

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        results = super().commit(operations)
        if sum(isinstance(each, Append) for each in operations) > 1:
            self._events.pop()
        return results


class Absentminded(MemoryJournal):
    """Forgets what was settled last."""

    def commit(self, operations: Sequence[Operation]) -> list[Result]:
        kept = [Settle(o.durable, o.cursor - 1) if isinstance(o, Settle) else o for o in operations]
        return super().commit(kept)


class Greedy(MemoryJournal):
    """Prunes what a cursor needs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "retention": 0.0})

    def _unneeded(self) -> int:
        return len(self._events)


@pytest.mark.parametrize("journal", [Losing, Absentminded, Greedy])
def test_a_journal_that_breaks_its_word_is_found_out(journal: Callable[..., Journal]) -> None:
    """What it has lost, or given away, contradicts an invariant."""

    class Model(DurableModel):
        def make_journal(self) -> Journal:
            return journal(retention=self.retention, window=self.window)

    with pytest.raises((BrokenInvariantError, StepLimitError)):  # it may look for ever
        run_state_machine_as_test(Model, settings=FEW)


def test_the_example_of_the_docstring_passes() -> None:
    """A user may copy it as it stands."""
    doc = inspect.getdoc(DurableModel) or ""
    code = textwrap.dedent(re.findall(r"::\n\n((?:    .*\n|\n)+)", doc)[0])
    space: dict[str, Any] = {}
    exec(code, space)  # noqa: S102 our own text
    machine: type[RuleBasedStateMachine] = space["OwnModel"]

    run_state_machine_as_test(machine, settings=settings(FEW, max_examples=10))


def test_without_hypothesis_the_extra_is_named() -> None:
    """The model says what it needs."""
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "try:\n    from actorbus.testing import DurableModel\n"
        "except ImportError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)

    assert "pip install hypothesis" in ran.stdout, ran.stderr
