"""The commands `actorbus journal …` and `actorbus dead-letters …`: options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from actorbus.cli.errors import CommandError
from actorbus.words import DeadReason

ABOUT_JOURNAL = """Look at the journal of a durable bus, check it, prune it, take it elsewhere.

The journal must be at rest: a process that has it open is named, and has to close it first. Give
the URL that your program gives to its bus, for its options say how long events are kept; or set
ACTORBUS_URL to it. While the bus runs, `bus.journal` does the same.

\b
Examples:
  actorbus journal info sqlite:///events.db
  actorbus journal verify sqlite:///events.db
  actorbus journal prune "sqlite:///events.db?retention=86400"
  actorbus journal export sqlite:///events.db --pattern "order:**" -o orders.jsonl
  actorbus journal forget sqlite:///events.db billing --yes
"""

ABOUT_INFO = """Print how much a journal holds, and how far each durable subscription has come.

The lag of a durable subscription is how many events of its patterns it has not settled; those that
its exclude= takes out again are counted, for the journal does not know it.

\b
Examples:
  actorbus journal info sqlite:///events.db
  ACTORBUS_URL=sqlite:///events.db actorbus journal info --json
"""

ABOUT_VERIFY = """Look at every event, dead letter and note, and print what is wrong, a line each.

The exit code is 0 if nothing is wrong, else 1.

\b
Examples:
  actorbus journal verify sqlite:///events.db
  actorbus journal verify sqlite:///events.db --json
"""

ABOUT_PRUNE = """Remove the events that are past retention and that nobody needs.

How long events are kept is an option of the URL: a week, if it does not say otherwise. Dead letters
stay, and so does what a durable subscription has not settled.

\b
Examples:
  actorbus journal prune "sqlite:///events.db?retention=86400"
  actorbus journal prune "sqlite:///events.db?retention=86400" --json
"""

ABOUT_EXPORT = """Write events as JSON lines, oldest first.

Each line has seq, id, topic, time (Unix seconds), key, headers, correlation_id, causation_id and
data. A damaged event says so in its line, and the exit code is 1.

\b
Examples:
  actorbus journal export sqlite:///events.db | head
  actorbus journal export sqlite:///events.db --pattern "order:**" --since 2026-01-31 -o o.jsonl
"""

ABOUT_FORGET = """Forget a durable subscription that never comes back.

As long as it is known, all that it has not settled is kept for it, and in the end the journal is
full. DURABLE is what its program gave as durable=.

\b
Examples:
  actorbus journal forget sqlite:///events.db billing --yes
"""

ABOUT_LETTERS = """Look at the dead letters in the journal of a durable bus, replay or discard them.

The journal must be at rest: a process that has it open is named, and has to close it first. Its URL
is an argument, or in ACTORBUS_URL. While the bus runs, `bus.dead_letters` and `bus.journal` do the
same.

\b
Examples:
  actorbus dead-letters list sqlite:///events.db --topic "order:**"
  actorbus dead-letters show sqlite:///events.db ID
  actorbus dead-letters replay sqlite:///events.db --reason retries_exhausted
  actorbus dead-letters discard sqlite:///events.db ID
"""

ABOUT_LIST = """Print dead letters, a line each, oldest first.

The options narrow it down, and together they narrow it further.

\b
Examples:
  actorbus dead-letters list sqlite:///events.db
  actorbus dead-letters list sqlite:///events.db --topic "order:**" --reason poison --json
  actorbus dead-letters list sqlite:///events.db --subscription billing --limit 10
"""

ABOUT_SHOW = """Print all there is to know of a dead letter, or a test that reproduces it.

The test gives the recorded event to the handler. Where this process cannot know the handler, or
what it raised, the test says what to fill in, and fails until that is done.

\b
Examples:
  actorbus dead-letters show sqlite:///events.db ID
  actorbus dead-letters show sqlite:///events.db ID --as-pytest > test_dead_letter.py
"""

ABOUT_REPLAY = """Mark dead letters to be replayed: of the ids, that fit the options, or --all.

Nobody can handle them while the journal is at rest. The next bus that starts on it gives each to
its subscription, as soon as there is one of that name, with all its attempts again. It leaves the
journal when it is settled; what fails once more is a dead letter as before. Until then `journal
info` counts it, and whoever discards it takes the mark back.

\b
Examples:
  actorbus dead-letters replay sqlite:///events.db ID ID
  actorbus dead-letters replay sqlite:///events.db --subscription billing --topic "order:**"
  actorbus dead-letters replay sqlite:///events.db --all --json
"""

ABOUT_DISCARD = """Forget dead letters: those of the ids, or all that fit the options, with --yes.

\b
Examples:
  actorbus dead-letters discard sqlite:///events.db ID ID
  actorbus dead-letters discard sqlite:///events.db --reason invalid_payload --yes
