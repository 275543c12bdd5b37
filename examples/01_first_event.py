"""The first event: a subscriber, a failing subscriber beside it, and what is on record after."""

from typing import Any

from actorbus import RetryPolicy, event_bus


@event_bus.subscribe("task_manager:task_created")
async def notify(data: dict[str, Any]) -> None:
    print(f"{data['user_id']} has a new task: {data['title']}")


@event_bus.subscribe("task_manager:*", retry=RetryPolicy(max_attempts=3, base=0.01))
async def index(data: dict[str, Any]) -> None:
    raise ConnectionError("the search engine is down")


async def main() -> None:
    # A plain call: it returns at once, awaited or not, and the event stands in both mailboxes.
    event_bus.publish("task_manager:task_created", {"user_id": "ada", "title": "Write docs"})


event_bus.run(main)  # starts the bus, awaits main, finishes what was accepted

# Each dead letter has also gone to the logger "actorbus", so to standard error here.
for letter in event_bus.dead_letters:
    print(f"{letter.subscription}: {letter.reason} after {letter.attempts} attempts")
    print(f"  {letter.event.topic}, {letter.error!r}")
print("the books balance:", event_bus.audit().balanced)

# Output:
# ada has a new task: Write docs
# __main__.index: retries_exhausted after 3 attempts
#   task_manager:task_created, ConnectionError('the search engine is down')
# the books balance: True
