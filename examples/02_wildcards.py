"""Wildcards: one segment, any number of them, a part of one; and why somebody did not get it."""

from actorbus import Event, EventBus

bus = EventBus("wildcards")

PATTERNS = {
    "one segment": "task_manager:*",
    "any depth": "task_manager:**",
    "part of one": "task_manager:*_done",
    "everything": "**",
}


def listen(name: str, pattern: str) -> None:
    async def handler(event: Event) -> None:
        print(f"  {name:<12} {pattern}")

    bus.subscribe(pattern, handler, name=name)


async def main() -> None:
    for name, pattern in PATTERNS.items():
        listen(name, pattern)
    # Several patterns are one subscription: it gets an event once, however many match.
    bus.subscribe(["user:*", "*:login"], lambda _: None, name="twice", exclude="user:deleted")

    for topic in ("task_manager:report_done", "task_manager:a:b", "task_manager", "user:login"):
        print("publish", topic)
        await bus.publish(topic).settled()

    print(bus.explain("user:deleted"))


bus.run(main)

# Output:
# publish task_manager:report_done
#   one segment  task_manager:*
#   any depth    task_manager:**
#   part of one  task_manager:*_done
#   everything   **
# publish task_manager:a:b
#   any depth    task_manager:**
#   everything   **
# publish task_manager
#   any depth    task_manager:**
#   everything   **
# publish user:login
#   everything   **
# user:deleted -> 1 subscription
#   everything  through **  (running, room for 1000)
# near misses
#   twice  user:*: excluded by user:deleted
#   one segment  task_manager:*: segment 1 is 'task_manager', the topic has 'user'
