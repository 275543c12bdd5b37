"""Events through aiostream: pipelines that begin in a bus and may end in an actor."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actorbus import Actor, ConfigurationError, Event, EventBus, InvalidPatternError

aiostream = pytest.importorskip("aiostream")
pipe = aiostream.pipe

from actorbus.streams import stream  # noqa: E402 - only where aiostream is there

Maker = Callable[..., EventBus]


def listeners(bus: EventBus, topic: str = "t") -> int:
    """Return how many subscriptions and streams would get a topic."""
    return len(bus.explain(topic).matches)


async def publish(bus: EventBus, events: int, topic: str = "t") -> None:
    """Publish numbers, once somebody listens."""
    while not listeners(bus, topic):
        await asyncio.sleep(0.01)
    for number in range(events):
        bus.publish(topic, number)
        await asyncio.sleep(0)


async def test_operators_can_be_piped(bus: EventBus) -> None:
    """`stream | pipe.map(f) | pipe.chunks(100)` gives lists of 100 mapped events."""
    publishing = asyncio.create_task(publish(bus, 250))
    chunks: list[list[int]] = []
    numbers = stream(bus, "t") | pipe.map(lambda event: event.data * 2) | pipe.chunks(100)
    async with (numbers | pipe.take(2)).stream() as streamer:
        async for chunk in streamer:
            chunks.append(chunk)
    assert chunks == [list(range(0, 200, 2)), list(range(200, 400, 2))]
    await publishing
    assert listeners(bus) == 0


async def test_it_is_an_aiostream_stream_of_events(bus: EventBus) -> None:
    """What it yields are events, unchanged and in order."""
    assert isinstance(stream(bus, "t"), aiostream.Stream)
    publishing = asyncio.create_task(publish(bus, 3))
    events = await aiostream.stream.list(stream(bus, ["t", "u"]) | pipe.take(3))
    assert [event.data for event in events] == [0, 1, 2]
    assert all(isinstance(event, Event) for event in events)
    await publishing


@pytest.mark.parametrize("how", ["left", "error", "cancelled"])
async def test_leaving_ends_the_subscription(bus: EventBus, how: str) -> None:
    """However a run ends, its subscription ends with it."""

    async def reading() -> None:
        async with (stream(bus, "t") | pipe.map(lambda event: event.data)).stream() as streamer:
            async for data in streamer:
                if how == "left":
                    break
                if how == "error":
                    raise LookupError(data)

    task = asyncio.create_task(reading())
    await publish(bus, 1)
    assert listeners(bus) == (1 if how == "cancelled" else listeners(bus))
    if how == "cancelled":
        await asyncio.sleep(0.1)
        assert not task.done()
        task.cancel()
    await asyncio.wait({task})
    assert listeners(bus) == 0
    if how == "error":
        assert isinstance(task.exception(), LookupError)


async def test_it_listens_only_while_it_runs(bus: EventBus) -> None:
    """Making a stream subscribes nobody; running it twice at once subscribes twice."""
    numbers = stream(bus, "t") | pipe.map(lambda event: event.data)
    assert listeners(bus) == 0
    runs = [asyncio.create_task(_first(numbers)) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert listeners(bus) == 2
    bus.publish("t", 7)
    assert await asyncio.gather(*runs) == [7, 7]
    assert listeners(bus) == 0


async def _first(source: Any) -> Any:
    async with source.stream() as streamer:
        async for item in streamer:
            return item
    return None


async def test_it_ends_when_the_bus_is_closed(make_bus: Maker) -> None:
    """A closed bus ends its streams, and what stood in the buffer still comes."""
    bus = make_bus()
    await bus.start()
    reading = asyncio.create_task(_all(stream(bus, "t")))
    await publish(bus, 3)
    await bus.close()
    assert [event.data for event in await reading] == [0, 1, 2]


async def _all(source: Any) -> list[Any]:
    async with source.stream() as streamer:
        return [item async for item in streamer]


async def test_its_options_are_those_of_bus_events(bus: EventBus) -> None:
    """`replay`, `mailbox` and `overflow` work as there, and are refused at the call."""
    for number in range(5):
        bus.publish("t", number)
    events = await aiostream.stream.list(stream(bus, "t", replay=2) | pipe.take(2))
    assert [event.data for event in events] == [3, 4]
    with pytest.raises(ConfigurationError, match="never blocks"):
        stream(bus, "t", overflow="block")
    with pytest.raises(ConfigurationError, match="replay"):
        stream(bus, "t", replay=2, mailbox=1)
    with pytest.raises(InvalidPatternError):
        stream(bus, "a::b")


async def test_a_pipeline_may_end_in_an_actor(bus: EventBus) -> None:
    """Batches are told to an actor, with its mailbox's backpressure."""

    class Writer(Actor):
        rows: list[list[int]] = []  # noqa: RUF012 - shared on purpose

        async def receive(self, event: Event) -> None:
            self.rows.append(event.data)

    ref = bus.spawn(Writer, name="writer")
    batches = stream(bus, "t") | pipe.map(lambda event: event.data) | pipe.chunks(10)
    feeding = asyncio.create_task(_all(batches | pipe.map(_tell(ref)) | pipe.take(3)))
    await publish(bus, 30)
    await feeding
    await bus.settle()
    assert Writer.rows == [list(range(10)), list(range(10, 20)), list(range(20, 30))]


def _tell(ref: Any) -> Any:
    async def tell(batch: list[int]) -> None:
        await ref.tell(batch)

    return tell


def test_aiostream_is_an_extra_that_one_file_imports() -> None:
    """It is no dependency of the package, and only `streams.py` names it in an import."""
    root = Path(__file__).parent.parent
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert not any(each.startswith("aiostream") for each in project["dependencies"])
    assert any(each.startswith("aiostream") for each in project["optional-dependencies"]["streams"])
    importing = [
        file.relative_to(root).as_posix()
        for file in (root / "actorbus").rglob("*.py")
        if "import aiostream" in file.read_text() or "from aiostream" in file.read_text()
    ]
    assert importing == ["actorbus/streams.py"]


def test_without_aiostream_one_clear_line_says_what_to_install() -> None:
    """The error names the extra, and nothing else of the package needs it."""
    program = (
        "import sys; sys.modules['aiostream'] = None\n"
        "import actorbus\n"
        "try:\n    import actorbus.streams\n"
        "except ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "actorbus.streams needs aiostream: install actorbus[streams]\n"
