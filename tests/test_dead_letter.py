"""DeadLetter and DeadLetters: what is kept, what goes, what is replayed."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import traceback
import weakref
from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actorbus import world
from actorbus.dead_letter import DeadLetter, DeadLetters
from actorbus.errors import ConfigurationError, InvalidPatternError
from actorbus.event import Event
from actorbus.words import DeadReason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

E = TypeVar("E", bound=BaseException)

pytestmark = pytest.mark.anyio

REASONS = [DeadReason.REJECTED, DeadReason.OVERFLOW, DeadReason.POISON]
TOPICS = ["order:placed", "order:paid", "user:login"]
names = st.sampled_from(["billing", "audit", "mail"])
reasons = st.sampled_from(REASONS)
topics = st.sampled_from(TOPICS)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def admit(_: DeadLetter) -> bool:
    return True


async def refuse(_: DeadLetter) -> bool:
    return False


def dead(
    subscription: str = "billing",
    reason: DeadReason = DeadReason.REJECTED,
    topic: str = "order:placed",
    error: BaseException | None = None,
) -> DeadLetter:
    return DeadLetter(Event(topic, "secret", 0.0), subscription, reason, error=error)


def raised(error: E, cause: BaseException | None = None) -> E:
    """Return an error as a handler's caller sees it: with a traceback, and maybe a cause."""
    try:
        raise error from cause
    except BaseException:
        return error


def store_of(
    *letters: DeadLetter, redeliver: Callable[[DeadLetter], Awaitable[bool]] = admit
) -> DeadLetters:
    store = DeadLetters(100, redeliver)
    for letter in letters:
        store.add(letter)
    return store


class Model(RuleBasedStateMachine):
    """The store against a plain list that is searched from end to end."""

    limit = 6

    def __init__(self) -> None:
        super().__init__()
        self.store = DeadLetters(self.limit, admit)
        self.held: list[DeadLetter] = []
        self.evicted = 0

    def victim(self) -> DeadLetter:
        """Return the oldest letter of the fullest (subscription, reason)."""

        def crowd(letter: DeadLetter) -> int:
            kind = (letter.subscription, letter.reason)
            return sum((other.subscription, other.reason) == kind for other in self.held)

        return max(self.held, key=crowd)  # the first of equals, so the oldest

    @rule(subscription=names, reason=reasons, topic=topics)
    def add(self, subscription: str, reason: DeadReason, topic: str) -> None:
        letter = dead(subscription, reason, topic)
        self.held.append(letter)
        gone = self.store.add(letter)
        if len(self.held) <= self.limit:
            assert gone is None
            return
        assert gone is self.victim()
        self.held.remove(gone)
        self.evicted += 1

    @rule(subscription=st.none() | names, reason=st.none() | reasons, topic=st.none() | topics)
    def discard(
        self, subscription: str | None, reason: DeadReason | None, topic: str | None
    ) -> None:
        self.leave(self.store.discard, subscription, reason, topic)

    @rule(subscription=st.none() | names, reason=st.none() | reasons, topic=st.none() | topics)
    def replay(
        self, subscription: str | None, reason: DeadReason | None, topic: str | None
    ) -> None:
        self.leave(self.store.replay, subscription, reason, topic)

    @rule(data=st.data())
    def discard_one(self, data: st.DataObject) -> None:
        if self.held:
            letter = data.draw(st.sampled_from(self.held))
            assert asyncio.run(self.store.discard(letter.id)) == 1
            self.held.remove(letter)

    def leave(self, how: Any, subscription: Any, reason: Any, topic: Any) -> None:
        fits = [
            letter
            for letter in self.held
            if subscription in (None, letter.subscription)
            and reason in (None, letter.reason)
            and topic in (None, letter.event.topic)
        ]
        filters = {"subscription": subscription, "reason": reason, "topic": topic}
        assert self.store.list(**filters) == fits
        assert asyncio.run(how(**filters)) == len(fits)
        self.held = [letter for letter in self.held if letter not in fits]

    @invariant()
    def same(self) -> None:
        assert list(self.store) == self.held == self.store.list()
        assert len(self.store) == len(self.held) <= self.limit
        assert self.store.evicted == self.evicted
        assert all(self.store.get(letter.id) is letter for letter in self.held)


TestModel = Model.TestCase


