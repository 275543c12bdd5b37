"""The promise of a durable bus, each clause in real processes with the fault it speaks of."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import lives

if sys.platform == "win32":
    pytest.skip("it has no kill -9 and no fork", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("ACTORBUS_KILLS", "8"))
"""How often a program is killed in each durability; 200 for a thorough look."""
LONG = 60.0
"""Seconds after which a process that has not come to its end hangs."""

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.e2e.lives"])


def begin(target: Any, *args: Any, **kwargs: Any) -> BaseProcess:
    """Start a function in a process of its own."""
    process = processes.Process(target=target, args=args, kwargs=kwargs)
    process.start()
    return process


def end(process: BaseProcess) -> int | None:
    """Wait for the end of a process; return its exit code, None if it hangs."""
    process.join(LONG)
    code = process.exitcode
    if code is None:
        process.kill()
        process.join()
    return code


# -- kill -9 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["power", "process"])
def test_whenever_it_is_killed_nothing_acknowledged_is_lost(
    tmp_path: Path, durability: lives.Durability
) -> None:
    """What is acknowledged is handled, in order at first, little of it twice; no row is double."""
    chance = random.Random(f"{durability} {KILLS}")  # noqa: S311 - only when to kill
    for life in range(KILLS):
        process = begin(lives.live, tmp_path, durability, life)
        process.join(chance.random() ** 2 * 1.2)
        assert process.exitcode is None, "it has ended by itself"
        process.kill()
        process.join()
    assert end(begin(lives.live, tmp_path, durability, KILLS, last=True)) == 0

    found = lives.look(tmp_path, KILLS)
    sys.stdout.write(f"\n{durability}: {found}\n")
    nothing: dict[str, set[str]] = {name: set() for name in lives.DURABLES}
    assert found.acknowledged > 0
    assert found.lost == set()
    assert found.duplicate_rows == set()
    assert found.never == nothing
    assert found.invented == nothing
    assert not any(found.disorder.values())
    assert found.left == []
    for name, options in lives.DURABLES.items():
        assert max(found.again[name]) <= lives.ROOM + options.get("concurrency", 1)
