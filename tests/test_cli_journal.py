"""`actorbus journal` and `actorbus dead-letters`, on journals that a bus has left behind."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shlex
import shutil
import sqlite3
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from actorbus import EventBus, Reject, RetryPolicy
from actorbus.cli.app import run
from actorbus.cli.output import progress, show_columns
from actorbus.journal.base import Bury, Entry, Grave, Join, Settle, Standing
from actorbus.journal.sqlite import SqliteJournal
from tests.test_cli import without

OPTIONS = "?max_bytes=1048576"
COMMANDS = [
    ("journal", "info"), ("journal", "verify"), ("journal", "prune"), ("journal", "export"),
    ("journal", "forget"), ("dead-letters", "list"), ("dead-letters", "show"),
    ("dead-letters", "replay"), ("dead-letters", "discard"),
]  # fmt: skip


async def bill(data: dict[str, Any]) -> None:
    if data["sum"] < 0:
        raise Reject("a negative sum")


async def greet(data: dict[str, Any]) -> None:
    raise ValueError(f"no name in {data}")


async def trade(url: str) -> None:
    """Publish three orders, one bad, and a user; then, with nobody to bill, more."""
    async with EventBus(journal=url, durability="process") as bus:
        bus.subscribe("order:*", bill, name="billing", durable="billing")
        bus.subscribe("user:*", greet, name="greeter", retry=RetryPolicy.none())
        await bus.publish("order:paid", {"sum": 1}, key="k", headers={"h": 1}, id="one")
        await bus.publish("order:paid", {"sum": -1})
        await bus.publish("order:paid", {"sum": 3})
        await bus.publish("user:made", {})
        await bus.settle()
    async with EventBus(journal=url, durability="process") as bus:
        for number in range(5, 8):
            await bus.publish("order:sent", number)
        await bus.publish("user:left", "é")


@pytest.fixture(scope="module")
def traded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a journal of eight events: billing has not settled 5 and 7; two dead letters."""
    path = tmp_path_factory.mktemp("traded") / "events.db"
    asyncio.run(trade(url_of(path)))
    journal = SqliteJournal.from_url(url_of(path))
    journal.open("process")
    journal.commit([Settle("billing", 4, (6,))])
    journal.close(clean=True)
    return path


@pytest.fixture
def events(traded: Path, tmp_path: Path) -> Path:
    """Return a copy of that journal, named by ACTORBUS_URL while the test runs."""
    return Path(shutil.copy(traded, tmp_path / "events.db"))


@pytest.fixture(autouse=True)
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ACTORBUS_URL name the test's own journal."""
    monkeypatch.setenv("ACTORBUS_URL", url_of(tmp_path / "events.db"))


def url_of(path: Path, more: str = "") -> str:
    return f"sqlite:///{path}{OPTIONS}{more}"


class Shell:
    """Runs commands in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Return what a command prints; it must end with `code`, and complain of nothing."""
        assert run(arguments) == code
        out, err = self._capture.readouterr()
        assert err == ""
        return out

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code))

    def refused(self, *arguments: str) -> str:
        """Return the one line a command complains with."""
        assert run(arguments) == 2
        out, err = self._capture.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("actorbus: ")
        return err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def image(path: Path, copy: Path) -> None:
    """Copy the files of a journal that is open: what a crash would leave now."""
    for end in ("", "-wal"):
        shutil.copy(f"{path}{end}", f"{copy}{end}")


def damage(path: Path, text: bytes) -> None:
    """Flip a bit of the first place where a file holds a text."""
    raw = path.read_bytes()
    assert text in raw
    path.write_bytes(raw.replace(text, bytes([text[0] ^ 1]) + text[1:], 1))


def standing(path: Path) -> tuple[bool, Standing]:
    """Return whether a journal was left clean, and how its durable subscription stands."""
    journal = SqliteJournal.from_url(url_of(path))
    opening = journal.open("process")
    (found,) = journal.commit([Join("billing", ("order:*",), 7)])
    journal.close(clean=True)
    assert isinstance(found, Standing)
    return opening.clean, found


