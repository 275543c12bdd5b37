"""A dead letter as a test: it compiles whatever it is made of, and fails as the handler did."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import decimal
import enum
import functools
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus import Actor, DeadLetter, DeadReason, Event, EventBus, RetryPolicy, Transaction
from actorbus.literal import Names, Unwritable, write
from actorbus.testing import run

ONCE = RetryPolicy.none()


class Kind(enum.Enum):
    PLAIN = 1
    ODD = "odd"


@dataclasses.dataclass
class Order:
    id: int
    kind: Kind
    notes: list[str]


class Line(msgspec.Struct, kw_only=True):
    price: decimal.Decimal
    amount: int = 1


class Point(NamedTuple):
    x: float
    y: float


class User(pydantic.BaseModel):
    name: str


class BankError(Exception):
    """Somebody's error."""


class Silent(Exception):
    """An error that will not say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Hostile:
    """A payload that makes trouble wherever it is touched."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class Quoting:
    """A payload whose repr would end a string, a comment or a docstring."""

    def __repr__(self) -> str:
        return "'''\"\"\"\\\n\r\u2028x = (\x00"


class Stock(Actor):
    patterns = ("order:*",)

    async def receive(self, event: Event) -> None:
        raise KeyError(event.key)


async def invoice(order: Order) -> None:
    raise BankError(f"no 'bank' for\n{order.id}\\")


def block(data: Any) -> None:
    raise ValueError(data["id"] + 1)


async def typed(order: Order) -> None:
    """Want an order."""


async def slow(data: Any) -> None:
    await asyncio.sleep(3600)


async def reject_headers(event: Event) -> None:
    raise BankError(f"{event.topic} {event.key} {event.headers['way']} {event.id}")


def local() -> Any:
    class Unreachable(BankError):
        pass

    def handler(data: Any) -> None:
        raise Unreachable("hidden")

    return handler


def dead(handler: Any, topic: str, data: Any = None, **given: Any) -> DeadLetter:
    """Return the dead letter that a handler makes of an event."""

    async def main() -> DeadLetter:
        async with EventBus("shop") as bus:
            options = {key: given.pop(key) for key in ("timeout", "inline") if key in given}
            if isinstance(handler, type):
                bus.spawn(handler, name="actor", retry=ONCE)
            else:
                bus.subscribe("**", handler, name="actor", retry=ONCE, **options)
            if topic == "told":
                told = bus.actor("actor")
                assert told is not None
                await told.tell(data, **given).settled()
            else:
                await bus.publish(topic, data, **given).settled()
        [letter] = bus.dead_letters
        return letter

    return run(main)


def outcome(pytester: pytest.Pytester, source: str) -> pytest.RunResult:
    """Run a module as somebody would who has saved it."""
    pytester.makepyfile(test_reproduced=source)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:asyncio")


ORDER = Order(1, Kind.PLAIN, ["it's\n", '"""', "\\"])

REPRODUCED: dict[str, tuple[Any, str, Any, dict[str, Any]]] = {
    "a converted payload": (invoice, "order:paid", ORDER, {}),
    "a dict for a dataclass": (invoice, "order:paid", {"id": 2, "kind": 1, "notes": []}, {}),
    "a thread": (block, "order:paid", {"id": 1}, {}),
    "inline": (block, "order:paid", {"id": 1}, {"inline": True}),
    "a bad payload": (typed, "order:paid", {"id": "x"}, {}),
    "a timeout": (slow, "order:paid", None, {"timeout": 0.01}),
    "an event": (reject_headers, "a", 1, {"key": ("k", 1), "headers": {"way": "x"}, "id": "e'1"}),
    "an actor": (Stock, "order:paid", 1, {"key": "k"}),
    "a told actor": (Stock, "told", {"a": 1}, {"key": 3}),
}


