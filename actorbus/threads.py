"""Threads for handlers that block: daemon, made on demand, ended when idle.

Not the event loop's default executor, which DNS look-ups and files share and which the interpreter
joins at exit: here a handler may block for ever and hold up nothing but itself.

Invariants: at most `limit` threads; a job runs once, in order of submission, as soon as a thread is
free. A thread that has been idle for ten seconds ends.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

IDLE = 10.0  # seconds after which an idle thread ends

Job = Callable[[], Callable[[], None] | None]


class Threads:
    """A bounded pool of daemon threads.

    Args:
        limit: Threads at most.
        name: Prefix of their names.
        exhausted: Called when a job has to wait for a thread and the one before had not.
    """

    def __init__(self, limit: int, name: str, exhausted: Callable[[], None] = lambda: None) -> None:
        self.limit = limit
        self._exhausted = exhausted
        self._waits = False
        self._lent: dict[object, str] = {}
        self._name = name
        self._jobs: deque[Job] = deque()
        self._state = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._working: set[threading.Thread] = set()
        self._telling = 0  # of the idle ones
        self._made = 0
        self._closing = False

    @property
    def busy(self) -> int:
        """Jobs that run now or wait for a thread."""
        with self._state:
            return len(self._working) + len(self._jobs) + self._telling

    @property
    def owners(self) -> set[str]:
        """Whose jobs run now or wait for a thread."""
        return set(self._lent.copy().values())

    def heeded_by(self, loop: object) -> None:
        """Let a loop with virtual time wait for them; any other takes no notice."""
        heed = getattr(loop, "heed", None)
        if heed is not None:
            heed(self)

    def lend(self, job: Job, owner: str) -> None:
        """Run a job in a thread, and remember whose it is until it ends."""
        token = object()
        self._lent[token] = owner

        def run() -> Callable[[], None] | None:
            try:
                return job()
            finally:
                self._lent.pop(token, None)

        waited, self._waits = self._waits, not self.submit(run)
        if self._waits and not waited:
            self._exhausted()

    def submit(self, job: Job) -> bool:
        """Run a job in a thread.

        Args:
            job: Called once; must not raise. What it returns is called when the thread counts as
                idle again, so whoever is told of the job's end by it can rely on that.

        Returns:
            Whether a thread takes it at once; False when all are taken and it has to wait.
        """
        with self._state:
            self._closing = False
            self._jobs.append(job)
            if len(self._threads) - len(self._working) >= len(self._jobs):
                self._state.notify()
                return True
            if len(self._threads) < self.limit:
                self._hire()
                return True
            return False

    def close(self) -> None:
        """End every idle thread and wait for it; a busy one ends after its job."""
        with self._state:
            self._closing = True
            idle = self._threads - self._working
            self._state.notify_all()
        for thread in idle:
            thread.join(1.0)

    def _hire(self) -> None:
        self._made += 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._made}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            told = job()
            del job  # whatever it holds is not ours to keep alive
            if told is not None:
                self._tell(told)
            del told

    def _tell(self, told: Callable[[], None]) -> None:
        with self._state:
            self._working.discard(threading.current_thread())
            self._telling += 1
        told()
        with self._state:
            self._telling -= 1

    def _next(self) -> Job | None:
        me = threading.current_thread()
        with self._state:
            self._working.discard(me)
            while not self._jobs:
                if self._closing or not (self._state.wait(IDLE) or self._jobs):
                    self._threads.discard(me)
                    return None
            self._working.add(me)
            return self._jobs.popleft()
