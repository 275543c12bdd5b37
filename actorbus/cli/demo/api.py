"""HTTP in, events out: the Starlette application of the demo.

Invariants: a bad body is a 4xx that says why and publishes nothing; a 2xx means the event has been
accepted, so the drain at the end settles it; no answer shows the payload of a dead letter.
"""

from __future__ import annotations

import html
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from actorbus import metrics
from actorbus.errors import AskTimeoutError, BusClosedError

if TYPE_CHECKING:
    from starlette.requests import Request

    from actorbus.actor import ActorRef
    from actorbus.bus import EventBus
    from actorbus.cli.demo.tasks import Tasks

LARGEST = 64 * 1024
"""Bytes of a request body read at most."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
_Body = TypeVar("_Body")


class NewTask(msgspec.Struct):
    """Body of ``POST /tasks``."""

    user_id: Name
    title: Name


class NewUser(msgspec.Struct):
    """Body of ``POST /users``."""

    user_id: Name
    email: Annotated[str, msgspec.Meta(pattern=r"^[^@\s]+@[^@\s]+$", max_length=254)]


class NewAppointment(msgspec.Struct):
    """Body of ``POST /calendar``."""

    user_id: Name
    event_id: Name
    date: date


class RefusedError(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        self.why = why
        super().__init__(status, why)


class Api:
    """The endpoints, over one bus, one application and one actor that can be asked."""

    def __init__(self, bus: EventBus, tasks: Tasks, board: ActorRef) -> None:
        self._bus = bus
        self._tasks = tasks
        self._board = board

    async def create_task(self, request: Request) -> Response:
        """Create a task."""
        body = await _body(request, NewTask)
        task = await self._tasks.create(body.user_id, body.title)
        return _json({"task_id": task.task_id}, 201)

    async def complete_task(self, request: Request) -> Response:
        """Complete a task; completing it again changes nothing."""
        task = await self._tasks.complete(request.path_params["task_id"])
        if task is None:
            raise RefusedError(404, "there is no such task")
        return _json({"success": True, "task_id": task.task_id})

    async def register_user(self, request: Request) -> Response:
        """Register a user."""
        body = await _body(request, NewUser)
        await self._tasks.register(body.user_id, body.email)
        return _json({"user_id": body.user_id}, 201)

    async def show_user(self, request: Request) -> Response:
        """Ask the board for a user's counts."""
        user_id = request.path_params["user_id"]
        counts = await self._board.ask({"user_id": user_id}, timeout=5.0)
        if user_id not in self._tasks.users and not any(counts.values()):
            raise RefusedError(404, "there is no such user")
        return _json({"user_id": user_id, **counts})

    async def enter_appointment(self, request: Request) -> Response:
        """Enter an appointment; a plugin makes a task of it."""
        body = await _body(request, NewAppointment)
        await self._tasks.enter(body.user_id, body.event_id, body.date.isoformat())
        return _json({"event_id": body.event_id}, 201)

    async def stats(self, _: Request) -> Response:
        """Show the books of the bus, all at one instant."""
        return _json(statistics(self._bus))

    async def dead_letters(self, _: Request) -> Response:
        """List the dead letters, without payloads."""
        return _json([_letter(letter) for letter in self._bus.dead_letters])

    async def index(self, request: Request) -> Response:
        """Show what there is to see and to try."""
        return HTMLResponse(_page(str(request.base_url).rstrip("/")))


def make_app(bus: EventBus, tasks: Tasks, board: ActorRef) -> Starlette:
    """Return the demo's web application."""
    api = Api(bus, tasks, board)
    routes = [
        Route("/", api.index),
        Route("/tasks", api.create_task, methods=["POST"]),
        Route("/tasks/{task_id}/complete", api.complete_task, methods=["POST"]),
        Route("/users", api.register_user, methods=["POST"]),
        Route("/users/{user_id}", api.show_user),
        Route("/calendar", api.enter_appointment, methods=["POST"]),
        Route("/stats", api.stats),
        Route("/dead-letters", api.dead_letters),
        Route("/metrics", metrics.make_asgi_app(bus)),
    ]
    errors: Any = {RefusedError: _refuse, BusClosedError: _closing, AskTimeoutError: _late}
    return Starlette(routes=routes, exception_handlers=errors)