@pytest.mark.parametrize("case", REPRODUCED)
def test_the_failure_is_reproduced(pytester: pytest.Pytester, case: str) -> None:
    """The module's test calls the handler as the bus did, and passes as long as it fails so."""
    handler, topic, data, given = REPRODUCED[case]

    outcome(pytester, dead(handler, topic, data, **given).as_pytest()).assert_outcomes(passed=1)


def test_a_handler_that_was_repaired_fails_the_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the handler no longer fails the test says so, and turned round it passes."""
    source = dead(invoice, "order:paid", ORDER).as_pytest()

    async def repaired(order: Order) -> None:
        pass

    monkeypatch.setattr(f"{__name__}.invoice", repaired)
    result = outcome(pytester, source)
    kept, _, _ = source.partition("    # This passes")
    turned = outcome(pytester, f"{kept}    assert letters == []\n")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*DID NOT RAISE*BankError*"])
    turned.assert_outcomes(passed=1)


TODO = {
    "a payload without a literal": (dead(block, "a", object()), "rebuild the payload"),
    "a hostile payload": (dead(block, "a", Hostile()), "rebuild the payload"),
    "a quoting payload": (dead(block, "a", [Quoting()]), "rebuild the payload"),
    "a handler nobody can import": (dead(local(), "a"), "import the handler"),
    "a partial": (dead(functools.partial(block), "a"), "import the handler"),
    "a reason of the bus's": (
        DeadLetter(Event("a", 1, 0.0), "mail", DeadReason.OVERFLOW), "given up as overflow",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TODO)
def test_what_cannot_be_written_is_a_todo_that_fails(pytester: pytest.Pytester, case: str) -> None:
    """A test that does not call the handler with the event fails, and says what to do."""
    letter, says = TODO[case]
    source = letter.as_pytest()

    result = outcome(pytester, source)

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*Failed: TODO: *{says}*"])


async def book(data: Any, tx: Transaction) -> None:
    tx.execute("INSERT INTO booked VALUES(?)", (data,))
    await tx.fetch("SELECT * FROM booked")
    raise BankError("closed")


def test_a_handler_with_an_inbox_gets_its_transaction(
    pytester: pytest.Pytester, tmp_path: Path
) -> None:
    """In a journal of the test's own; the tables are left to whoever knows them."""
    table = "CREATE TABLE booked(it)"

    async def main() -> DeadLetter:
        async with EventBus(journal=f"sqlite:///{tmp_path}/events.db") as bus:
            async with bus.transaction() as tx:
                tx.execute(table)
            bus.subscribe("a", book, durable="d", inbox=True, retry=ONCE)
            await bus.publish("a", 1)
            await bus.settle()
        [letter] = bus.dead_letters
        return letter

    source = run(main).as_pytest()
    outcome(pytester, source).stdout.fnmatch_lines(["*TODO: create the tables it writes*"])
    lines = [line for line in source.splitlines() if "pytest.fail" not in line]
    [place] = [number for number, line in enumerate(lines) if "bus.subscribe(" in line]
    creating = "            async with bus.transaction() as tx:"
    lines[place:place] = [creating, f"                tx.execute({table!r})"]
    outcome(pytester, "\n".join(lines)).assert_outcomes(passed=1)


def test_a_letter_from_storage_finds_its_handler(pytester: pytest.Pytester) -> None:
    """Without the handler itself, a subscription's default name leads to it."""
    letter = DeadLetter(
        Event("a", {"id": 1}, 0.0), f"{__name__}.block#2", DeadReason.RETRIES_EXHAUSTED,
        error=ValueError(2), attempts=5,
    )  # fmt: skip

    outcome(pytester, letter.as_pytest()).assert_outcomes(passed=1)


def test_a_letter_keeps_no_actor_alive() -> None:
    """What a letter knows of an actor is its class: the state of a dead instance is not kept."""
    letter = dead(Stock, "order:paid")

    assert letter._handler == (Stock, "receive")


