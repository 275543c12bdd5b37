"""Supervision: a retry concerns a delivery, a restart an actor, a supervisor several of them."""

import logging

from actorbus import Actor, Event, EventBus, RestartPolicy, RetryPolicy

logging.getLogger("actorbus").setLevel(logging.CRITICAL)
bus = EventBus("plugins")


class Counter(Actor):
    """Counts. A restart builds a new instance, so it counts from one again; its mail is kept."""

    retry = RetryPolicy.none()

    def __init__(self) -> None:
        self.count = 0

    async def on_start(self) -> None:
        print(f"  {self.name} starts")

    async def receive(self, event: Event) -> int:
        if event.data == "break":
            raise RuntimeError("broken")
        self.count += 1
        return self.count

    async def on_restart(self, error: BaseException, event: Event | None) -> None:
        print(f"  {self.name} leaves at {self.count}: {error}")


async def main() -> None:
    group = bus.supervisor("plugins", strategy="one_for_all", max_restarts=3, within=60.0)
    counter = group.spawn(Counter, name="counter")
    sibling = group.spawn(Counter, name="sibling")
    print("asked:", await counter.ask(), await counter.ask(), await sibling.ask())

    counter.tell("break")  # a dead letter; then all children start anew
    print("asked:", await counter.ask(), await sibling.ask())

    # No restart allowed, and nobody above to ask: the failure ends the actor.
    policy = RestartPolicy(max_restarts=0, on_give_up="stop")
    strict = bus.spawn(Counter, name="strict", restart=policy)
    strict.tell("break")
    print("the bus says:", (await bus.wait_for("$bus:actor:stopped")).data)


bus.run(main)

# Output:
#   counter starts
#   sibling starts
# asked: 1 2 1
#   counter leaves at 2: broken
#   counter starts
#   sibling starts
# asked: 1 1
#   strict starts
# the bus says: {'subscription': 'strict', 'state': 'stopped'}