def statistics(bus: EventBus) -> dict[str, Any]:
    """Return `bus.get_stats()` and the numbers Prometheus can be compared with.

    Everything is read in one step of the loop, so the parts agree with one another.
    """
    reading, audit = bus.reading(), bus.audit()
    ledgers = [actor.ledger for actor in reading.actors]
    return {
        **bus.get_stats(),
        "acked": sum(ledger.acked for ledger in ledgers),
        "dead": sum(ledger.dead_total for ledger in ledgers),
        "restarted": sum(ledger.restarts for ledger in ledgers),
        "retried": sum(ledger.retries for ledger in ledgers),
        "dead_letters_held": reading.dead_letters_held,
        "audit": {
            "balanced": audit.balanced,
            "totals": audit.totals,
            "differences": audit.differences,
        },
        "by_subscription": {
            actor.label: {
                "routed": actor.ledger.routed,
                "acked": actor.ledger.acked,
                "dead": actor.ledger.dead_total,
                "conflated": actor.ledger.conflated,
                "pending": actor.terms.pending,
                "retries": actor.ledger.retries,
                "restarts": actor.ledger.restarts,
                "up": actor.up,
            }
            for actor in reading.actors
        },
    }


def _letter(letter: Any) -> dict[str, Any]:
    return {
        "id": letter.id,
        "topic": letter.event.topic,
        "event_id": letter.event.id,
        "subscription": letter.subscription,
        "reason": letter.reason,
        "error": None if letter.error is None else type(letter.error).__name__,
        "attempts": letter.attempts,
        "first_failed_at": letter.first_failed_at,
        "died_at": letter.died_at,
    }


async def _body(request: Request, kind: type[_Body]) -> _Body:
    """Read and check a body.

    Raises:
        RefusedError: It is too large, no JSON, or not what `kind` asks for.
    """
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > LARGEST:
            raise RefusedError(413, f"the body is larger than {LARGEST} bytes")
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise RefusedError(422, str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(400, f"the body is no JSON: {error}") from error


def _json(content: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


async def _refuse(_: Request, error: RefusedError) -> Response:
    return _json({"error": error.why}, error.status)


async def _closing(_: Request, error: BusClosedError) -> Response:
    return _json({"error": str(error)}, 503)


async def _late(_: Request, error: AskTimeoutError) -> Response:
    return _json({"error": str(error)}, 504)


_LINKS = {
    "/stats": "the books: what was published, and what became of every delivery",
    "/metrics": "the same numbers for Prometheus",
    "/dead-letters": "deliveries given up, and why",
    "/users/ada": "what the board counts for one user, once she has a task",
}
_TRIES = (
    ("a task", "/tasks", '{"user_id":"ada","title":"Try it"}'),
    ("complete it", "/tasks/task-1/complete", "{}"),
    ("a user", "/users", '{"user_id":"ada","email":"ada@example.com"}'),
    ("an appointment", "/calendar", '{"user_id":"ada","event_id":"e1","date":"2025-10-20"}'),
    ("a bad body", "/tasks", '{"user_id":"ada"}'),
)


def tries(url: str) -> list[tuple[str, str]]:
    """Return what to try: a few words and a line for the shell each."""
    return [(what, f"curl -d '{body}' {url}{path}") for what, path, body in _TRIES]


def _page(url: str) -> str:
    links = "".join(
        f'<li><a href="{path.lstrip("/")}">{path}</a>: {text}</li>' for path, text in _LINKS.items()
    )
    lines = "\n".join(f"{command}  # {what}" for what, command in tries(url))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>actorbus demo</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: auto; padding: 1rem }}
pre {{ overflow-x: auto; padding: 1rem; border: 1px solid #8888; border-radius: .4rem }}
</style></head><body>
<h1>actorbus demo</h1>
<p>A task manager whose parts know each other only by events. Its API publishes; notifications,
analytics, the calendar plugin, a board with state and a flaky webhook listen.</p>
<h2>To open</h2><ul>{links}</ul>
<h2>To try</h2><pre>{html.escape(lines)}</pre>
<p>A completed task with the word <em>flaky</em> in its title is retried; with <em>broken</em> it
ends as a dead letter and restarts the webhook actor; with <em>slow</em> it takes half a second, so
stop the demo meanwhile and see it drained.</p>
</body></html>
"""
