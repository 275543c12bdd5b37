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


class Threads:
    """A bounded pool of daemon threads.

    Args:
        limit: Threads at most.
        name: Prefix of their names.
    """

    def __init__(self, limit: int, name: str) -> None:
        self.limit = limit
        self._name = name
        self._jobs: deque[Callable[[], None]] = deque()
        self._state = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._made = 0
        self._closing = False

    @property
    def busy(self) -> int:
        """Jobs that run now or wait for a thread."""
        with self._state:
            return len(self._threads) - self._idle + len(self._jobs)

    def submit(self, job: Callable[[], None]) -> bool:
        """Run a job in a thread.

        Args:
            job: Called once; must not raise.

        Returns:
            Whether a thread takes it at once; False when all are taken and it has to wait.
        """
        with self._state:
            self._closing = False
            self._jobs.append(job)
            if self._idle >= len(self._jobs):
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
            idle = self._idle
            threads = list(self._threads)
            self._state.notify_all()
        if idle == len(threads):
            for thread in threads:
                thread.join(1.0)

    def _hire(self) -> None:
        self._made += 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._made}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job()
            del job  # whatever it holds is not ours to keep alive

    def _next(self) -> Callable[[], None] | None:
        with self._state:
            self._idle += 1
            while not self._jobs:
                if self._closing or not (self._state.wait(IDLE) or self._jobs):
                    self._idle -= 1
                    self._threads.discard(threading.current_thread())
                    return None
            self._idle -= 1
            return self._jobs.popleft()
