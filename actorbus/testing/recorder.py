"""Recorder: what was published, and assertions that show what was published instead.

An event is recorded by the publish call itself, so there is nothing to wait for before an assertion
about it. A recorder is a stream, not a subscriber: it answers no ask and holds up nobody.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from actorbus.bus import EventBus
from actorbus.event import Event
from actorbus.explain import distance
from actorbus.tap import Tap, parse_patterns
from actorbus.topic import Pattern

ANY: Final[Any] = type("Any", (), {"__repr__": lambda _: "ANY"})()
"""Any payload at all."""

SHOWN = 20  # events a failure shows


class Recorder:
    """Every event that is published on a bus and matches, in order.

    Args:
        bus: The bus; it need not run yet.
        patterns: What to record; everything if there is none.

    Raises:
        InvalidPatternError: A pattern breaks the grammar.
    """

    def __init__(self, bus: EventBus, *patterns: str) -> None:
        parsed = parse_patterns(patterns or ("**",))
        self._tap = _Recording(f"recorder:{','.join(map(str, parsed))}", parsed)
        self._registry = bus._engine.registry
        self._registry.add_tap(self._tap)

    @property
    def events(self) -> tuple[Event, ...]:
        """The events so far."""
        return tuple(self._tap.events)

    @property
    def topics(self) -> list[str]:
        """Their topics."""
        return [event.topic for event in self._tap.events]

    @property
    def data(self) -> list[Any]:
        """Their payloads."""
        return [event.data for event in self._tap.events]

    def __len__(self) -> int:
        return len(self._tap.events)

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __getitem__(self, index: int) -> Event:
        return self._tap.events[index]

    def __repr__(self) -> str:
        """Show what it records and how much there is; payloads stay out of logs."""
        return f"<Recorder {', '.join(map(str, self._tap.patterns))}: {len(self)} events>"

    def clear(self) -> None:
        """Forget the events so far."""
        self._tap.events.clear()

    def close(self) -> None:
        """Record nothing more."""
        self._registry.remove_tap(self._tap)

    def assert_published(
        self,
        pattern: str,
        data: Any = ANY,
        *,
        times: int | None = None,
        where: Callable[[Event], Any] | None = None,
    ) -> Event | None:
        """Assert that an event was published.

        Args:
            pattern: A topic or a pattern.
            data: The payload it must be equal to.
            times: How often exactly; None for at least once.
            where: Takes the event and says whether it is one of those meant.

        Returns:
            The first of them; None if there is none and `times` is 0.

        Raises:
            AssertionError: It was not; the text shows what was, and what comes near.
            InvalidPatternError: `pattern` breaks the grammar.
        """
        __tracebackhide__ = True
        wanted = Pattern(pattern)
        found = [
            event
            for event in self._tap.events
            if wanted.matches(event.topic)
            and (data is ANY or event.data == data)
            and (where is None or where(event))
        ]
        if bool(found) if times is None else len(found) == times:
            return found[0] if found else None
        raise AssertionError(self._failure(wanted, data, times, where is not None, len(found)))

    def assert_not_published(
        self, pattern: str, data: Any = ANY, *, where: Callable[[Event], Any] | None = None
    ) -> None:
        """Assert that no such event was published; the arguments are those of `assert_published`.

        Raises:
            AssertionError: There was one.
            InvalidPatternError: `pattern` breaks the grammar.
        """
        __tracebackhide__ = True
        self.assert_published(pattern, data, times=0, where=where)

    def _failure(
        self, wanted: Pattern, data: Any, times: int | None, narrowed: bool, found: int
    ) -> str:
        meant = (
            f"{wanted}" + ("" if data is ANY else f" with {_show(data)}") + " where ..." * narrowed
        )
        if times is None:
            head = f"{meant} was not published"
        else:
            head = f"{meant} was published {_often(found)}, not {_often(times)}"
        events = self._tap.events
        if not events:
            recorded = ", ".join(map(str, self._tap.patterns))
            return f"{head}; nothing that matches {recorded} was"
        lines = [head, f"published ({len(events)}):"]
        if len(events) > SHOWN:
            lines.append(f"  {len(events) - SHOWN} before")
        for event in events[-SHOWN:]:
            why = _miss(event, wanted, data)
            lines.append(f"  {event.topic} {_show(event.data)}" + (f"   <- {why}" if why else ""))
        return "\n".join(lines)


class _Recording(Tap):
    """The stream of a recorder."""

    def __init__(self, name: str, patterns: tuple[Pattern, ...]) -> None:
        super().__init__(name, patterns)
        self.events: list[Event] = []

    def take(self, event: Event) -> None:
        """Take an event."""
        self.events.append(event)


def _often(times: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(times, f"{times} times")


def _miss(event: Event, wanted: Pattern, data: Any) -> str:
    """Return why an event that comes near is not the one, or nothing for one that does not."""
    if not wanted.matches(event.topic):
        near = distance(event.topic, wanted)
        return near[1] if near is not None else ""
    if data is not ANY and event.data != data:
        return _difference(event.data, data)
    return "this one"


def _difference(given: Any, wanted: Any) -> str:
    if type(given) is dict and type(wanted) is dict:
        keys = [*wanted, *(key for key in given if key not in wanted)]
        wrong = [_wrong(key, given, wanted) for key in keys]
        return "; ".join(list(filter(None, wrong))[:3])
    if type(given) is not type(wanted):
        return f"is {type(given).__name__}, not {type(wanted).__name__}"
    return "another payload"


def _wrong(key: Any, given: dict[Any, Any], wanted: dict[Any, Any]) -> str:
    if key not in given:
        return f"{_show(key)} is missing"
    if key not in wanted:
        return f"{_show(key)} is not wanted"
    if given[key] == wanted[key]:
        return ""
    return f"{_show(key)} is {_show(given[key])}, not {_show(wanted[key])}"


_short = reprlib.Repr()
_short.maxstring, _short.maxother, _short.maxlevel = 80, 120, 4
_short.maxdict = _short.maxlist = _short.maxtuple = 12


def _show(value: Any) -> str:
    try:
        return _short.repr(value)
    except Exception as flaw:  # noqa: BLE001 a user's repr; the assertion matters more
        return f"<{type(value).__name__}, whose repr raises {type(flaw).__name__}>"