@given(st.integers(0, 5), st.lists(st.tuples(names, reasons), max_size=40))
def test_never_more_than_the_limit(limit: int, deaths: list[tuple[str, DeadReason]]) -> None:
    """Every letter is either held or was returned as evicted, and no more than limit are held."""
    store, gone = DeadLetters(limit, admit), list[DeadLetter]()
    letters = [dead(*death) for death in deaths]
    for letter in letters:
        gone += filter(None, [store.add(letter)])
        assert len(store) <= limit
    assert sorted(map(id, [*store, *gone])) == sorted(map(id, letters))
    assert store.evicted == len(gone)


@pytest.mark.parametrize("seed", range(4))
def test_the_oldest_of_the_largest_group_goes(seed: int) -> None:
    """In a long run of storms and removals each victim is the one a search would find."""
    chance = random.Random(seed)  # noqa: S311 nothing secret
    store, held = DeadLetters(30, admit), list[DeadLetter]()
    for step in range(3000):
        storming = f"storm {step // 100 % 3}"
        letter = dead(chance.choice([storming, storming, storming, f"rare {chance.randrange(40)}"]))
        held.append(letter)
        sizes = Counter(each.subscription for each in held)
        expected = max(held, key=lambda each: sizes[each.subscription]) if len(held) > 30 else None
        assert store.add(letter) is expected
        if expected is not None:
            held.remove(expected)
        if chance.random() < 0.05:
            gone = chance.choice(held)
            assert asyncio.run(store.discard(subscription=gone.subscription)) > 0
            held = [each for each in held if each.subscription != gone.subscription]
        assert store._listed.keys() == store._groups.keys()


