import pytest
from actorbus import EventBus

async def test_publish_reaches_a_subscriber(bus: EventBus) -> None:
    """A published event reaches its subscriber."""
    got = []
    @bus.subscribe("a:*")
    async def handler(data): got.append(data)
    result = await bus.publish("a:b", 1).settled()
    assert result.ok
    assert got == [1]

async def test_sync(bus: EventBus) -> None:
    got = []
    bus.subscribe("a:*", got.append)
    for i in range(300): await bus.publish("a:b", i)
    await bus.settle()
    assert got == list(range(300))
