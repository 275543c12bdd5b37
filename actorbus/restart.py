"""Restart: how often an actor may be started anew, and how long to wait before. Pure.

Invariants:
    - Of any restarts a `Window` allowed, no more than ``limit`` lie within ``within`` seconds of
      one another, both ends included.
    - A delay of a `Backoff` lies in [0, ``min(cap, base * 2 ** k)``] after k failures in a row.

A decision is O(1); a window holds at most ``limit`` numbers and none before its first restart.

The sliding window is that of OTP's ``supervisor`` (restart intensity and period), with one
difference: here it is the actor's own, not one shared by all children of a supervisor.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from actorbus.checks import choice, seconds, whole
from actorbus.words import GiveUp

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How many restarts an actor may have, and what happens when they are spent.

    With ``max_restarts=n`` the n-th restart in the window still happens; the next failure gives up.

    Attributes:
        max_restarts: Restarts within the window; 0 gives up at the first failure.
        within: Seconds, the length of the sliding window; more than 0.
        on_give_up: What happens where no supervisor is left to ask: ``"suspend"``, ``"stop"`` or
            ``"raise"``. Always a `GiveUp` once made.

    Raises:
        ConfigurationError: An option is out of range or of the wrong type.
    """

    max_restarts: int = 5
    within: float = 30.0
    on_give_up: GiveUp | Literal["suspend", "stop", "raise"] = GiveUp.SUSPEND

    def __post_init__(self) -> None:
        """Check every option and bring it into its one form."""
        keep = object.__setattr__  # the way into a frozen dataclass
        keep(self, "max_restarts", whole("max_restarts", self.max_restarts))
        keep(self, "within", seconds("within", self.within))
        keep(self, "on_give_up", choice("on_give_up", GiveUp, self.on_give_up))


class Window:
    """A budget of so many entries within so many seconds, sliding.

    Args:
        limit: Entries allowed within the window.
        within: Seconds, the length of the window.
    """

    __slots__ = ("_times", "limit", "within")

    def __init__(self, limit: int, within: float) -> None:
        self.limit = limit
        self.within = within
        self._times: deque[float] | None = None  # most actors never restart

    def allow(self, now: float) -> bool:
        """Record one entry if the budget has room for it.

        Args:
            now: Seconds on a clock that never goes back.

        Returns:
            Whether it was recorded: fewer than `limit` entries lie within the last `within`
            seconds. One that is refused is not recorded and costs nothing later.
        """
        times = self._times
        if times is None:
            times = self._times = deque()
        if len(times) >= self.limit:  # in order, so the oldest alone decides
            if not times or now - times[0] <= self.within:
                return False
            times.popleft()
        times.append(now)
        return True

    def clear(self) -> None:
        """Forget every entry."""
        self._times = None


class Backoff:
    """Delays between the restarts of one actor: doubling, with full jitter.

    Args:
        base: Seconds, the longest first delay.
        cap: Seconds, the longest of all.
        reset_after: Seconds without a failure after which counting starts over.
    """

    __slots__ = ("_failures", "_last", "base", "cap", "reset_after")

    def __init__(self, base: float = 0.2, cap: float = 30.0, reset_after: float = 60.0) -> None:
        self.base = base
        self.cap = cap
        self.reset_after = reset_after
        self._failures = 0
        self._last = -math.inf

    def next(self, now: float, random: Callable[[], float]) -> float:
        """Count a failure and return the delay before the restart it asks for.

        Args:
            now: Seconds on a clock that never goes back.
            random: Returns a float in [0, 1); called once.

        Returns:
            Seconds in [0, ``min(cap, base * 2 ** k)``], k being the failures in a row before this
            one.
        """
        if now - self._last > self.reset_after:
            self._failures = 0
        longest = doubling(self._failures, self.base, self.cap)
        self._failures += 1
        self._last = now
        return longest * random()


def doubling(k: int, base: float, cap: float) -> float:
    """Return `base` doubled `k` times, at most `cap`.

    The waits between the probes of a suspended actor are these, without chance: 60 s doubling to
    900 s.

    Args:
        k: How often to double, from 0.
        base: Seconds at the start.
        cap: Seconds at most.

    Returns:
        Seconds, ``min(cap, base * 2 ** k)``; never an overflow.
    """
    return min(cap, base * 2.0 ** min(k, 1000))
