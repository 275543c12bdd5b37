"""Backpressure: mailboxes are bounded. Awaiting a publish waits for room; policies do the rest."""

import asyncio
import logging

from actorbus import EventBus, MailboxFullError

logging.getLogger("actorbus").setLevel(logging.CRITICAL)
bus = EventBus("backpressure")


async def slow(data: int) -> None:
    await asyncio.sleep(0.01)


async def awaited() -> None:
    """Go at the pace of the subscriber; nothing is lost."""
    bus.subscribe("block:*", slow, name="block", mailbox=2)
    longest = 0
    for number in range(10):
        receipt = bus.publish("block:reading", number)
        longest = max(longest, receipt.waiting)
        await receipt  # returns when the delivery stands in the mailbox
    await bus.settle()
    acked = bus.audit().subscriptions["block"].acked
    print(f"block, awaited: {acked} acked, the longest line was {longest}")


async def dropping() -> None:
    """Publish ten events at once into a mailbox of two."""
    for overflow in ("drop_new", "drop_old", "latest"):
        seen: list[int] = []
        bus.subscribe(f"{overflow}:*", seen.append, name=overflow, mailbox=2, overflow=overflow)
        for number in range(10):
            bus.publish(f"{overflow}:reading", number)
        await bus.settle()
        terms = bus.audit().subscriptions[overflow]
        print(f"{overflow}: saw {seen}, {terms.dead} dead, {terms.conflated} conflated")


async def main() -> None:
    await awaited()
    await dropping()
    bus.subscribe("fail:*", slow, name="fail", mailbox=1, overflow="fail")
    try:
        for number in range(3):
            await bus.publish("fail:reading", number)
    except MailboxFullError as error:
        print("fail:", error)


bus.run(main)

# Output:
# block, awaited: 10 acked, the longest line was 1
# drop_new: saw [0, 1], 8 dead, 0 conflated
# drop_old: saw [8, 9], 8 dead, 0 conflated
# latest: saw [9], 0 dead, 9 conflated
# fail: mailbox of 'fail' is full (capacity 1)