# -- info ------------------------------------------------------------------------------------------


def test_info_tells_what_there_is(events: Path, shell: Shell) -> None:
    """The figures, and the lag: what is of a durable's patterns and not settled."""
    info = shell.json("journal", "info")

    assert info["url"] == url_of(events).partition("?")[0]
    assert (info["events"], info["first"], info["last"]) == (8, 1, 8)
    assert (info["dead_letters"], info["clean"], info["limit"]) == (2, True, 1 << 20)
    assert 0 < info["bytes"] <= info["limit"]
    assert info["durables"] == [{"name": "billing", "patterns": ["order:*"], "cursor": 4, "lag": 2}]


def test_info_is_read_by_people(events: Path, shell: Shell) -> None:
    """As text it says the same; the URL may be an argument."""
    text = shell("journal", "info", url_of(events))

    assert re.search(r"^events +8, from 1 to 8$", text, re.MULTILINE)
    assert re.search(r"^last stop +clean$", text, re.MULTILINE)
    assert re.search(r"^billing +4 +2$", text, re.MULTILINE)


def test_a_damaged_event_is_in_every_lag(events: Path, shell: Shell) -> None:
    """Each durable will be given it, for its topic may be what is damaged."""
    damage(events, b"user:left")

    assert shell.json("journal", "info")["durables"][0]["lag"] == 3


@pytest.mark.parametrize("command", [("info",), ("verify",), ("prune",), ("export",)])
def test_looking_leaves_a_crash_a_crash(
    traded: Path, tmp_path: Path, shell: Shell, command: tuple[str, ...]
) -> None:
    """What may have been running is as suspect to the next owner as if nobody had looked."""
    owner = SqliteJournal.from_url(url_of(Path(shutil.copy(traded, tmp_path / "owner.db"))))
    owner.open("process")
    owner.commit([Join("billing", ("order:*",), 3)])
    image(owner.path, tmp_path / "events.db")
    image(owner.path, tmp_path / "untouched.db")
    owner.close(clean=True)

    for _ in range(2):
        shell("journal", *command)

    expected = standing(tmp_path / "untouched.db")
    assert standing(tmp_path / "events.db") == expected
    assert (expected[0], expected[1].suspects) == (False, 3)


def test_info_finds_a_journal_that_was_never_written_back(tmp_path: Path, shell: Shell) -> None:
    """After an early crash everything is in the write-ahead file; and it is said to be a crash."""
    owner = SqliteJournal.from_url(url_of(tmp_path / "owner.db"))
    owner.open("process")
    image(owner.path, tmp_path / "events.db")
    owner.close(clean=True)

    info = shell.json("journal", "info")

    assert (info["events"], info["oldest"], info["clean"]) == (0, None, False)


# -- verify ----------------------------------------------------------------------------------------


def test_verify_finds_nothing_wrong(events: Path, shell: Shell) -> None:
    """The exit code is 0, and the text says so."""
    assert shell.json("journal", "verify") == {"looked_at": 11, "problems": []}
    assert shell("journal", "verify").startswith("nothing is wrong")


def test_verify_names_what_is_wrong(events: Path, shell: Shell) -> None:
    """A line for each, and the exit code is 1."""
    damage(events, b"user:left")

    assert shell("journal", "verify", code=1) == "event 8 is damaged\n"
    assert shell.json("journal", "verify", code=1)["problems"] == ["event 8 is damaged"]


def test_verify_names_what_keeps_a_journal_shut(events: Path, shell: Shell) -> None:
    """Damage that nobody could go on with is what is wrong, not an error of the command."""
    damage(events, b'["order:*"]')

    (line,) = shell("journal", "verify", code=1).splitlines()

    assert "damaged" in line
    assert "billing" in line
    assert line[11:] in shell.refused("journal", "info")


