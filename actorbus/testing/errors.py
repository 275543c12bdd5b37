"""What ends a simulation, beside the exceptions of what is simulated."""

from __future__ import annotations

from collections.abc import Sequence

from actorbus.errors import ActorBusError


class SimulationDeadlock(ActorBusError, RuntimeError):  # noqa: N818 the contract's name
    """Nothing can run and no timer is set, yet the scenario has not ended.

    Attributes:
        tasks: Each task that waits, and where.
        mailboxes: Each mailbox that holds something or is waited for.
    """

    def __init__(self, tasks: Sequence[str], mailboxes: Sequence[str]) -> None:
        self.tasks = tuple(tasks)
        self.mailboxes = tuple(mailboxes)
        lines = [f"  task {each}" for each in self.tasks]
        lines += [f"  mailbox {each}" for each in self.mailboxes]
        super().__init__("\n".join(["nothing can run and no timer is set:", *lines]))


class StepLimitError(ActorBusError, RuntimeError):
    """The scenario had not ended after the greatest number of steps allowed.

    Attributes:
        steps: How many were allowed.
        busiest: The tasks with the most steps, and how many each took.
    """

    def __init__(self, steps: int, busiest: Sequence[tuple[str, int]]) -> None:
        self.steps = steps
        self.busiest = tuple(busiest)
        names = ", ".join(f"{name} ({count:,})" for name, count in self.busiest)
        super().__init__(f"not at its end after max_steps={steps:,}; the busiest: {names}")


class SweepFailure(ActorBusError, AssertionError):  # noqa: N818 the contract's name
    """A scenario failed under one of the seeds; ``__cause__`` is what it raised.

    Attributes:
        seed: The first seed that failed.
        policy: The policy it ran under.
        replay: The line of Python that runs it again.
        passed: How many seeds passed before.
    """

    def __init__(self, seed: int, policy: str, replay: str, passed: int, what: str) -> None:
        self.seed = seed
        self.policy = policy
        self.replay = replay
        self.passed = passed
        super().__init__(
            f"seed {seed} fails after {passed:,} that passed: {what}\nreplay: {replay}"
        )
