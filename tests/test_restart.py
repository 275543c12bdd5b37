"""RestartPolicy, Window and Backoff: budgets and delays of restarts."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import repeat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actorbus.errors import ConfigurationError
from actorbus.restart import Backoff, RestartPolicy, Window, doubling
from actorbus.words import GiveUp

steps = st.lists(st.integers(0, 5), max_size=60)  # whole seconds between failures: ties are common
chance = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 4), st.integers(1, 12), steps)
def test_the_window_is_what_counting_says(limit: int, within: int, gaps: list[int]) -> None:
    """A restart is allowed exactly when fewer than limit allowed ones lie in the last within s."""
    window, allowed, now = Window(limit, within), list[int](), 0
    for gap in gaps:
        now += gap
        wanted = sum(now - then <= within for then in allowed) < limit
        assert window.allow(now) is wanted
        if wanted:
            allowed.append(now)
        assert len(window._times or ()) <= limit


@given(st.integers(0, 4), st.floats(0.1, 10), st.lists(st.floats(0, 5), max_size=60))
def test_no_window_ever_holds_more_than_the_limit(
    limit: int, within: float, gaps: list[float]
) -> None:
    """Of the restarts allowed, never more than limit lie within `within` seconds of each other."""
    window, allowed, now = Window(limit, within), list[float](), 0.0
    for gap in gaps:
        now += gap
        if window.allow(now):
            allowed.append(now)
    for first, past in zip(allowed, allowed[limit:], strict=False):
        assert past - first > within
    assert limit or not allowed


def test_the_nth_restart_happens_and_the_next_is_refused() -> None:
    """With a limit of 3 the third is allowed, the fourth not; a refused one is not recorded."""
    window = Window(3, 30.0)
    assert [window.allow(t) for t in (0.0, 1.0, 2.0, 3.0)] == [True, True, True, False]
    assert not window.allow(30.0)  # 30 s after the first is still within
    assert window.allow(30.5)  # the refused ones at 3 and 30 take no room
    assert not window.allow(30.9)


def test_a_cleared_window_starts_anew() -> None:
    """After clear the whole budget is there again."""
    window = Window(1, 30.0)
    assert window.allow(0.0)
    assert not window.allow(1.0)
    window.clear()
    assert window.allow(1.0)


def test_an_unused_window_holds_nothing() -> None:
    """Before its first restart an actor's window has no container."""
    window = Window(5, 30.0)
    assert window._times is None
    assert not hasattr(window, "__dict__")


@given(st.lists(st.tuples(st.floats(0, 200), chance), max_size=40))
def test_backoff_is_jitter_within_the_doubling(failures: list[tuple[float, float]]) -> None:
    """Each delay is the draw of min(30, 0.2 * 2**k), k counting failures at most 60 s apart."""
    backoff, now, k = Backoff(), 0.0, 0
    for gap, draw in failures:
        past, now = now, now + gap
        if now - past > 60.0:
            k = 0
        assert backoff.next(now, repeat(draw).__next__) == min(30.0, 0.2 * 2**k) * draw
        k += 1


def test_backoff_starts_over_only_after_more_than_reset_after() -> None:
    """A failure exactly reset_after seconds later still counts as in a row."""
    backoff = Backoff(base=1.0, cap=100.0, reset_after=10.0)
    delays = [backoff.next(now, lambda: 0.5) for now in (0.0, 10.0, 20.0, 30.1, 31.0)]
    assert delays == [0.5, 1.0, 2.0, 0.5, 1.0]


@given(st.integers(0, 10**12), st.floats(1e-3, 1e3), st.floats(0, 1e6))
def test_doubling_never_overflows_nor_passes_its_cap(k: int, base: float, cap: float) -> None:
    """doubling is min(cap, base * 2**k), exactly, for any k."""
    exact = min(Fraction(cap), Fraction(base) * 2 ** min(k, 5000))
    assert doubling(k, base, cap) == float(exact)


def test_probe_delays() -> None:
    """A suspended actor is probed after 60 s, doubling to 15 minutes."""
    assert [doubling(k, 60, 900) for k in range(6)] == [60, 120, 240, 480, 900, 900]


def test_policy_defaults_and_form() -> None:
    """The defaults are the contract's, and a string becomes a GiveUp."""
    policy = RestartPolicy()
    assert (policy.max_restarts, policy.within, policy.on_give_up) == (5, 30.0, GiveUp.SUSPEND)
    policy = RestartPolicy(0, 1, "raise")
    assert policy.on_give_up is GiveUp.RAISE
    assert isinstance(policy.within, float)
    with pytest.raises(AttributeError):
        policy.within = 2.0  # type: ignore[misc]  # frozen, which is the point


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_restarts": -1}, "max_restarts must be at least 0"),
        ({"max_restarts": True}, "max_restarts must be a whole number"),
        ({"max_restarts": 1.5}, "max_restarts must be a whole number"),
        ({"within": 0}, "within must be more than 0"),
        ({"within": -1.0}, "within must be more than 0"),
        ({"within": math.nan}, "within must be finite"),
        ({"within": math.inf}, "within must be finite"),
        ({"within": 10**400}, "within must be finite"),
        ({"within": False}, "within must be a number"),
        ({"within": None}, "within must be a number"),
        ({"on_give_up": "panic"}, "on_give_up must be one of 'suspend', 'stop', 'raise'"),
        ({"on_give_up": None}, "on_give_up must be one of"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], says: str) -> None:
    """The error names the option and says what is wrong with it."""
    with pytest.raises(ConfigurationError) as caught:
        RestartPolicy(**options)
    assert str(caught.value).startswith(says)
