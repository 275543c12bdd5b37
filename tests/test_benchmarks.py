"""The benchmarks run, and what they print and draw follows from the JSON alone. No timing here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CASES = ["drain.100000", "ask.round-trip"]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "benchmarks", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the JSON of a quick run of two cases."""
    path = tmp_path_factory.mktemp("benchmarks") / "run.json"
    ran = run("--quick", "--no-peers", "--only", *CASES, "--json", path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "quick run: nothing judged" in ran.stdout
    return path


def test_a_quick_run_gives_all_that_is_needed_to_judge_it(report: Path) -> None:
    """The JSON holds figures with their baselines, and where they come from; nothing is judged."""
    data: dict[str, Any] = json.loads(report.read_text())

    assert data["quick"] is True
    assert sorted(data["cases"]) == sorted(CASES)
    assert all(case["question"] and case["completion"] for case in data["cases"].values())
    assert {"machine", "python", "versions", "commit", "started"} <= data.keys()
    assert data["versions"]["actorbus"]
    for result in data["results"]:
        assert result["error"] is None
        assert result["figures"]
        for figure in result["figures"]:
            assert figure["met"] is None
            assert figure["ratio"]["low"] <= figure["ratio"]["median"] <= figure["ratio"]["high"]


def test_comparing_a_run_with_itself_finds_no_change(report: Path) -> None:
    """`compare` prints a table with a row per figure, and calls no change what is none."""
    ran = run("compare", report, report)

    assert ran.returncode == 0, ran.stderr
    assert all(name in ran.stdout for name in CASES)
    assert "better" not in ran.stdout
    assert "WORSE" not in ran.stdout


def test_the_charts_of_one_report_are_equal_byte_for_byte(tmp_path: Path) -> None:
    """Two drawings of the same JSON are the same files, light and dark, on another day too."""
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib comes with the extra `bench`")
    spread = {"median": 2.0, "low": 1.5, "high": 2.5, "rounds": 7}
    figure = {"what": "cost", "subject": spread, "ratio": spread, "notes": {}}
    names = ["throughput.1-1", "throughput.1-10", "features.history"]
    results = [{"case": name, "subject": "actorbus", "figures": [figure]} for name in names]
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"format": 1, "results": results}))

    drawn = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        ran = run("plot", path, folder)
        assert ran.returncode == 0, ran.stderr
        drawn.append({each.name: each.read_bytes() for each in folder.iterdir()})

    assert drawn[0] == drawn[1]
    assert {"throughput-light.svg", "throughput-dark.svg"} <= drawn[0].keys()


@pytest.mark.parametrize(
    "arguments", [("--only", "nothing"), ("compare", "no.json", "no.json"), ("plot", "no", "no")]
)
def test_a_wrong_command_line_is_one_line(arguments: tuple[str, ...]) -> None:
    """What cannot be done is said in one line, without a traceback."""
    ran = run(*arguments)

    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip()
