"""Dead letters: deliveries given up, each with its reason, in a bounded store.

Invariants:
    - The store never holds more than its limit; what it lets go is returned, and counted.
    - The letter that goes is the oldest of the (subscription, reason) that holds most, so a storm
      of one kind never washes out a rare one.
    - A letter leaves by replay only once its redelivery was admitted, and is replayed by one
      caller at a time.
    - At most the newest letter's error keeps its frames, and with them their local variables.
    - No payload appears in a ``repr``.

Complexity: adding, removing and evicting are O(log g) amortised in the number of groups g (the
distinct pairs of subscription and reason held); listing is O(n).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, Any, Protocol

from actorbus import world
from actorbus.errors import ConfigurationError
from actorbus.frames import FREED, note, own_chain, render, trace_of
from actorbus.topic import Pattern
from actorbus.words import DeadReason

if TYPE_CHECKING:
    import builtins
    from collections.abc import Awaitable, Callable, Iterator

    from actorbus.event import Event

_numbers = itertools.count(1)


class Limits(Protocol):
    """The options of a subscription that matter to a test of its handler."""

    @property
    def timeout(self) -> float | None:
        """Seconds one attempt may take."""

    @property
    def inline(self) -> bool:
        """Whether a plain function runs on the loop."""


class DeadLetter:
    """One delivery that was given up.

    The arguments are the attributes. ``died_at`` is now, ``id`` a new one and ``traceback`` the
    error's, unless they are given for a letter that is read back from storage.

    Attributes:
        id: Unique within the process, sortable by time of death.
        event: What was to be handled.
        subscription: Name of the subscription.
        reason: Why it was given up.
        error: What the last attempt raised, or None.
        attempts: Attempts made.
        first_failed_at: Unix seconds of the first failed attempt, or None.
        died_at: Unix seconds at which it was given up.
    """

    __slots__ = (
        "_handler", "_noted", "_options", "_text", "attempts", "died_at", "error", "event",
        "first_failed_at", "id", "reason", "subscription",
    )  # fmt: skip

    def __init__(
        self,
        event: Event,
        subscription: str,
        reason: DeadReason,
        *,
        error: BaseException | None = None,
        attempts: int = 0,
        first_failed_at: float | None = None,
        died_at: float | None = None,
        id: str | None = None,  # noqa: A002 - the field's name
        traceback: str | None = None,
        handler: Any = None,
        options: Limits | None = None,
    ) -> None:
        self.id = id or f"dl-{world.run.name}-{next(_numbers):012x}"
        self.event = event
        self.subscription = subscription
        self.reason = reason
        self.error = error
        self.attempts = attempts
        self.first_failed_at = first_failed_at
        self.died_at = world.wall() if died_at is None else died_at
        self._handler = trace_of(handler)
        self._options = options
        self._text = traceback
        self._noted = note(error) if traceback is None and error is not None else None

    @property
    def traceback(self) -> str:
        """The error's traceback with its causes, or an empty string without an error.

        Of each error the innermost 100 frames are kept. Rendered when it is first read.
        """
        if self._text is None:
            self._text = "" if self.error is None else render(self.error, self._noted or [])
            self._noted = None
        return self._text

    def as_pytest(self) -> str:
        """Return a pytest module that gives the recorded event to the handler once more.

        Its test passes while the handler fails with the same error, and is to be turned round after
        the fix. What cannot be written as Python (a payload without a literal, a handler without a
        name to import) is a TODO in it, and the test fails and says so. The payload stands in it.

        Returns:
            Python source; it compiles, whatever the event and the error are.
        """
        from actorbus.reproduce import as_pytest  # rarely wanted, and loads much

        timeout, inline = None, False
        if self._options is not None:
            timeout, inline = self._options.timeout, self._options.inline
        return as_pytest(self, self._handler, timeout, inline=inline)

    def __repr__(self) -> str:
        """Show what identifies the letter; payloads and the error's text stay out of logs."""
        error = "" if self.error is None else f", error={type(self.error).__name__}"
        return (
            f"DeadLetter(id={self.id!r}, topic={self.event.topic!r}, "
            f"subscription={self.subscription!r}, reason={str(self.reason)!r}{error})"
        )


