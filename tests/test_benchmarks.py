"""The benchmarks run, and what they print and draw follows from the JSON alone. No timing here."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest

from benchmarks import compare, runner, show
from benchmarks.case import Case, Effort, Figure
from benchmarks.peers import PEERS, QUEUES
from benchmarks.questions import all_cases

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CASES = ["drain.100000", "ask.round-trip", "durable.1"]


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


@pytest.mark.parametrize(
    ("rounds", "new", "said"),
    [(7, (3.0, 2.6, 3.5), "better"), (7, (1.0, 0.9, 1.2), "WORSE"), (7, (2.2, 1.9, 2.9), ""),
     (1, (3.0, 3.0, 3.0), "")],
)  # fmt: skip
def test_only_what_noise_does_not_explain_is_a_change(
    rounds: int, new: tuple[float, float, float], said: str
) -> None:
    """Ranges that overlap mean nothing, and one round has no range."""
    before = {"median": 2.0, "low": 1.5, "high": 2.5, "rounds": 7}
    after = {**dict(zip(("median", "low", "high"), new, strict=True)), "rounds": rounds}

    assert compare.word(before, after, up=True) == said


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
    "arguments",
    [
        ("--only", "nothing"),
        ("compare", "no.json", "no.json"),
        ("plot", "no", "no"),
        ("show", "no"),
        ("readme", "no"),
    ],
)
def test_a_wrong_command_line_is_one_line(arguments: tuple[str, ...]) -> None:
    """What cannot be done is said in one line, without a traceback."""
    ran = run(*arguments)

    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip()


# -- the README -----------------------------------------------------------------------------------


def committed() -> Path:
    """Return the report that the README says its figures are from."""
    found = re.findall(r"<!-- figures of (\S+),", README.read_text(encoding="utf-8"))
    assert len(found) == 1
    return ROOT / str(found[0])


def test_the_figures_of_the_readme_are_those_of_the_committed_report(tmp_path: Path) -> None:
    """Made again from the JSON it names, the README is the same text."""
    copy = tmp_path / committed().relative_to(ROOT)
    copy.parent.mkdir(parents=True)
    shutil.copy(committed(), copy)
    shutil.copy(README, tmp_path)
    into, charts = tmp_path / "README.md", tmp_path / "docs" / "img"

    ran = run("readme", copy, "--into", into, "--charts", charts, "--text-only")

    assert ran.returncode == 0, ran.stderr
    assert into.read_text(encoding="utf-8") == README.read_text(encoding="utf-8")


def test_the_charts_of_the_readme_are_drawn_from_the_committed_report(tmp_path: Path) -> None:
    """Every chart is byte for byte what `plot` draws, and those the README shows exist."""
    noted = json.loads(committed().read_text(encoding="utf-8"))["versions"]["matplotlib"]
    try:
        here = version("matplotlib")
    except PackageNotFoundError:
        here = "missing"
    shown = re.findall(r'(?:src|srcset)="([^"]+)"', README.read_text(encoding="utf-8"))
    assert len(shown) == 2
    assert all((ROOT / path).is_file() for path in shown)
    if here != noted:
        pytest.skip(f"the charts were drawn by matplotlib {noted}, here it is {here}")

    ran = run("plot", committed(), tmp_path)

    assert ran.returncode == 0, ran.stderr
    drawn = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in (ROOT / "docs" / "img").glob("*-*.svg")}
    assert drawn == {name: kept.get(name) for name in drawn}


def test_the_committed_report_tells_nothing_of_whose_machine_it_was() -> None:
    """No name of a host and no path of a disk: the kind of machine, and versions."""
    text = committed().read_text(encoding="utf-8")
    data = json.loads(text)

    assert data["machine"].keys() == {"system", "processor", "cores", "load"}
    assert data["machine"]["system"] in {"Linux", "Darwin", "Windows"}
    assert re.findall(r"(?<![\w.<])/\w+/|\\\\\w|://", text) == []


def made_up(**others: Any) -> dict[str, Any]:
    """Give a report in which one goal is missed, one peer is faster, and one has failed."""

    def result(subject: str, median: float, goal: Any, **notes: Any) -> dict[str, Any]:
        ratio = {"median": median, "low": median, "high": median, "rounds": 7}
        return {
            "case": "throughput.1-1",
            "subject": subject,
            "error": None,
            "figures": [
                {
                    "what": subject,
                    "unit": "deliveries/s",
                    "subject": ratio,
                    "baseline": ratio,
                    "ratio": ratio,
                    "wall": ratio,
                    "against": "asyncio.Queue(1024)",
                    "goal": goal and {"of": "ratio", "at_least": goal, "at_most": None},
                    "goal_text": goal and f"≥ {goal} x",
                    "met": None if goal is None else median >= goal,
                    "notes": notes,
                }
            ],
        }

    lacking = {"isolates": False, "harm": "late", "queue": "none", "counts": "", "waits": "yes"}
    failed = {"case": "throughput.1-1", "subject": "pyee", "error": "OSError: no", "figures": []}
    return {
        "format": 1,
        "quick": False,
        "started": "2026-01-01T00:00:00+00:00",
        "machine": {"system": "Linux", "processor": "a chip", "cores": 2, "load": 0.0},
        "python": {"implementation": "CPython", "version": "3.11.9"},
        "versions": {"blinker": "1.9.0"},
        "commit": {"id": None, "changed": False},
        "cases": {"throughput.1-1": {"question": "how fast?", "completion": "at the end"}},
        "results": [result("actorbus", 1.2, 1.3), result("blinker", 2.0, None, **lacking), failed],
        "verdicts": [],
        **others,
    }


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text("before\n\n<!-- figures of nothing -->\n<!-- end of figures -->\n\nafter\n")
    return path


def test_the_readme_shows_what_was_lost(tmp_path: Path, readme: Path) -> None:
    """A goal missed, a peer that is faster with what it lacks, and a peer that failed are shown."""
    path = tmp_path / "run.json"
    path.write_text(json.dumps(made_up()))

    ran = run("readme", path, "--into", readme, "--text-only")

    assert ran.returncode == 0, ran.stderr
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "- `throughput.1-1`, actorbus: 1.2x, promised ≥ 1.3 x" in text
    assert "≥ 1.3 x: **missed**" in text
    assert "| blinker 1.9.0 | **2.0x** |" in text
    lacks = "no queue, so the publisher runs the handlers; no isolation (late); no counts"
    assert f"- **blinker**: 1 → 1 (2.0x, actorbus 1.2x). What it lacks: {lacks}." in text
    assert "| pyee  | failed |" in text


def test_the_readme_has_what_queues_on_disk_do(tmp_path: Path, readme: Path) -> None:
    """They are in a sentence of their own, and no row of the table of peers."""
    data = made_up()
    own, theirs, _ = data["results"]
    own["case"] = theirs["case"] = "durable.100"
    theirs["subject"], data["versions"] = "litequeue", {"litequeue": "0.9"}
    path = tmp_path / "run.json"
    path.write_text(json.dumps(data))

    ran = run("readme", path, "--into", readme, "--text-only")

    assert ran.returncode == 0, ran.stderr
    text = readme.read_text(encoding="utf-8")
    assert "litequeue 0.9 (2 items/s); actorbus, 1.2." in text
    assert "| litequeue" not in text


@pytest.mark.parametrize("others", [{"quick": True}, {"versions": {"matplotlib": "0.0"}}])
def test_what_the_readme_cannot_quote_leaves_it_alone(
    tmp_path: Path, readme: Path, others: dict[str, Any]
) -> None:
    """A quick report, and one whose charts need another matplotlib, are refused in one line."""
    before = readme.read_text()
    path = tmp_path / "run.json"
    path.write_text(json.dumps(made_up(**others)))

    ran = run("readme", path, "--into", readme, "--charts", tmp_path / "img")

    assert ran.returncode != 0
    assert len(ran.stderr.strip().splitlines()) == 1
    assert readme.read_text() == before


# -- what goes wrong ------------------------------------------------------------------------------


async def nothing(_: Effort) -> list[Figure]:
    """Measure nothing: only the child's own cases are run."""
    return []