# -- prune and forget ------------------------------------------------------------------------------


def test_prune_removes_what_nobody_needs(events: Path, shell: Shell) -> None:
    """What is past retention and settled goes; by default a week is kept."""
    old = url_of(events, "&retention=0")

    assert shell("journal", "prune").startswith("removed 0 events; 8 are left")
    assert shell.json("journal", "prune", old).items() >= {"removed": 4, "events": 4}.items()


def test_forget_lets_go_of_what_was_kept(events: Path, shell: Shell) -> None:
    """Only with a yes; then nothing is held back for it any more."""
    assert "--yes" in shell.refused("journal", "forget", "billing")
    assert shell.json("journal", "info")["durables"] != []

    assert shell("journal", "forget", url_of(events), "billing", "--yes") == "forgot billing\n"

    assert shell.json("journal", "info")["durables"] == []
    assert shell.json("journal", "prune", url_of(events, "&retention=0"))["removed"] == 8


def test_forget_names_those_there_are(events: Path, shell: Shell) -> None:
    """A name that is none is an error that helps."""
    assert "billing" in shell.refused("journal", "forget", "biling", "--yes")


# -- export ----------------------------------------------------------------------------------------


def test_export_writes_a_line_for_each_event(events: Path, shell: Shell) -> None:
    """In order, with all that belongs to it."""
    lines = [json.loads(line) for line in shell("journal", "export").splitlines()]

    assert [line["seq"] for line in lines] == [*range(1, 9)]
    assert lines[0].pop("time") > 1e9
    assert lines[0] == {
        "seq": 1, "id": "one", "topic": "order:paid", "key": "k", "headers": {"h": 1},
        "correlation_id": "one", "causation_id": None, "data": {"sum": 1},
    }  # fmt: skip
    assert lines[-1]["data"] == "é"


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (("--pattern", "user:*"), [4, 8]),
        (("--since", "2000-01-01"), [*range(1, 9)]),
        (("--since", "2000-01-01T00:00:00+02:00", "--pattern", "order:sent"), [5, 6, 7]),
        (("--since", "9999-01-01"), []),
        (("--since", "99999999999"), []),
    ],
)
def test_export_takes_a_part(
    events: Path, shell: Shell, options: tuple[str, ...], numbers: list[int]
) -> None:
    """By pattern and by time."""
    lines = shell("journal", "export", *options).splitlines()

    assert [json.loads(line)["seq"] for line in lines] == numbers


def test_export_makes_a_private_file(events: Path, shell: Shell, tmp_path: Path) -> None:
    """It is as private as the journal, and nothing is ever overwritten."""
    target = tmp_path / "out.jsonl"

    assert shell("journal", "export", "-o", str(target)) == ""

    assert len(target.read_text().splitlines()) == 8
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "out.jsonl" in shell.refused("journal", "export", "-o", str(target))
    shell.refused("journal", "export", "-o", str(events))
    assert shell.json("journal", "verify")["problems"] == []


