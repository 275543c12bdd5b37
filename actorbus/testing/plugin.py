"""The pytest plugin: the fixtures ``bus``, ``recorder`` and ``assert_published``, and two marks.

Found by pytest through its entry point. It works the same in plain tests, in those of anyio's
plugin and in those of pytest-asyncio, of which neither is needed. A fixture of your own with one of
these names takes the place of ours.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest

from actorbus.bus import EventBus
from actorbus.testing import clock, guard
from actorbus.testing.guard import Allowance
from actorbus.testing.recorder import Recorder

_BUS = pytest.StashKey[EventBus]()
_BLAMED = pytest.StashKey[bool]()

# The names of a plugin that pytest found itself, and of one that was named on the command line.
_PYTEST_ASYNCIO = ("asyncio", "pytest_asyncio.plugin")
_ANYIO = ("anyio", "anyio.pytest_plugin")

_MARKS = {
    "actorbus": Allowance.__match_args__,
    "virtual_time": ("timeout",),
}


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks, and what pytest-asyncio needs where it is."""
    config.addinivalue_line(
        "markers",
        "actorbus(allow_dead_letters=False, allow_imbalance=False): what a test with the fixture "
        "`bus` may leave behind.",
    )
    config.addinivalue_line(
        "markers",
        f"virtual_time(timeout={clock.HORIZON:g}): run the test on a loop whose time jumps instead "
        "of passing; it may take so many virtual seconds.",
    )
    if _has_plugin(config, *_PYTEST_ASYNCIO):
        from actorbus.testing import asyncio_loop

        config.pluginmanager.register(asyncio_loop, "actorbus-asyncio")


def _has_plugin(config: pytest.Config, *names: str) -> bool:
    return any(config.pluginmanager.hasplugin(name) for name in names)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a marked test, its fixtures included, have virtual loops."""
    marked = item.get_closest_marker("virtual_time") is not None
    loops: AbstractContextManager[None] = clock.virtual_loops() if marked else nullcontext()
    with loops:
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse a mark that says what no mark can say."""
    for name, known in _MARKS.items():
        for mark in item.iter_markers(name):
            unknown = sorted(mark.kwargs.keys() - set(known))
            if mark.args or unknown:
                given = f"{unknown[0]!r}" if unknown else "a positional argument"
                pytest.fail(f"mark {name} takes {', '.join(known)}, not {given}", pytrace=False)
    _allowance(item)
    _seconds(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Look, when the test is over, at what it leaves on the bus."""
    try:
        with clock.checked(item, _seconds(item)):
            result = yield
    except BaseException as error:
        item.stash[_BLAMED] = True  # it has failed, or been skipped, for a reason of its own
        if (bus := item.stash.get(_BUS, None)) is not None and (note := guard.note(bus)):
            error.add_note(note)
        raise
    if (bus := item.stash.get(_BUS, None)) is not None:
        guard.settle(bus)
        _blame(item, bus)
    return result


def _blame(item: pytest.Item, bus: EventBus) -> None:
    """Fail a test for what it leaves behind, once."""
    if item.stash.get(_BLAMED, False):
        return
    if (fault := guard.fault(bus, _allowance(item))) is not None:
        item.stash[_BLAMED] = True
        pytest.fail(fault, pytrace=False)


def _options(item: pytest.Item, name: str) -> dict[str, Any]:
    """Return what the marks of a test say, the closest first."""
    options: dict[str, Any] = {}
    for mark in item.iter_markers(name):
        options = {**mark.kwargs, **options}
    return options


def _allowance(item: pytest.Item) -> Allowance:
    options = _options(item, "actorbus")
    for name, value in options.items():
        if not isinstance(value, bool):
            pytest.fail(f"mark actorbus: {name} is True or False, not {value!r}", pytrace=False)
    return Allowance(**options)


def _seconds(item: pytest.Item) -> float | None:
    """Return the virtual seconds a test may take; None if it is not marked."""
    if item.get_closest_marker("virtual_time") is None:
        return None
    seconds = _options(item, "virtual_time").get("timeout", clock.HORIZON)
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if not number or math.isnan(seconds) or seconds <= 0:
        pytest.fail(f"mark virtual_time: timeout is seconds, not {seconds!r}", pytrace=False)
    return float(seconds)


@pytest.fixture
def actorbus_options() -> dict[str, Any]:
    """Return the options of the fixture `bus`, those of `EventBus`; override it to set some."""
    return {}


@pytest.fixture
def bus(request: pytest.FixtureRequest, actorbus_options: dict[str, Any]) -> Iterator[EventBus]:
    """Give a bus of the test's own, real in everything, which starts at the first publish.

    When the test is over it may settle for a second. Then its books must balance and it must hold
    no dead letters, unless the test is marked ``actorbus``; at last it is closed.
    """
    made = EventBus(**{"name": "test", **actorbus_options})
    with _loop_kept(request):
        request.node.stash[_BUS] = made
        try:
            yield made
        finally:
            guard.close(made)
    _blame(request.node, made)


@contextmanager
def _loop_kept(request: pytest.FixtureRequest) -> Iterator[None]:
    """Keep the test's loop open, so that the bus can be closed on it when the test is over."""
    test, config = request.node, request.config
    if test.get_closest_marker("asyncio") is not None and _has_plugin(config, *_PYTEST_ASYNCIO):
        request.getfixturevalue("_actorbus_loop")
        yield
    elif "anyio_backend" in request.fixturenames and _has_plugin(config, *_ANYIO):
        from anyio.pytest_plugin import extract_backend_and_options, get_runner

        backend = request.getfixturevalue("anyio_backend")
        with get_runner(*extract_backend_and_options(backend)):
            yield
    else:
        yield


@pytest.fixture
def recorder(bus: EventBus) -> Iterator[Callable[..., Recorder]]:
    """Give a maker of recorders: ``recorder("task_manager:*")`` records from then on."""
    made: list[Recorder] = []

    def make(*patterns: str) -> Recorder:
        made.append(Recorder(bus, *patterns))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def assert_published(recorder: Callable[..., Recorder]) -> Callable[..., Any]:
    """Give `Recorder.assert_published` for everything published on `bus` since the test began."""
    return recorder("**").assert_published
