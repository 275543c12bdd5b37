"""The commands, their options and their help; what they do stands in files of their own.

Invariant: whatever goes wrong is one line on standard error and exit code 2; a traceback is a bug.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from actorbus.cli import journal_commands
from actorbus.cli.errors import CommandError
from actorbus.errors import ActorBusError

if TYPE_CHECKING:
    from collections.abc import Sequence

# The class of all complaints about arguments: typer has its own copy of click, or uses click's.
_UsageError: Any = typer.BadParameter.__base__

ABOUT = """Events inside your process with the guarantees of a broker.

\b
Start here:
  actorbus demo                        a task manager on events, with metrics
  actorbus match shop:bus order:paid   who would get this event, and who would not
  actorbus journal info URL            what a durable bus keeps, and for whom
  actorbus dead-letters list URL       which deliveries it has given up, and why
"""

ABOUT_DEMO = """Run a task manager whose HTTP API publishes events: one process, no server needed.

A first SIGINT or SIGTERM finishes the requests and drains the bus, a second ends it at once.

\b
Examples:
  actorbus demo                          look around on http://127.0.0.1:8000/
  actorbus demo --rate 0                 no traffic but yours
  actorbus demo --rate 500 --seconds 10  ten seconds under load, then drain and say so

\b
Then, from another terminal:
  curl -d '{"user_id":"ada","title":"Try it"}' http://127.0.0.1:8000/tasks
  curl http://127.0.0.1:8000/stats
  curl http://127.0.0.1:8000/metrics
"""

ABOUT_MATCH = """Say who would get an event of TOPIC, and which near misses would not.

MODULE is imported, from the current directory too, so its subscriptions are those that are
made on import. The exit code is 0 if anybody would get the event, else 1.

\b
Examples:
  actorbus match shop:bus order:paid
  actorbus match shop.events:app.bus order:paid --json
"""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True, help=ABOUT)
def _actorbus(context: typer.Context) -> None:
    """Show the help when no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(help=ABOUT_DEMO, short_help="Run a task manager on events, with HTTP and metrics.")
def demo(
    host: Annotated[str, typer.Option(help="Address to bind.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port; 0 takes any free one.")
    ] = 8000,
    rate: Annotated[
        float, typer.Option(min=0, help="Events a second of built-in traffic; 0 for none.")
    ] = 20,
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds to run; 0 until SIGINT or SIGTERM.")
    ] = 0,
) -> None:
    """Run the demo."""
    try:
        from actorbus.cli.demo.process import run as run_demo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"starlette", "uvicorn"}:
            raise
        need = 'the demo needs an extra: python -m pip install "actorbus[web]"'
        raise CommandError(need) from error
    raise typer.Exit(run_demo(host, port, rate, seconds))


@app.command(help=ABOUT_MATCH, short_help="Say who would get an event, and who would not.")
def match(
    bus: Annotated[str, typer.Argument(metavar="MODULE:BUS", help="Where the bus is.")],
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="A topic, without wildcards.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain a topic."""
    from actorbus.cli.match import explain

    raise typer.Exit(explain(bus, topic, as_json=as_json))


app.add_typer(journal_commands.journal, name="journal")
app.add_typer(journal_commands.dead_letters, name="dead-letters")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    try:
        code = app(arguments, prog_name="actorbus", standalone_mode=False)
    except (CommandError, ActorBusError) as error:
        return _complain(str(error))
    except _UsageError as error:
        return _complain(error.format_message())
    except typer.Abort:
        return 130
    except BrokenPipeError:  # the reader, such as head, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code if isinstance(code, int) else 0


def _complain(text: str) -> int:
    line = " ".join(text.split())
    sys.stderr.write(f"actorbus: {line}\n")
    return 2
