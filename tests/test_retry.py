"""RetryPolicy: delays, budgets, which errors, which options."""

from __future__ import annotations

import asyncio
import math
import pickle
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actorbus.errors import ConfigurationError
from actorbus.retry import Jitter, Reject, RetryAfter, RetryPolicy

seconds = st.just(0.0) | st.floats(1e-6, 1e6)
chance = st.floats(0, 1, exclude_max=True)
policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 50),
    base=seconds,
    factor=st.floats(1, 1e6),
    cap=seconds,
    jitter=st.sampled_from(["full", "none"]),
    max_elapsed=st.none() | seconds,
)
errors = st.sampled_from(
    [
        ValueError("x"),
        KeyError("x"),
        UnicodeError("x"),
        OSError("x"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
        SystemExit(),
        GeneratorExit(),
        Reject("x"),
        RetryAfter(0),
        BaseExceptionGroup("x", [KeyboardInterrupt()]),
    ]
)
kinds = st.sampled_from(
    [Exception, ValueError, LookupError, OSError, asyncio.CancelledError, BaseException]
)
kind_sets = st.lists(kinds, max_size=3)


def never_drawn() -> float:
    raise AssertionError("drew a random number without need")


@given(policies, st.integers(1, 400), chance)
def test_every_delay_lies_in_its_range(policy: RetryPolicy, attempt: int, draw: float) -> None:
    """A delay is never below 0 nor above min(cap, base * factor ** (k - 1))."""
    exact = min(
        Fraction(policy.cap), Fraction(policy.base) * Fraction(policy.factor) ** (attempt - 1)
    )
    delay = policy.delay(attempt, ValueError(), 0.0, lambda: draw)
    assert policy.longest(attempt) == pytest.approx(float(exact), rel=1e-9)
    assert delay is None or 0 <= delay <= policy.longest(attempt) <= policy.cap


@given(policies, st.integers(1, 10**15))
@example(RetryPolicy(base=0), 10**15)
def test_no_number_of_attempts_overflows(policy: RetryPolicy, attempt: int) -> None:
    """The longest delay is a number within the cap for however many attempts."""
    assert 0 <= policy.longest(attempt) <= (policy.cap if policy.base else 0)


@given(policies, st.integers(1, 60), chance)
def test_full_jitter_is_the_draw_of_the_longest(
    policy: RetryPolicy, attempt: int, draw: float
) -> None:
    """Full jitter is uniform in [0, longest]; none is exactly the longest, without a draw."""
    free = RetryPolicy(100, policy.base, policy.factor, policy.cap, "full", None)
    assert free.delay(attempt, ValueError(), 0, lambda: draw) == free.longest(attempt) * draw
    exact = RetryPolicy(100, policy.base, policy.factor, policy.cap, "none", None)
    assert exact.delay(attempt, ValueError(), 0, never_drawn) == exact.longest(attempt)


def test_the_default_delays() -> None:
    """The longest delays double from 0.1 s and stop at the cap of 30 s."""
    policy = RetryPolicy()
    assert [policy.longest(k) for k in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.8]
    assert policy.longest(9) == pytest.approx(25.6)
    assert policy.longest(10) == 30.0
    assert policy.longest(10**9) == 30.0


@given(policies, seconds, chance, st.none() | seconds)
def test_no_attempt_starts_after_max_elapsed(
    policy: RetryPolicy, elapsed: float, draw: float, after: float | None
) -> None:
    """However the delay came about, the next attempt never starts later than max_elapsed."""
    error = ValueError() if after is None else RetryAfter(after)
    delay = policy.delay(1, error, elapsed, lambda: draw)
    if delay is not None and policy.max_elapsed is not None:
        assert elapsed + delay <= policy.max_elapsed


@given(policies, st.integers(1, 100), errors, seconds)
def test_no_delivery_has_more_than_max_attempts(
    policy: RetryPolicy, attempt: int, error: BaseException, elapsed: float
) -> None:
    """After the last attempt there is never another, whatever it raised."""
    if attempt >= policy.max_attempts:
        assert policy.delay(attempt, error, elapsed, never_drawn) is None


def test_a_delay_that_just_fits_is_taken() -> None:
    """An attempt that starts exactly max_elapsed after the first is still made."""
    policy = RetryPolicy(base=10, jitter="none", max_elapsed=15)
    assert policy.delay(1, ValueError(), 5.0, never_drawn) == 10
    assert policy.delay(1, ValueError(), 5.001, never_drawn) is None
    assert RetryPolicy(max_elapsed=None, jitter="none").delay(1, ValueError(), 1e9, never_drawn)


@given(errors, kind_sets.filter(bool), kind_sets)
def test_never_wins_over_on(error: BaseException, on: list[Any], never: list[Any]) -> None:
    """An error in never is not retried, one in on is, a cancellation counts as an Exception."""
    policy = RetryPolicy(on=on, never=never)
    passes_for = ValueError() if isinstance(error, asyncio.CancelledError) else error
    named, barred = (
        isinstance(error, tuple(kinds))
        or (Exception in kinds and isinstance(passes_for, Exception))
        for kinds in (on, never)
    )
    ends = isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, Reject))
    wanted = not ends and not barred and (named or isinstance(error, RetryAfter))
    assert policy.retries(error) is wanted
    assert (policy.delay(1, error, 0.0, lambda: 0.5) is not None) is wanted


