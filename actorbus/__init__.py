"""actorbus: events inside your process with the guarantees of a broker.

Every subscriber is a supervised actor with its own bounded mailbox; nothing is lost without a
reason on record::

    from actorbus import event_bus

    @event_bus.subscribe("user:registered")
    async def welcome(data): ...

    event_bus.publish("user:registered", {"user_id": 1})

The way of one event, and the map of the house (a file may import those above it)::

    publish -> route -> offer -> mailbox -> worker -> handler    returned is ack, raised is nack

    ground      errors  world
    words       checks  words  topic  event  frames  literal  reproduce  ledger
                journal.effects
    rooms       router  mailbox  rows  history  retry  restart  dead_letter  deadline
                deadlock  hand  handler  home  threads  outside  storm  watch
                journal.base
    engine      encoding      an event as a journal keeps it
                receipt       what publish returns, and waiting for it
                extra         what only some receipts need to remember
                backlog       a burst on one topic, on its way to the mailboxes
                admission     a full mailbox: the line, the stall, the overflow policies
                lot           what a worker takes out of its mailbox together
                options       every option of a subscription, checked
                subscription  patterns, handler, policies; the books of its deliveries
                delivery workplace worker threaded keyed    take, call, ack, retry, give up
                commits       how long commits take, and how much is in each
                work          what is done with a journal at one go
                executor      the thread of a journal, and what waits for it
                scribe        what a bus does, brought into its journal: many things in a commit
                transaction   what a handler writes together with its acknowledgement
                staff         the workers of one actor, and what they hand back
                actor hooks   a handler with state; its instances and what they do at start and stop
                life          one actor from start to end: restart, suspension, stop
                archive       dead letters and history in the journal
                ends          how its deliveries ended, for whoever has published them
                lookback      the past of the journal, read a piece at a time
                window        what a durable subscription has read and not settled
                retention     what the journal may forget, a little at a time
                gauges        what a journal holds, for an exporter
                recorder      a publish with a journal, from the call to the commit
                tap           streams and waits
                past          the past as a stream of events
                supervisor    whose failure concerns whom
                readings      everybody's books, copied for an exporter
                routing catchup registry  topic to subscriptions; history first; who there is
                replays       dead letters that are to be replayed, in the journal
                survey custody    what a journal holds, and what its owner may ask of it
                waiting       who waits for whom: the deadlock guard
                intake lag    publishing from other threads; how late the loop calls back
                traffic       from a publish to the inboxes, and from a failure to the store
                engine        the state of a running bus, and what its parts ask of it
                part asking explain closing running
                looking listening tables lifecycle plain bus    what users hold
    wing        metrics
                journal       where a durable bus keeps its events: memory, sqlite
    doors       streams  testing  cli
"""

from __future__ import annotations

from actorbus.actor import Actor, ActorRef
from actorbus.bus import EventBus
from actorbus.closing import DrainReport
from actorbus.dead_letter import DeadLetter, DeadLetters
from actorbus.errors import (
    ActorBusError,
    AskFailedError,
    AskTimeoutError,
    BusClosedError,
    BusNotRunningError,
    ConfigurationError,
    DeadlockError,
    InvalidPatternError,
    InvalidTopicError,
    JournalCorruptError,
    JournalError,
    JournalFullError,
    JournalLockedError,
    MailboxFullError,
    NoResponderError,
    PayloadError,
    TransactionError,
    TransportError,
)
from actorbus.event import Event
from actorbus.explain import Explanation
from actorbus.ledger import Audit
from actorbus.mailbox import Mailbox
from actorbus.past import HistoryStream
from actorbus.receipt import Receipt
from actorbus.restart import RestartPolicy
from actorbus.retry import Jitter, Reject, RetryAfter, RetryPolicy
from actorbus.subscription import Subscription
from actorbus.supervisor import Supervisor
from actorbus.tap import EventStream
from actorbus.topic import Pattern
from actorbus.transaction import Transaction
from actorbus.watch import Settlement
from actorbus.words import (
    ActorState,
    DeadReason,
    Directive,
    GiveUp,
    Guarantee,
    Outcome,
    Overflow,
    Strategy,
)

__version__ = "0.1.0"

__all__ = [
    "Actor",
    "ActorBusError",
    "ActorRef",
    "ActorState",
    "AskFailedError",
    "AskTimeoutError",
    "Audit",
    "BusClosedError",
    "BusNotRunningError",
    "ConfigurationError",
    "DeadLetter",
    "DeadLetters",
    "DeadReason",
    "DeadlockError",
    "Directive",
    "DrainReport",
    "Event",
    "EventBus",
    "EventStream",
    "Explanation",
    "GiveUp",
    "Guarantee",
    "HistoryStream",
    "InvalidPatternError",
    "InvalidTopicError",
    "Jitter",
    "JournalCorruptError",
    "JournalError",
    "JournalFullError",
    "JournalLockedError",
    "Mailbox",
    "MailboxFullError",
    "NoResponderError",
    "Outcome",
    "Overflow",
    "Pattern",
    "PayloadError",
    "Receipt",
    "Reject",
    "RestartPolicy",
    "RetryAfter",
    "RetryPolicy",
    "Settlement",
    "Strategy",
    "Subscription",
    "Supervisor",
    "Transaction",
    "TransactionError",
    "TransportError",
    "event_bus",
]

event_bus = EventBus()
"""A ready bus named ``default``."""
