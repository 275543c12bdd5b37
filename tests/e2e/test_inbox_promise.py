"""Effectively once in a real process that is killed: each event's effect is there, and once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e import effects
from tests.e2e.lives import Durability
from tests.e2e.test_promise import kill_again_and_again

if sys.platform == "win32":
    pytest.skip("it has no kill -9", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.mark.parametrize("durability", ["power", "process"])
def test_whenever_it_is_killed_an_acknowledged_event_takes_effect_once(
    tmp_path: Path, durability: Durability
) -> None:
    """For each of three subscriptions, though all but a few events are published twice."""
    kill_again_and_again(effects.live, tmp_path, durability, 2.4)
    found = effects.look(tmp_path)
    sys.stdout.write(f"\n{durability}: {found}\n")
    assert found.acknowledged > 0
    assert found.missing == []
    assert found.double == []
    assert found.invented == set()
    assert found.left == 0
    assert found.runs > found.rows, "nothing was tried twice: this has shown nothing"
