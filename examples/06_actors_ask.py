"""Actors: a class with state, told and asked through its reference or by topic."""

import logging

from actorbus import Actor, AskFailedError, Event, EventBus, NoResponderError, RetryPolicy

logging.getLogger("actorbus").setLevel(logging.CRITICAL)
bus = EventBus("shop")


class Inventory(Actor):
    """One delivery at a time, so no lock: nobody else touches the stock."""

    patterns = ("inventory:reserve",)
    retry = RetryPolicy.none()

    def __init__(self, stock: int) -> None:
        self.stock = stock

    async def on_start(self) -> None:
        print(f"{self.name} starts with {self.stock}")

    async def receive(self, event: Event) -> int:
        if event.data > self.stock:
            raise LookupError(f"only {self.stock} left")
        self.stock -= event.data
        return self.stock

    async def on_stop(self, reason: str) -> None:
        print(f"{self.name} stops: {reason}")


async def main() -> None:
    inventory = bus.spawn(lambda: Inventory(stock=10), name="inventory", on_failure="resume")
    print("left:", await bus.ask("inventory:reserve", 3, timeout=1.0))
    print("left:", await inventory.ask(5, timeout=1.0))

    try:
        await inventory.ask(100)
    except AskFailedError as error:
        print(f"{error.reason}: {error.__cause__}")
    try:
        await bus.ask("inventory:count")  # never hangs: it says at once that nobody listens
    except NoResponderError as error:
        print(error)
    await inventory.stop()
    print("it is", inventory.state)


bus.run(main)

# Output:
# inventory starts with 10
# left: 7
# left: 2
# retries_exhausted: only 2 left
# no handler matches 'inventory:count', so nobody can answer
# inventory stops: stopped
# it is stopped
