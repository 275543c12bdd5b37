"""`bus.run`: a whole program in one call, in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from actorbus import ActorBusError, EventBus

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.e2e

HEAD = """
import asyncio, logging, os, sys
from actorbus import *
# A debugging loop says which of its calls took 0.1 s, as any may on a busy machine.
logging.getLogger("asyncio").addFilter(lambda record: not record.msg.startswith("Executing"))
bus = EventBus("program")
def say(*words): print(*words, flush=True)
@bus.subscribe("work")
async def work(seconds):
    say("working")
    await asyncio.sleep(seconds)
    say("worked")
"""


def start(body: str) -> subprocess.Popen[str]:
    """Start a program."""
    return subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", HEAD + textwrap.dedent(body)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=ROOT,
    )  # fmt: skip


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    """Read lines until one comes."""
    assert process.stdout is not None
    for got in process.stdout:
        if got.strip() == line:
            return
    raise AssertionError(f"no {line!r}: {process.stderr.read() if process.stderr else ''}")


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end; return code, the rest of the output, and errors."""
    out, err = process.communicate(timeout=20)
    return process.returncode, out, err


def test_it_returns_what_main_returns_and_drains() -> None:
    """The bus runs while main does; what it published is handled before `run` returns."""
    process = start(
        """
        async def main():
            bus.publish("work", 0.05)
            return 42
        say("result", bus.run(main))
        """
    )
    code, out, err = finish(process)
    assert (code, out.split("\n")[:3], err) == (0, ["working", "worked", "result 42"], "")


def test_it_raises_what_main_raises_after_the_drain() -> None:
    """An error of main passes through, and accepted work is finished first."""
    process = start(
        """
        async def main():
            bus.publish("work", 0.05)
            raise LookupError("lost")
        try:
            bus.run(main)
        except LookupError as error:
            say("raised", error)
        """
    )
    code, out, err = finish(process)
    assert (code, out.split("\n")[:3], err) == (0, ["working", "worked", "raised lost"], "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_without_main_it_serves_until_a_signal(number: int) -> None:
    """The first signal drains, and the program ends with 0."""
    process = start(
        """
        class Opener(Actor):
            async def on_start(self): self.bus.publish("work", 0.3)
            async def receive(self, event): pass
        bus.spawn(Opener)
        say("result", bus.run())
        """
    )
    wait_for(process, "working")
    process.send_signal(number)
    code, out, err = finish(process)
    assert (code, out.split("\n")[:2], err) == (0, ["worked", "result None"], "")


def test_the_first_signal_cancels_main_and_drains() -> None:
    """Main sees its cancellation, then accepted work is finished, then the program ends with 0."""
    process = start(
        """
        async def main():
            bus.publish("work", 0.3)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                say("cancelled")
                raise
        say("result", bus.run(main))
        """
    )
    wait_for(process, "working")
    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 0, err
    assert out.split("\n")[:3] == ["cancelled", "worked", "result None"]
    assert err == ""


def test_main_may_answer_a_signal_with_a_result() -> None:
    """What main returns when it is cancelled is the result."""
    process = start(
        """
        async def main():
            say("ready")
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                return "saved"
        say("result", bus.run(main))
        """
    )
    wait_for(process, "ready")
    process.send_signal(signal.SIGINT)
    assert finish(process) == (0, "result saved\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_exits_at_once(number: int) -> None:
    """While the first drains, the second ends the program with 128 and its number."""
    process = start(
        """
        async def main():
            bus.publish("work", 30)
            try:
                await asyncio.sleep(60)
            finally:
                say("cancelled")
        bus.run(main)
        """
    )
    wait_for(process, "working")
    process.send_signal(signal.SIGTERM)
    wait_for(process, "cancelled")
    process.send_signal(number)
    assert finish(process)[0] == 128 + number


def test_a_signal_while_the_actors_start_is_not_lost() -> None:
    """A signal that comes before main has begun cancels it all the same."""
    process = start(
        """
        class Slow(Actor):
            async def on_start(self):
                say("starting")
                await asyncio.sleep(0.5)
            async def receive(self, event): pass
        bus.spawn(Slow)
        async def main():
            await asyncio.sleep(15)
            say("main was not cancelled")
        say("result", bus.run(main))
        """
    )
    wait_for(process, "starting")
    process.send_signal(signal.SIGTERM)
    assert finish(process) == (0, "result None\n", "")


def test_an_actor_may_end_the_program() -> None:
    """`on_give_up="raise"` raises the actor's error from `run`."""
    process = start(
        """
        @bus.subscribe("t", retry=RetryPolicy.none(), on_failure="restart",
                       restart=RestartPolicy(max_restarts=0, on_give_up="raise"))
        async def broken(data): raise LookupError("broken")
        async def main():
            bus.publish("t")
            await asyncio.sleep(60)
        try:
            bus.run(main)
        except LookupError as error:
            say("raised", error)
        """
    )
    code, out, _ = finish(process)
    assert (code, out) == (0, "raised broken\n")


def test_it_owns_the_loop() -> None:
    """Inside a running loop `run` is refused, and two runs may follow each other."""
    process = start(
        """
        async def main():
            bus.publish("work", 0)
            other = EventBus("other")
            try:
                other.run()
            except RuntimeError as error:
                say("refused")
        bus.run(main)
        bus.run(main)
        """
    )
    code, out, err = finish(process)
    assert code == 0, err
    assert out.split() == ["refused", "working", "worked"] * 2


def test_it_runs_outside_the_main_thread_too() -> None:
    """Without signals, which only the main thread hears."""
    bus = EventBus("test")
    results: list[object] = []

    async def main() -> int:
        return 3

    thread = threading.Thread(target=lambda: results.append(bus.run(main)))
    thread.start()
    thread.join(10)
    assert results == [3]
    with pytest.raises(ActorBusError):
        bus.publish("t")