def test_export_marks_what_is_damaged(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its line says so, whatever was asked for, and so does the exit code."""
    damage(events, b"user:left")

    assert run(("journal", "export", "--pattern", "order:sent")) == 1

    out, err = capsys.readouterr()
    assert [json.loads(line).get("damaged") for line in out.splitlines()] == [None] * 3 + [True]
    assert err == "actorbus: 1 of the events are damaged\n"


def test_export_refuses_what_is_no_time_or_pattern(events: Path, shell: Shell) -> None:
    """Both are named."""
    assert "'soon'" in shell.refused("journal", "export", "--since", "soon")
    assert "'a:['" in shell.refused("journal", "export", "--pattern", "a:[")


# -- dead letters ----------------------------------------------------------------------------------


def ids(shell: Shell, *options: str) -> dict[str, str]:
    """Return the ids of the letters a list shows, by subscription."""
    listed = shell.json("dead-letters", "list", *options)
    return {letter["subscription"]: letter["id"] for letter in listed}


def test_list_shows_each_letter(events: Path, shell: Shell) -> None:
    """A line each, oldest first, with what was raised."""
    rejected, failed = shell.json("dead-letters", "list")
    assert (rejected["subscription"], rejected["reason"]) == ("billing", "rejected")
    assert (failed["topic"], failed["reason"]) == ("user:made", "retries_exhausted")
    assert failed["error"] == "ValueError: no name in {}"

    head, *lines = shell("dead-letters", "list", url_of(events)).splitlines()

    assert head.split()[0] == "id"
    assert [line.split()[0] for line in lines] == [rejected["id"], failed["id"]]
    assert lines[1].endswith("ValueError: no name in {}")


@pytest.mark.parametrize(
    ("options", "subscriptions"),
    [
        (("--topic", "order:**"), {"billing"}),
        (("--topic", "order"), set()),
        (("--subscription", "greeter"), {"greeter"}),
        (("--reason", "rejected"), {"billing"}),
        (("--reason", "rejected", "--subscription", "greeter"), set()),
        (("--limit", "1"), {"greeter"}),
    ],
)
def test_list_filters(
    events: Path, shell: Shell, options: tuple[str, ...], subscriptions: set[str]
) -> None:
    """Every filter given must fit; a limit keeps the last ones."""
    assert ids(shell, *options).keys() == subscriptions


def test_a_reason_that_is_none_is_refused(events: Path, shell: Shell) -> None:
    """The error names those there are."""
    assert "poison" in shell.refused("dead-letters", "list", "--reason", "bad luck")


def test_show_tells_all_there_is(events: Path, shell: Shell) -> None:
    """The event with its payload, and the traceback."""
    ident = ids(shell)["billing"]
    letter = shell.json("dead-letters", "show", ident)
    text = shell("dead-letters", "show", url_of(events), ident)

    assert letter["event"]["data"] == {"sum": -1}
    assert (letter["reason"], letter["attempts"]) == ("rejected", 1)
    assert "a negative sum" in letter["traceback"]
    assert re.search(r"^data +\{'sum': -1\}$", text, re.MULTILINE)
    assert letter["traceback"].rstrip() in text


def test_show_prints_a_test(events: Path, shell: Shell) -> None:
    """It runs, has the payload, and fails until the handler it cannot know is filled in."""
    source = shell("dead-letters", "show", ids(shell)["billing"], "--as-pytest")
    names: dict[str, Any] = {}
    exec(compile(source, "test_dead_letter.py", "exec"), names)  # noqa: S102 - what the command has written

    assert names["DATA"] == {"sum": -1}
    with pytest.raises(pytest.fail.Exception, match="TODO"):
        names["test_dead_letter_of_billing"]()


def test_show_and_discard_refuse_an_id_that_is_none(events: Path, shell: Shell) -> None:
    """It is named, and nothing is discarded; one id at a time is shown."""
    known = ids(shell)["billing"]

    assert "'dl-0'" in shell.refused("dead-letters", "show", "dl-0")
    assert "not 2" in shell.refused("dead-letters", "show", known, known)
    assert "'dl-0'" in shell.refused("dead-letters", "discard", known, "dl-0")
    assert len(ids(shell)) == 2


def test_replay_marks_for_the_next_bus(events: Path, shell: Shell) -> None:
    """It gives each to its subscription; until then they are counted, and discard takes it back."""
    marked = ids(shell)["greeter"]

    said = shell("dead-letters", "replay", url_of(events), marked)

    assert said == "marked 1 dead letters: the next bus on this journal replays them\n"
    assert shell.json("journal", "info")["marked_for_replay"] == {"greeter": 1}
    greeted: list[Any] = []

    async def start() -> None:
        async with EventBus(journal=url_of(events), durability="process") as bus:
            bus.subscribe("user:*", greeted.append, name="greeter", inline=True)
            bus.subscribe("order:*", greeted.append, name="billing", inline=True)
            await bus.settle()

    asyncio.run(start())
    assert greeted == [{}]
    assert ids(shell).keys() == {"billing"}
    assert shell.json("journal", "info")["marked_for_replay"] == {}
    assert shell.json("dead-letters", "replay", "--all") == {"marked": 1, "left_out": 0}
    shell("dead-letters", "discard", "--yes")
    assert shell.json("journal", "info")["marked_for_replay"] == {}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--reason", "rejected"), 1),
        (("--subscription", "greeter", "--topic", "user:**"), 1),
        (("--topic", "none"), 0),
        (("--all",), 2),
    ],
)
def test_replay_by_filter(events: Path, shell: Shell, options: tuple[str, ...], count: int) -> None:
    """A filter is enough; all of them want to be asked for."""
    assert "--all" in shell.refused("dead-letters", "replay")
    assert shell.json("dead-letters", "replay", *options) == {"marked": count, "left_out": 0}


def test_replay_refuses_what_nobody_can_be_given(events: Path, shell: Shell) -> None:
    """By id it is named, with the reason; by filter it is left out, and said to be."""
    nobodys = Grave("n", "", "commit_failed", Entry("e", "a", 1.0, b"1"), 1.0)
    damaged = Grave("d", "billing", "rejected", Entry("e", "a", 1.0, b"?"), 1.0)
    journal = SqliteJournal.from_url(url_of(events))
    journal.open("process")
    journal.commit([Bury(nobodys), Bury(damaged)])
    journal.close(clean=True)

    assert "commit_failed" in shell.refused("dead-letters", "replay", "n")
    assert "nothing is left" in shell.refused("dead-letters", "replay", "d")
    assert "'dl-0'" in shell.refused("dead-letters", "replay", "dl-0")
    assert shell.json("dead-letters", "replay", "--all") == {"marked": 2, "left_out": 2}
    assert "left out 1" in shell("dead-letters", "replay", "--reason", "commit_failed")


def test_discard_by_id(events: Path, shell: Shell) -> None:
    """Those named go, without a question."""
    gone = ids(shell)["billing"]

    assert shell("dead-letters", "discard", url_of(events), gone) == "discarded 1 dead letters\n"
    assert ids(shell).keys() == {"greeter"}


def test_discard_by_filter_needs_a_yes(events: Path, shell: Shell) -> None:
    """Without it nothing goes, and it is said how many would."""
    assert "1 dead letters" in shell.refused("dead-letters", "discard", "--reason", "rejected")
    assert "2 dead letters" in shell.refused("dead-letters", "discard")
    assert len(ids(shell)) == 2

    done = shell.json("dead-letters", "discard", "--subscription", "greeter", "--yes")

    assert done == {"discarded": 1}
    assert ids(shell).keys() == {"billing"}
    assert shell.json("dead-letters", "discard", "--yes") == {"discarded": 1}


# -- journals that cannot be looked at -------------------------------------------------------------


def complete(command: tuple[str, str]) -> tuple[str, ...]:
    """Return a command with the arguments it needs beside a URL."""
    return (*command, "x") if command[1] in ("show", "forget") else command


@pytest.mark.parametrize("command", COMMANDS)
def test_a_journal_in_use_names_its_owner(
    events: Path, shell: Shell, command: tuple[str, str]
) -> None:
    """One line, exit code 2, and the owner is none the worse."""
    owner = SqliteJournal.from_url(url_of(events))
    owner.open("process")

    assert f"({os.getpid()})" in shell.refused(*complete(command))

    assert owner.status().events == 8
    owner.close(clean=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_looking_makes_no_journal(tmp_path: Path, shell: Shell, command: tuple[str, str]) -> None:
    """A file that is not there is an error, and is not there afterwards."""
    assert "events.db" in shell.refused(*complete(command))
    assert [*tmp_path.iterdir()] == []


def contents(directory: Path) -> dict[str, bytes]:
    return {each.name: each.read_bytes() if each.is_file() else b"" for each in directory.iterdir()}


@pytest.mark.parametrize("kind", ["text", "empty", "other", "busy", "directory"])
def test_what_is_no_journal_is_left_alone(tmp_path: Path, shell: Shell, kind: str) -> None:
    """It is an error, and neither the file nor its directory is changed."""
    path = tmp_path / "events.db"
    if kind == "directory":
        path.mkdir()
    elif kind in ("other", "busy"):
        path = tmp_path / "mine.db"
        database = sqlite3.connect(path)
        if kind == "busy":
            database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE mine(a)")
        for each in tmp_path.glob("mine.db*"):  # as it is while its program has it open
            shutil.copy(each, each.with_name(each.name.replace("mine", "events")))
        database.close()
    else:
        path.write_text("some text\n" * 20 if kind == "text" else "")
    before = contents(tmp_path)

    assert "events.db" in shell.refused("journal", "info")

    assert contents(tmp_path) == before


@pytest.mark.parametrize("url", ["", "nats://host:4222", "memory://", "sqlite:///", "events.db"])
def test_a_url_that_names_no_journal_is_refused(
    monkeypatch: pytest.MonkeyPatch, shell: Shell, url: str
) -> None:
    """From the environment as from an argument; none at all says how to name one."""
    monkeypatch.setenv("ACTORBUS_URL", url)

    assert "sqlite:///" in shell.refused("journal", "info")


# -- the command line ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [*COMMANDS, ("journal",), ("dead-letters",)])
def test_help_has_examples(shell: Shell, command: tuple[str, ...]) -> None:
    """Each command's help, and each group's, shows lines that can be copied."""
    examples = shell(*command, "--help").partition("Examples:")[2]

    assert f"  actorbus {' '.join(command)}" in examples


@pytest.mark.parametrize("group", ["journal", "dead-letters"])
def test_a_group_lists_what_has_landed(shell: Shell, group: str) -> None:
    """And nothing else."""
    listing = shell(group).partition("Commands")[2]
    names = re.findall(r"^\W+([a-z-]+) {2}", listing, re.MULTILINE)

    assert [(group, name) for name in names] == [each for each in COMMANDS if each[0] == group]


@pytest.mark.parametrize("page", ["README.md", "docs/journal.md"])
def test_the_commands_of_a_page_can_be_typed(
    shell: Shell, events: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    """One after the other, in the directory of the journal they name."""
    monkeypatch.chdir(events.parent)
    events.rename("orders.db")
    text = (Path(__file__).parents[1] / page).read_text()
    commands = re.findall(r"^(?:\$ )?actorbus ((?:journal|dead-letters) .*)$", text, re.MULTILINE)

    assert commands
    for command in commands:
        shell(*shlex.split(command))


def test_progress_shows_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar goes to standard error, if that is a terminal and the result is not there too."""

    def shown(*, terminal: bool, **options: bool) -> str:
        screen = io.StringIO()
        monkeypatch.setattr(screen, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stderr", screen)
        with progress("looking", **options) as tell:
            tell(5, 10)
        return screen.getvalue()

    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert "looking" in shown(terminal=True)
    assert shown(terminal=True, show_at_all=False) == ""
    assert shown(terminal=False) == ""


def test_text_does_nothing_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever somebody has put into a name or an error, a row stays one line of characters."""
    show_columns([("a\x1b[2Jb", "one"), ("two\nlines", "\ud800"), ("é", "3")])

    assert capsys.readouterr().out.splitlines() == [
        "a?[2Jb     one",
        "two?lines  ?",
        "é          3",
    ]


def test_rich_is_no_need(events: Path) -> None:
    """Without it there is no progress to see, and everything else."""
    result = without("rich", "journal", "verify", "--json")

    assert (result.returncode, json.loads(result.stdout)["problems"]) == (0, [])
