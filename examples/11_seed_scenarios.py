"""Plugins that know each other only by events: tasks, a calendar, notifications, analytics."""

from typing import Any

from actorbus import event_bus

inbox: list[str] = []
tasks: dict[str, str] = {}
usage: list[float] = []


async def complete_task(user_id: str, task_id: str) -> dict[str, bool]:
    """Say so; who cares is not the task manager's business."""
    tasks[task_id] = "done"
    event_bus.publish("task_manager:task_completed", {"user_id": user_id, "task_id": task_id})
    return {"success": True}


@event_bus.subscribe("calendar:event_created")
async def prepare(data: dict[str, Any]) -> None:
    tasks[data["event_id"]] = f"prepare for {data['date']}"


@event_bus.subscribe("task_manager:task_completed")
async def congratulate(data: dict[str, Any]) -> None:
    inbox.append(f"{data['task_id']} is done, {data['user_id']}")


@event_bus.subscribe("plugin_executed")
def track(data: dict[str, Any]) -> None:  # a plain def runs in a thread
    usage.append(data["execution_time"])


def on_login(data: dict[str, Any]) -> None:
    inbox.append(f"welcome back, {data['user_id']}")


async def main() -> None:
    event_bus.subscribe("user:login", on_login)
    event_bus.publish("user:login", {"user_id": "ada"})
    event_bus.unsubscribe("user:login", on_login)  # what it has is still handled
    event_bus.publish("user:login", {"user_id": "bob"})
    print(await complete_task("ada", "t1"))
    event_bus.publish("calendar:event_created", {"event_id": "e1", "date": "2025-10-20"})
    event_bus.publish("plugin_executed", {"plugin": "tasks", "execution_time": 0.2})
    await event_bus.settle()  # only so that there is something to print
    print(sorted(inbox), tasks, usage)
    print(event_bus.get_history("task_manager:task_completed", limit=10)[0]["data"])
    stats = event_bus.get_stats()
    print(stats["events_published"], stats["events_delivered"], stats["delivery_failures"])


event_bus.run(main)

# Output:
# {'success': True}
# ['t1 is done, ada', 'welcome back, ada'] {'t1': 'done', 'e1': 'prepare for 2025-10-20'} [0.2]
# {'user_id': 'ada', 'task_id': 't1'}
# 5 4 0