class DeadLetters:
    """The dead letters of a bus, oldest first; the bus's own loop only.

    Args:
        limit: Letters held at most; 0 holds none.
        redeliver: Gives a letter's event to its subscription once more, and returns whether the
            new delivery was admitted. When it raises or is cancelled it must have admitted nothing.

    Attributes:
        limit: Letters held at most.
        evicted: Letters let go because the store was full.
        discarded: Told of the letters that a `discard` has forgotten.

    Raises:
        ConfigurationError: `limit` is not a whole number of at least 0.
    """

    __slots__ = (
        "_count", "_groups", "_heap", "_letters", "_listed", "_newest", "_redeliver", "_replaying",
        "discarded", "evicted", "limit",
    )  # fmt: skip

    def __init__(self, limit: int, redeliver: Callable[[DeadLetter], Awaitable[bool]]) -> None:
        if not isinstance(limit, int) or isinstance(limit, bool) or limit < 0:
            raise ConfigurationError(
                f"dead_letters must be a whole number of at least 0, not {limit!r}"
            )
        self.limit = limit
        self.evicted = 0
        self._redeliver = redeliver
        self.discarded: Callable[[builtins.list[DeadLetter]], None] = lambda _: None
        self._letters: dict[str, DeadLetter] = {}
        # The ids of each group with the number of their arrival, oldest first. Ordered dicts,
        # because finding the first key of a dict whose first ones were deleted is O(n).
        self._groups: dict[tuple[str, DeadReason], OrderedDict[str, int]] = {}
        # The groups, the one to evict from on top. Each has an entry at least as high as it stands;
        # one that is too high is put right when it comes up. So a storm, in which one group grows
        # and shrinks in turn, pushes nothing.
        self._heap: list[tuple[int, int, tuple[str, DeadReason]]] = []
        self._listed: dict[tuple[str, DeadReason], int] = {}  # how many letters that entry says
        self._count = 0
        self._newest: DeadLetter | None = None
        self._replaying: set[str] = set()

    def add(self, letter: DeadLetter) -> DeadLetter | None:
        """Keep a letter, letting another one go if the store is full.

        Args:
            letter: A new letter; one that is held already is left where it is.

        Returns:
            The letter that was let go, if any: with a limit of 0 the one just given.
        """
        if self.limit == 0:
            self.evicted += 1
            return letter
        if letter.id in self._letters:
            return None
        self._free_frames_before(letter)
        self._insert(letter)
        if len(self._letters) <= self.limit:
            return None
        self.evicted += 1
        return self._evict()

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        """Iterate over the letters held now, oldest first; changes meanwhile do no harm."""
        return iter([*self._letters.values()])

    def __repr__(self) -> str:
        return f"<DeadLetters: {len(self)} of {self.limit} held, {self.evicted} evicted>"

    def get(self, id: str) -> DeadLetter | None:  # noqa: A002 - the field's name
        """Return the letter of this id, or None if it is not held (any more)."""
        return self._letters.get(id)

    def list(
        self,
        topic: str | None = None,
        subscription: str | None = None,
        reason: DeadReason | str | None = None,
    ) -> builtins.list[DeadLetter]:
        """Return the letters that fit every filter given, oldest first.

        Args:
            topic: A pattern for the event's topic.
            subscription: The exact name of a subscription.
            reason: Why the letters were given up.

        Returns:
            A new list.

        Raises:
            InvalidPatternError: `topic` is no pattern.
            ConfigurationError: `reason` is none.
        """
        return self._select(None, topic, subscription, reason)

    async def replay(
        self,
        id: str | None = None,  # noqa: A002 - the field's name
        *,
        topic: str | None = None,
        subscription: str | None = None,
        reason: DeadReason | str | None = None,
    ) -> int:
        """Redeliver the letters that fit, oldest first, each to the subscription that failed.

        A letter leaves the store when its new delivery is admitted; one that is refused makes no
        further letter. What somebody else is replaying just now is left to them; letters added
        meanwhile stay. So does what is not admitted when this is cancelled or a redelivery raises.

        Args:
            id: Of one letter.
            topic: As for `list`.
            subscription: As for `list`.
            reason: As for `list`.

        Returns:
            How many were admitted; 0 if none fits.

        Raises:
            ConfigurationError: A filter is wrong, as for `list`.
        """
        admitted = 0
        for letter in self._select(id, topic, subscription, reason):
            if letter.id in self._replaying or letter.id not in self._letters:
                continue
            self._replaying.add(letter.id)
            try:
                if await self._redeliver(letter):
                    self.remove(letter)
                    admitted += 1
            finally:
                self._replaying.discard(letter.id)
        return admitted

    async def discard(
        self,
        id: str | None = None,  # noqa: A002 - the field's name
        *,
        topic: str | None = None,
        subscription: str | None = None,
        reason: DeadReason | str | None = None,
    ) -> int:
        """Forget the letters that fit, but for those being replayed at this moment.

        Args:
            id: Of one letter.
            topic: As for `list`.
            subscription: As for `list`.
            reason: As for `list`.

        Returns:
            How many were forgotten; 0 if none fits.

        Raises:
            ConfigurationError: A filter is wrong, as for `list`.
        """
        fitting = self._select(id, topic, subscription, reason)
        forgotten = [letter for letter in fitting if letter.id not in self._replaying]
        for letter in forgotten:
            self.remove(letter)
        self.discarded(forgotten)
        return len(forgotten)

    def _select(
        self,
        id: str | None,  # noqa: A002 - the field's name
        topic: str | None,
        subscription: str | None,
        reason: DeadReason | str | None,
    ) -> builtins.list[DeadLetter]:
        pattern = None if topic is None else Pattern(topic)
        why = None if reason is None else reason_of(reason)
        letters = [*self._letters.values()]
        if id is not None:
            letters = [self._letters[id]] if id in self._letters else []
        return [
            letter
            for letter in letters
            if (pattern is None or pattern.matches(letter.event.topic))
            and (subscription is None or letter.subscription == subscription)
            and (why is None or letter.reason == why)
        ]

    def _insert(self, letter: DeadLetter) -> None:
        key = (letter.subscription, letter.reason)
        self._count += 1
        self._letters[letter.id] = self._newest = letter
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = OrderedDict()
        group[letter.id] = self._count
        if len(group) > self._listed.get(key, 0):
            self._rank(key, group)

    def remove(self, letter: DeadLetter) -> None:
        """Take a letter out; one that has left already is no error."""
        if self._letters.pop(letter.id, None) is None:
            return
        if self._newest is letter:
            self._newest = None
        key = (letter.subscription, letter.reason)
        group = self._groups[key]
        del group[letter.id]
        if not group:
            del self._groups[key], self._listed[key]

    def _rank(self, key: tuple[str, DeadReason], group: OrderedDict[str, int]) -> None:
        """Push a group that has grown; rebuild the heap when most of it no longer holds."""
        self._listed[key] = len(group)
        if len(self._heap) < 2 * len(self._groups) + 64:
            heappush(self._heap, _standing(key, group))
        else:
            self._heap = [_standing(each, its) for each, its in self._groups.items()]
            heapify(self._heap)
            self._listed = {each: len(its) for each, its in self._groups.items()}

    def _evict(self) -> DeadLetter:
        """Take out the oldest letter of the largest group; of the older group if equal."""
        heap = self._heap
        while True:
            size, _, key = top = heap[0]
            group = self._groups.get(key)
            if group is None or -size != self._listed[key]:
                heappop(heap)
                continue
            standing = _standing(key, group)
            if standing != top:
                self._listed[key] = len(group)
                heapreplace(heap, standing)
                if heap[0] is not standing:
                    continue
            victim = self._letters.pop(group.popitem(last=False)[0])
            if not group:
                del self._groups[key], self._listed[key]
            return victim

    def _free_frames_before(self, letter: DeadLetter) -> None:
        """Let go of the frames of the newest letter's error, which `letter` is about to replace."""
        newest = self._newest
        if newest is not None and newest.error is not None and newest.error is not letter.error:
            for error in own_chain(newest.error, FREED):
                BaseException.with_traceback(error, None)  # works on frozen classes too


def _standing(
    key: tuple[str, DeadReason], group: OrderedDict[str, int]
) -> tuple[int, int, tuple[str, DeadReason]]:
    """Return what orders the groups: most letters first, then the oldest letter first."""
    return -len(group), next(iter(group.values())), key


def reason_of(value: DeadReason | str) -> DeadReason:
    """Return a reason by its name; a ConfigurationError names those there are."""
    try:
        return DeadReason(value)
    except ValueError:
        names = ", ".join(DeadReason)
        raise ConfigurationError(f"reason must be one of {names}, not {value!r}") from None