KEYS = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
LITERALS = st.recursive(
    KEYS
    | st.floats(allow_nan=False)
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.datetimes()
    | st.datetimes(timezones=st.just(dt.UTC))
    | st.timedeltas()
    | st.sampled_from(Kind),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.frozensets(KEYS, max_size=4)
        | st.sets(KEYS, max_size=4)
        | st.builds(Order, st.integers(), st.sampled_from(Kind), inner)
        | st.builds(Line, price=st.decimals(allow_nan=False), amount=inner)
        | st.builds(Point, inner, inner)
        | st.builds(User, name=st.text())
    ),
    max_leaves=8,
)


@given(LITERALS)
def test_a_literal_makes_an_equal_value(value: Any) -> None:
    """What is written evaluates to an equal value of the same type."""
    names = Names(())

    source = write(value, names)

    space: dict[str, Any] = {}
    exec("\n".join(names.lines()), space)  # noqa: S102 written here
    twin = eval(source, space)  # noqa: S307 written here
    assert twin == value
    assert type(twin) is type(value)


def loop() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


class Sly(str):
    """Text that is not what it seems."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "__import__('os')"


class Renamed:
    __qualname__ = "x; import os"


class Nested(enum.Flag):
    A = 1
    B = 2


DEEP: list[Any] = []
for _ in range(500):
    DEEP = [DEEP]

ODDITIES = [
    loop(), Sly("x"), {Sly("x"): 1}, Renamed(), Hostile(), [Hostile()], Quoting(), "x" * 50_000,
    list(range(50_000)), object, len, lambda: 1, Nested.A | Nested.B, {1: {2: {3: object()}}},
    DEEP, 1 << 100_000, b"\xff" * 30_000,
    "\ud800\u2028\x00", float("inf"), [float("nan")], Event("a", 1, 0.0), BankError("x"),
]  # fmt: skip


@pytest.mark.parametrize("value", ODDITIES, ids=lambda value: type(value).__name__)
def test_an_odd_value_is_written_right_or_not_at_all(value: Any) -> None:
    """A value without a literal is `Unwritable` with a reason on one line, never bad source."""
    why = ""
    try:
        source = write(value, Names(()))
    except Unwritable as flaw:
        why, source = str(flaw), "None"

    assert why.isprintable()
    compile(source, "literal", "eval")


TEXTS = st.text() | st.text(alphabet="'\"\\\n\r\x00{}#\u2028") | st.just('"""')
ERRORS = st.builds(BankError, TEXTS) | st.builds(Silent) | st.builds(asyncio.CancelledError)


@given(
    data=LITERALS | st.sampled_from(ODDITIES),
    key=LITERALS | st.sampled_from(ODDITIES),
    headers=st.none() | st.dictionaries(TEXTS, st.sampled_from(ODDITIES), max_size=2),
    error=st.none() | ERRORS,
    handler=st.sampled_from([None, block, local(), Stock, Hostile(), (Stock, "x"), print]),
    reason=st.sampled_from(DeadReason),
    texts=st.tuples(TEXTS, TEXTS, TEXTS),
    topic=st.sampled_from(["a", "$bus:tell:x", "$bus:dead_letter:x", "é:ü'\""]),
    died=st.floats(),
)
def test_whatever_it_is_made_of_it_compiles(
    data: Any, key: Any, headers: Any, error: Any, handler: Any, reason: DeadReason,
    texts: tuple[str, str, str], topic: str, died: float,
) -> None:  # fmt: skip
    """The module is valid Python, with one test, for any event, error, handler and name."""
    id_, subscription, event_id = texts
    letter = DeadLetter(
        Event(topic, data, 0.0, key, headers, _id=event_id or None), subscription, reason,
        error=error, died_at=died, id=id_, traceback="", handler=handler,
    )  # fmt: skip

    source = letter.as_pytest()

    space: dict[str, Any] = {}
    code = compile(source, "test_module.py", "exec")
    source.encode("utf-8")
    exec(code, space)  # noqa: S102 its imports and its values, not its test
    assert len([name for name in space if name.startswith("test_")]) == 1
