"""Durable: events that survive the process, and an inbox: what it writes takes effect once."""

import asyncio
import logging
import tempfile

from actorbus import EventBus, RetryPolicy, Transaction

logging.getLogger("actorbus").setLevel(logging.CRITICAL)  # each dead letter is logged; not here
limit = {"owed": 10}


async def bill(order: dict[str, int], tx: Transaction) -> None:
    tx.execute("UPDATE account SET owed = owed + ?", (order["sum"],))  # put down, not yet done
    ((owed,),) = await tx.fetch("SELECT owed FROM account")
    if owed > limit["owed"]:
        raise ValueError(f"would owe {owed}")  # what was put down is let go
    print(f"billed {order['sum']}, owed {owed}")  # committed with the acknowledgement


def subscribe(bus: EventBus) -> None:
    once = RetryPolicy.none()
    bus.subscribe("order:*", bill, name="billing", durable="billing", inbox=True, retry=once)


async def main(url: str) -> None:
    async with EventBus("shop", journal=url) as bus:
        async with bus.transaction() as tx:  # a table of your own, in the journal's file
            tx.execute("CREATE TABLE account(owed)")
            tx.execute("INSERT INTO account VALUES(0)")
        subscribe(bus)  # known to the journal from now on
        await bus.publish("order:placed", {"sum": 7})  # committed to disk

    async with EventBus("shop", journal=url) as bus:  # another process, without billing
        await bus.publish("order:placed", {"sum": 5})

    async with EventBus("shop", journal=url) as bus:  # billing is back, and goes on
        subscribe(bus)
        await bus.settle()
        for letter in bus.dead_letters:
            print(letter.subscription, letter.reason, letter.error)

        limit["owed"] = 20
        await bus.journal.replay(subscription="billing")
        await bus.settle()
        past = [event.data["sum"] async for event in bus.read_history("order:*")]
        print("published", past, "dead letters", len(bus.dead_letters))


with tempfile.TemporaryDirectory() as place:
    asyncio.run(main(f"sqlite:///{place}/shop.db"))

# Output:
# billed 7, owed 7
# billing retries_exhausted would owe 12
# billed 5, owed 12
# published [7, 5] dead letters 0