@given(seconds, st.integers(1, 10))
def test_retry_after_sets_its_own_delay(wait: float, attempt: int) -> None:
    """RetryAfter is not capped and not drawn, even where `on` does not name it."""
    policy = RetryPolicy(max_attempts=5, cap=0.5, on=OSError, max_elapsed=None)
    wanted = wait if attempt < 5 else None
    assert policy.delay(attempt, RetryAfter(wait), 0.0, never_drawn) == wanted


@pytest.mark.parametrize("kind", [Reject, RetryAfter, asyncio.CancelledError])
def test_named_in_never(kind: type[BaseException]) -> None:
    """never holds for RetryAfter and for a cancellation by name too."""
    error = kind(1) if kind is not asyncio.CancelledError else kind()
    assert RetryPolicy(never=kind).delay(1, error, 0.0, never_drawn) is None


def test_none_is_one_attempt() -> None:
    """RetryPolicy.none() gives up after the first attempt."""
    policy = RetryPolicy.none()
    assert policy.max_attempts == 1
    assert policy.delay(1, ValueError(), 0.0, never_drawn) is None
    assert policy.delay(1, RetryAfter(0), 0.0, never_drawn) is None


def test_options_come_out_in_one_form() -> None:
    """Numbers become floats, one class a tuple, a string a Jitter; equal policies are equal."""
    policy = RetryPolicy(base=1, cap=2, jitter="none", on=[OSError, KeyError], never=ValueError)
    assert policy.on == (OSError, KeyError)
    assert policy.never == (ValueError,)
    assert policy.jitter is Jitter.NONE
    assert isinstance(policy.base, float)
    assert policy == RetryPolicy(
        base=1.0, cap=2.0, jitter=Jitter.NONE, on=(OSError, KeyError), never=(ValueError,)
    )
    assert hash(policy) == hash(pickle.loads(pickle.dumps(policy)))  # noqa: S301 - our own bytes
    with pytest.raises(AttributeError):
        policy.base = 2.0  # type: ignore[misc]  # frozen, which is the point


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_attempts": 0}, "max_attempts must be at least 1"),
        ({"max_attempts": True}, "max_attempts must be a whole number"),
        ({"max_attempts": 2.0}, "max_attempts must be a whole number"),
        ({"base": -0.1}, "base must be at least 0"),
        ({"base": True}, "base must be a number"),
        ({"base": "1"}, "base must be a number"),
        ({"base": math.nan}, "base must be finite"),
        ({"base": 10**400}, "base must be finite"),
        ({"factor": 0.5}, "factor must be at least 1"),
        ({"factor": math.inf}, "factor must be finite"),
        ({"cap": -1}, "cap must be at least 0"),
        ({"cap": math.inf}, "cap must be finite"),
        ({"cap": None}, "cap must be a number"),
        ({"max_elapsed": -1}, "max_elapsed must be at least 0"),
        ({"max_elapsed": math.nan}, "max_elapsed must be finite"),
        ({"jitter": "equal"}, "jitter must be one of 'full', 'none'"),
        ({"jitter": None}, "jitter must be one of 'full', 'none'"),
        ({"jitter": []}, "jitter must be one of 'full', 'none'"),
        ({"on": ()}, "on is empty"),
        ({"on": "ValueError"}, "on must hold exception classes, not 'V'"),
        ({"on": 5}, "on must be an exception class or several, not 5"),
        ({"on": ValueError("x")}, "on must be an exception class"),
        ({"on": (ValueError, int)}, "on must hold exception classes, not <class 'int'>"),
        ({"on": KeyboardInterrupt}, "on holds KeyboardInterrupt, which is never retried"),
        ({"never": int}, "never must hold exception classes"),
        ({"never": [ValueError()]}, "never must hold exception classes"),
        ({"never": None}, "never must be an exception class or several"),
    ],
)
def test_a_wrong_option_is_refused_by_name(options: dict[str, Any], says: str) -> None:
    """The error names the option and says what is wrong with it."""
    with pytest.raises(ConfigurationError) as caught:
        RetryPolicy(**options)
    assert str(caught.value).startswith(says)


@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, True, "1", None])
def test_retry_after_checks_its_seconds(wrong: Any) -> None:
    """RetryAfter takes a finite number of at least 0."""
    with pytest.raises(ConfigurationError, match=r"^seconds must"):
        RetryAfter(wrong)


def test_retry_after_says_how_long_and_why() -> None:
    """RetryAfter shows its fields and survives pickling."""
    error = pickle.loads(pickle.dumps(RetryAfter(1.5, "busy")))  # noqa: S301 - our own bytes
    assert (error.seconds, error.reason, str(error)) == (1.5, "busy", "retry after 1.5 s: busy")
    assert str(RetryAfter(2)) == "retry after 2 s"
