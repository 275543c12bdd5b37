"""The pytest plugin, used as somebody would who installs actorbus: in a pytest of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys

import pytest

INSTALLED = any(
    entry.value == "actorbus.testing.plugin"
    for entry in importlib.metadata.entry_points(group="pytest11")
)
"""Whether pytest finds the plugin itself; a tree that is only on the path has no entry points."""

PRELUDE = """
import asyncio
import pytest
from actorbus import Actor, Event, EventBus, RetryPolicy

ONCE = RetryPolicy.none()

def fail(data):
    raise ValueError(f"no {data}")
"""

RUNNERS = [
    pytest.param("anyio", ["-o", "anyio_mode=strict"], id="anyio"),
    pytest.param("filterwarnings()", ["-o", "anyio_mode=auto"], id="anyio-auto"),
    pytest.param("asyncio", ["--asyncio-mode=strict"], id="asyncio"),
    pytest.param("filterwarnings()", ["--asyncio-mode=auto"], id="asyncio-auto"),
]
"""How to mark an async test, and what to call pytest with."""


class Outer:
    """Runs tests in a pytest of their own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.asyncio = importlib.util.find_spec("pytest_asyncio") is not None

    def run(self, code: str, *args: str) -> pytest.RunResult:
        """Write a module of tests and run it."""
        self.pytester.makepyfile(PRELUDE + code)
        given = ["--strict-markers", "-p", "no:cacheprovider", "-p", "no:randomly", *args]
        if not INSTALLED:
            given += ["-p", "actorbus.testing.plugin"]
        if self.asyncio:
            given += ["-o", "asyncio_default_fixture_loop_scope=function"]
        elif any("asyncio" in arg for arg in args):
            pytest.skip("pytest-asyncio is not installed")
        return self.pytester.runpytest_inprocess(*given)


@pytest.fixture
def outer(pytester: pytest.Pytester) -> Outer:
    return Outer(pytester)


def use(mark: str) -> str:
    """Return the decorator of an async test."""
    return f"@pytest.mark.{mark}"


@pytest.mark.parametrize(("mark", "args"), RUNNERS)
def test_a_test_that_is_in_order_passes(outer: Outer, mark: str, args: list[str]) -> None:
    """A bus is there, works, and is closed on its loop, whoever runs the test."""
    result = outer.run(
        f"""
buses = []

class Keeper(Actor):
    patterns = ("user:*",)
    stopped = []

    async def receive(self, event: Event):
        return event.data

    async def on_stop(self, reason):
        self.stopped.append(asyncio.get_running_loop())

{use(mark)}
async def test_it(bus, recorder, assert_published):
    buses.append(bus)
    users = recorder("user:*")
    bus.spawn(Keeper)
    assert await bus.ask("user:in", 1) == 1
    bus.publish("user:out", 2)
    await bus.settle()
    assert users.topics == ["user:in", "user:out"]
    assert_published("user:out", 2, times=1)

def test_afterwards():
    [bus] = buses
    assert Keeper.stopped == [bus._engine.loop]
    assert bus._engine.closed
    assert not bus._engine.tasks
""",
        *args,
    )

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(("mark", "args"), RUNNERS)
def test_dead_letters_fail_the_test_that_leaves_them(
    outer: Outer, mark: str, args: list[str]
) -> None:
    """A dead letter nobody looked at fails the test itself, with topic, subscriber and error."""
    result = outer.run(
        f"""
{use(mark)}
async def test_it(bus):
    bus.subscribe("order:*", fail, retry=ONCE)
    bus.publish("order:paid", 7)
""",
        *args,
    )

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["the test leaves 1 dead letter on bus 'test'", "*order:paid -> *.fail*ValueError: no 7"]
    )


@pytest.mark.parametrize(("mark", "args"), RUNNERS)
@pytest.mark.parametrize("way", ["marked", "discarded"])
def test_dead_letters_may_be_allowed(outer: Outer, mark: str, args: list[str], way: str) -> None:
    """A marked test, and one that discards what it has looked at, passes."""
    allowed = "@pytest.mark.actorbus(allow_dead_letters=True)" if way == "marked" else ""
    last = "await bus.dead_letters.discard()" if way == "discarded" else "pass"
    result = outer.run(
        f"""
{use(mark)}
{allowed}
async def test_it(bus):
    bus.subscribe("order:*", fail, retry=ONCE)
    await bus.publish("order:paid", 7).settled()
    {last}
""",
        *args,
    )

    result.assert_outcomes(passed=1)


def test_a_plain_test_has_it_all(outer: Outer) -> None:
    """A test that is not async runs the bus itself, and is held to the same."""
    result = outer.run("""
def test_good(bus, recorder):
    orders = recorder("order:*")

    async def main():
        bus.publish("order:paid", 1)

    bus.run(main)
    orders.assert_published("order:paid", 1)

def test_bad(bus):
    bus.subscribe("order:*", fail, retry=ONCE)

    async def main():
        bus.publish("order:paid", 7)

    bus.run(main)

def test_unused(bus):
    pass
""")

    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["the test leaves 1 dead letter on bus 'test'"])


@pytest.mark.parametrize(("mark", "args"), RUNNERS)
def test_an_unbalanced_ledger_fails(outer: Outer, mark: str, args: list[str]) -> None:
    """Books that do not balance fail the test, and a marked one passes."""
    result = outer.run(
        f"""
async def unbalance(bus):
    sub = bus.subscribe("a:*", print, name="printer", inline=True)
    await bus.publish("a:b").settled()
    sub.ledger.routed += 1

{use(mark)}
async def test_it(bus):
    await unbalance(bus)

{use(mark)}
@pytest.mark.actorbus(allow_imbalance=True)
async def test_allowed(bus):
    await unbalance(bus)
""",
        *args,
    )

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["the books of bus 'test' do not balance at the end of the test"])


