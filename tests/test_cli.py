"""The command line: what `match` says, what help teaches, and that every error is one line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SHOP = """
from actorbus import EventBus

bus = EventBus("shop")
not_a_bus = 42

class parts:
    inner = bus

@bus.subscribe("order:*", name="billing")
async def bill(data): ...

@bus.subscribe("order:paid:*", name="refunds")
async def refund(data): ...
"""

MODULES = {
    "shop.py": SHOP,
    "broken.py": "raise RuntimeError('first line\\nsecond line')",
    "leaves.py": "raise SystemExit('bye')",
    "needy.py": "import no_such_thing",
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory with a few modules, made the current one."""
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def actorbus(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "actorbus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def without(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line where `module` is not installed."""
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = {list(arguments)!r}; "
        "from actorbus.__main__ import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def assert_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("actorbus: ")
    assert result.stderr.count("\n") == 1
    for word in words:
        assert word in result.stderr


def test_match_prints_the_explanation(here: Path) -> None:
    """The text names who would get the event, through which pattern, and the near miss."""
    result = actorbus("match", "shop:bus", "order:paid")

    assert (result.returncode, result.stderr) == (0, "")
    assert "order:paid" in result.stdout
    assert "billing" in result.stdout
    assert "order:*" in result.stdout


def test_match_prints_json(here: Path) -> None:
    """`--json` gives the same as an object."""
    result = actorbus("match", "shop:bus", "order:paid", "--json")

    assert (result.returncode, result.stderr) == (0, "")
    explanation = json.loads(result.stdout)
    assert explanation["topic"] == "order:paid"
    (match,) = explanation["matches"]
    assert match.items() >= {"subscription": "billing", "pattern": "order:*", "room": 1000}.items()
    assert {"state", "group"} <= match.keys()
    for miss in explanation["near_misses"]:
        assert miss.keys() == {"subscription", "pattern", "reason"}


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_match_says_no_with_its_exit_code(here: Path, form: tuple[str, ...]) -> None:
    """Nobody would get the event: exit code 1, and no error."""
    result = actorbus("match", "shop:bus", "nobody:listens", *form)

    assert (result.returncode, result.stderr) == (1, "")
    assert "nobody:listens" in result.stdout


def test_match_finds_a_bus_inside_something(here: Path) -> None:
    """BUS may be a dotted path."""
    assert actorbus("match", "shop:parts.inner", "order:paid").returncode == 0


@pytest.mark.parametrize(
    ("target", "topic", "words"),
    [
        ("shop", "order:paid", ("MODULE:BUS", "'shop'")),
        ("shop:", "order:paid", ("MODULE:BUS",)),
        (":bus", "order:paid", ("MODULE:BUS",)),
        ("nowhere:bus", "order:paid", ("nowhere",)),
        ("needy:bus", "order:paid", ("needy", "no_such_thing")),
        ("broken:bus", "order:paid", ("broken", "RuntimeError", "first line second line")),
        ("leaves:bus", "order:paid", ("leaves", "SystemExit")),
        ("shop:missing", "order:paid", ("missing",)),
        ("shop:not_a_bus", "order:paid", ("not an EventBus", "int")),
        ("shop:bus", "order:*", ("invalid topic", "'*'")),
        ("shop:bus", "order::paid", ("invalid topic",)),
        ("shop:bus", "", ("invalid topic",)),
    ],
)
def test_match_errors_are_one_line(
    here: Path, target: str, topic: str, words: tuple[str, ...]
) -> None:
    """What cannot be found, imported or parsed is one line and exit code 2."""
    assert_one_line(actorbus("match", target, topic), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-command",), ("no-such-command",)),
        (("match",), ("Missing",)),
        (("match", "--wrong"), ("--wrong",)),
        (("demo", "--rate", "-1"), ("--rate",)),
        (("demo", "--port", "70000"), ("--port", "65535")),
        (("demo", "--seconds", "soon"), ("--seconds",)),
    ],
)
def test_wrong_arguments_are_one_line(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Mistakes on the command line are shown like every other error."""
    assert_one_line(actorbus(*arguments), *words)


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_shows_the_commands(arguments: tuple[str, ...]) -> None:
    """Without arguments and with --help: what there is, with an example of each."""
    result = actorbus(*arguments)

    assert (result.returncode, result.stderr) == (0, "")
    assert "actorbus demo " in result.stdout
    assert "actorbus match shop:bus order:paid" in result.stdout


@pytest.mark.parametrize("command", ["demo", "match"])
def test_help_of_a_command_has_examples(command: str) -> None:
    """Each command's help shows lines that can be copied."""
    result = actorbus(command, "--help")

    assert (result.returncode, result.stderr) == (0, "")
    assert f"  actorbus {command}" in result.stdout.partition("Examples:")[2]


def test_commands_that_have_not_landed_are_absent() -> None:
    """There are no stubs."""
    listing = actorbus("--help").stdout.partition("Commands")[2]

    assert re.findall(r"^\W+([a-z-]+) {2}", listing, re.MULTILINE) == [
        "demo", "match", "journal", "dead-letters",
    ]  # fmt: skip


def test_missing_cli_extra_is_named() -> None:
    """Without typer the command line says what to install."""
    assert_one_line(without("typer", "match", "a:b", "c"), 'pip install "actorbus[cli]"')


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_missing_web_extra_is_named(module: str) -> None:
    """Without starlette or uvicorn the demo says what to install."""
    assert_one_line(without(module, "demo"), 'pip install "actorbus[web]"')


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "rich"])
def test_match_needs_no_more_than_typer(here: Path, module: str) -> None:
    """A command asks for its own extra only, and rich is a pleasure, not a need."""
    assert without(module, "match", "shop:bus", "order:paid").returncode == 0


def test_the_script_finds_modules_of_the_current_directory(here: Path) -> None:
    """The installed script does what `python -m actorbus` does."""
    script = Path(sys.executable).with_name("actorbus")
    if not script.exists():
        pytest.skip("the package is not installed here")
    command = [str(script), "match", "shop:bus", "order:paid"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (result.returncode, result.stderr) == (0, "")
