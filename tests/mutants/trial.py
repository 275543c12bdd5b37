"""Trial: a fresh copy of the tree, a fault in it, and pytest to see it.

The checkout is never touched. One copy is made first and its tests are run without any fault, which
also leaves its compiled modules behind; every fault then gets a copy of that one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory, mkstemp
from time import perf_counter
from typing import Any

from tests.mutants.fault import MODELS, ROOT, Fault

LIMIT = 120.0  # seconds one run of pytest may take: a slow machine must catch nothing
PROOF_LIMIT = 600.0  # the same without a fault, where every example is run
HANGS = "at the time limit"
NEEDED = ("actorbus", "tests", "pyproject.toml")


class Result(StrEnum):
    """What a trial came to."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    BROKEN = "broken"  # pytest could not even run: that proves nothing


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one fault.

    Attributes:
        fault: The fault.
        result: Whether it was caught.
        seconds: How long its run took.
        test: The node id of the test that saw it.
        where: The function in the tests in which it was seen: an invariant, for a state machine.
        line: The line of it that failed.
        error: What was raised there; of a broken run, the end of its output.
        examples: Which example or seed was the first to fail; None for a test without.
    """

    fault: Fault
    result: Result
    seconds: float
    test: str | None = None
    where: str | None = None
    line: str | None = None
    error: str | None = None
    examples: int | None = None


class UnsoundError(Exception):
    """The tests fail without any fault, so what they say about one means nothing."""


def copy_tree(source: Path, target: Path) -> None:
    """Copy what the tests need; compiled modules with it, which stay valid."""
    for name in NEEDED:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / name)
        else:
            shutil.copy2(path, target / name)


def run_pytest(root: Path, tests: Iterable[str], limit: float) -> tuple[int | None, str, Any]:
    """Run some tests of a copy.

    Args:
        root: The copy.
        tests: Files or node ids.
        limit: Seconds it may take.

    Returns:
        The exit code, None if it was stopped; the end of the output; what the witness wrote.
    """
    handle, seen = mkstemp(dir=root)
    os.close(handle)
    command = [
        sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider",
        "-p", "tests.mutants.witness", "--witness", seen, *tests,
    ]  # fmt: skip
    environment = {
        **os.environ, "PYTHONPATH": str(root), "HYPOTHESIS_PROFILE": "mutants",
        "PYTHONHASHSEED": "0",
    }  # fmt: skip
    process = subprocess.Popen(
        command, cwd=root, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    code: int | None
    try:
        output, _ = process.communicate(timeout=limit)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with whatever the tests have started
        output, _ = process.communicate()
        code = None
    return code, output.strip()[-2000:], json.loads(Path(seen).read_text() or "{}")


def judge(code: int | None, output: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a verdict says of a run; arguments as `run_pytest` returns them."""
    if code == 0:
        return {"result": Result.SURVIVED}
    if facts.pop("failed", False):
        return {"result": Result.CAUGHT, **facts}
    if facts and code in (None, 1):  # pytest, or its own limit, was stopped inside a test
        return {"result": Result.CAUGHT, "test": facts["test"], "error": HANGS}
    return {"result": Result.BROKEN, "error": output}


def try_fault(fault: Fault, sound: Path) -> Verdict:
    """Plant one fault in a copy of a sound tree and run its tests.

    Args:
        fault: The fault.
        sound: A copy of the tree whose tests pass.

    Returns:
        What became of it.

    Raises:
        StaleFaultError: It does not fit the source.
    """
    with TemporaryDirectory(prefix=f"mutant-{fault.name}-") as folder:
        root = Path(folder)
        copy_tree(sound, root)
        fault.plant(root)
        began = perf_counter()
        fields = judge(*run_pytest(root, fault.seen_by, LIMIT))
        return Verdict(fault, seconds=perf_counter() - began, **fields)


def prove_sound(root: Path, tests: Sequence[str], jobs: int) -> None:
    """Run tests without any fault.

    Raises:
        UnsoundError: One fails; holds the end of pytest's output.
    """
    slow_first = sorted(tests, key=lambda test: test not in MODELS)
    shares = [share for n in range(jobs) if (share := slow_first[n::jobs])]
    with ThreadPoolExecutor(jobs) as pool:
        for code, output, _ in pool.map(lambda share: run_pytest(root, share, PROOF_LIMIT), shares):
            if code != 0:
                raise UnsoundError(output)


def try_all(faults: Sequence[Fault], jobs: int) -> Iterator[Verdict]:
    """Try faults, several at a time; yield the verdicts as they come.

    Args:
        faults: The faults.
        jobs: How many runs of pytest at a time.

    Raises:
        UnsoundError: The tests fail without any fault.
        StaleFaultError: A fault does not fit the source.
    """
    for fault in faults:
        fault.planted((ROOT / fault.path).read_text())
    with TemporaryDirectory(prefix="mutants-") as folder:
        sound = Path(folder)
        copy_tree(ROOT, sound)
        prove_sound(sound, list(dict.fromkeys(t for f in faults for t in f.seen_by)), jobs)
        with ThreadPoolExecutor(jobs) as pool:
            running = [pool.submit(try_fault, fault, sound) for fault in faults]
            try:
                for each in as_completed(running):
                    yield each.result()
            finally:
                pool.shutdown(cancel_futures=True)
