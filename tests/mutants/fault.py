"""Fault: one small change of our own source that some test must see."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
"""The tree the faults are for: the package and its tests."""

BUS_MODEL = "tests/properties/test_bus_model.py"
DURABLE_MODEL = "tests/properties/test_durable_model.py"
FAILURE_MODEL = "tests/properties/test_failure_model.py"
ROUTER_MODEL = "tests/properties/test_router_model.py"
SIMULATED = "tests/test_simulated_bus.py"
MODELS = (BUS_MODEL, DURABLE_MODEL, FAILURE_MODEL, ROUTER_MODEL, SIMULATED)
"""The tests that know no single fault: state machines, properties of a whole bus, sweeps."""


class StaleFaultError(Exception):
    """The source has changed: a fault no longer says what it is to change."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One planted fault.

    Attributes:
        name: What it is called, words joined by ``-``.
        breaks: What goes wrong with it, in one sentence.
        file: The file, below ``actorbus/``.
        old: The text that is replaced; it occurs exactly once.
        new: What takes its place.
        tests: What to run: files or node ids of pytest. Default: the tests of the module.
    """

    name: str
    breaks: str
    file: str
    old: str
    new: str = field(repr=False)
    tests: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The file, below the root."""
        return f"actorbus/{self.file}"

    @property
    def seen_by(self) -> tuple[str, ...]:
        """The tests that should see it."""
        return self.tests or (f"tests/test_{PurePosixPath(self.file).stem}.py",)

    def planted(self, source: str) -> str:
        """Return the source of its file with the fault in it.

        Raises:
            StaleFaultError: The old text is not there exactly once, or nothing would change.
        """
        if self.old == self.new:
            raise StaleFaultError(f"{self.name}: the new text is the old one")
        if (times := source.count(self.old)) != 1:
            raise StaleFaultError(f"{self.name}: {self.path} holds the old text {times} times")
        return source.replace(self.old, self.new)

    def plant(self, root: Path) -> None:
        """Put the fault into a copy of the tree.

        Raises:
            StaleFaultError: As for `planted`.
        """
        path = root / self.path
        path.write_text(self.planted(path.read_text()))
