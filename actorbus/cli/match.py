"""`actorbus match`: find a bus and let it explain a topic."""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict
from operator import attrgetter
from pathlib import Path

import msgspec

from actorbus.bus import EventBus
from actorbus.cli.errors import CommandError


def explain(target: str, topic: str, *, as_json: bool) -> int:
    """Print who would get an event of `topic`.

    Args:
        target: Where the bus is, as ``MODULE:BUS``.
        topic: A topic.
        as_json: Whether to print JSON rather than text.

    Returns:
        0 if at least one subscription matches, else 1.

    Raises:
        CommandError: There is no such module, or no bus in it.
        InvalidTopicError: `topic` is none.
    """
    explanation = find_bus(target).explain(topic)
    if as_json:
        text = msgspec.json.format(msgspec.json.encode(asdict(explanation))).decode()
    else:
        text = str(explanation)
    print(text)
    return 0 if explanation.matches else 1


def find_bus(target: str) -> EventBus:
    """Import a module and return the bus in it.

    Args:
        target: ``MODULE:BUS``; BUS may be a dotted path inside the module.

    Raises:
        CommandError: The target has another form, the import fails, or it finds no `EventBus`.
    """
    module, _, attribute = target.partition(":")
    if not module or not attribute:
        raise CommandError(f"expected MODULE:BUS, such as shop:bus, not {target!r}")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        home = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise CommandError(f"cannot import {module!r}: {type(error).__name__}: {error}") from error
    try:
        found = attrgetter(attribute)(home)
    except AttributeError as error:
        raise CommandError(f"there is no {target!r}: {error}") from error
    if not isinstance(found, EventBus):
        raise CommandError(f"{target!r} is not an EventBus but a {type(found).__name__}")
    return found
