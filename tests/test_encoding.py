"""What a journal makes of a payload: a table of docs/reliability.md, tried row by row."""

from __future__ import annotations

import datetime as dt
import decimal
from dataclasses import make_dataclass
from typing import Any

import pytest

from actorbus import EventBus
from actorbus.encoding import encoded
from actorbus.event import new_event
from actorbus.journal.memory import MemoryJournal
from tests.figures import PAGE
from tests.test_readme import rows

HEADING = "### What JSON makes of a payload"
NAMES = {"date": dt.date, "Decimal": decimal.Decimal}


def read(cell: str) -> Any:
    """Return what a cell says in Python; an ellipsis where it is in words."""
    return eval(cell.strip("`"), dict(NAMES)) if cell.startswith("`") else ...  # noqa: S307


def table() -> list[tuple[Any, Any, Any]]:
    """Return the rows: what is published, what handlers get, which annotation gives it back."""
    found = rows(PAGE.read_text(encoding="utf-8"), HEADING)
    return [(read(given), read(got), read(annotation)) for given, got, annotation in found]


@pytest.mark.parametrize(("given", "got"), [(given, got) for given, got, _ in table()])
def test_handlers_get_what_the_page_says(given: Any, got: Any) -> None:
    """Each row is what is written and read back, and is something else than what was given."""
    event, _ = encoded(new_event("a:b", given))

    assert event.data == got
    assert type(event.data) is type(got)
    assert event.data != given


@pytest.mark.parametrize(
    ("given", "annotation"), [(given, kind) for given, _, kind in table() if kind is not ...]
)
async def test_an_annotation_gives_it_back(given: Any, annotation: Any) -> None:
    """In a field of a dataclass that is annotated so, it is what it was."""
    kind, seen = make_dataclass("Held", [("it", annotation)]), list[Any]()

    async def handle(data: Any) -> None:
        seen.append(data.it)

    handle.__annotations__["data"] = kind
    async with EventBus(journal=MemoryJournal()) as bus:
        bus.subscribe("a:b", handle, durable="d")
        await bus.publish("a:b", {"it": given})
        await bus.settle()
    assert seen == [given]
    assert type(seen[0]) is type(given)
