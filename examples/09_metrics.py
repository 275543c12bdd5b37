"""Metrics: the ledger for Prometheus. Nothing runs per event; a scrape copies plain integers."""

import logging

from prometheus_client import CollectorRegistry, generate_latest

from actorbus import EventBus, RetryPolicy, metrics

logging.getLogger("actorbus").setLevel(logging.CRITICAL)
bus = EventBus("shop")

WANTED = (
    "actorbus_published_events_total",
    "actorbus_acked_deliveries_total",
    "actorbus_dead_deliveries_total",
    "actorbus_retries_total",
    "actorbus_actor_up",
)


@bus.subscribe("order:*", name="mail")
async def mail(data: int) -> None:
    pass


@bus.subscribe("order:paid", name="books", retry=RetryPolicy(max_attempts=2, base=0.01))
async def books(data: int) -> None:
    raise ConnectionError("no books today")


async def main() -> None:
    registry = CollectorRegistry()
    metrics.register(bus, registry)  # or metrics.serve(bus, 9000), or metrics.make_asgi_app(bus)
    for number in range(3):
        bus.publish("order:placed", number)
    bus.publish("order:paid", 4)
    await bus.settle()
    for line in generate_latest(registry).decode().splitlines():
        if line.startswith(WANTED) and not line.endswith(" 0.0"):
            print(line)


bus.run(main)

# Output:
# actorbus_published_events_total{bus="shop",topic="order:placed"} 3.0
# actorbus_published_events_total{bus="shop",topic="order:paid"} 1.0
# actorbus_acked_deliveries_total{bus="shop",subscription="mail"} 4.0
# actorbus_dead_deliveries_total{bus="shop",reason="retries_exhausted",subscription="books"} 1.0
# actorbus_retries_total{bus="shop",subscription="books"} 1.0
# actorbus_actor_up{bus="shop",subscription="mail"} 1.0
# actorbus_actor_up{bus="shop",subscription="books"} 1.0
