"""Failure: retry in place, then a dead letter with its reason, then a replay when it is mended."""

import logging

from actorbus import Event, EventBus, Reject, RetryPolicy

logging.getLogger("actorbus").setLevel(logging.CRITICAL)  # each dead letter is logged; not here
bus = EventBus("orders")
bank = {"online": False}


@bus.subscribe(
    "order:placed",
    name="invoicing",
    retry=RetryPolicy(max_attempts=3, base=0.01, never=ValueError),
)
async def invoice(data: dict[str, int]) -> None:
    if data["amount"] <= 0:
        raise Reject("nothing to invoice")  # no attempt would change that
    if not bank["online"]:
        raise ConnectionError("the bank does not answer")
    print(f"invoiced {data['amount']}")


@bus.subscribe("$bus:dead_letter:*", name="alarm")
async def alarm(event: Event) -> None:
    print("alarm:", event.topic)


async def main() -> None:
    for amount in (10, 0, 30):
        bus.publish("order:placed", {"amount": amount})
    await bus.settle()

    for letter in bus.dead_letters:
        print(f"{letter.event.data} {letter.reason} after {letter.attempts}: {letter.error}")

    bank["online"] = True
    replayed = await bus.dead_letters.replay(reason="retries_exhausted")
    await bus.settle()
    print(f"replayed {replayed}, {len(bus.dead_letters)} left")


bus.run(main)

# Output:
# alarm: $bus:dead_letter:retries_exhausted
# alarm: $bus:dead_letter:rejected
# alarm: $bus:dead_letter:retries_exhausted
# {'amount': 10} retries_exhausted after 3: the bank does not answer
# {'amount': 0} rejected after 1: nothing to invoice
# {'amount': 30} retries_exhausted after 3: the bank does not answer
# invoiced 10
# invoiced 30
# replayed 2, 1 left
