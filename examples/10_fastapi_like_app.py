"""A web application: the bus lives as long as the app. FastAPI takes the same lifespan."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from actorbus import EventBus, metrics

bus = EventBus("web")
notified: list[str] = []


@bus.subscribe("task_manager:task_created", name="notifications")
async def notify(data: dict[str, Any]) -> None:
    await asyncio.sleep(0.05)
    notified.append(data["user_id"])


async def create_task(request: Request) -> Response:
    # Waits for room in the mailboxes, not for the handlers.
    await bus.publish("task_manager:task_created", await request.json())
    return Response(status_code=201)


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with bus:  # at shutdown: finish what was accepted, accept no more
        yield


app = Starlette(lifespan=lifespan)
app.add_route("/tasks", create_task, methods=["POST"])
app.add_route("/metrics", metrics.make_asgi_app(bus))  # type: ignore[arg-type]  # any ASGI app will do


async def main() -> None:
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")
    async with app.router.lifespan_context(app), client:
        print(await client.post("/tasks", json={"user_id": "ada"}))
        for line in (await client.get("/metrics")).text.splitlines():
            if line.startswith("actorbus_published_events_total") and "task" in line:
                print(line)
    print("after the shutdown, notified:", notified)


asyncio.run(main())

# Output:
# <Response [201 Created]>
# actorbus_published_events_total{bus="web",topic="task_manager:task_created"} 1.0
# after the shutdown, notified: ['ada']
