"""Workplace: what an actor's parts need to know of what is above them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from actorbus.delivery import Delivery, Nap
from actorbus.event import Event
from actorbus.subscription import Subscription
from actorbus.threads import Job
from actorbus.words import ActorState, DeadReason


class Host(Protocol):
    """What the staff and the life of an actor need to know of their bus."""

    name: str
    histograms: bool
    longest_nap: float
    busy: set[Subscription]
    naps: dict[Nap, None]
    copies: bool
    draining: bool
    face: Any

    @property
    def running(self) -> bool:
        """Whether actors may work."""

    def keep(self, task: asyncio.Task[Any], owner: str, *, step: bool = False) -> None:
        """Hold a task strongly until it ends; a step of a life is nobody's handler."""

    def lend(self, job: Job, owner: str) -> None:
        """Run a job in a thread."""

    def quiet(self) -> None:
        """Look whether somebody waits for the bus to be idle."""

    def announce(self, topic: str, data: object) -> None:
        """Publish an event of the bus's own."""

    def retire(self, subscription: Subscription) -> bool:
        """Route nothing more to a subscription."""

    def forget(self, subscription: Subscription) -> None:
        """Close the books of a subscription that has ended."""

    def collapse(self, error: BaseException) -> None:
        """Close the bus because an actor gave up for all of it."""


class Workplace(Protocol):
    """What a worker needs to know of the actor it works for."""

    sub: Subscription
    histograms: bool
    call: Callable[[Any], Any]
    prepare: Callable[[Event], Any]
    resume: deque[Delivery]
    naps: dict[Nap, None]
    finishing: bool
    probing: bool
    state: ActorState
    together: bool
    keys: Any

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop."""

    @property
    def longest_nap(self) -> float:
        """Seconds a retry may be put off."""

    def rouse(self) -> None:
        """Set a sleeping worker to work, or hire one."""

    def sleeps(self, worker: Any) -> None:
        """Take note that a worker has nothing to do."""

    def interrupted(self, delivery: Delivery, *, between: bool = False) -> None:
        """Keep a delivery that was cut short, to be run first."""

    def judge(self, error: BaseException, event: Event | None) -> bool:
        """Decide what a failure means for the actor; return whether the worker goes on."""

    def probed(self) -> None:
        """Take note that the probe of a suspended actor was acked."""

    def abandon(self, worker: Any, reason: DeadReason | None) -> None:
        """Take the delivery from a worker whose handler will not end."""

    def lend(self, job: Job) -> None:
        """Run a job in a thread of the bus."""
