"""Time that does not go back, from a clock that may.

Ids are remembered for a window of time. The only clock there is tells the time of day, and
somebody may set it. So ages are counted on a time of the journal's own: it follows the clock
forwards, stands still while the clock is a little behind, and after a longer step back goes on from
where it was. A step back makes an id last two windows at most, and never for ever.
"""

from __future__ import annotations


class JournalClock:
    """The journal's own time.

    Args:
        window: Seconds an id is remembered.
        newest: The latest time already given out.

    Attributes:
        newest: The latest time given out.
    """

    __slots__ = ("_lead", "newest", "window")

    def __init__(self, window: float, newest: float = float("-inf")) -> None:
        self.window = window
        self.newest = newest
        self._lead = 0.0

    def at(self, time: float) -> float:
        """Return the journal's time when the clock shows `time`."""
        if time + self._lead < self.newest - self.window:
            self._lead = self.newest - time  # set back: go on from here
        self.newest = max(self.newest, time + self._lead)
        return self.newest

    def copy(self) -> JournalClock:
        """Return a clock that goes on from here on its own."""
        twin = JournalClock(self.window, self.newest)
        twin._lead = self._lead
        return twin
