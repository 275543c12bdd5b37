"""Streams: events as an async iterator, as an aiostream pipe into an actor, and one by itself."""

import asyncio

from aiostream import pipe

from actorbus import Actor, Event, EventBus
from actorbus.streams import stream

bus = EventBus("sensors")


class Averages(Actor):
    async def receive(self, event: Event) -> None:
        print(f"average of {event.data}: {sum(event.data) / len(event.data)}")


def reading(event: Event, *_: Event) -> int:
    return int(event.data)


async def measure(topic: str, count: int) -> None:
    for value in range(count):
        await bus.publish(topic, value)


async def main() -> None:
    async with bus.events("sensor:*") as events:
        await measure("sensor:kitchen", 2)
        async for event in events:
            print(event.topic, event.data)
            if event.data == 1:
                break

    averages = bus.spawn(Averages, name="averages")
    batches = stream(bus, "sensor:*") | pipe.map(reading) | pipe.take(6) | pipe.chunks(3)
    task = asyncio.create_task(measure("sensor:cellar", 6))
    async with batches.stream() as streamer:
        async for batch in streamer:
            await averages.tell(batch)  # has a mailbox, so the pipe goes at its pace
    await task
    await bus.settle()

    door = asyncio.create_task(bus.wait_for("door:*", where=lambda event: event.data == "open"))
    await asyncio.sleep(0)
    bus.publish("door:front", "closed")
    bus.publish("door:front", "open")
    print("the door is", (await door).data)


bus.run(main)

# Output:
# sensor:kitchen 0
# sensor:kitchen 1
# average of [0, 1, 2]: 1.0
# average of [3, 4, 5]: 4.0
# the door is open
