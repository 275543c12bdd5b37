"""The whole bus against the model that `actorbus.testing` ships, and that model against its doc."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from actorbus import Actor, Event, EventBus, RetryPolicy
from actorbus.testing import BusModel
from actorbus.testing.invariants import BrokenInvariantError

FEW = settings(
    max_examples=40, stateful_step_count=20, deadline=None, database=None, derandomize=True,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip

TestBusModel = pytest.mark.timeout(600)(BusModel.TestCase)  # shrinking takes its time
TestBusModel.settings = settings(max_examples=4 * settings().max_examples, stateful_step_count=40)


def test_the_example_of_the_docstring_passes() -> None:
    """A user may copy it as it stands."""
    doc = inspect.getdoc(BusModel) or ""
    code = textwrap.dedent(re.findall(r"::\n\n((?:    .*\n|\n)+)", doc)[0])
    space: dict[str, Any] = {}
    exec(code, space)  # noqa: S102 our own text

    run_state_machine_as_test(space["ShopModel"], settings=FEW)


class Till(BusModel):
    """One handler, one actor, one thread and one group of somebody else's, and no strangers."""

    most_strangers = 0

    def set_up(self) -> None:
        self.taken = 0
        self.bus.subscribe("till:*", self.take, name="take", retry=RetryPolicy.none())
        self.bus.subscribe("till:*", self.print_receipt, name="print")
        self.bus.spawn(Counting, name="count")

    async def take(self, amount: int) -> None:
        self.taken += amount

    def print_receipt(self, amount: int) -> str:
        return f"paid: {amount}"

    @rule(amount=st.integers(1, 9))
    def pay(self, amount: int) -> None:
        self.call(self.try_publish, "till:paid", amount)


class Counting(Actor):
    """Counts, and fails at seven."""

    patterns = ("till:*",)

    async def on_start(self) -> None:
        self.count = 0

    async def receive(self, event: Event) -> None:
        if event.data == 7:
            raise LookupError
        self.count += 1


class Forgetful(Till):
    """Its handler takes a five for nothing, and a rule of its own finds that out."""

    async def take(self, amount: int) -> None:
        self.taken += amount % 5

    @rule()
    def look(self) -> None:
        assert self.taken == sum(event.data for event in self.handled("take"))


def test_handlers_actors_and_threads_of_ones_own_are_watched() -> None:
    """A model without strangers finds nothing wrong with handlers that do nothing wrong."""
    run_state_machine_as_test(Till, settings=FEW)


def test_a_rule_of_ones_own_can_fail() -> None:
    """What a user's rule asserts is compared with what his handlers have been given."""
    with pytest.raises(AssertionError, match="assert"):
        run_state_machine_as_test(Forgetful, settings=FEW)


def test_a_constructor_that_raises_leaves_the_stage() -> None:
    """The next model finds the world as it was."""

    class Broken(BusModel):
        def make_bus(self) -> EventBus:
            raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            Broken()
    model = BusModel()
    model.teardown()


def failing(machine: type[RuleBasedStateMachine]) -> str:
    """Return what a model that must fail says."""
    with pytest.raises(BrokenInvariantError) as raised:
        run_state_machine_as_test(machine, settings=FEW)
    return str(raised.value)


def test_a_broken_invariant_names_number_subscription_and_difference() -> None:
    """The text says which promise is broken, for whom, and by how much."""

    class Cooked(Till):
        @rule()
        def cook_the_books(self) -> None:
            self.bus._registry.live["take"].ledger.acked += 1

    text = failing(Cooked)

    assert text.startswith("I1 conservation: 'take': 1 acked, not 0")


def test_without_hypothesis_the_extra_is_named() -> None:
    """Everything else in `actorbus.testing` needs no Hypothesis; the model says what it needs."""
    code = (
        "import sys; sys.modules['hypothesis'] = None; from actorbus.testing import simulate\n"
        "try:\n    from actorbus.testing import BusModel\n"
        "except ImportError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)

    assert "pip install hypothesis" in ran.stdout, ran.stderr
    assert "actorbus[test]" in ran.stdout
