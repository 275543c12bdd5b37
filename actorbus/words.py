"""The enumerations: every closed set of words a user meets.

Each is a ``StrEnum``: a member equals its string, and every option that takes a member takes the
string too.
"""

from __future__ import annotations

from enum import StrEnum


class DeadReason(StrEnum):
    """Why a delivery was given up."""

    REJECTED = "rejected"
    RETRIES_EXHAUSTED = "retries_exhausted"
    INVALID_PAYLOAD = "invalid_payload"
    TIMEOUT_IGNORED = "timeout_ignored"
    POISON = "poison"
    INTERRUPTED = "interrupted"
    OVERFLOW = "overflow"
    OVERFLOW_TIMEOUT = "overflow_timeout"
    STALLED = "stalled"
    DEADLOCK = "deadlock"
    MAX_HOPS = "max_hops"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    LOOP_CLOSED = "loop_closed"
    DRAIN_TIMEOUT = "drain_timeout"
    COMMIT_FAILED = "commit_failed"
    CHECKSUM = "checksum"


class ActorState(StrEnum):
    """Where an actor is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Outcome(StrEnum):
    """How a delivery settled."""

    ACKED = "acked"
    DEAD = "dead"
    CONFLATED = "conflated"


class Overflow(StrEnum):
    """What a full mailbox does with one more delivery."""

    BLOCK = "block"
    DROP_NEW = "drop_new"
    DROP_OLD = "drop_old"
    LATEST = "latest"
    FAIL = "fail"


class Directive(StrEnum):
    """What becomes of an actor after a delivery of its was given up."""

    RESUME = "resume"
    RESTART = "restart"
    STOP = "stop"
    ESCALATE = "escalate"


class Strategy(StrEnum):
    """Which siblings share the restart of a child."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"


class GiveUp(StrEnum):
    """What happens when the restart budget is spent and no supervisor is left to ask."""

    SUSPEND = "suspend"
    STOP = "stop"
    RAISE = "raise"


class Guarantee(StrEnum):
    """How often a delivery may be run."""

    AT_LEAST_ONCE = "at_least_once"
    AT_MOST_ONCE = "at_most_once"