"""

Url = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="Of the journal, such as sqlite:///events.db; default: what ACTORBUS_URL says.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it: nothing brings back what is gone.")]
Topic = Annotated[
    str | None,
    typer.Option(metavar="PATTERN", help="Only those of topics that match, such as 'order:**'."),
]
Subscription = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Only those of one subscription: the name= it has, not its durable=.",
    ),
]
Reason = Annotated[
    DeadReason | None,
    typer.Option(
        metavar="REASON", help=f"Only those given up for one reason: {', '.join(DeadReason)}."
    ),
]

Letters = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="URL|ID",
        help="URL of the journal, if ACTORBUS_URL does not say it; ids, as `list` prints them.",
    ),
]

journal = typer.Typer(rich_markup_mode=None)
dead_letters = typer.Typer(rich_markup_mode=None)


@journal.callback(
    invoke_without_command=True, help=ABOUT_JOURNAL, short_help="Look at a journal, and tidy it."
)
@dead_letters.callback(
    invoke_without_command=True, help=ABOUT_LETTERS, short_help="Look at dead letters in a journal."
)
def _group(context: typer.Context) -> None:
    """Show the help when no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@journal.command(help=ABOUT_INFO, short_help="Print how much it holds, and for whom.")
def info(url: Url = "", as_json: AsJson = False) -> None:
    """Print the figures."""
    from actorbus.cli.journal import info as show

    raise typer.Exit(show(url, as_json=as_json))


@journal.command(help=ABOUT_VERIFY, short_help="Look at everything, and print what is wrong.")
def verify(url: Url = "", as_json: AsJson = False) -> None:
    """Check everything."""
    from actorbus.cli.journal import verify as check

    raise typer.Exit(check(url, as_json=as_json))


@journal.command(help=ABOUT_PRUNE, short_help="Remove what is past retention.")
def prune(url: Url = "", as_json: AsJson = False) -> None:
    """Remove what is old."""
    from actorbus.cli.journal import prune as remove

    raise typer.Exit(remove(url, as_json=as_json))


@journal.command(help=ABOUT_EXPORT, short_help="Write events as JSON lines.")
def export(
    url: Url = "",
    pattern: Annotated[str, typer.Option(help="Only events of topics that match.")] = "**",
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only from then on: ISO 8601 (UTC) or Unix seconds."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE", help="A new file; default: the terminal."),
    ] = None,
) -> None:
    """Write events."""
    from actorbus.cli.journal import export as write

    raise typer.Exit(write(url, pattern, since, output))


@journal.command(help=ABOUT_FORGET, short_help="Forget a durable subscription.")
def forget(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[URL] DURABLE",
            help="URL of the journal, if ACTORBUS_URL does not say it; the name, as in `info`.",
        ),
    ],
    yes: Yes = False,
) -> None:
    """Forget a durable subscription."""
    from actorbus.cli.journal import forget as leave

    url, durable = _one(arguments, "durable subscription")
    raise typer.Exit(leave(url, durable, yes=yes))


@dead_letters.command("list", help=ABOUT_LIST, short_help="Print dead letters, a line each.")
def list_(
    url: Url = "",
    topic: Topic = None,
    subscription: Subscription = None,
    reason: Reason = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the last so many.")] = None,
    as_json: AsJson = False,
) -> None:
    """Print dead letters."""
    from actorbus.archive import Filter
    from actorbus.cli.letters import show_all

    raise typer.Exit(show_all(url, Filter(topic, subscription, reason), limit, as_json=as_json))


@dead_letters.command(help=ABOUT_SHOW, short_help="Print one, or a test that reproduces it.")
def show(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="[URL] ID",
            help="URL of the journal, if ACTORBUS_URL does not say it; an id, as `list` prints it.",
        ),
    ],
    as_pytest: Annotated[bool, typer.Option("--as-pytest", help="Print a test.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print a dead letter."""
    from actorbus.cli.letters import show_one, show_test

    url, ident = _one(arguments, "dead letter")
    raise typer.Exit(show_test(url, ident) if as_pytest else show_one(url, ident, as_json=as_json))


@dead_letters.command(help=ABOUT_REPLAY, short_help="Mark dead letters to be replayed.")
def replay(
    arguments: Letters = None,
    topic: Topic = None,
    subscription: Subscription = None,
    reason: Reason = None,
    every: Annotated[bool, typer.Option("--all", help="All there are.")] = False,
    as_json: AsJson = False,
) -> None:
    """Mark dead letters to be replayed."""
    from actorbus.archive import Filter
    from actorbus.cli.letters import replay as mark
    from actorbus.cli.rest import split_url

    url, ids = split_url(arguments or [])
    which = Filter(topic, subscription, reason)
    raise typer.Exit(mark(url, ids, which, every=every, as_json=as_json))


@dead_letters.command(help=ABOUT_DISCARD, short_help="Forget dead letters.")
def discard(
    arguments: Letters = None,
    topic: Topic = None,
    subscription: Subscription = None,
    reason: Reason = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Forget dead letters."""
    from actorbus.archive import Filter
    from actorbus.cli.letters import discard as forget_them
    from actorbus.cli.rest import split_url

    url, ids = split_url(arguments or [])
    which = Filter(topic, subscription, reason)
    raise typer.Exit(forget_them(url, ids, which, yes=yes, as_json=as_json))


def _one(arguments: list[str], what: str) -> tuple[str, str]:
    """Return the URL, if there is one, and the one other argument.

    Raises:
        CommandError: There is none, or several.
    """
    from actorbus.cli.rest import split_url

    url, names = split_url(arguments)
    if len(names) != 1:
        given = ", ".join(map(repr, names)) or "none"
        raise CommandError(
            f"expected one {what}, not {len(names)}: {given}; a URL begins with sqlite:///"
        )
    return url, names[0]