def test_a_storm_of_one_kind_ranks_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the store is full of one kind, its next letter finds the group's place as it was."""
    store = store_of(*(dead() for _ in range(100)))
    store.add(dead())

    def rank(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(DeadLetters, "_rank", rank)
    before = len(store._heap)
    for _ in range(1000):
        store.add(dead())
    assert len(store._heap) <= before
    assert len(store) == 100


def test_a_storm_does_not_wash_out_the_rare_ones() -> None:
    """A single old letter of another kind survives a thousand of one kind."""
    store = DeadLetters(10, admit)
    rare = dead("audit")
    store.add(rare)
    for _ in range(1000):
        store.add(dead("billing"))
    assert next(iter(store)) is rare
    assert len(store) == 10


def test_the_error_somebody_else_handles_keeps_its_traceback() -> None:
    """An error that was being handled outside, when a handler failed, is left as it was."""
    store = store_of()
    kept: list[BaseException] = []
    try:
        raise LookupError("the caller's own")
    except LookupError as outer:
        kept += [outer, raised_inside()]
        store.add(dead(error=kept[1]))
        store.add(dead(error=ValueError("the next")))

    outer_error, failed = kept
    assert failed.__context__ is outer_error
    assert failed.__traceback__ is None
    assert outer_error.__traceback__ is not None


def raised_inside() -> Exception:
    """Return an error that was raised and caught below this call."""
    try:
        raise ValueError("a handler's")
    except ValueError as error:
        return error


def test_a_limit_of_zero_keeps_nothing() -> None:
    """With a limit of 0 the added letter itself comes back as evicted."""
    store, letter = DeadLetters(0, admit), dead()
    assert store.add(letter) is letter
    assert (len(store), store.evicted, store.get(letter.id)) == (0, 1, None)


def test_the_same_letter_twice_is_held_once() -> None:
    """Adding a held letter again changes nothing."""
    letter = dead()
    store = store_of(letter, dead("audit"))
    assert store.add(letter) is None
    assert len(store) == 2
    assert next(iter(store)) is letter


@pytest.mark.parametrize("kinds", [1, 300, 100_000])
def test_adding_stays_cheap_in_a_large_store(kinds: int) -> None:
    """Evicting from 100,000 letters never scans them, be they of few kinds or of many."""
    store = DeadLetters(100_000, admit)
    event = Event("order:placed", None, 0.0)
    for number in range(100_000):
        store.add(DeadLetter(event, str(number % kinds), DeadReason.OVERFLOW))
    began = time.perf_counter()
    for number in range(20_000):
        store.add(DeadLetter(event, str(number * 7919 % kinds), DeadReason.OVERFLOW))
    assert time.perf_counter() - began < 2  # a scan of the store each would take a minute
    assert len(store) == 100_000
    assert len(store._heap) <= 2 * len(store._groups) + 64


def test_evicting_gets_no_slower() -> None:
    """The 70,000th eviction of one kind in a row costs what the first did."""
    store = DeadLetters(100_000, admit)
    event = Event("order:placed", None, 0.0)

    def add(count: int) -> float:
        began = time.perf_counter()
        for _ in range(count):
            store.add(DeadLetter(event, "billing", DeadReason.OVERFLOW))
        return time.perf_counter() - began

    add(100_000)
    taken = [add(1000) for _ in range(70)]
    assert min(taken[-10:]) < 5 * min(taken[:10])


def test_iteration_is_safe_while_the_store_changes() -> None:
    """Letters may be added and leave while somebody iterates."""
    store = store_of(dead(), dead(), dead())
    for letter in store:
        store.add(dead())
        assert asyncio.run(store.discard(letter.id)) == 1
    assert len(store) == 3


def test_filters() -> None:
    """topic is a pattern, subscription a name, reason a member or its string; all must fit."""
    letters = [dead(*each) for each in product(["billing", "audit"], REASONS, TOPICS)]
    store = store_of(*letters)
    assert [
        x.event.topic for x in store.list(topic="order:*", subscription="audit", reason="poison")
    ] == [
        "order:placed",
        "order:paid",
    ]
    assert store.list(topic="**") == letters
    assert store.list(subscription="aud") == []
    assert store.list(reason=DeadReason.POISON) == store.list(reason="poison")
    assert store.get("dl-unknown") is None


async def test_wrong_filters_are_refused() -> None:
    """An unknown reason and a malformed pattern are errors, not empty answers."""
    store = store_of(dead())
    with pytest.raises(
        ConfigurationError, match=r"reason must be one of rejected, .*, not 'tired'"
    ):
        store.list(reason="tired")
    with pytest.raises(InvalidPatternError):
        await store.discard(topic="a::b")
    with pytest.raises(ConfigurationError):
        await store.replay(reason="tired")
    assert len(store) == 1


@pytest.mark.parametrize("limit", [-1, True, 1.5, None])
def test_a_wrong_limit_is_refused(limit: Any) -> None:
    """The limit is a whole number of at least 0."""
    with pytest.raises(ConfigurationError, match=r"^dead_letters must be"):
        DeadLetters(limit, admit)


async def test_replay_goes_oldest_first_and_only_to_those_that_fit() -> None:
    """Letters are redelivered in the order of their deaths; an id names a single one."""
    seen: list[DeadLetter] = []

    async def redeliver(letter: DeadLetter) -> bool:
        seen.append(letter)
        return True

    a, b, c = dead("billing"), dead("audit"), dead("billing")
    store = store_of(a, b, c, redeliver=redeliver)
    assert await store.replay(subscription="billing") == 2
    assert await store.replay(b.id, subscription="billing") == 0
    assert await store.replay("dl-unknown") == 0
    assert await store.replay(b.id) == 1
    assert seen == [a, c, b]
    assert not store.list()


async def test_what_is_not_admitted_stays() -> None:
    """A letter whose redelivery is refused keeps its place."""
    letters = [dead(), dead()]
    store = store_of(*letters, redeliver=refuse)
    assert await store.replay() == 0
    assert list(store) == letters


async def test_an_error_in_redelivery_leaves_the_rest() -> None:
    """When a redelivery raises, its letter and those after it stay and can be replayed later."""
    broken = True

    async def redeliver(letter: DeadLetter) -> bool:
        if broken and letter is letters[1]:
            raise RuntimeError
        return True

    letters = [dead(), dead(), dead()]
    store = store_of(*letters, redeliver=redeliver)
    with pytest.raises(RuntimeError):
        await store.replay()
    assert list(store) == letters[1:]
    broken = False
    assert await store.replay() == 2


class Gate:
    """A redelivery that waits until it is let through."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.count = 0

    async def __call__(self, letter: DeadLetter) -> bool:
        self.count += 1
        await self.opened.wait()
        return True


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_two_replays_at_once_replay_each_letter_once() -> None:
    """A letter in one caller's hands is skipped by another; together they count each once."""
    gate = Gate()
    store = store_of(dead(), dead(), dead(), redeliver=gate)
    callers = [asyncio.create_task(store.replay()) for _ in range(4)]
    await turn()
    assert gate.count == 3  # the fourth caller found nothing left
    gate.opened.set()
    assert sum(await asyncio.gather(*callers)) == 3
    assert gate.count == 3
    assert len(store) == 0


async def test_a_cancelled_replay_leaves_what_was_not_admitted() -> None:
    """Cancelled midway, the letter in hand and those behind it stay and can be replayed."""
    gate = Gate()
    letters = [dead(), dead()]
    store = store_of(*letters, redeliver=gate)
    caller = asyncio.create_task(store.replay())
    await turn()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert list(store) == letters
    gate.opened.set()
    assert await store.replay() == 2


async def test_a_letter_being_replayed_is_not_discarded() -> None:
    """Discard leaves the letter in a replay's hands; what was discarded is not replayed after."""
    gate = Gate()
    a, b = dead(), dead()
    store = store_of(a, b, redeliver=gate)
    caller = asyncio.create_task(store.replay())
    await turn()
    assert await store.discard() == 1
    assert list(store) == [a]
    gate.opened.set()
    assert await caller == 1
    assert gate.count == 1


async def test_a_letter_evicted_while_being_replayed_counts_as_replayed() -> None:
    """An eviction during its redelivery takes the letter out of the store once only."""
    gate = Gate()
    store = DeadLetters(1, gate)
    letter, other = dead(), dead()
    store.add(letter)
    caller = asyncio.create_task(store.replay())
    await turn()
    assert store.add(other) is letter
    gate.opened.set()
    assert await caller == 1
    assert list(store) == [other]


def test_ids_are_unique_and_sort_by_death(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later letters have greater ids, which name the run."""
    ids = [dead().id for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert all(one.startswith(f"dl-{world.run.name}-") for one in ids)


def test_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter has what the contract lists; the time of death is the wall clock's."""
    monkeypatch.setattr(world, "wall", lambda: 1234.5)
    error, event = ValueError("x"), Event("a:b", None, 0.0)
    letter = DeadLetter(
        event, "billing", DeadReason.POISON, error=error, attempts=3, first_failed_at=1200.0
    )
    assert (letter.event, letter.subscription, letter.reason) == (event, "billing", "poison")
    assert (letter.error, letter.attempts) == (error, 3)
    assert (letter.first_failed_at, letter.died_at) == (1200.0, 1234.5)
    assert not hasattr(letter, "__dict__")
    stored = DeadLetter(event, "b", DeadReason.POISON, id="dl-1", died_at=0.0, traceback="text")
    assert (stored.id, stored.died_at, stored.traceback) == ("dl-1", 0.0, "text")


def test_the_repr_shows_no_payload_and_no_message() -> None:
    """A repr names id, topic, subscription, reason and the error's type, nothing a user sent."""
    letter = dead(error=ValueError("password=1234"))
    assert repr(letter) == (
        f"DeadLetter(id='{letter.id}', topic='order:placed', subscription='billing', "
        "reason='rejected', error=ValueError)"
    )
    assert "error" not in repr(dead())
    assert repr(store_of(letter)) == "<DeadLetters: 1 of 100 held, 0 evicted>"


def grouped() -> BaseException:
    members = [raised(ValueError("one")), raised(KeyError("two"), raised(OSError("under")))]
    return raised(ExceptionGroup("several", [*members, ExceptionGroup("inner", members)]))


def contextual() -> BaseException:
    try:
        try:
            raise ValueError("first")
        except ValueError:
            iter(()).missing  # type: ignore[attr-defined]  # noqa: B018 - the error is wanted
    except AttributeError as error:
        error.add_note("a note")
        return error
    raise AssertionError


def circular() -> BaseException:
    a, b = ValueError("a"), ValueError("b")
    a.__cause__, b.__cause__ = b, a
    return raised(a, b)


def deep(levels: int) -> None:
    if levels:
        deep(levels - 1)
    raise ValueError("deep")


def recursive() -> BaseException:
    try:
        deep(50)
    except ValueError as error:
        return error
    raise AssertionError


def without_attribute() -> BaseException:
    try:
        object().missing  # type: ignore[attr-defined]  # noqa: B018 - the error is wanted
    except AttributeError as error:
        return error
    raise AssertionError


ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("never raised"),
    lambda: raised(ValueError("x")),
    lambda: raised(RuntimeError("outer"), raised(OSError("inner"))),
    lambda: raised(asyncio.CancelledError()),
    lambda: raised(SyntaxError("bad", ("file.py", 1, 2, "x = ", 1, 3))),
    grouped,
    contextual,
    circular,
    recursive,
    without_attribute,
]


@pytest.mark.parametrize("make", ERRORS)
@pytest.mark.parametrize("read", ["before", "after"])
def test_the_traceback_is_what_python_prints(make: Callable[[], BaseException], read: str) -> None:
    """The text equals traceback.format_exception's, also when first read after the frames went."""
    error = make()
    wanted = "".join(traceback.format_exception(error))
    letter = dead(error=error)
    if read == "before":
        assert letter.traceback == wanted
    store_of(letter, dead())
    assert error.__traceback__ is None
    assert letter.traceback == wanted
    assert letter.traceback is letter.traceback


def test_no_error_no_traceback() -> None:
    """A letter without an error has an empty traceback."""
    assert dead().traceback == ""


def test_a_very_deep_traceback_is_cut_to_its_innermost_frames() -> None:
    """Of a deep recursion 100 frames are kept, the failing one among them."""
    try:
        deep(400)
    except ValueError as error:
        letter = dead(error=error)
    noted = letter._noted
    assert noted is not None
    assert len(noted[0][1]) == 100
    assert letter.traceback.endswith("ValueError: deep\n")
    assert 'raise ValueError("deep")' in letter.traceback
    assert "in test_a_very_deep" not in letter.traceback


def test_a_circle_of_causes_is_walked_once() -> None:
    """Two errors that are each other's cause are noted once each."""
    assert len(dead(error=circular())._noted or ()) == 2


def test_endless_chains_are_cut() -> None:
    """Neither a thousand causes nor a thousand members make a letter large or slow."""
    error: BaseException = ValueError("x")
    for _ in range(1000):
        error = raised(RuntimeError("again"), error)
    for large in (error, ExceptionGroup("many", [ValueError(n) for n in range(1000)])):
        letter = dead(error=large)
        assert len(letter._noted or ()) == 50
        assert letter.traceback


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Odd(Exception):
    @property
    def __suppress_context__(self) -> bool:  # type: ignore[override]  # odd on purpose
        raise RuntimeError("no answer")


@dataclass(frozen=True)
class Frozen(Exception):
    code: int = 1


@pytest.mark.parametrize("kind", [Mute, Odd, Frozen])
def test_hostile_errors_do_no_harm(kind: type[Exception]) -> None:
    """An error that cannot be printed, or whose fields cannot be set, is a letter like others."""
    error = kind()
    try:
        raise error
    except Exception:
        letter = dead(error=error)
    store_of(letter, dead())
    assert error.__traceback__ is None
    assert kind.__qualname__ in letter.traceback
    assert kind.__qualname__ in repr(letter)


class Local:
    """Something only a frame's local variable holds."""


def failure(where: list[weakref.ref[Local]], cause: BaseException | None = None) -> ValueError:
    local = Local()
    where.append(weakref.ref(local))
    return raised(ValueError("x"), cause)


def alive(where: list[weakref.ref[Local]]) -> list[bool]:
    gc.collect()
    return [ref() is not None for ref in where]


CHAINS: list[Callable[[list[weakref.ref[Local]]], BaseException]] = [
    failure,
    lambda where: failure(where, failure(where)),
    lambda where: raised(ExceptionGroup("g", [failure(where), failure(where)])),
]


@pytest.mark.parametrize("chain", CHAINS)
def test_only_the_newest_error_keeps_its_frames(
    chain: Callable[[list[weakref.ref[Local]]], BaseException],
) -> None:
    """Local variables of failed handlers, causes and members included, go with the next letter."""
    store, older, newer = DeadLetters(10, admit), list[Any](), list[Any]()
    store.add(dead(error=chain(older)))
    assert all(letter.error is not None for letter in store)
    store.add(dead(error=chain(newer)))
    assert not any(alive(older))
    store.add(dead())
    assert not any(alive(newer))


async def test_the_frames_of_a_letter_that_left_go_with_it() -> None:
    """The store holds on to nothing of a letter that was replayed or discarded."""
    where: list[weakref.ref[Local]] = []
    store = store_of(dead(error=failure(where)))
    await store.discard()
    assert alive(where) == [False]


def test_two_letters_of_one_error() -> None:
    """An error shared by two letters in a row keeps its frames, as it is the newest's too."""
    error = raised(ValueError("x"))
    store_of(dead(error=error), dead("audit", error=error))
    assert error.__traceback__ is not None


def test_a_storm_costs_little() -> None:
    """20,000 failures with tracebacks nobody reads become letters in far less than a second."""
    error = without_attribute()
    store = DeadLetters(1000, admit)
    event = Event("order:placed", None, 0.0)
    began = time.perf_counter()
    for _ in range(20_000):
        store.add(DeadLetter(event, "billing", DeadReason.RETRIES_EXHAUSTED, error=error))
    assert time.perf_counter() - began < 4  # rendering each would take 20 s and more