def test_a_case_that_fails_is_shown_and_the_rest_goes_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The report has an answer of every job, and the table names the one that failed."""
    broken = Case("no-such.case", "?", "?", nothing)
    whole = Case("drain.100000", "?", "?", nothing)

    report = runner.run([runner.Job(broken), runner.Job(whole)], quick=True, step=lambda _: None)
    show.report(report)

    errors = [result["error"] for result in report["results"]]
    assert errors == ["the process ended with exit code 1: KeyError: 'no-such.case'", None]
    assert f"FAILED no-such.case actorbus: {errors[0]}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import time; time.sleep(60)", "no answer after 1 s"),
        ("import os; os.kill(os.getpid(), 9)", "the process ended with SIGKILL"),
        ("raise SystemExit('enough')", "the process ended with exit code 1: enough"),
    ],
)
def test_a_child_without_an_answer_is_an_error(program: str, said: str) -> None:
    """A child that hangs, is killed or gives up is told apart, and holds nobody."""
    with pytest.raises(runner.ChildError) as raised:
        runner.answer_of([sys.executable, "-c", program], 1.0 if "sleep" in program else 30.0)

    assert str(raised.value) == said


def test_what_a_child_leaves_behind_is_ended() -> None:
    """A process that a peer has started and forgotten holds nothing up, and does not live on."""
    program = (
        "import subprocess, sys; sleep = 'import time; time.sleep(60)';"
        "print(subprocess.Popen([sys.executable, '-c', sleep]).pid)"
    )

    left: Any = runner.answer_of([sys.executable, "-c", program], 30.0)

    deadline = time.monotonic() + 10
    while _lives(left) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _lives(left)


def _lives(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_report_tells_no_paths() -> None:
    """The folders of a path in an error are left out; what only looks like one stays."""
    error = "[Errno 2] No such file: '/home/ada/venv/lib/thing.so' of 3/4 deliveries/s"

    assert runner.PATH.sub("", error) == "[Errno 2] No such file: 'thing.so' of 3/4 deliveries/s"


# -- what is asked --------------------------------------------------------------------------------


def test_every_question_is_in_the_table_of_questions() -> None:
    """benchmarks/README.md lists the files of questions/, and no other."""
    text = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    table = text.partition("## The questions\n")[2].partition("\n## ")[0]
    files = {path.stem for path in (ROOT / "benchmarks" / "questions").glob("[a-z]*.py")}

    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == files


def test_every_peer_has_an_adapter_and_a_pinned_version() -> None:
    """The adapters, the list of peers and the pins of the extra `bench` are the same."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    bench = extras["project"]["optional-dependencies"]["bench"]
    pinned = {name for name, sign, _ in (each.partition("==") for each in bench) if sign}
    adapters = {path.stem for path in (ROOT / "benchmarks" / "peers").glob("[a-z]*.py")}

    assert pinned == set(PEERS.values())
    assert adapters - {"pace", "probe"} == PEERS.keys()


def test_queues_on_disk_answer_what_is_on_disk_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A case is asked of its rivals only: a queue on disk has no handlers."""
    monkeypatch.setattr(runner, "installed", lambda: dict.fromkeys(PEERS, "1.0"))

    asked = {job.peer for job in runner.jobs(all_cases(), peers=True) if "durable" in job.title}
    others = {
        job.peer for job in runner.jobs(all_cases(), peers=True) if "durable" not in job.title
    }

    assert asked == {None, *QUEUES}
    assert others == {None, *PEERS} - QUEUES.keys()


def test_the_anatomy_of_an_event_can_be_had() -> None:
    """It runs, and names what a publish and a delivery consist of."""
    ran = run("anatomy", "--quick")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert all(part in ran.stdout for part in ("by hand", "publish", "the clock", "deliver"))