@pytest.mark.parametrize(("mark", "args"), RUNNERS)
def test_what_the_close_brings_to_light_counts_too(
    outer: Outer, mark: str, args: list[str]
) -> None:
    """A delivery that is still retried when the test is over is drained, and told of if it dies."""
    result = outer.run(
        f"""
{use(mark)}
@pytest.mark.virtual_time
async def test_it(bus):
    bus.subscribe("order:*", fail, retry=RetryPolicy(max_attempts=2, base=30.0, jitter="none"))
    bus.publish("order:paid", 7)
""",
        *args,
    )

    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*order:paid -> *.fail*2 attempts*ValueError: no 7"])


def test_a_failing_test_tells_of_dead_letters(outer: Outer) -> None:
    """What died meanwhile is a note of the test's own error, and no second failure."""
    result = outer.run("""
@pytest.mark.anyio
async def test_it(bus):
    bus.subscribe("order:*", fail, retry=ONCE)
    await bus.publish("order:paid", 7).settled()
    assert 1 == 2
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*assert 1 == 2", "*meanwhile 1 dead letter on bus 'test'"])


@pytest.mark.parametrize(
    ("mark", "says"),
    [
        ("actorbus(allow_dead_letter=True)", "*allow_imbalance, not 'allow_dead_letter'*"),
        ("actorbus(True)", "*not a positional argument*"),
        ("actorbus(allow_dead_letters='yes')", "*True or False, not 'yes'*"),
        ("virtual_time(30)", "*not a positional argument*"),
        ("virtual_time(timeout='long')", "*timeout is seconds, not 'long'*"),
        ("virtual_time(timeout=-1)", "*timeout is seconds, not -1*"),
    ],
)
def test_a_wrong_mark_is_refused(outer: Outer, mark: str, says: str) -> None:
    """A misspelt or misused option of a mark is an error, not ignored."""
    result = outer.run(f"""
@pytest.mark.{mark}
def test_it():
    pass
""")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([says])


def test_the_marks_are_registered(outer: Outer) -> None:
    """`pytest --markers` names them, and a misspelt one is refused by `--strict-markers`."""
    assert outer.run("", "--markers").ret == 0

    shown = outer.run("", "--markers").stdout.str()
    wrong = outer.run("""
@pytest.mark.virtualtime
def test_it():
    pass
""")

    assert "@pytest.mark.actorbus(" in shown
    assert "@pytest.mark.virtual_time(" in shown
    wrong.assert_outcomes(errors=1)


def test_a_fixture_of_their_own_wins(outer: Outer) -> None:
    """Whoever has a fixture named `bus` keeps it, and `recorder` works with it."""
    result = outer.run("""
@pytest.fixture
async def bus(anyio_backend):
    async with EventBus("mine") as made:
        yield made

@pytest.mark.anyio
async def test_it(bus, assert_published):
    assert bus.name == "mine"
    bus.subscribe("a", fail, retry=ONCE)
    await bus.publish("a").settled()
    assert_published("a")
""")

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(("mark", "args"), RUNNERS)
def test_the_bus_outlives_the_fixtures_that_use_it(
    outer: Outer, mark: str, args: list[str]
) -> None:
    """An async fixture may use the bus until its own end."""
    fixture = "pytest_asyncio.fixture" if "asyncio-mode" in args[0] else "pytest.fixture"
    result = outer.run(
        f"""
{"import pytest_asyncio" * ("pytest_asyncio" in fixture)}

@{fixture}
async def app(bus{", anyio_backend" * (fixture == "pytest.fixture")}):
    yield bus.publish("app:started")
    assert (await bus.publish("app:stopped").settled()).ok

{use(mark)}
async def test_it(app, bus):
    assert (await app.settled()).ok
""",
        *args,
    )

    result.assert_outcomes(passed=1)


def test_options_of_the_bus(outer: Outer) -> None:
    """The fixture `actorbus_options` sets the options of the bus."""
    result = outer.run("""
@pytest.fixture
def actorbus_options():
    return {"name": "shop", "dead_letters": 0}

@pytest.mark.anyio
async def test_it(bus):
    assert bus.name == "shop"
    bus.subscribe("a", fail, retry=ONCE)
    bus.publish("a")
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the test leaves 1 dead letter on bus 'shop'"])


def test_a_failed_recorder_shows_what_was_published(outer: Outer) -> None:
    """The failure shows every event, and what is wrong with those that come near."""
    result = outer.run("""
@pytest.mark.anyio
async def test_it(bus, assert_published):
    bus.publish("order:paid", {"id": 1})
    bus.publish("order:Created", {"id": 1})
    bus.publish("order:created", {"id": 2})
    assert_published("order:created", {"id": 1})
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*AssertionError: order:created with {'id': 1} was not published",
            "*order:paid {'id': 1} * segment 2 is 'created', the topic has 'paid'",
            "*order:Created {'id': 1} * upper and lower case differ",
            "*order:created {'id': 2} * 'id' is 2, not 1",
        ]
    )


def test_the_plugin_loads_nothing_heavy() -> None:
    """Loading it costs `import actorbus` and pytest, which is there: no extra, no plugin."""
    code = (
        "import sys, pytest, actorbus; before = set(sys.modules);"
        "import actorbus.testing.plugin;"
        "print(*(n for n in set(sys.modules) - before if not n.startswith('actorbus.testing')))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, ran.stderr

    loaded = {name.partition(".")[0] for name in ran.stdout.split()}

    assert loaded - sys.stdlib_module_names == set()
